//! What is coded comes back: by a decoder that is written down here, and by the generated one on this machine.

#![expect(unsafe_code, reason = "calls machine code that this crate has just generated")]

use cranelift_jit::{JITBuilder, JITModule};
use cranelift_module::FuncId;
use onnxc_runtime::abi::{ONNXC_DATA, ONNXC_MISALIGNED, ONNXC_OK, onnxc_unpack};
use proptest::prelude::*;

use super::*;
use crate::Weights;
use crate::generate::{Helpers, Machine, Options};
use crate::machine::{FuncIx, Unit, compile};
use crate::object::{Home, define};

/// The format as its description has it, in plain loops.
fn decode(coded: &[u8], bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    let (mut at, mut begin) = (0, 0);
    let word = |at: usize| u32::from_le_bytes(coded[at..at + 4].try_into().unwrap());
    while begin < bytes {
        let (size, period) = (word(at) as usize, word(at + 4) as usize);
        at += 8;
        for lane in 0..period {
            let (count, kind) = (word(at) as usize, word(at + 4));
            at += 8;
            let symbols = match kind & 255 {
                KIND_RAW => coded[at..at + count].to_vec(),
                KIND_FILL => vec![(kind >> 8) as u8; count],
                _ => stream(coded, &mut at, count),
            };
            at = (at + if kind & 255 == KIND_RAW { count } else { 0 }).next_multiple_of(4);
            symbols.iter().enumerate().for_each(|(i, s)| out[begin + lane + i * period] = *s);
        }
        begin += size;
    }
    assert_eq!((begin, at + SLACK), (bytes, coded.len()));
    out
}

fn stream(coded: &[u8], at: &mut usize, count: usize) -> Vec<u8> {
    let mut slots: Vec<(u8, u32, u32)> = Vec::new();
    let (mut symbol, mut next) = (0, || (coded[*at], *at += 1).0);
    while slots.len() < rans::SCALE as usize {
        let frequency = match next() {
            0 => {
                symbol += 1 + usize::from(next());
                continue;
            }
            large @ 128.. => u32::from(large & 127) << 8 | u32::from(next()),
            small => u32::from(small),
        };
        slots.extend((0..frequency).map(|i| (symbol as u8, frequency, i)));
        symbol += 1;
    }
    *at = at.next_multiple_of(4);
    let mut states: Vec<u32> = coded[*at..*at + 16].chunks(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect();
    *at += 16;
    let mut out = Vec::new();
    for i in 0..count {
        let x = &mut states[i % rans::STATES];
        let (symbol, frequency, distance) = slots[(*x % rans::SCALE) as usize];
        out.push(symbol);
        *x = frequency * (*x >> rans::SCALE_BITS) + distance;
        if *x < rans::LOW {
            *x = *x << 16 | u32::from(u16::from_le_bytes([coded[*at], coded[*at + 1]]));
            *at += 2;
        }
    }
    assert!(states.iter().all(|x| *x == rans::LOW), "{states:x?}");
    out
}

/// Bytes aligned as weights are.
#[repr(C, align(64))]
#[derive(Clone)]
struct Line([u8; 64]);

/// What the generated decoder makes of coded bytes, and its status. `shift` moves the memory that it writes to.
fn run_generated(coded: &[u8], bytes: usize, shift: usize) -> (i32, Vec<u8>) {
    let target = onnxc_targets::describe(&target_lexicon::Triple::host().to_string(), "", 1).unwrap();
    let options = Options { name: "t".to_string(), weights: Weights::Coded, text: false, clif: false };
    let mut units: Vec<Unit> = Vec::new();
    let mut add = |unit| {
        units.push(unit);
        units.len() as FuncIx - 1
    };
    let last = unpack(bytes as u64, Helpers::default(), &options, &*target.isa, &mut add);
    add(last);
    let functions: Vec<_> = (0..)
        .zip(units)
        .map(|(ix, unit)| (unit.name.clone(), unit.export, compile(&*target.isa, ix, unit, false).unwrap()))
        .collect();
    let last = functions.len() as u32 - 1;
    let machine = Machine { functions, stack_bytes: 0, unpack: None, points: vec![], kernels: vec![], clif: String::new() };
    let builder = JITBuilder::with_isa(target.isa.clone(), cranelift_module::default_libcall_names());
    let mut module = JITModule::new(builder);
    define(&mut module, &machine, "t", Home::Memory(coded)).unwrap();
    module.finalize_definitions().unwrap();
    let code = module.get_finalized_function(FuncId::from_u32(last));
    // A line in front and one behind must stay as they are.
    let mut lines = vec![Line([0xa5; 64]); bytes.div_ceil(64) + 3];
    // SAFETY: the function was generated with this signature; it writes `bytes` bytes, for which there is memory, and the module lives longer.
    let status = unsafe {
        let function = std::mem::transmute::<*const u8, onnxc_unpack>(code);
        function(lines.as_mut_ptr().cast::<u8>().add(64 + shift).cast())
    };
    let all: Vec<u8> = lines.iter().flat_map(|l| l.0).collect();
    assert!(all[..64].iter().chain(&all[64 + shift + bytes..]).all(|b| *b == 0xa5), "written beside the weights");
    // SAFETY: nothing of the module is used any more.
    unsafe { module.free_memory() };
    (status, all[64 + shift..][..bytes].to_vec())
}

/// Codes and decodes in both ways; the size of what is coded.
#[track_caller]
fn round_trip(bytes: &[u8], starts: &[u64]) -> usize {
    let coded = encode(bytes, starts);
    assert!(coded == encode(bytes, starts), "two encodings of {} bytes differ", bytes.len());
    if !bytes.is_empty() {
        assert!(decode(&coded, bytes.len()) == bytes, "{} bytes do not come back", bytes.len());
    }
    let (status, got) = run_generated(&coded, bytes.len(), 0);
    assert!(status == ONNXC_OK && got == bytes, "generated code does not bring {} bytes back: {status}", bytes.len());
    coded.len()
}

/// What a constant takes by itself is known without coding it.
#[test]
fn sizes_are_known_before() {
    let cases: [(&str, Vec<u8>); 5] = [
        ("bytes", peaked(40_000, 5).collect()),
        ("few", peaked(40_000, 6).map(|b| (b / 16).saturating_sub(6)).collect()),
        ("short", peaked(600, 7).map(|b| b / 8).collect()),
        ("zeros", vec![0; 5000]),
        ("floats", peaked(20_000, 8).flat_map(|b| (f32::from(b) / 37.0 - 3.0).to_le_bytes()).collect()),
    ];
    for (what, bytes) in cases {
        let (told, real) = (coded_bytes(&bytes) as f64, round_trip(&bytes, &[0]) as f64 - SLACK as f64);
        assert!((told - real).abs() <= 8.0 + 0.01 * real, "{what}: {told}, not {real}");
    }
    assert_eq!(coded_bytes(&[]), 0);
}

/// Seeded numbers with a peak in the middle, 0 to 255.
fn peaked(n: usize, seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed | 1;
    (0..n).map(move |_| {
        let mut sum = 0;
        for _ in 0..8 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            sum += (state >> 59) as u8;
        }
        sum
    })
}

#[test]
fn odd_sizes() {
    for n in [0, 1, 2, 3, 4, 5, 7, 63, 64, 65, 511, 513, 4097] {
        round_trip(&peaked(n, 5).collect::<Vec<u8>>(), &[0]);
        let filled = round_trip(&vec![0x3f; n], &[0]);
        assert!(filled <= 24, "{n} equal bytes take {filled}");
    }
}

#[test]
fn every_type_of_weights_becomes_smaller() {
    let floats: Vec<u8> = peaked(40_000, 1)
        .zip(peaked(40_000, 2))
        .flat_map(|(a, b)| ((f32::from(a) - 124.0) * 1e-3 + f32::from(b) * 1.7e-6).to_le_bytes())
        .collect();
    let bytes: Vec<u8> = peaked(90_000, 3).map(|b| b.wrapping_sub(124) / 2).collect();
    let nibbles: Vec<u8> = peaked(90_000, 4).zip(peaked(90_000, 9)).map(|(a, b)| a >> 4 | b >> 4 << 4).collect();
    let halves: Vec<u8> = peaked(40_000, 6).flat_map(|a| [a.wrapping_mul(77), 0x38 | a >> 6]).collect();
    for (name, weights, most) in [("f32", &floats, 0.9), ("i8", &bytes, 0.8), ("i4", &nibbles, 0.8), ("f16", &halves, 0.75)] {
        let coded = round_trip(weights, &[0]);
        assert!((coded as f64) < most * weights.len() as f64, "{name}: {coded} of {} bytes", weights.len());
    }
    // One after the other they take no more than each by itself, and a little for heads.
    let all = [&floats[..], &bytes, &nibbles, &halves];
    let alone: usize = all.iter().map(|w| round_trip(w, &[0])).sum();
    let starts: Vec<u64> = all.iter().scan(0, |at, w| Some(std::mem::replace(at, *at + w.len() as u64))).collect();
    let together = round_trip(&all.concat(), &starts);
    assert!(together < alone + alone / 50, "{together} bytes together, {alone} alone");
}

#[test]
fn noise_takes_hardly_more_than_itself() {
    let mut state = 1u64;
    let noise: Vec<u8> = (0..100_000)
        .map(|_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
        .collect();
    assert!(round_trip(&noise, &[0]) <= noise.len() + 64);
}

#[test]
fn damage_and_wrong_memory_are_told() {
    let bytes: Vec<u8> = peaked(5000, 7).collect();
    let mut coded = encode(&bytes, &[0]);
    assert_eq!(run_generated(&coded, bytes.len(), 4).0, ONNXC_MISALIGNED);
    let middle = coded.len() - 1000;
    coded[middle] ^= 1;
    assert_eq!(run_generated(&coded, bytes.len(), 0).0, ONNXC_DATA);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Runs of equal bytes, of few symbols and of many, in any order.
    #[test]
    fn anything_comes_back(parts in prop::collection::vec((1usize..3000, any::<u8>(), 0u32..9, any::<u64>()), 0..6), cut in any::<u16>()) {
        let bytes: Vec<u8> = parts
            .iter()
            .flat_map(|(n, base, bits, seed)| {
                let mask = ((1u32 << bits) - 1) as u8;
                peaked(*n, *seed).map(move |b| base ^ (b & mask)).collect::<Vec<u8>>()
            })
            .collect();
        round_trip(&bytes, &[0, u64::from(cut)]);
    }
}
