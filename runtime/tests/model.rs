//! The safe wrapper against a model written by hand: y[i] = 2 x[i] + w[i], each element a task when there are threads.
#![cfg(feature = "std")]
#![expect(unsafe_code, reason = "a model written by hand is behind the C ABI")]

use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr::null;

use onnxc_runtime::{
    Aligned, DescriptorError, Error, Hooks, Input, Model, Output, Phase, ThreadPool, UnpackedWeights, WeightFile,
    WeightFileError, abi, sha256,
};

#[repr(C, align(64))]
struct Weights([f32; 4]);
static WEIGHTS: Weights = Weights([1.0, 2.0, 3.0, 4.0]);

struct Job {
    x: *const f32,
    y: *mut f32,
    w: *const f32,
}

unsafe extern "C" fn task(arg: *mut c_void, i: u32, worker: u32) {
    assert!(worker < 2);
    // SAFETY: `run` passes a job with arrays of four elements and asks for four tasks.
    unsafe {
        let job = &*arg.cast::<Job>();
        *job.y.add(i as usize) = 2.0 * *job.x.add(i as usize) + *job.w.add(i as usize);
    }
}

unsafe extern "C" fn run(call: *const abi::onnxc_call) -> i32 {
    // SAFETY: the wrapper has checked the buffers; weights are those of the file or null.
    unsafe {
        let call = &*call;
        let w = if call.weights.is_null() { WEIGHTS.0.as_ptr() } else { call.weights.cast() };
        let mut job = Job { x: (*call.inputs).cast(), y: (*call.outputs).cast(), w };
        assert!(call.arena.addr().is_multiple_of(64));
        let hooks = &*call.hooks;
        if let Some(profile) = hooks.profile {
            profile(hooks.ctx, 0, 0);
        }
        match hooks.parallel_for {
            Some(parallel_for) => {
                if parallel_for(hooks.ctx, 4, task, (&raw mut job).cast()) != 0 {
                    return abi::ONNXC_PARALLEL;
                }
            }
            None => (0..4).for_each(|i| task((&raw mut job).cast(), i, 0)),
        }
        if let Some(profile) = hooks.profile {
            profile(hooks.ctx, 0, 1);
        }
    }
    abi::ONNXC_OK
}

/// Constant data with pointers in it.
struct Table<T>(T);
// SAFETY: nobody writes it.
unsafe impl<T> Sync for Table<T> {}

static DIMS: [u64; 2] = [2, 2];
static TENSORS: Table<[abi::onnxc_tensor; 2]> = Table([tensor(c"x".as_ptr()), tensor(c"y".as_ptr())]);
static STEPS: Table<[abi::onnxc_step; 1]> = Table([abi::onnxc_step { name: c"/a /b".as_ptr(), op: c"map".as_ptr() }]);

const fn tensor(name: *const std::ffi::c_char) -> abi::onnxc_tensor {
    abi::onnxc_tensor { name, dims: DIMS.as_ptr(), bytes: 16, dtype: 1, rank: 2, alias: -1, reserved: 0 }
}

const fn descriptor() -> abi::onnxc_model {
    abi::onnxc_model {
        magic: abi::ONNXC_MAGIC,
        abi_version: abi::ONNXC_ABI_VERSION,
        model_bytes: size_of::<abi::onnxc_model>() as u32,
        tensor_bytes: size_of::<abi::onnxc_tensor>() as u32,
        name: c"hand".as_ptr(),
        producer: c"a test".as_ptr(),
        target: c"here".as_ptr(),
        cpu_features: c"sse2 fma".as_ptr(),
        run: Some(run),
        inputs: &raw const TENSORS.0[0],
        outputs: &raw const TENSORS.0[1],
        steps: &raw const STEPS.0[0],
        n_inputs: 1,
        n_outputs: 1,
        n_steps: 1,
        max_threads: 2,
        arena_bytes: 128,
        arena_shared: 0,
        scratch_per_thread: 64,
        arena_align: 64,
        stack_bytes: 256,
        weights_bytes: 16,
        weights_mode: abi::ONNXC_WEIGHTS_EMBED,
        reserved: 0,
        model_sha256: [7; 32],
        weights_sha256: [0; 32],
        sizes: Some(sizes),
        dims: null(),
        n_dims: 0,
        dim_bytes: size_of::<abi::onnxc_dim>() as u32,
        counts: null(),
        n_counts: 0,
        count_bytes: size_of::<abi::onnxc_count>() as u32,
        unpack: None,
        coded_bytes: 0,
        unpack_stack_bytes: 0,
    }
}

unsafe extern "C" fn sizes(_: *const u64, sizes: *mut abi::onnxc_sizes) -> i32 {
    // SAFETY: the wrapper passes a struct whose pointers are null or lead to one element per tensor and per dimension.
    unsafe {
        let sizes = &mut *sizes;
        sizes.arena_bytes = 128;
        for bytes in [sizes.input_bytes, sizes.output_bytes] {
            if !bytes.is_null() {
                *bytes = 16;
            }
        }
        for extents in [sizes.input_dims, sizes.output_dims] {
            if !extents.is_null() {
                std::slice::from_raw_parts_mut(extents, 2).copy_from_slice(&DIMS);
            }
        }
    }
    abi::ONNXC_OK
}

/// The same for a model with one open dimension, whose value must be 2.
unsafe extern "C" fn sizes_at(dims: *const u64, to: *mut abi::onnxc_sizes) -> i32 {
    // SAFETY: the wrapper passes one value, and what `sizes` wants.
    unsafe { if *dims == 2 { sizes(dims, to) } else { abi::ONNXC_DIMS } }
}

static VALUES: [abi::onnxc_range; 1] = [abi::onnxc_range { first: 2, last: 2 }];
static OPEN: Table<[abi::onnxc_dim; 1]> =
    Table([abi::onnxc_dim { name: c"N".as_ptr(), ranges: &raw const VALUES[0], n_ranges: 1, input: 0, axis: 1, factor: 1 }]);

#[test]
fn open_dimensions_are_described_and_checked() {
    let m = model(|m| {
        (m.dims, m.n_dims) = (&raw const OPEN.0[0], 1);
        m.sizes = Some(sizes_at);
    });
    let m = m.unwrap();
    let dim = m.dims().next().unwrap();
    assert_eq!((m.dims().len(), dim.name, dim.ranges, dim.from), (1, "N", &VALUES[..], (0, 1)));
    for wrong in [&[][..], &[3], &[2, 2]] {
        assert_eq!(m.at(wrong).unwrap_err(), Error::Dims, "{wrong:?}");
    }
    let bound = m.at(&[2]).unwrap();
    let mut extents = [0; 2];
    bound.output_dims(&mut extents).unwrap();
    assert_eq!((bound.arena_bytes(), extents), (128, DIMS));
    assert_eq!(bound.input_dims(&mut [0; 3]).unwrap_err(), Error::Dims);
    let (mut y, mut arena) = ([0f32; 4], Aligned::<128>::new());
    bound.run([Input::from(&X)], [Output::from(&mut y)], &mut arena.0, None, Hooks::default()).unwrap();
    assert_eq!(y, Y);
}

fn model(change: impl FnOnce(&mut abi::onnxc_model)) -> Result<Model, DescriptorError> {
    let mut raw = descriptor();
    change(&mut raw);
    // SAFETY: the descriptor above, with at most the numbers changed.
    unsafe { Model::new(Box::leak(Box::new(raw))) }
}

const X: [f32; 4] = [1.0, 10.0, 100.0, 1000.0];
const Y: [f32; 4] = [3.0, 22.0, 203.0, 2004.0];

#[test]
fn a_model_is_described_and_runs() {
    let m = model(|_| ()).unwrap();
    assert_eq!((m.name(), m.cpu_features().collect::<Vec<_>>()), ("hand", vec!["sse2", "fma"]));
    assert_eq!((m.arena_bytes(), m.arena_align()), (128, 64));
    let (x, y) = (m.inputs().next().unwrap(), m.outputs().next().unwrap());
    assert_eq!((x.name, x.dtype, x.dims, x.bytes, x.alias), ("x", 1, &DIMS[..], 16, None));
    assert_eq!((y.name, m.outputs().len()), ("y", 1));
    assert_eq!(m.steps().map(|s| (s.name, s.op)).collect::<Vec<_>>(), [("/a /b", "map")]);

    let mut arena = Aligned::<128>::new();
    let mut out = [0f32; 4];
    m.run([Input::from(&X)], [Output::from(&mut out)], &mut arena.0, None, Hooks::default()).unwrap();
    assert_eq!(out, Y);
    out = [0.0; 4];
    m.run_slices(&[X.as_slice().into()], &mut [out.as_mut_slice().into()], &mut arena.0, None, Hooks::default()).unwrap();
    assert_eq!(out, Y);
}

#[test]
fn threads_and_profile() {
    let m = model(|_| ()).unwrap();
    // One worker more than the model has scratch for: the wrapper keeps it out.
    let pool = ThreadPool::new(3).unwrap();
    let seen = RefCell::new(Vec::new());
    let profile = |step, phase| seen.borrow_mut().push((step, phase));
    let hooks = Hooks { profile: Some(&profile), ..pool.hooks() };
    for _ in 0..100 {
        let (mut arena, mut out) = (Aligned::<128>::new(), [0f32; 4]);
        m.run([Input::from(&X)], [Output::from(&mut out)], &mut arena.0, None, hooks).unwrap();
        assert_eq!(out, Y);
    }
    assert_eq!(seen.borrow()[..2], [(0, Phase::Begin), (0, Phase::End)]);
    // Many threads, one model, one pool.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let (mut arena, mut out) = (Aligned::<128>::new(), [0f32; 4]);
                m.run([Input::from(&X)], [Output::from(&mut out)], &mut arena.0, None, pool.hooks()).unwrap();
                assert_eq!(out, Y);
            });
        }
    });
}

#[test]
fn wrong_buffers_are_refused() {
    let m = model(|_| ()).unwrap();
    let mut arena = Aligned::<192>::new();
    let mut out = [0f32; 4];
    let none = Hooks::default();
    let a = &mut arena.0;
    fn y(out: &mut [f32; 4]) -> [Output<'_>; 1] {
        [Output::from(out)]
    }
    assert_eq!(m.run([], y(&mut out), a, None, none), Err(Error::InputCount { expected: 1, given: 0 }));
    assert_eq!(m.run([Input::from(&X)], [], a, None, none), Err(Error::OutputCount { expected: 1, given: 0 }));
    let size = Error::InputSize { index: 0, expected: 16, given: 12 };
    assert_eq!(m.run([Input::from(&X[..3])], y(&mut out), a, None, none), Err(size));
    let mut long = [0f32; 5];
    let size = Error::OutputSize { index: 0, expected: 16, given: 20 };
    assert_eq!(m.run([Input::from(&X)], [Output::from(&mut long)], a, None, none), Err(size));
    let kind = Error::InputType { index: 0, expected: 1, given: 6 };
    assert_eq!(m.run([Input::from(&[0i32; 4])], y(&mut out), a, None, none), Err(kind));
    let kind = Error::OutputType { index: 0, expected: 1, given: 6 };
    assert_eq!(m.run([Input::from(&X)], [Output::from(&mut [0i32; 4])], a, None, none), Err(kind));
    let odd = [0u8; 24];
    let at = (1..9).find(|i| !odd[*i..].as_ptr().addr().is_multiple_of(4)).unwrap();
    assert_eq!(m.run([Input::raw(1, &odd[at..at + 16])], y(&mut out), a, None, none), Err(Error::BufferAlignment));
    assert_eq!(
        m.run([Input::from(&X)], y(&mut out), &mut a[..127], None, none),
        Err(Error::ArenaSize { expected: 128, given: 127 })
    );
    assert_eq!(m.run([Input::from(&X)], y(&mut out), &mut a[32..], None, none), Err(Error::ArenaAlignment(64)));
    let weights = Error::Weights { expected: 0, given: 16 };
    assert_eq!(m.run([Input::from(&X)], y(&mut out), a, Some(&[0; 16]), none), Err(weights));
    assert_eq!(out, [0.0; 4], "nothing has run");
}

#[test]
fn statuses_become_errors() {
    unsafe extern "C" fn refuse(call: *const abi::onnxc_call) -> i32 {
        // SAFETY: the wrapper passes one f32 input.
        unsafe { **(*call).inputs.cast::<*const f32>() as i32 }
    }
    let m = model(|m| m.run = Some(refuse)).unwrap();
    let mut arena = Aligned::<128>::new();
    for (status, error) in
        [(3f32, Error::Cpu), (4.0, Error::Overlap), (5.0, Error::NoWeights), (6.0, Error::Parallel), (99.0, Error::Other(99))]
    {
        let answer = m.run([Input::from(&[status; 4])], [Output::from(&mut [0f32; 4])], &mut arena.0, None, Hooks::default());
        assert_eq!(answer, Err(error));
        assert!(!error.to_string().is_empty());
    }
}

#[test]
fn foreign_descriptors_are_refused() {
    assert_eq!(model(|m| m.magic = 1).unwrap_err(), DescriptorError::Magic);
    assert_eq!(model(|m| m.abi_version = 9).unwrap_err(), DescriptorError::Version(9));
    assert_eq!(model(|m| m.model_bytes = 100).unwrap_err(), DescriptorError::Size);
    assert_eq!(model(|m| m.run = None).unwrap_err(), DescriptorError::Run);
    assert_eq!(model(|m| (m.n_inputs, m.inputs) = (0, null())).unwrap().inputs().len(), 0);
}

#[test]
fn weight_files_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hand.weights");
    let bytes: Vec<u8> = [5f32, 6.0, 7.0, 8.0].iter().flat_map(|w| w.to_ne_bytes()).collect();
    let in_file = |m: &mut abi::onnxc_model| {
        (m.weights_mode, m.weights_sha256) = (abi::ONNXC_WEIGHTS_FILE, sha256::digest(&bytes));
    };
    let m = model(in_file).unwrap();
    assert!(matches!(WeightFile::open(&path, &m), Err(WeightFileError::Io(_))));
    std::fs::write(&path, &bytes[1..]).unwrap();
    assert!(matches!(WeightFile::open(&path, &m), Err(WeightFileError::Size { expected: 16, given: 15 })));
    std::fs::write(&path, [0; 16]).unwrap();
    assert!(matches!(WeightFile::open(&path, &m), Err(WeightFileError::Hash)));
    std::fs::write(&path, &bytes).unwrap();
    assert!(matches!(WeightFile::open(&path, &model(|_| ()).unwrap()), Err(WeightFileError::NotNeeded)));

    let weights = WeightFile::open(&path, &m).unwrap();
    let (mut arena, mut out) = (Aligned::<128>::new(), [0f32; 4]);
    let run = |arena: &mut Aligned<128>, out: &mut [f32; 4], weights| {
        m.run([Input::from(&X)], [Output::from(out)], &mut arena.0, weights, Hooks::default())
    };
    assert_eq!(run(&mut arena, &mut out, None), Err(Error::NoWeights));
    assert_eq!(run(&mut arena, &mut out, Some(&[0; 15])), Err(Error::Weights { expected: 16, given: 15 }));
    run(&mut arena, &mut out, Some(weights.bytes())).unwrap();
    assert_eq!(out, [7.0, 26.0, 207.0, 2008.0]);
}

/// The decoder of a model whose weights are the numbers 5 to 8.
unsafe extern "C" fn unpack(weights: *mut c_void) -> i32 {
    // SAFETY: there are 16 bytes of memory.
    unsafe { weights.cast::<[f32; 4]>().write([5.0, 6.0, 7.0, 8.0]) };
    abi::ONNXC_OK
}

unsafe extern "C" fn damaged(_: *mut c_void) -> i32 {
    abi::ONNXC_DATA
}

#[test]
fn coded_weights_are_decoded_into_aligned_memory() {
    let bytes: Vec<u8> = [5f32, 6.0, 7.0, 8.0].iter().flat_map(|w| w.to_ne_bytes()).collect();
    let coded = |m: &mut abi::onnxc_model| {
        (m.weights_mode, m.weights_sha256, m.unpack) =
            (abi::ONNXC_WEIGHTS_CODED, sha256::digest(&bytes), Some(unpack as abi::onnxc_unpack));
    };
    let m = model(coded).unwrap();
    assert_eq!((m.passed_weights_bytes(), model(|_| ()).unwrap().passed_weights_bytes()), (16, 0));
    let mut memory = Aligned::<32>::new();
    assert_eq!(m.unpack(&mut memory.0), Err(Error::Weights { expected: 16, given: 32 }));
    assert_eq!(m.unpack(&mut memory.0[4..20]), Err(Error::Weights { expected: 16, given: 16 }));
    assert_eq!(model(|_| ()).unwrap().unpack(&mut memory.0[..16]), Err(Error::Weights { expected: 0, given: 16 }));
    let (mut arena, mut out) = (Aligned::<128>::new(), [0f32; 4]);
    let run = |arena: &mut Aligned<128>, out: &mut [f32; 4], weights| {
        m.run([Input::from(&X)], [Output::from(out)], &mut arena.0, weights, Hooks::default())
    };
    assert_eq!(run(&mut arena, &mut out, None), Err(Error::NoWeights));
    run(&mut arena, &mut out, Some(m.unpack(&mut memory.0[..16]).unwrap())).unwrap();
    assert_eq!(out, [7.0, 26.0, 207.0, 2008.0]);

    assert_eq!(UnpackedWeights::new(&m).unwrap().bytes(), bytes);
    let refused = |change: &dyn Fn(&mut abi::onnxc_model)| {
        let m = model(|m| {
            coded(m);
            change(m);
        });
        UnpackedWeights::new(&m.unwrap()).unwrap_err()
    };
    assert_eq!(refused(&|m| m.unpack = Some(damaged)), Error::Data);
    assert_eq!(refused(&|m| m.weights_sha256[0] ^= 1), Error::Data);
    assert!(matches!(refused(&|m| m.unpack = None), Error::Weights { expected: 16, given: 0 }));
    assert!(matches!(refused(&|m| m.weights_bytes = 1 << 62), Error::Weights { .. }));
}
