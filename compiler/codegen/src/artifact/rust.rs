//! The Rust binding of a model: typed arrays in, typed errors out, nothing needed but `core` and the archive.

use std::fmt::Write as _;

use onnxc_ir::DType;
use onnxc_ir::plan::Io;

use super::header::{count_fields, describe, values};
use super::{Facts, bytes, extents, names, points};
use crate::contents::Contents;

/// Element type in Rust, and elements per element of the tensor.
fn element(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "f32",
        DType::F64 => "f64",
        DType::I8 => "i8",
        DType::I16 => "i16",
        DType::I32 => "i32",
        DType::I64 => "i64",
        DType::U16 | DType::F16 | DType::BF16 => "u16",
        DType::U32 => "u32",
        DType::U64 => "u64",
        DType::Bool => "bool",
        _ => "u8",
    }
}

/// The type of a tensor's elements: an array, or a slice where its size comes with the call.
fn elements(io: &Io, open: bool) -> String {
    let name = element(io.ty.dtype);
    let count = if name == "u8" { bytes(io) } else { extents(io).iter().product() };
    if open { format!("[{name}]") } else { format!("[{name}; {count}]") }
}

/// A program need not use everything in its binding, which is private when it is a module.
const UNUSED: &str = "#[allow(dead_code)]\n";

/// The text of `NAME.rs`: a module for a program that links the archive.
pub fn binding(facts: &Facts) -> String {
    let mut out = String::new();
    let w = &mut out;
    let name = &facts.name;
    let _ = writeln!(w, "// {}: made by {} for {}. Do not edit.", names::comment(name), facts.producer, facts.target);
    let _ = writeln!(w, "// A module without dependencies: `mod {name};`, and link the archive of the same name.\n");
    let _ = writeln!(w, "/// Size of [`Arena`].\n{UNUSED}pub const ARENA_BYTES: usize = {};", facts.arena_bytes);
    let _ = writeln!(w, "/// Deepest stack of a run.\n{UNUSED}pub const STACK_BYTES: usize = {};", facts.stack_bytes);
    let _ = writeln!(w, "/// Size of the weights.\n{UNUSED}pub const WEIGHTS_BYTES: usize = {};\n", facts.weights_bytes);
    if let Some(coded) = &facts.coded {
        let _ = writeln!(w, "/// What the object has of the weights.\n{UNUSED}pub const CODED_BYTES: usize = {};", coded.bytes);
        let _ = writeln!(
            w,
            "/// Deepest stack of [`unpack`].\n{UNUSED}pub const UNPACK_STACK_BYTES: usize = {};\n",
            coded.unpack_stack_bytes
        );
    }
    if !facts.points.is_empty() {
        points::constants(w, facts);
    }
    if !facts.dims.is_empty() {
        dims(w, facts);
    }
    counts(w, facts);
    fields(w, facts, "Inputs", "What the model reads.", &facts.inputs, "&'a ");
    fields(w, facts, "Outputs", "What the model writes.", &facts.outputs, "&'a mut ");
    let _ = writeln!(
        w,
        "/// Working memory of one inference: put it on the stack, in a static or in a box.\n{UNUSED}#[repr(C, align({}))]\n\
         pub struct Arena(core::mem::MaybeUninit<[u8; ARENA_BYTES]>);\n",
        facts.arena_align.max(1)
    );
    w.push_str(ARENA);
    w.push_str(ERROR);
    run(w, facts);
    if facts.coded.is_some() {
        unpack(w, &facts.name);
    }
    w.push_str(
        "\n#[allow(dead_code, missing_docs, non_camel_case_types, unfulfilled_lint_expectations, clippy::all)]\npub mod abi {\n",
    );
    for line in onnxc_runtime::ABI_SOURCE.lines() {
        let _ = writeln!(w, "{}{line}", if line.is_empty() { "" } else { "    " });
    }
    w.push_str("}\n");
    out
}

fn dims(w: &mut String, facts: &Facts) {
    let _ = writeln!(w, "/// Values of the open dimensions.\n#[derive(Clone, Copy, Debug)]\n{UNUSED}pub struct Dims {{");
    for (dim, field) in facts.dims.iter().zip(dim_fields(facts)) {
        let _ = writeln!(w, "    /// \"{}\": {}\n    pub {field}: u64,", names::comment(&dim.name), values(dim));
    }
    w.push_str("}\n\n");
}

fn counts(w: &mut String, facts: &Facts) {
    if facts.counts.is_empty() {
        return;
    }
    let _ = writeln!(
        w,
        "/// Sizes that the data of a call decided on. Outputs have room for the largest; the tensors lie dense in front.\n\
         #[derive(Clone, Copy, Debug, PartialEq, Eq)]\n{UNUSED}pub struct Counts {{"
    );
    for ((name, bound), field) in facts.counts.iter().zip(count_fields(facts)) {
        let _ = writeln!(w, "    /// \"{}\": at most {bound}\n    pub {field}: u64,", names::comment(name));
    }
    w.push_str("}\n\n");
}

fn dim_fields(facts: &Facts) -> Vec<String> {
    names::fields(facts.dims.iter().map(|d| d.name.as_str()))
}

fn fields(w: &mut String, facts: &Facts, name: &str, about: &str, list: &[Io], reference: &str) {
    let open = !facts.dims.is_empty();
    let lifetime = if list.is_empty() { "" } else { "<'a>" };
    let _ = writeln!(w, "/// {about}\n{UNUSED}pub struct {name}{lifetime} {{");
    for (io, field) in list.iter().zip(names::fields(list.iter().map(|io| io.name.as_str()))) {
        let _ = writeln!(w, "    /// {}\n    pub {field}: {reference}{},", describe(io, facts), elements(io, open));
    }
    w.push_str("}\n\n");
}

const ARENA: &str = "#[allow(dead_code)]
impl Arena {
    /// Memory with any contents.
    pub const fn new() -> Arena {
        Arena(core::mem::MaybeUninit::uninit())
    }

    /// The first aligned part of `memory`, such as the spare capacity of a vector; `None` when it is too small.
    pub fn within(memory: &mut [core::mem::MaybeUninit<u8>]) -> Option<&mut Arena> {
        let before = memory.as_ptr().align_offset(core::mem::align_of::<Arena>());
        let part = memory.get_mut(before..)?.get_mut(..core::mem::size_of::<Arena>())?;
        // SAFETY: size and alignment are those of an arena, whose bytes may have any contents, and the slice is borrowed as long.
        Some(unsafe { &mut *part.as_mut_ptr().cast::<Arena>() })
    }
}

impl Default for Arena {
    fn default() -> Arena {
        Arena::new()
    }
}

";

const ERROR: &str = "/// Why an inference was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(dead_code)]
pub enum Error {
    /// The CPU lacks a feature that the code was compiled for.
    Cpu,
    /// The weights have another size than [`WEIGHTS_BYTES`] or do not begin at a multiple of 64.
    Weights,
    /// The value of an input contradicts a size that was fixed when compiling; outputs are undefined. From `unpack`: the weights are damaged.
    Data,
    /// The model was not compiled for these values of its open dimensions.
    Dims,
    /// This input or output has not the number of elements that the open dimensions give it.
    Size(&'static str),
    /// There is no point of this number.
    Point,
    /// Another status of the ABI.
    Status(i32),
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Error::Cpu => f.write_str(\"the CPU lacks a feature that the model was compiled for\"),
            Error::Weights => f.write_str(\"the weights have the wrong size or alignment\"),
            Error::Data => f.write_str(\"the value of an input contradicts a size that was fixed when compiling\"),
            Error::Dims => f.write_str(\"the model was not compiled for these values of its open dimensions\"),
            Error::Size(name) => write!(f, \"{name} has not the number of elements that the open dimensions give it\"),
            Error::Point => f.write_str(\"there is no point of this number\"),
            Error::Status(s) => write!(f, \"the model answered with status {s}\"),
        }
    }
}

impl core::error::Error for Error {}

";

fn run(w: &mut String, facts: &Facts) {
    let name = &facts.name;
    let pointers = |list: &[Io], before: &str, behind: &str| {
        let fields = names::fields(list.iter().map(|io| io.name.as_str()));
        fields.iter().map(|f| format!("{before}{f}{behind}")).collect::<Vec<_>>().join(", ")
    };
    let as_const = pointers(&facts.inputs, "core::ptr::from_ref(inputs.", ").cast()");
    let as_mut = pointers(&facts.outputs, "core::ptr::from_mut(&mut *outputs.", ").cast()");
    let open = !facts.dims.is_empty();
    let (as_const, as_mut) = if open {
        (pointers(&facts.inputs, "inputs.", ".as_ptr().cast()"), pointers(&facts.outputs, "outputs.", ".as_mut_ptr().cast()"))
    } else {
        (as_const, as_mut)
    };
    let (dims_parameter, sizes_declared, sizes_checked, dims) = if open {
        (
            "dims: Dims, ",
            format!("    fn {name}_sizes(dims: *const u64, sizes: *mut abi::onnxc_sizes) -> i32;\n"),
            check_sizes(facts),
            "dims.as_ptr()",
        )
    } else {
        ("", String::new(), String::new(), "core::ptr::null()")
    };
    let file = facts.weights_are_passed();
    let (parameter, check, weights) = if file {
        (
            ", weights: &[u8]",
            "    if weights.len() != WEIGHTS_BYTES || !(weights.as_ptr() as usize).is_multiple_of(64) {\n        return Err(Error::Weights);\n    }\n",
            "weights.as_ptr().cast()",
        )
    } else {
        ("", "", "core::ptr::null()")
    };
    let (answer, answered, counts_declared, counts) = if facts.counts.is_empty() {
        ("()", "()".to_string(), String::new(), "core::ptr::null_mut()")
    } else {
        let fields: Vec<String> = count_fields(facts).iter().enumerate().map(|(i, f)| format!("{f}: counts[{i}]")).collect();
        let declared = format!("    let mut counts = [0u64; {}];\n", fields.len());
        ("Counts", format!("Counts {{ {} }}", fields.join(", ")), declared, "counts.as_mut_ptr()")
    };
    let (point, point_declared, point_given, described) = by_point(facts);
    let unused = |list: &[Io], side: &str| if list.is_empty() { format!("    let _ = {side};\n") } else { String::new() };
    let (no_inputs, no_outputs) = (unused(&facts.inputs, "inputs"), unused(&facts.outputs, "outputs"));
    let _ = writeln!(
        w,
        "{UNUSED}unsafe extern \"C\" {{
    fn {name}_run({point_declared}call: *const abi::onnxc_call) -> i32;
{sizes_declared}{described}
/// One inference on one thread.
{UNUSED}pub fn run({point}{dims_parameter}inputs: &Inputs, outputs: &mut Outputs, arena: &mut Arena{parameter}) -> Result<{answer}, Error> {{
{counts_declared}{check}{sizes_checked}{no_inputs}{no_outputs}    let inputs: [*const core::ffi::c_void; {}] = [{as_const}];
    let outputs: [*mut core::ffi::c_void; {}] = [{}];
    let call = abi::onnxc_call {{
        inputs: inputs.as_ptr(),
        outputs: outputs.as_ptr(),
        arena: core::ptr::from_mut(arena).cast(),
        weights: {weights},
        hooks: core::ptr::null(),
        dims: {dims},
        counts: {counts},
    }};
    // SAFETY: every pointer leads to memory of the size that the model was compiled for, borrowed for the time of the call.
    match unsafe {{ {name}_run({point_given}&call) }} {{
        abi::ONNXC_OK => Ok({answered}),
        abi::ONNXC_POINT => Err(Error::Point),
        abi::ONNXC_CPU => Err(Error::Cpu),
        abi::ONNXC_DATA => Err(Error::Data),
        status => Err(Error::Status(status)),
    }}
}}",
        facts.inputs.len(),
        facts.outputs.len(),
        as_mut
    );
}

/// The function that decodes weights.
fn unpack(w: &mut String, name: &str) {
    let _ = writeln!(
        w,
        "
{UNUSED}unsafe extern \"C\" {{
    fn {name}_unpack(weights: *mut core::ffi::c_void) -> i32;
}}

/// Decodes the weights into memory of [`WEIGHTS_BYTES`] that begins at a multiple of 64. The answer is what [`run`] takes, for all runs on all threads.
{UNUSED}pub fn unpack(memory: &mut [core::mem::MaybeUninit<u8>]) -> Result<&[u8], Error> {{
    if memory.len() != WEIGHTS_BYTES || !(memory.as_ptr() as usize).is_multiple_of(64) {{
        return Err(Error::Weights);
    }}
    // SAFETY: the memory has the size and the alignment that the function wants.
    match unsafe {{ {name}_unpack(memory.as_mut_ptr().cast()) }} {{
        // SAFETY: all bytes were written.
        abi::ONNXC_OK => Ok(unsafe {{ core::slice::from_raw_parts(memory.as_ptr().cast(), memory.len()) }}),
        abi::ONNXC_CPU => Err(Error::Cpu),
        abi::ONNXC_DATA => Err(Error::Data),
        status => Err(Error::Status(status)),
    }}
}}"
    );
}

/// For a bundle the point as parameter, in the declaration and in the call; and what leads to the descriptor, or to the descriptors of all points.
fn by_point(facts: &Facts) -> (&'static str, &'static str, &'static str, String) {
    let (name, n) = (&facts.name, facts.points.len());
    if n == 0 {
        let described = format!(
            "    #[link_name = \"{name}_model\"]
    static DESCRIPTOR: abi::onnxc_model;
}}

/// The descriptor of the model.
{UNUSED}pub fn descriptor() -> &'static abi::onnxc_model {{
    // SAFETY: constant data of the linked object.
    unsafe {{ &*core::ptr::addr_of!(DESCRIPTOR) }}
}}
"
        );
        return ("", "", "", described);
    }
    let described = format!(
        "    #[link_name = \"{name}_points\"]
    static POINTS: [abi::onnxc_point; {n}];
}}

/// What there is to choose from; each point has a descriptor of its own.
{UNUSED}pub fn points() -> &'static [abi::onnxc_point; {n}] {{
    // SAFETY: constant data of the linked object.
    unsafe {{ &*core::ptr::addr_of!(POINTS) }}
}}
"
    );
    ("point: u32, ", "point: u32, ", "point, ", described)
}

/// Statements that compare the sizes of all slices with what the model says for `dims`.
fn check_sizes(facts: &Facts) -> String {
    let values: Vec<String> = dim_fields(facts).iter().map(|f| format!("dims.{f}")).collect();
    let mut out = format!(
        "    let dims: [u64; {}] = [{}];
    let (mut input_bytes, mut output_bytes) = ([0u64; {}], [0u64; {}]);
    let mut sizes = abi::onnxc_sizes {{
        arena_bytes: 0,
        input_dims: core::ptr::null_mut(),
        output_dims: core::ptr::null_mut(),
        input_bytes: input_bytes.as_mut_ptr(),
        output_bytes: output_bytes.as_mut_ptr(),
        counts: core::ptr::null(),
    }};
    // SAFETY: the arrays have as many elements as the model has dimensions, inputs and outputs.
    match unsafe {{ {}_sizes(dims.as_ptr(), &mut sizes) }} {{
        abi::ONNXC_OK => {{}}
        abi::ONNXC_DIMS => return Err(Error::Dims),
        status => return Err(Error::Status(status)),
    }}
",
        values.len(),
        values.join(", "),
        facts.inputs.len(),
        facts.outputs.len(),
        facts.name
    );
    for (side, list) in [("input", &facts.inputs), ("output", &facts.outputs)] {
        for (i, field) in names::fields(list.iter().map(|io| io.name.as_str())).iter().enumerate() {
            let _ = writeln!(
                out,
                "    if core::mem::size_of_val(&*{side}s.{field}) as u64 != {side}_bytes[{i}] {{\n        return \
                 Err(Error::Size(\"{field}\"));\n    }}"
            );
        }
    }
    out
}

/// A crate around the binding: paths and contents, with `object` in an archive that its build script links.
///
/// # Errors
/// As [`super::archive`].
pub fn crate_files(facts: &Facts, object: &Contents) -> crate::Result<Vec<(String, Contents)>> {
    let name = &facts.name;
    let package = name.to_ascii_lowercase();
    let manifest = format!(
        "[package]\nname = \"{package}\"\nversion = \"0.1.0\"\nedition = \"2024\"\nlinks = \"{package}\"\nbuild = \"build.rs\"\n\
         description = \"A neural network compiled by {}\"\n\n[lib]\nname = \"{package}\"\n\n[workspace]\n",
        facts.producer
    );
    let build = format!(
        "fn main() {{\n    let folder = std::env::var(\"CARGO_MANIFEST_DIR\").expect(\"set by cargo\");\n    \
         println!(\"cargo:rustc-link-search=native={{folder}}\");\n    println!(\"cargo:rustc-link-lib=static={name}\");\n    \
         println!(\"cargo:rerun-if-changed=lib{name}.a\");\n}}\n"
    );
    let lib = format!("//! A neural network compiled by {}.\n#![no_std]\n\n{}", facts.producer, binding(facts));
    Ok(vec![
        ("Cargo.toml".into(), manifest.into_bytes().into()),
        ("build.rs".into(), build.into_bytes().into()),
        (format!("lib{name}.a"), super::archive(&format!("{name}.o"), object)?),
        ("src/lib.rs".into(), lib.into_bytes().into()),
    ])
}
