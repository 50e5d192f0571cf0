//! Functions of a module before and after Cranelift: what is the same for object files and for the JIT.
//!
//! Functions refer to each other by their index here, which is also the index in the module (all are declared in order), so they can be built
//! and compiled in parallel, before any module exists, and come out the same for any number of threads.

use cranelift_codegen::binemit::{CodeOffset, Reloc};
use cranelift_codegen::control::ControlPlane;
use cranelift_codegen::ir::{
    self, AbiParam, ExtFuncData, ExternalName, FuncRef, Function, GlobalValue, Signature, UserExternalName, types,
};
use cranelift_codegen::isa::unwind::UnwindInfo;
use cranelift_codegen::isa::{CallConv, TargetIsa};
use cranelift_codegen::{Context, FinalizedRelocTarget};
use cranelift_module::{FuncId, ModuleReloc, ModuleRelocTarget};

use crate::error::{Error, Result};

/// Index of a function of the module.
pub(crate) type FuncIx = u32;

/// Code of a function.
pub(crate) enum Code {
    /// For Cranelift.
    Clif(Box<Function>),
    /// Machine code without relocations.
    Bytes(Vec<u8>),
    /// The same with a jump to another function of the module, whose distance is in the four bytes from `at` on.
    Entry {
        /// The code.
        bytes: Vec<u8>,
        /// Offset of the distance.
        at: u32,
        /// Where the jump goes.
        body: FuncIx,
    },
}

/// A function of the module.
pub(crate) struct Unit {
    /// Symbol.
    pub name: String,
    /// Visible outside the object.
    pub export: bool,
    /// Code.
    pub code: Code,
}

/// A function in machine code.
pub(crate) struct Compiled {
    /// Code with its constants.
    pub bytes: Vec<u8>,
    /// Alignment of the first byte.
    pub align: u64,
    /// References to other functions and to data.
    pub relocs: Vec<ModuleReloc>,
    /// Bytes of stack that it takes, with the return address.
    pub frame: u32,
    /// Functions that it calls.
    pub callees: Vec<FuncIx>,
    /// How to unwind; `None` for functions that never move the stack pointer.
    pub unwind: Option<UnwindInfo>,
    /// Assembly text if asked for.
    pub text: Option<String>,
}

/// A signature of i64 parameters and results.
pub(crate) fn signature(params: usize, results: usize) -> Signature {
    let mut s = Signature::new(CallConv::SystemV);
    s.params.extend((0..params).map(|_| AbiParam::new(types::I64)));
    s.returns.extend((0..results).map(|_| AbiParam::new(types::I64)));
    s
}

/// Refers to function `ix` from `func`.
pub(crate) fn import(func: &mut Function, ix: FuncIx, signature: Signature) -> FuncRef {
    let name = func.declare_imported_user_function(UserExternalName { namespace: 0, index: ix });
    let signature = func.import_signature(signature);
    func.import_function(ExtFuncData { name: ExternalName::user(name), signature, colocated: true, patchable: false })
}

/// Refers to data object `ix` from `func`.
pub(crate) fn import_data(func: &mut Function, ix: u32) -> GlobalValue {
    let name = func.declare_imported_user_function(UserExternalName { namespace: 1, index: ix });
    let data = ir::GlobalValueData::Symbol { name: ExternalName::user(name), offset: 0.into(), colocated: true, tls: false };
    func.create_global_value(data)
}

/// Compiles one function.
pub(crate) fn compile(isa: &dyn TargetIsa, ix: FuncIx, unit: Unit, want_text: bool) -> Result<Compiled> {
    let function = match unit.code {
        Code::Bytes(bytes) => {
            return Ok(Compiled { bytes, align: 64, relocs: vec![], frame: 160, callees: vec![], unwind: None, text: None });
        }
        Code::Entry { bytes, at, body } => {
            let name = ModuleRelocTarget::user(0, body);
            // The distance counts from behind its four bytes.
            let jump = ModuleReloc { kind: Reloc::X86CallPCRel4, offset: at, name, addend: -4 };
            return Ok(Compiled {
                bytes,
                align: 64,
                relocs: vec![jump],
                frame: 0,
                callees: vec![body],
                unwind: None,
                text: None,
            });
        }
        Code::Clif(function) => *function,
    };
    let mut context = Context::for_function(function);
    context.want_disasm = want_text;
    let fail = |reason: String| Error::Backend { name: unit.name.clone(), reason };
    context.compile(isa, &mut ControlPlane::default()).map_err(|e| fail(format!("{:?}", e.inner)))?;
    let code = context.take_compiled_code().ok_or_else(|| fail("no code".into()))?;
    let mut callees: Vec<FuncIx> = Vec::new();
    let mut relocs = Vec::with_capacity(code.buffer.relocs().len());
    for reloc in code.buffer.relocs() {
        if let FinalizedRelocTarget::ExternalName(ExternalName::User(name)) = &reloc.target {
            let name = &context.func.params.user_named_funcs()[*name];
            if name.namespace == 0 && !callees.contains(&name.index) {
                callees.push(name.index);
            }
        } else if let FinalizedRelocTarget::ExternalName(other) = &reloc.target {
            return Err(fail(format!("needs a library function ({other:?})")));
        }
        relocs.push(ModuleReloc::from_mach_reloc(reloc, &context.func, FuncId::from_u32(ix)));
    }
    let unwind = code.create_unwind_info_of_kind(isa, cranelift_codegen::isa::unwind::UnwindInfoKind::SystemV);
    let frame = code.buffer.frame_layout().map_or(0, |f| f.frame_to_fp_offset) + 16;
    let align = u64::from(code.buffer.alignment.max(isa.function_alignment().minimum)).max(16);
    Ok(Compiled {
        bytes: code.code_buffer().to_vec(),
        align,
        relocs,
        frame: frame as CodeOffset,
        callees,
        unwind: unwind.map_err(|e| fail(format!("{e:?}")))?,
        text: code.vcode,
    })
}

/// Deepest stack below a function, itself included; the call graph has no cycles.
pub(crate) fn stack_bound(functions: &[Compiled], root: FuncIx, extra_callees: &dyn Fn(FuncIx) -> Vec<FuncIx>) -> u64 {
    fn depth(functions: &[Compiled], ix: FuncIx, extra: &dyn Fn(FuncIx) -> Vec<FuncIx>, known: &mut [Option<u64>]) -> u64 {
        if let Some(bytes) = known[ix as usize] {
            return bytes;
        }
        // A reference of a function to itself would recurse for ever; none is generated, and zero ends it.
        known[ix as usize] = Some(0);
        let f = &functions[ix as usize];
        let below = f.callees.iter().copied().chain(extra(ix)).map(|c| depth(functions, c, extra, known)).max().unwrap_or(0);
        let bytes = below + u64::from(f.frame);
        known[ix as usize] = Some(bytes);
        bytes
    }
    depth(functions, root, extra_callees, &mut vec![None; functions.len()])
}
