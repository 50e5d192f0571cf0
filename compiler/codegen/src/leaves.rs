//! Microkernels and vector loops of a module. Equal code is there once, and so is code that differs in its constants only.

use std::collections::{HashMap, HashSet};

use onnxc_ir::DType;
use onnxc_ir::kernel::Kernel;
use onnxc_ir::lir::{Func, Stmt};
use onnxc_targets::{Assembled, KernelCode, Slot, Target, VectorLoop};
use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::machine::{Code, FuncIx, Unit};

/// Vector loops and kernels of the plan: what lowering calls them by.
pub(crate) struct Leaves {
    /// With the number of arguments.
    pub kernels: HashMap<Kernel, (FuncIx, usize)>,
    /// By the address of the loop's statement in the plan, which is only a key and never orders anything.
    pub vectors: HashMap<usize, Vector>,
}

/// A vector loop: its function, and the block of memory that this takes.
pub(crate) struct Vector {
    pub code: FuncIx,
    pub block_bytes: u32,
    pub slots: Vec<Slot>,
}

/// Bodies of fewer bytes are not worth a jump.
const SHORT: usize = 128;

/// What makes functions the same.
#[derive(PartialEq, Eq, Hash)]
enum Key {
    Assembled(Assembled),
    Clif(String),
}

/// Functions while they are added to a module.
struct Adding<'a> {
    add: &'a mut dyn FnMut(Unit) -> FuncIx,
    known: HashMap<Key, FuncIx>,
    /// Bodies that several functions have, each with other constants; where they are once they were added.
    shared: HashMap<Vec<u8>, Option<FuncIx>>,
    names: Vec<String>,
}

impl Adding<'_> {
    fn leaf(&mut self, name: &dyn Fn() -> String, code: KernelCode) -> FuncIx {
        let key = match &code {
            KernelCode::Bytes(assembled) => Key::Assembled(assembled.clone()),
            KernelCode::Clif(f) => Key::Clif(f.display().to_string()),
        };
        if let Some(ix) = self.known.get(&key) {
            return *ix;
        }
        let name = name();
        self.names.push(name.clone());
        let code = match code {
            KernelCode::Clif(f) => Code::Clif(f),
            KernelCode::Bytes(assembled) => match self.shared.get(&assembled.body).copied() {
                None => Code::Bytes(assembled.alone()),
                Some(body) => {
                    let body = body.unwrap_or_else(|| self.body(&name, &assembled.body));
                    let (bytes, at) = assembled.entry();
                    Code::Entry { bytes, at, body }
                }
            },
        };
        let ix = (self.add)(Unit { name, export: false, code });
        self.known.insert(key, ix);
        ix
    }

    fn body(&mut self, name: &str, body: &[u8]) -> FuncIx {
        let ix = (self.add)(Unit { name: format!("{name}_body"), export: false, code: Code::Bytes(body.to_vec()) });
        self.shared.insert(body.to_vec(), Some(ix));
        ix
    }
}

/// Compiles the microkernels and vector loops of all functions, adds them to a module and names them. `name` is the prefix of symbols.
pub(crate) fn add(
    add: &mut dyn FnMut(Unit) -> FuncIx,
    funcs: &[&Func],
    target: &Target,
    name: &str,
) -> Result<(Leaves, Vec<String>)> {
    let wanted = kernels_of(funcs);
    let compile = |(kernel, _, step): &(&Kernel, usize, &str)| {
        onnxc_targets::compile_kernel(kernel, target).map_err(|e| Error::unsupported(e.to_string()).in_step(step))
    };
    let kernels: Vec<KernelCode> = wanted.par_iter().map(compile).collect::<Result<_>>()?;
    let vectors: Vec<Vec<(&Stmt, VectorLoop)>> = funcs
        .par_iter()
        .map(|func| {
            let mut found = Vec::new();
            vector_loops(func, &func.body, target, &mut found);
            found
        })
        .collect();
    let codes = kernels.iter().chain(vectors.iter().flatten().map(|(_, found)| &found.code));
    let mut adding = Adding { add, known: HashMap::new(), shared: shared(codes), names: Vec::new() };
    let mut leaves = Leaves { kernels: HashMap::new(), vectors: HashMap::new() };
    for (i, ((kernel, args, _), code)) in wanted.into_iter().zip(kernels).enumerate() {
        let ix = adding.leaf(&|| format!("{name}_k{i}_{}", kernel_name(kernel)), code);
        leaves.kernels.insert(kernel.clone(), (ix, args));
    }
    let before = adding.names.len();
    for (stmt, VectorLoop { code, block_bytes, slots }) in vectors.into_iter().flatten() {
        let number = adding.names.len() - before;
        let code = adding.leaf(&|| format!("{name}_v{number}"), code);
        leaves.vectors.insert(stmt as *const Stmt as usize, Vector { code, block_bytes, slots });
    }
    Ok((leaves, adding.names))
}

/// The distinct kernels in order, with the numbers of their arguments and the function that wants each first.
fn kernels_of<'f>(funcs: &[&'f Func]) -> Vec<(&'f Kernel, usize, &'f str)> {
    let (mut wanted, mut known) = (Vec::new(), HashSet::new());
    for func in funcs {
        leaves_of(&func.body, &mut |stmt| match stmt {
            Stmt::Call(kernel, pointers, ints) if known.insert(kernel) => {
                wanted.push((kernel, pointers.len() + ints.len(), &func.name[..]));
            }
            _ => {}
        });
    }
    wanted
}

/// The bodies that occur with several sets of constants.
fn shared<'a>(codes: impl Iterator<Item = &'a KernelCode>) -> HashMap<Vec<u8>, Option<FuncIx>> {
    let mut first: HashMap<&[u8], &Assembled> = HashMap::new();
    let mut out = HashMap::new();
    for code in codes {
        let KernelCode::Bytes(assembled) = code else { continue };
        let before = first.entry(&assembled.body).or_insert(assembled);
        if before.constants != assembled.constants && assembled.body.len() >= SHORT {
            out.insert(assembled.body.clone(), None);
        }
    }
    out
}

/// The outermost loops that have a vector form.
pub(crate) fn vector_loops<'a>(func: &'a Func, block: &'a [Stmt], target: &Target, out: &mut Vec<(&'a Stmt, VectorLoop)>) {
    for stmt in block {
        match stmt {
            Stmt::For { body, .. } => match onnxc_targets::vectorize(func, stmt, target) {
                Some(found) => out.push((stmt, found)),
                None => vector_loops(func, body, target, out),
            },
            Stmt::While(_, body) => vector_loops(func, body, target, out),
            Stmt::If(_, a, b) => {
                vector_loops(func, a, target, out);
                vector_loops(func, b, target, out);
            }
            Stmt::Set(..) | Stmt::Store(..) | Stmt::Call(..) => {}
        }
    }
}

/// Calls `f` on every kernel call and every loop.
pub(crate) fn leaves_of<'a>(block: &'a [Stmt], f: &mut impl FnMut(&'a Stmt)) {
    for stmt in block {
        match stmt {
            Stmt::Call(..) => f(stmt),
            Stmt::For { body, .. } => {
                f(stmt);
                leaves_of(body, f);
            }
            Stmt::While(_, body) => leaves_of(body, f),
            Stmt::If(_, a, b) => {
                leaves_of(a, f);
                leaves_of(b, f);
            }
            Stmt::Set(..) | Stmt::Store(..) => {}
        }
    }
}

fn kernel_name(kernel: &Kernel) -> String {
    match kernel {
        Kernel::Tile(k) => {
            format!("tile_{}_{}{}_{}x{}", k.a_dtype, k.b_dtype, k.short_name(), k.mr, k.cols)
        }
        Kernel::Depthwise(k) => format!("depthwise_{}_{}x{}", k.x_dtype, k.taps.len(), k.channels),
        Kernel::Lookup(k) => format!("lookup_{}x{}", if k.signed { DType::I8 } else { DType::U8 }, k.bytes),
        Kernel::Fetch(k) => format!("fetch_{}x{}", k.nest[0].0, k.nest[1].0),
    }
}
