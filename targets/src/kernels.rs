//! From a [`Kernel`] to code.

use cranelift_codegen::ir::Function;
use onnxc_ir::kernel::Kernel;

use crate::assembled::{Asm, Assembled};
use crate::clif::Clif;
use crate::cpu::{Isa, Target};
use crate::emitter::Emitter;
use crate::error::Error;

/// The code of a kernel.
pub enum KernelCode {
    /// A leaf function for the SystemV convention. It never moves the stack pointer and may use the 128 bytes below it. It calls nothing.
    Bytes(Assembled),
    /// A function for Cranelift; parameters are all i64, there is no result.
    Clif(Box<Function>),
}

/// Generates the code of a kernel.
///
/// The function takes the kernel's pointers and then its integers, as i64 each, in the order of the documentation of [`Kernel`].
///
/// # Errors
/// [`Error::Registers`] when a tile has more accumulators than the machine has registers, [`Error::Unsupported`] for element types without
/// vector code.
pub fn compile_kernel(kernel: &Kernel, target: &Target) -> Result<KernelCode, Error> {
    with_emitter(target, n_args(kernel), |e, careful| match kernel {
        Kernel::Tile(k) => crate::tile::emit(e, k, careful),
        Kernel::Depthwise(k) => crate::depthwise::emit(e, k, careful),
        Kernel::Fetch(k) => crate::fetch::emit(e, k),
        Kernel::Lookup(k) => crate::lookup::emit(e, k),
    })
}

/// Arguments of a kernel's function.
fn n_args(kernel: &Kernel) -> usize {
    match kernel {
        Kernel::Tile(k) => {
            let own = 3 + usize::from(k.bias) + k.operands.len();
            let pointers =
                own + usize::from(k.ahead > 0) + usize::from(k.has_table()) + usize::from(k.list) + usize::from(k.less.is_some());
            pointers + usize::from(k.open_k || k.list)
        }
        Kernel::Depthwise(k) => 3 + usize::from(k.bias) + k.operands.len() + usize::from(k.outputs == 0),
        Kernel::Fetch(_) => 1,
        Kernel::Lookup(_) => 3,
    }
}

/// Runs `f` on the emitter of the target and finishes the function. When registers run out, `f` runs again on a fresh function: first with
/// more pointer registers, then with `true`, which asks for code that keeps less in registers.
pub(crate) fn with_emitter(
    target: &Target,
    n_args: usize,
    mut f: impl FnMut(&mut dyn Emitter, bool) -> Result<(), Error>,
) -> Result<KernelCode, Error> {
    if matches!(target.vectors, Isa::Clif128 | Isa::Scalar) {
        let mut function = Function::new();
        let mut context = cranelift_frontend::FunctionBuilderContext::new();
        let mut clif = Clif::new(target, &mut function, &mut context, n_args);
        f(&mut clif, false)?;
        clif.finish();
        return Ok(KernelCode::Clif(Box::new(function)));
    }
    let mut last = Error::Registers("vectors");
    for (saved, careful) in [(0, false), (5, false), (5, true)] {
        let mut asm = Asm::new(target.vectors, n_args, saved)?;
        match f(&mut asm, careful) {
            Ok(()) => return Ok(KernelCode::Bytes(asm.finish()?)),
            Err(e @ Error::Registers(_)) => last = e,
            Err(e) => return Err(e),
        }
    }
    Err(last)
}
