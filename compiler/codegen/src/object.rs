//! Object files: per-function sections, weights in read-only data, no global offset table, no undefined symbols, same bytes every time.

use std::collections::BTreeMap;

use cranelift_module::{DataDescription, DataId, FuncId, Linkage, Module, ModuleRelocTarget};
use cranelift_object::{ObjectBuilder, ObjectModule, ObjectProduct};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _};
use onnxc_ir::plan::{Io, Plan};
use onnxc_targets::Target;
use sha2::{Digest as _, Sha256};

use crate::artifact::{Coded, Facts, define_descriptor, define_points};
use crate::contents::{Contents, WeightBlob};
use crate::entry::{DATA_CPU_OK, DATA_WEIGHTS};
use crate::error::{Error, Result};
use crate::generate::{Exports, Machine, Options, Source, Weights, generate, step_table, symbol};
use crate::layout::Layout;

/// How an object is made.
#[derive(Clone, Debug)]
pub struct ObjectOptions {
    /// Prefix of all symbols; a C identifier.
    pub name: String,
    /// Where the weights are.
    pub weights: Weights,
    /// Name and version of the compiler, for the descriptor.
    pub producer: String,
    /// SHA-256 of the model file, for the descriptor.
    pub model_sha256: [u8; 32],
    /// What header and binding say of an input or output besides its type, by its name.
    pub notes: BTreeMap<String, String>,
}

impl Default for ObjectOptions {
    fn default() -> ObjectOptions {
        ObjectOptions {
            name: "model".to_string(),
            weights: Weights::Embed,
            producer: "onnxc".to_string(),
            model_sha256: [0; 32],
            notes: BTreeMap::new(),
        }
    }
}

/// An object file and what is known about it.
#[derive(Debug)]
pub struct ObjectOutput {
    /// The ELF file.
    pub contents: Contents,
    /// What the header and the bindings state.
    pub facts: Facts,
    /// The weight blob when it is not in the object.
    pub weights_file: Option<WeightBlob>,
    /// Deepest stack of `NAME_run` and of a task, hooks not counted.
    pub stack_bytes: u64,
    /// Machine code.
    pub code_bytes: u64,
    /// Arena size for the target's thread count.
    pub arena_bytes: u64,
    /// The part of the arena that all threads share.
    pub arena_shared: u64,
    /// The part of the arena that each thread has.
    pub scratch_per_thread: u64,
    /// Alignment of the arena.
    pub arena_align: u64,
    /// Microkernels and vector loops in the object.
    pub kernels: Vec<String>,
    /// Size and name of every function, largest first.
    pub functions: Vec<(String, u64)>,
}

/// Compiles a plan, the plans of a model with open dimensions, or those of a bundle, into a relocatable ELF object that exports `NAME_run` and `NAME_sizes`.
///
/// # Errors
/// [`Error::Unsupported`] for element types without code; everything else is an internal fault.
pub fn compile_object<'p>(source: impl Into<Source<'p>>, target: &Target, options: &ObjectOptions) -> Result<ObjectOutput> {
    let source = source.into();
    let plan = source.first()?;
    let machine = generate(&source, target, &inner(options, false, false))?;
    let layout = Layout::bound(&source, target.desc.max_threads.max(1))?;
    let blob = WeightBlob::of(plan)?;
    let mut module = object_module(target, &options.name)?;
    let code_bytes = machine.functions.iter().map(|(_, _, c)| c.bytes.len() as u64).sum();
    let mut functions: Vec<(String, u64)> = machine.functions.iter().map(|(n, _, c)| (n.clone(), c.bytes.len() as u64)).collect();
    functions.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    let (stack_bytes, kernels) = (machine.stack_bytes, machine.kernels.clone());
    let section = match &options.weights {
        Weights::Section(s) => s.clone(),
        _ => format!(".rodata.{}_weights", symbol(&options.name)),
    };
    let Stored { object: in_object, file: weights_file, sha256 } = Stored::of(blob, &options.weights)?;
    let facts = Facts {
        name: symbol(&options.name),
        producer: options.producer.clone(),
        target: target.desc.triple.clone(),
        cpu_features: target.required_features.join(" "),
        model_sha256: options.model_sha256,
        inputs: largest(&source, |p| &p.inputs),
        outputs: largest(&source, |p| &p.outputs),
        notes: options.notes.clone(),
        dims: source.dims.to_vec(),
        counts: crate::dispatch::counts(&source),
        steps: step_table(source.clone()),
        max_threads: target.desc.max_threads.max(1),
        arena_bytes: layout.arena_bytes,
        arena_shared: layout.arena_shared,
        scratch_per_thread: layout.scratch,
        arena_align: crate::entry::ARENA_ALIGN,
        stack_bytes,
        weights_bytes: plan.weights_bytes,
        weights: options.weights.clone(),
        weights_sha256: sha256,
        coded: machine.unpack.map(|u| Coded { bytes: in_object.bytes(), unpack_stack_bytes: u.stack_bytes }),
        points: Vec::new(),
    };
    let facts = with_points(facts, &source, &machine)?;
    let weights = define(&mut module, &machine, &options.name, Home::Section(&section))?;
    let unpack = machine.unpack.map(|u| u.function);
    if facts.points.is_empty() {
        define_descriptor(&mut module, &facts, (Exports::OF_MODULE, unpack), Linkage::Export)?;
    } else {
        let exports: Vec<Exports> = machine.points.iter().map(|p| p.0).collect();
        define_points(&mut module, &facts, &exports, unpack)?;
    }
    let mut product = module.finish();
    crate::unwind::add(&mut product, &machine, &*target.isa)?;
    if let Some(id) = weights {
        let symbol = product.data_symbol(id);
        product.object.symbol_mut(symbol).size = in_object.bytes();
    }
    let mut contents = Contents { head: emit(product)?, weights: WeightBlob::default() };
    if weights.is_some() {
        put_behind(&mut contents.head, &section, in_object.bytes())?;
        contents.weights = in_object;
    }
    Ok(ObjectOutput {
        contents,
        weights_file,
        stack_bytes,
        code_bytes,
        arena_bytes: facts.arena_bytes,
        arena_shared: facts.arena_shared,
        scratch_per_thread: facts.scratch_per_thread,
        facts,
        arena_align: crate::entry::ARENA_ALIGN,
        kernels,
        functions,
    })
}

/// The facts of a bundle with those of its points, the arena being that of the point which needs the largest; what is no bundle as it is.
fn with_points(facts: Facts, source: &Source, machine: &Machine) -> Result<Facts> {
    let mut points = Vec::new();
    for (i, (point, (_, plan))) in source.points.iter().zip(&source.plans).enumerate() {
        let layout = Layout::of(plan, facts.max_threads)?;
        let own = Facts {
            name: format!("{}_p{i}", facts.name),
            steps: step_table(*plan),
            arena_bytes: layout.arena_bytes,
            arena_shared: layout.arena_shared,
            scratch_per_thread: layout.scratch,
            stack_bytes: machine.points[i].1,
            ..facts.clone()
        };
        points.push((point.clone(), own));
    }
    let Some((_, largest)) = points.iter().max_by_key(|(_, own)| own.arena_bytes) else { return Ok(facts) };
    let Facts { arena_bytes, arena_shared, scratch_per_thread, .. } = *largest;
    Ok(Facts { arena_bytes, arena_shared, scratch_per_thread, points, ..facts })
}

/// The inputs or outputs with the largest extents of all plans.
fn largest(source: &Source, list: impl Fn(&Plan) -> &Vec<Io>) -> Vec<Io> {
    let mut all: Vec<Io> = source.plans.first().map(|p| list(p.1).clone()).unwrap_or_default();
    for io in all.iter_mut().flat_map(|io| &mut io.ty.shape) {
        *io = onnxc_ir::Dim::Const(0);
    }
    for (_, plan) in &source.plans {
        for (io, other) in all.iter_mut().zip(list(plan)) {
            for (n, m) in io.ty.shape.iter_mut().zip(&other.ty.shape) {
                *n = n.max_of(&onnxc_ir::Dim::Const(m.range(&plan.bounds).1));
            }
        }
    }
    all
}

/// Cranelift IR of everything in the object that went through Cranelift.
///
/// # Errors
/// As [`compile_object`].
pub fn clif_text<'p>(source: impl Into<Source<'p>>, target: &Target, options: &ObjectOptions) -> Result<String> {
    Ok(generate(&source.into(), target, &inner(options, false, true))?.clif)
}

pub(crate) fn inner(options: &ObjectOptions, text: bool, clif: bool) -> Options {
    Options { name: symbol(&options.name), weights: options.weights.clone(), text, clif }
}

fn object_module(target: &Target, name: &str) -> Result<ObjectModule> {
    let fail = |e: cranelift_module::ModuleError| Error::Object(e.to_string());
    let builder = ObjectBuilder::new(target.isa.clone(), name.as_bytes().to_vec(), cranelift_module::default_libcall_names())
        .map_err(fail)?;
    Ok(ObjectModule::new(builder))
}

impl ObjectOutput {
    /// The ELF file in memory.
    pub fn bytes(&self) -> Vec<u8> {
        self.contents.to_vec()
    }
}

/// Where weights go.
struct Stored {
    /// What the object has of them.
    object: WeightBlob,
    /// What a file beside it has.
    file: Option<WeightBlob>,
    /// SHA-256 of what calls are to bring; zeros if that is nothing.
    sha256: [u8; 32],
}

impl Stored {
    fn of(blob: WeightBlob, weights: &Weights) -> Result<Stored> {
        let nothing = Stored { object: WeightBlob::default(), file: None, sha256: [0; 32] };
        Ok(match weights {
            _ if blob.bytes() == 0 => nothing,
            Weights::Embed | Weights::Section(_) => Stored { object: blob, ..nothing },
            Weights::File => Stored { sha256: digest(&blob)?, file: Some(blob), ..nothing },
            Weights::Coded => {
                let bytes = blob.to_vec();
                Stored {
                    object: crate::entropy::encode(&bytes, &blob.starts()).into(),
                    sha256: Sha256::digest(&bytes).into(),
                    ..nothing
                }
            }
        })
    }
}

/// SHA-256 of a weight file.
fn digest(blob: &WeightBlob) -> Result<[u8; 32]> {
    let mut hash = Sha256::new();
    blob.write(&mut hash).map_err(|e| Error::Object(e.to_string()))?;
    Ok(hash.finalize().into())
}

/// Gives an empty section of an ELF file `bytes` bytes, which follow behind the file.
fn put_behind(file: &mut Vec<u8>, section: &str, bytes: u64) -> Result<()> {
    const SECTION_HEADER: usize = 64;
    const OFFSET_AND_SIZE: usize = 24;
    file.resize(file.len().next_multiple_of(64), 0);
    let fail = || Error::Object(format!("no section {section} in an ELF file of 64 bits"));
    let index = {
        let parsed = object::File::parse(&**file).map_err(|e| Error::Object(e.to_string()))?;
        let is_elf = parsed.format() == object::BinaryFormat::Elf && parsed.is_64() && parsed.is_little_endian();
        parsed.section_by_name(section).filter(|s| is_elf && s.size() == 0).ok_or_else(fail)?.index().0
    };
    let headers = u64::from_le_bytes(file[0x28..0x30].try_into().map_err(|_| fail())?) as usize;
    let at = headers + index * SECTION_HEADER + OFFSET_AND_SIZE;
    let place = [(file.len() as u64).to_le_bytes(), bytes.to_le_bytes()];
    file.get_mut(at..at + 16).ok_or_else(fail)?.copy_from_slice(place.as_flattened());
    Ok(())
}

/// Where the weights that code names are.
#[derive(Clone, Copy)]
pub(crate) enum Home<'a> {
    /// A section, which remains empty here.
    Section(&'a str),
    /// In this process; what comes through the call instead is not named.
    Memory(&'a [u8]),
}

/// Declares and defines all functions and data. The answer is the symbol of the weights, if code names it.
pub(crate) fn define(module: &mut dyn Module, machine: &Machine, name: &str, weights: Home) -> Result<Option<DataId>> {
    let fail = |e: cranelift_module::ModuleError| Error::Object(format!("{e:?}"));
    for (ix, (symbol, export, _)) in machine.functions.iter().enumerate() {
        let linkage = if *export { Linkage::Export } else { Linkage::Local };
        // Signatures were used when calls were built; the module keeps them only for reference.
        let id = module.declare_function(symbol, linkage, &crate::machine::signature(0, 0)).map_err(fail)?;
        if id != FuncId::from_u32(ix as u32) {
            return Err(Error::Object(format!("two functions are called {symbol}")));
        }
    }
    let prefix = symbol(name);
    let mut data_ids: BTreeMap<u32, DataId> = BTreeMap::new();
    for (ix, what, writable) in [(DATA_WEIGHTS, "weights", false), (DATA_CPU_OK, "cpu_ok", true)] {
        // Only what is used is declared: a declaration without definition would be an undefined symbol.
        if !machine.functions.iter().any(|(_, _, c)| c.relocs.iter().any(|r| data_index(&r.name) == Some(ix))) {
            continue;
        }
        let id = module.declare_data(&format!("{prefix}_{what}"), Linkage::Local, writable, false).map_err(fail)?;
        data_ids.insert(ix, id);
        let mut data = DataDescription::new();
        data.set_align(if ix == DATA_WEIGHTS { 64 } else { 1 });
        match (ix, weights) {
            (DATA_WEIGHTS, Home::Section(section)) => {
                data.define(Box::default());
                data.set_custom_section(section);
            }
            (DATA_WEIGHTS, Home::Memory(bytes)) => data.define(bytes.into()),
            _ => data.define_zeroinit(1),
        }
        module.define_data(id, &data).map_err(fail)?;
    }
    for (ix, (_, _, code)) in machine.functions.iter().enumerate() {
        let mut relocs = code.relocs.clone();
        for reloc in &mut relocs {
            if let Some(id) = data_index(&reloc.name).and_then(|ix| data_ids.get(&ix)) {
                reloc.name = (*id).into();
            }
        }
        module.define_function_bytes(FuncId::from_u32(ix as u32), code.align, &code.bytes, &relocs).map_err(fail)?;
    }
    Ok(data_ids.get(&DATA_WEIGHTS).copied())
}

/// The data object that a relocation means, by the numbers of the generator.
fn data_index(name: &ModuleRelocTarget) -> Option<u32> {
    match name {
        ModuleRelocTarget::User { namespace: 1, index } => Some(*index),
        _ => None,
    }
}

fn emit(product: ObjectProduct) -> Result<Vec<u8>> {
    let bytes = product.emit().map_err(|e| Error::Object(e.to_string()))?;
    let file = object::File::parse(&*bytes).map_err(|e| Error::Object(e.to_string()))?;
    let undefined: Vec<&str> =
        file.symbols().filter(|s| s.is_undefined()).filter_map(|s| s.name().ok()).filter(|n| !n.is_empty()).collect();
    if !undefined.is_empty() {
        return Err(Error::Object(format!("undefined symbols: {}", undefined.join(", "))));
    }
    Ok(bytes)
}

/// Assembly of all functions: Cranelift's own listing, and a disassembly of assembled kernels where the target is x86-64.
///
/// # Errors
/// As [`compile_object`].
pub fn asm_text<'p>(source: impl Into<Source<'p>>, target: &Target, options: &ObjectOptions) -> Result<String> {
    let machine = generate(&source.into(), target, &inner(options, true, false))?;
    let mut out = String::new();
    let mut names: BTreeMap<u32, &str> = BTreeMap::new();
    for (ix, (name, ..)) in machine.functions.iter().enumerate() {
        names.insert(ix as u32, name);
    }
    for (name, _, code) in &machine.functions {
        let calls: Vec<&str> = code.callees.iter().filter_map(|c| names.get(c).copied()).collect();
        let calls = if calls.is_empty() { String::new() } else { format!(" ; calls {}", calls.join(", ")) };
        out.push_str(&format!("{name}: ; {} bytes, frame {}{calls}\n", code.bytes.len(), code.frame));
        match &code.text {
            Some(text) => out.push_str(text),
            None => out.push_str(&crate::print::disassemble(&*target.isa, &code.bytes)),
        }
        out.push('\n');
    }
    Ok(out)
}
