//! Uses everything that the runtime has for bare metal, so that the linker keeps it: `testsuite/size.sh` measures what that costs.

#![no_std]
#![no_main]

use core::fmt::{self, Write};
use core::mem::MaybeUninit;

use onnxc_runtime::abi::onnxc_model;
use onnxc_runtime::{Aligned, Hooks, Input, Model, Output, Parallel, Phase, Task, sha256};

unsafe extern "C" {
    /// Comes from the model's archive; `testsuite/size.sh` gives its address by a linker flag.
    static MODEL: onnxc_model;
    fn put(byte: u8);
}

struct Out;
impl Write for Out {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        // SAFETY: a plain output function of the board.
        s.bytes().for_each(|b| unsafe { put(b) });
        Ok(())
    }
}

struct InOrder;
// SAFETY: one thread runs all tasks, each once.
unsafe impl Parallel for InOrder {
    fn parallel_for(&self, tasks: u32, _max_workers: u32, task: Task) -> bool {
        // SAFETY: as the trait says.
        (0..tasks).for_each(|i| unsafe { task.run(i, 0) });
        true
    }
}

fn profile(step: u32, phase: Phase) {
    let _ = write!(Out, "{step} {}", phase as u32);
}

static mut ARENA: Aligned<65536> = Aligned::new();
static mut WEIGHTS: Aligned<64> = Aligned::new();

/// Describes a model, runs it, and says what went wrong.
#[unsafe(no_mangle)]
pub extern "C" fn probe(x: *const f32, y: *mut f32, bytes: *mut u8, len: usize) -> usize {
    // SAFETY: the descriptor of a compiled model; buffers as the caller promises; arena and weights are used once at a time.
    let (model, x, y, bytes, arena, memory) = unsafe {
        let bytes = core::slice::from_raw_parts_mut(bytes, len);
        let x = core::slice::from_raw_parts(x, len);
        let arena: &mut [MaybeUninit<u8>] = &mut (*(&raw mut ARENA)).0;
        let memory: &mut [MaybeUninit<u8>] = &mut (*(&raw mut WEIGHTS)).0;
        (Model::new(&*(&raw const MODEL)), x, core::slice::from_raw_parts_mut(y, len), bytes, arena, memory)
    };
    let model = match model {
        Ok(model) => model,
        Err(e) => return write!(Out, "{e}").is_ok() as usize,
    };
    let _ = write!(Out, "{} {} {}", model.name(), model.arena_bytes(), model.arena_align());
    for word in model.cpu_features().chain(model.steps().flat_map(|s| [s.name, s.op])) {
        let _ = Out.write_str(word);
    }
    for t in model.inputs().chain(model.outputs()) {
        let _ = write!(Out, "{} {} {} {}", t.name, t.dtype, t.bytes, t.alias.map_or(0, |a| a + 1));
        t.dims.iter().for_each(|d| write!(Out, " {d}").unwrap_or_default());
    }
    for d in model.dims() {
        let _ = write!(Out, "{} {} {}", d.name, d.from.0, d.from.1);
        d.ranges.iter().for_each(|r| write!(Out, " {} {}", r.first, r.last).unwrap_or_default());
    }
    let weights = match model.unpack(memory) {
        Ok(weights) => weights,
        Err(e) => return write!(Out, "{e} {}", model.passed_weights_bytes()).is_ok() as usize,
    };
    let hash = sha256::digest(bytes);
    let hooks = Hooks { parallel: Some(&InOrder), profile: Some(&profile) };
    let inputs = [Input::from(&*x), Input::raw(2, &hash)];
    let (mut read, mut written) = ([0; 4], [0; 4]);
    let bound = match model.at(&[4, 2]) {
        Ok(bound) => bound,
        Err(e) => return write!(Out, "{e}").is_ok() as usize,
    };
    if let Err(e) = bound.input_dims(&mut read).and_then(|()| bound.output_dims(&mut written)) {
        return write!(Out, "{e} {} {}", bound.arena_bytes(), read[0] + written[0]).is_ok() as usize;
    }
    match bound.run(inputs, [Output::from(y), Output::raw(2, bytes)], arena, Some(weights), hooks) {
        Ok(()) => 0,
        Err(e) => write!(Out, "{e}").is_ok() as usize,
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}
