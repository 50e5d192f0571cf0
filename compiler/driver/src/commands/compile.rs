//! `compile`: object or archive, with everything that lies beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use onnxc_codegen::{ObjectOptions, ObjectOutput, Weights, artifact, asm_text, clif_text, compile_object};
use onnxc_ir::plan::Io;
use onnxc_onnx::Port;
use onnxc_targets::Target;
use serde_json::json;

use super::engine::codegen_fault;
use crate::cli::{self, Compile, Emit};
use crate::data::{Place, places, write_file};
use crate::fault::Done;
use crate::pipeline::{self, Compiled};

/// `onnxc compile`.
pub fn compile(args: &Compile) -> Done<()> {
    pipeline::prepare(&args.debugging)?;
    let target = super::target(&args.machine, "", 1)?;
    let output = args.output.clone().unwrap_or_else(|| {
        let stem = args.model.model.file_stem().unwrap_or_default();
        Path::new(stem).with_extension("a")
    });
    let emit = if args.emit.is_empty() { default_emit(&output) } else { args.emit.clone() };
    let name = args.name.clone().unwrap_or_else(|| prefix(&output));
    let mut compiled = pipeline::compile(&args.model, &target, &args.debugging)?;
    let progress = crate::progress::Progress::start("codegen");
    let weights = match &args.weights {
        cli::Weights::Embed => Weights::Embed,
        cli::Weights::File => Weights::File,
        cli::Weights::Section(s) => Weights::Section(s.clone()),
    };
    let options = ObjectOptions {
        name,
        weights,
        producer: concat!("onnxc ", env!("CARGO_PKG_VERSION")).to_string(),
        model_sha256: compiled.sha256,
        notes: notes(&compiled),
    };
    crate::reproducer::entering("codegen", Some(&compiled.graph));
    let plan = &compiled.plan;
    let object = compiled.times.measure("codegen", || compile_object(plan, &target, &options)).map_err(codegen_fault)?;
    progress.say("writing");
    // Everything is there before anything is written.
    let files = files(&emit, &output, &compiled, &target, &options, &object)?;
    for (path, bytes) in &files {
        write_file(path, bytes)?;
    }
    drop(progress);
    compiled.times.report(&args.debugging)
}

fn default_emit(output: &Path) -> Vec<Emit> {
    match output.extension().and_then(|e| e.to_str()) {
        Some("o" | "obj") => vec![Emit::Obj, Emit::Header, Emit::Rust, Emit::Report],
        _ => vec![Emit::Lib, Emit::Header, Emit::Rust, Emit::Report],
    }
}

/// What the header says of tensors that are parts of a sequence.
fn notes(compiled: &Compiled) -> BTreeMap<String, String> {
    let sides = [(&compiled.plan.inputs, &compiled.inputs), (&compiled.plan.outputs, &compiled.outputs)];
    let note = |place: Place| format!("element {} of {} of the sequence \"{}\"", place.index, place.length, place.sequence);
    let noted = |(list, ports): (&Vec<Io>, &Vec<Port>)| -> Vec<(String, String)> {
        list.iter().zip(places(ports, list.len())).filter_map(|(io, place)| Some((io.name.clone(), note(place?)))).collect()
    };
    sides.into_iter().flat_map(noted).collect()
}

/// A C identifier from the output's name.
fn prefix(output: &Path) -> String {
    let stem = output.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let archive = output.extension().is_some_and(|e| e == "a");
    let stem = stem.strip_prefix("lib").filter(|s| !s.is_empty() && archive).unwrap_or(&stem);
    let name: String = stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) { format!("m{name}") } else { name }
}

/// All outputs with their paths.
fn files(
    emit: &[Emit],
    output: &Path,
    compiled: &Compiled,
    target: &Target,
    options: &ObjectOptions,
    object: &ObjectOutput,
) -> Done<Vec<(PathBuf, Vec<u8>)>> {
    let mut files = Vec::new();
    let plan = &compiled.plan;
    for kind in emit {
        let beside = |ending: &str| output.with_extension(ending);
        match kind {
            Emit::Obj => files.push((beside("o"), object.bytes.clone())),
            Emit::Ir => files.push((beside("nir"), onnxc_ir::text::print(&compiled.graph).into_bytes())),
            Emit::Clif => files.push((beside("clif"), clif_text(plan, target, options).map_err(codegen_fault)?.into_bytes())),
            Emit::Asm => files.push((beside("s"), asm_text(plan, target, options).map_err(codegen_fault)?.into_bytes())),
            Emit::Report => files.push((beside("json"), report(compiled, target, options, object))),
            Emit::Lib => files.push((
                beside("a"),
                artifact::archive(&format!("{}.o", object.facts.name), &object.bytes).map_err(codegen_fault)?,
            )),
            Emit::Header => files.push((beside("h"), artifact::header(&object.facts).into_bytes())),
            Emit::Rust => files.push((beside("rs"), artifact::binding(&object.facts).into_bytes())),
            Emit::Crate => {
                let folder = output.with_extension("");
                let contents = artifact::crate_files(&object.facts, &object.bytes).map_err(codegen_fault)?;
                files.extend(contents.into_iter().map(|(path, bytes)| (folder.join(path), bytes)));
            }
        }
    }
    if let Some(weights) = &object.weights_file {
        files.push((output.with_extension("weights"), weights.clone()));
    }
    Ok(files)
}

/// Facts about the artefact. No times: the same input gives the same bytes.
fn report(compiled: &Compiled, target: &Target, options: &ObjectOptions, object: &ObjectOutput) -> Vec<u8> {
    let io = |list: &[Io], ports: &[Port]| -> Vec<_> {
        let row = |(io, place): (&Io, Option<Place>)| {
            let mut row = json!({ "name": io.name, "dtype": io.ty.dtype.name(), "shape": io.ty.const_shape() });
            if let Some(place) = place {
                row["sequence"] = place.sequence.into();
            }
            row
        };
        list.iter().zip(places(ports, list.len())).map(row).collect()
    };
    let hex: String = compiled.sha256.iter().map(|b| format!("{b:02x}")).collect();
    let report = json!({
        "name": options.name, "version": env!("CARGO_PKG_VERSION"), "model_sha256": hex,
        "target": target.desc.triple, "cpu": target.desc.cpu, "features": target.required_features,
        "max_threads": target.desc.max_threads,
        "inputs": io(&compiled.plan.inputs, &compiled.inputs),
        "outputs": io(&compiled.plan.outputs, &compiled.outputs),
        "object_bytes": object.bytes.len(), "code_bytes": object.code_bytes, "weights_bytes": compiled.plan.weights_bytes,
        "arena_bytes": object.arena_bytes, "arena_shared": object.arena_shared,
        "scratch_per_thread": object.scratch_per_thread, "live_bytes": compiled.live_bytes,
        "stack_bytes": object.stack_bytes, "kernels": object.kernels, "functions": object.functions,
    });
    format!("{report:#}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_identifiers() {
        assert_eq!(prefix(Path::new("a/libnet-2.a")), "net_2");
        assert_eq!(prefix(Path::new("2.o")), "m2");
        assert_eq!(prefix(Path::new("lib.a")), "lib");
    }
}
