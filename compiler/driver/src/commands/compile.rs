//! `compile`: object or archive, with everything that lies beside it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use onnxc_codegen::{Contents, ObjectOptions, ObjectOutput, artifact, asm_text, clif_text, compile_object};
use onnxc_ir::Graph;
use onnxc_ir::plan::{Io, Plan, Variants};
use onnxc_onnx::Port;
use onnxc_passes::plan::Merge;
use onnxc_targets::Target;
use serde_json::json;

use super::bundle::Points;
use super::engine::codegen_fault;
use crate::cli::{self, Compile, Emit};
use crate::data::{Place, places, write_contents};
use crate::fault::{Done, Fault};
use crate::pipeline::{self, Compiled, Times};
use crate::sizes;

/// `onnxc compile`.
pub fn compile(args: &Compile) -> Done<()> {
    pipeline::prepare(&args.debugging)?;
    let target = super::target(&args.machine, "", 1)?;
    let output = args.output.clone().unwrap_or_else(|| {
        let stem = args.model.model.file_stem().unwrap_or_default();
        Path::new(stem).with_extension("a")
    });
    let bundle = args.emit.contains(&Emit::Bundle);
    let mut emit: Vec<Emit> = args.emit.iter().copied().filter(|e| *e != Emit::Bundle).collect();
    if emit.is_empty() {
        emit = default_emit(&output);
    }
    let name = args.name.clone().unwrap_or_else(|| prefix(&output));
    if bundle {
        super::bundle::check(args, &emit)?;
    }
    let found = crate::compress::find(&args.model, &target, &args.freedom, &args.budget)?;
    let (mut freedom, mut model) = (args.freedom.clone(), &args.model);
    if let Some((loaded, shaped)) = &found {
        (freedom.found, model) = (Some(loaded.clone()), shaped);
    }
    let mut built = if bundle {
        super::bundle::build(args, &target)?
    } else {
        let mut built = build(args, model, (&target, &freedom), &emit)?;
        built.compression = crate::compress::report(&freedom)?;
        built
    };
    let progress = crate::progress::Progress::start("codegen");
    let options = ObjectOptions {
        name,
        weights: freedom.weights.clone(),
        producer: concat!("onnxc ", env!("CARGO_PKG_VERSION")).to_string(),
        model_sha256: built.sha256,
        notes: notes(&built),
    };
    crate::reproducer::entering("codegen", Some(&built.graph));
    let plans = &built.plans;
    let object = built.times.measure("codegen", || compile_object(plans, &target, &options)).map_err(codegen_fault)?;
    within(&object, &freedom)?;
    progress.say("writing");
    // Everything is there before anything is written.
    let mut files = files(&emit, &output, &built, &target, &options, &object)?;
    if let Some((found, _)) = &found {
        files.extend(found.files(&output.with_extension("recipe"))?);
    }
    built.times.measure("write", || files.iter().try_for_each(|(path, contents)| write_contents(path, contents)))?;
    drop(progress);
    if let Some(points) = &built.points {
        eprint!("{}", points.told(object.facts.weights_bytes));
    }
    built.times.report(&args.debugging)
}

/// Refuses weights that take more bytes where they are stored than the command line permits.
fn within(object: &ObjectOutput, freedom: &cli::Freedom) -> Done<()> {
    let bytes = object.facts.stored_weights_bytes();
    match freedom.max_size {
        Some(cli::Size::Bytes(most)) if bytes > most => {
            let why = format!("the weights take {bytes} bytes, --max-size permits {most}");
            let remedy = "compress the model with --calib, store the weights as --weights coded, or permit more";
            Err(Fault::Model(vec![crate::fault::Diagnostic::new("compile::size", why).help(remedy)]))
        }
        _ => Ok(()),
    }
}

/// What the pipeline has made of a model: a plan, or one for each combination of values of open dimensions.
pub(super) struct Built {
    pub graph: Graph,
    pub plans: Variants,
    /// Inputs and outputs as the model has them.
    pub inputs: Vec<Port>,
    pub outputs: Vec<Port>,
    pub sha256: [u8; 32],
    pub times: Times,
    pub live_bytes: Vec<u64>,
    /// The recipe, for the report.
    pub compression: Option<serde_json::Value>,
    /// Points of a bundle, for the report.
    pub points: Option<Points>,
}

impl Built {
    /// Everything but the plan, which goes its own way.
    pub fn new(compiled: Compiled) -> (Built, Plan) {
        let Compiled { graph, plan, inputs, outputs, sha256, times, live_bytes } = compiled;
        let plans = Variants { dims: Vec::new(), points: Vec::new(), plans: Vec::new() };
        let (live_bytes, compression, points) = (vec![live_bytes], None, None);
        (Built { graph, plans, inputs, outputs, sha256, times, live_bytes, compression, points }, plan)
    }
}

fn build(args: &Compile, model: &cli::Model, (target, freedom): (&Target, &cli::Freedom), emit: &[Emit]) -> Done<Built> {
    let (names, choices) = sizes::choices(model)?;
    if !names.is_empty() && emit.contains(&Emit::Ir) {
        return Err(Fault::Usage("--emit=ir shows one graph: give each --dim one value".to_string()));
    }
    let mut built: Option<Built> = None;
    let mut merge = Merge::new(names.clone());
    for (values, model) in choices {
        let (mut one, plan) = Built::new(pipeline::compile(&model, target, freedom, &args.debugging)?);
        if names.is_empty() {
            one.plans.plans.push((values, plan));
            return Ok(one);
        }
        merge.add(values, plan);
        match &mut built {
            None => built = Some(one),
            Some(all) => {
                all.times.0.append(&mut one.times.0);
                all.live_bytes.append(&mut one.live_bytes);
            }
        }
    }
    let mut built = built.ok_or_else(|| Fault::Internal("no combination of sizes".to_string()))?;
    built.plans = merge.finish().map_err(|unused| {
        Fault::Usage(format!(
            "--dim {}: no input has a dimension of these values; name it in --shape INPUT=..., or drop it",
            unused.join(", --dim ")
        ))
    })?;
    Ok(built)
}

fn default_emit(output: &Path) -> Vec<Emit> {
    match output.extension().and_then(|e| e.to_str()) {
        Some("o" | "obj") => vec![Emit::Obj, Emit::Header, Emit::Rust, Emit::Report],
        _ => vec![Emit::Lib, Emit::Header, Emit::Rust, Emit::Report],
    }
}

/// What the header says of tensors that are parts of a sequence, and of outputs that may have an input's buffer.
fn notes(built: &Built) -> BTreeMap<String, String> {
    let Some((_, plan)) = built.plans.plans.first() else { return BTreeMap::new() };
    let sides = [(&plan.inputs, &built.inputs), (&plan.outputs, &built.outputs)];
    let note = |place: Place| format!("element {} of {} of the sequence \"{}\"", place.index, place.length, place.sequence);
    let noted = |(list, ports): (&Vec<Io>, &Vec<Port>)| -> Vec<(String, String)> {
        list.iter().zip(places(ports, list.len())).filter_map(|(io, place)| Some((io.name.clone(), note(place?)))).collect()
    };
    let mut notes: BTreeMap<String, String> = sides.into_iter().flat_map(noted).collect();
    for io in &plan.outputs {
        if let Some(input) = io.alias.and_then(|i| plan.inputs.get(i as usize)) {
            notes.insert(io.name.clone(), format!("may have the buffer of the input \"{}\"", input.name));
        }
    }
    notes
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
    built: &Built,
    target: &Target,
    options: &ObjectOptions,
    object: &ObjectOutput,
) -> Done<Vec<(PathBuf, Contents)>> {
    let mut files: Vec<(PathBuf, Contents)> = Vec::new();
    let plans = &built.plans;
    for kind in emit {
        let beside = |ending: &str| output.with_extension(ending);
        match kind {
            // What the archive or object has, no file.
            Emit::Bundle => {}
            Emit::Obj => files.push((beside("o"), object.contents.clone())),
            Emit::Ir => files.push((beside("nir"), onnxc_ir::text::print(&built.graph).into_bytes().into())),
            Emit::Clif => {
                files.push((beside("clif"), clif_text(plans, target, options).map_err(codegen_fault)?.into_bytes().into()));
            }
            Emit::Asm => {
                files.push((beside("s"), asm_text(plans, target, options).map_err(codegen_fault)?.into_bytes().into()));
            }
            Emit::Report => files.push((beside("json"), report(built, target, options, object).into())),
            Emit::Lib => files.push((
                beside("a"),
                artifact::archive(&format!("{}.o", object.facts.name), &object.contents).map_err(codegen_fault)?,
            )),
            Emit::Header => files.push((beside("h"), artifact::header(&object.facts).into_bytes().into())),
            Emit::Rust => files.push((beside("rs"), artifact::binding(&object.facts).into_bytes().into())),
            Emit::Crate => {
                let folder = output.with_extension("");
                let contents = artifact::crate_files(&object.facts, &object.contents).map_err(codegen_fault)?;
                files.extend(contents.into_iter().map(|(path, bytes)| (folder.join(path), bytes)));
            }
        }
    }
    if let Some(weights) = &object.weights_file {
        files.push((output.with_extension("weights"), weights.clone().into()));
    }
    Ok(files)
}

/// Facts about the artefact. No times: the same input gives the same bytes.
fn report(built: &Built, target: &Target, options: &ObjectOptions, object: &ObjectOutput) -> Vec<u8> {
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
    let hex: String = built.sha256.iter().map(|b| format!("{b:02x}")).collect();
    let dims: Vec<_> = object
        .facts
        .dims
        .iter()
        .map(|d| json!({ "name": d.name, "ranges": d.ranges, "input": d.from.0, "axis": d.from.1, "factor": d.factor }))
        .collect();
    let counts: Vec<_> = object.facts.counts.iter().map(|(name, bound)| json!({ "name": name, "bound": bound })).collect();
    let variants = built.plans.plans.iter().zip(&built.live_bytes).filter(|((values, _), _)| !values.is_empty());
    let variants: Vec<_> = variants
        .map(|((values, plan), live)| {
            json!({ "dims": values, "inputs": io(&plan.inputs, &built.inputs), "outputs": io(&plan.outputs, &built.outputs), "live_bytes": live })
        })
        .collect();
    // Points have their own.
    let winograd = built.points.is_none().then(|| super::algorithms::json(&onnxc_passes::winograd::chosen(&built.graph)));
    let report = json!({
        "name": options.name, "version": env!("CARGO_PKG_VERSION"), "model_sha256": hex,
        "target": target.desc.triple, "cpu": target.desc.cpu, "features": target.required_features,
        "max_threads": target.desc.max_threads,
        "inputs": io(&object.facts.inputs, &built.inputs), "outputs": io(&object.facts.outputs, &built.outputs), "dims": dims, "counts": counts,
        "variants": variants,
        "object_bytes": object.contents.bytes(), "code_bytes": object.code_bytes, "weights_bytes": object.facts.weights_bytes,
        "coded_weights_bytes": object.facts.coded.map(|c| c.bytes), "unpack_stack_bytes": object.facts.coded.map(|c| c.unpack_stack_bytes),
        "arena_bytes": object.arena_bytes, "arena_shared": object.arena_shared,
        "scratch_per_thread": object.scratch_per_thread, "live_bytes": built.live_bytes.iter().max(),
        "winograd": winograd,
        "compression": built.compression, "points": built.points.as_ref().map(|p| p.json(&object.facts, &built.live_bytes)),
        "shared_weight_bytes": built.points.as_ref().map(|p| p.saved(object.facts.weights_bytes)),
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
