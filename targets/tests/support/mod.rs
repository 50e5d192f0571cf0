//! Runs generated functions: in this process on the host's own instruction set, under QEMU for the others.

#![allow(dead_code, reason = "each test file uses its part")]

pub mod choices;
pub mod image;
pub mod programs;

use std::io::Write;
use std::process::Command;

use onnxc_targets::{KernelCode, Target, describe};

/// An argument of a case.
#[derive(Clone, Copy, Debug)]
pub enum Arg {
    /// Address of the byte of the image.
    Ptr(usize),
    Int(i64),
}

/// One call: code, memory, arguments.
pub struct Case {
    pub name: String,
    pub code: Vec<u8>,
    pub image: Vec<u8>,
    pub args: Vec<Arg>,
    /// Places in the image that hold the address of another place.
    pub patches: Vec<(usize, usize)>,
}

/// A machine that the tests run code for.
pub struct Machine {
    pub name: &'static str,
    pub target: Target,
    runner: Option<(&'static str, Vec<&'static str>)>,
}

/// Every configuration that can run here.
pub fn machines() -> Vec<Machine> {
    let mut all = Vec::new();
    let mut add = |name, triple, cpu, runner| all.push(Machine { name, target: describe(triple, cpu, 1).unwrap(), runner });
    let linux = "x86_64-unknown-linux-gnu";
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512vl") {
            add("znver4", linux, "znver4", None);
        }
        if is_x86_feature_detected!("avx512vl") && is_x86_feature_detected!("avx512dq") {
            add("x86-64-v4", linux, "x86-64-v4", None);
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            add("x86-64-v3", linux, "x86-64-v3", None);
        }
        if is_x86_feature_detected!("sse4.2") {
            add("x86-64-v2", linux, "x86-64-v2", None);
        }
        add("x86-64", linux, "x86-64", None);
    }
    let arm = vec!["qemu-aarch64", "-cpu", "max"];
    for (name, cpu) in [("armv8-a", "armv8-a"), ("armv8.6-a", "armv8.6-a")] {
        add(name, "aarch64-unknown-linux-gnu", cpu, Some(("aarch64-linux-gnu-gcc", arm.clone())));
    }
    let riscv = "riscv64gc-unknown-linux-gnu";
    let v = |vlen| Some(("riscv64-linux-gnu-gcc", vec!["qemu-riscv64", "-cpu", vlen]));
    add("rv64gcv-128", riscv, "rv64gcv", v("rv64,v=true,vlen=128,vext_spec=v1.0"));
    add("rv64gcv-256", riscv, "rv64gcv", v("rv64,v=true,vlen=256,vext_spec=v1.0"));
    add("rv64gc", riscv, "rv64gc", v("rv64"));
    all
}

/// Machine code of a kernel. A leaf needs no relocation.
pub fn bytes(code: KernelCode, target: &Target) -> Vec<u8> {
    match code {
        KernelCode::Bytes(assembled) => assembled.alone(),
        KernelCode::Clif(function) => {
            let mut context = cranelift_codegen::Context::for_function(*function);
            if let Err(e) = context.compile(&*target.isa, &mut Default::default()) {
                panic!("{e:?}");
            }
            let code = context.compiled_code().unwrap();
            assert!(code.buffer.relocs().is_empty(), "calls a library: {:?}", code.buffer.relocs());
            code.code_buffer().to_vec()
        }
    }
}

impl Machine {
    /// Runs all cases and gives each one's memory back.
    pub fn run(&self, cases: Vec<Case>) -> Vec<Vec<u8>> {
        match &self.runner {
            None => cases.into_iter().map(run_here).collect(),
            Some((cc, command)) => run_emulated(cc, command, cases),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "calls code that was generated a moment ago")]
fn run_here(mut case: Case) -> Vec<u8> {
    let mut map = memmap2::MmapMut::map_anon(case.code.len()).unwrap();
    map.copy_from_slice(&case.code);
    let map = map.make_exec().unwrap();
    // Kernels want packed panels 64-byte aligned; the image starts at such an address.
    let mut memory = vec![0u8; case.image.len() + 64];
    let start = memory.as_ptr().align_offset(64);
    memory[start..start + case.image.len()].copy_from_slice(&case.image);
    let base = memory[start..].as_mut_ptr() as i64;
    for (at, to) in &case.patches {
        memory[start + at..start + at + 8].copy_from_slice(&(base + *to as i64).to_le_bytes());
    }
    let mut a = [0i64; 12];
    for (slot, arg) in a.iter_mut().zip(&case.args) {
        *slot = match arg {
            Arg::Ptr(at) => base + *at as i64,
            Arg::Int(n) => *n,
        };
    }
    type F = extern "sysv64" fn(i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64, i64);
    // SAFETY: the mapping holds a complete SystemV function that was generated for this machine's features; it takes at most 12 integer
    // arguments, and the caller of a SystemV function removes them, so too many do no harm. The image has room for all it touches.
    let f: F = unsafe { std::mem::transmute(map.as_ptr()) };
    f(a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7], a[8], a[9], a[10], a[11]);
    let bytes = case.image.len();
    case.image.copy_from_slice(&memory[start..start + bytes]);
    case.image
}

#[cfg(not(target_arch = "x86_64"))]
fn run_here(_: Case) -> Vec<u8> {
    unreachable!("no machine runs in this process")
}

/// The C program that runs cases: reads them from a file, writes the memory of each to another; from the case of the given number on, with code so many
/// bytes behind the beginning of a page.
const RUNNER: &str = r#"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
typedef void (*fn)(int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t);
static uint64_t word(FILE *f) { uint64_t w = 0; if (fread(&w, 8, 1, f) != 1) exit(0); return w; }
int main(int argc, char **argv) {
    FILE *in = fopen(argv[1], "rb"), *out = fopen(argv[2], "wb");
    if (argc != 5 || !in || !out) return 2;
    long first = atol(argv[3]), shift = atol(argv[4]);
    for (long number = 0;; number++) {
        uint64_t code_bytes = word(in), image_bytes = word(in), n_args = word(in), n_patches = word(in);
        int64_t args[12] = {0};
        char *page = mmap(0, code_bytes + shift, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *code = page + shift;
        char *image = aligned_alloc(64, (image_bytes + 63) / 64 * 64);
        if (fread(code, 1, code_bytes, in) != code_bytes || fread(image, 1, image_bytes, in) != image_bytes) return 3;
        for (uint64_t i = 0; i < n_args; i++) {
            uint64_t pointer = word(in), value = word(in);
            args[i] = pointer ? (int64_t)(intptr_t)(image + value) : (int64_t)value;
        }
        for (uint64_t i = 0; i < n_patches; i++) {
            uint64_t at = word(in), to = word(in), address = (uint64_t)(uintptr_t)(image + to);
            memcpy(image + at, &address, 8);
        }
        if (number >= first) {
            __builtin___clear_cache(code, code + code_bytes);
            ((fn)(uintptr_t)code)(args[0], args[1], args[2], args[3], args[4], args[5], args[6], args[7], args[8], args[9], args[10], args[11]);
            fwrite(image, 1, image_bytes, out);
            fflush(out);
        }
        munmap(page, code_bytes + shift);
        free(image);
    }
}
"#;

fn run_emulated(cc: &str, command: &[&str], cases: Vec<Case>) -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("runner.c"), RUNNER).unwrap();
    let built = Command::new(cc).args(["-O1", "-static", "-o"]).arg(at("runner")).arg(at("runner.c")).status().unwrap();
    assert!(built.success(), "{cc} cannot build the runner");
    let mut file = std::io::BufWriter::new(std::fs::File::create(at("cases")).unwrap());
    for case in &cases {
        let mut word = |w: u64| file.write_all(&w.to_le_bytes()).unwrap();
        for n in [case.code.len(), case.image.len(), case.args.len(), case.patches.len()] {
            word(n as u64);
        }
        file.write_all(&case.code).unwrap();
        file.write_all(&case.image).unwrap();
        let mut word = |w: u64| file.write_all(&w.to_le_bytes()).unwrap();
        for arg in &case.args {
            let (pointer, value) = match arg {
                Arg::Ptr(at) => (1, *at as u64),
                Arg::Int(n) => (0, *n as u64),
            };
            word(pointer);
            word(value);
        }
        for (at, to) in &case.patches {
            word(*at as u64);
            word(*to as u64);
        }
    }
    file.flush().unwrap();
    let mut images: Vec<Vec<u8>> = Vec::new();
    let mut shift = 0;
    loop {
        let before = images.len();
        let mut runner = Command::new(command[0]);
        runner
            .args(&command[1..])
            .arg(at("runner"))
            .arg(at("cases"))
            .arg(at("out"))
            .args([before.to_string(), shift.to_string()]);
        let ran = runner.status().unwrap();
        let out = std::fs::read(at("out")).unwrap();
        let mut rest = &out[..];
        while let Some(case) = cases.get(images.len()).filter(|case| rest.len() >= case.image.len()) {
            let (image, after) = rest.split_at(case.image.len());
            images.push(image.to_vec());
            rest = after;
        }
        if images.len() == cases.len() {
            assert!(ran.success(), "{ran}");
            return images;
        }
        // QEMU 7.2 fails by itself on certain instructions at the end of a page: the case runs again where its code lies elsewhere.
        shift = if images.len() == before { shift + 68 } else { 68 };
        assert!(shift <= 3 * 68, "{}: {ran}", cases[images.len()].name);
    }
}

/// A small deterministic generator of test data.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    pub fn f32(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}
