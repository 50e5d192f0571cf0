//! `run` and `verify`: a model on inputs from files.

use std::path::{Path, PathBuf};

use onnxc_ir::tensor::Bytes;
use onnxc_ir::{DType, Tensor};
use onnxc_search::Samples;

use super::engine::{self, Engine};
use crate::cli::{Extent, Model, Run, Verify};
use crate::data::{self, npy};
use crate::fault::{Diagnostic, Done, Fault};

/// `onnxc run`.
pub fn run(args: &Run) -> Done<()> {
    if args.samples {
        return run_samples(args);
    }
    let model = &with_shapes(&args.model, &args.inputs)?;
    let threads = args.machine.max_threads.unwrap_or(1);
    let engine = if args.interpret {
        engine::interpreter(model)?
    } else {
        engine::jit(model, &super::this_machine(&args.machine, threads)?, &args.freedom, &args.debugging)?.0
    };
    let (inputs, kind) = data::read(&args.inputs, "input", &engine.inputs)?;
    let outputs = engine.run(&inputs, threads)?;
    data::write(&args.outputs, kind, &engine.outputs, &outputs)
}

/// Every sample of an `.npz` file, outputs stacked.
fn run_samples(args: &Run) -> Done<()> {
    let arrays = npy::parse_npz(&std::fs::read(&args.inputs).map_err(|e| Fault::file(&args.inputs, e))?);
    let arrays = arrays.map_err(|e| Fault::file(&args.inputs, e))?;
    let model = &crate::compress::with_sample_shapes(&args.model, &arrays)?;
    let threads = args.machine.max_threads.unwrap_or(1);
    let engine = if args.interpret {
        engine::interpreter(model)?
    } else {
        engine::jit(model, &super::this_machine(&args.machine, threads)?, &args.freedom, &args.debugging)?.0
    };
    let samples = Samples::of_types(&engine.inputs.slots, &arrays).map_err(|e| Fault::file(&args.inputs, e))?;
    let mut stacked: Vec<(Vec<u64>, Vec<u8>)> = vec![(Vec::new(), Vec::new()); engine.outputs.slots.len()];
    for i in 0..samples.count {
        let inputs: Vec<Tensor> = samples.tensors(i);
        for ((shape, bytes), output) in stacked.iter_mut().zip(engine.run(&inputs, threads)?) {
            // A batch of one is the sample axis.
            let own = output.shape().strip_prefix(&[1]).unwrap_or(output.shape());
            if i > 0 && shape[..] != *own {
                return Err(Fault::model(
                    "data::samples",
                    format!("sample {i}: an output is {own:?}, of samples before {shape:?}: they cannot be stacked"),
                ));
            }
            *shape = own.to_vec();
            bytes.extend_from_slice(output.bytes());
        }
    }
    let tensors = stacked.into_iter().zip(&engine.outputs.slots).map(|((shape, bytes), (_, ty))| {
        let shape = std::iter::once(samples.count as u64).chain(shape).collect();
        Tensor::from_bytes(ty.dtype, shape, Bytes::new(bytes))
            .ok_or_else(|| Fault::Internal("samples of an output have another size".to_string()))
    });
    data::write(&args.outputs, data::Kind::Npy, &engine.outputs, &tensors.collect::<Done<Vec<Tensor>>>()?)
}

/// The model with its open inputs fixed to the shapes of the files, and sequences to their lengths, where the command line leaves them open.
pub fn with_shapes(model: &Model, inputs: &Path) -> Done<Model> {
    let mut model = model.clone();
    data::with_lengths(&mut model, inputs)?;
    let (graph, imported) = crate::pipeline::inputs(&model)?;
    let side = data::sides(&graph, imported.as_ref()).0;
    let slots = &side.slots;
    if slots.iter().all(|(_, ty)| ty.const_shape().is_some()) {
        return Ok(model);
    }
    let (tensors, _) = data::read(inputs, "input", &side)?;
    model.shapes = slots.iter().zip(&tensors).map(|((name, _), t)| (name.clone(), Extent::numbers(t.shape()))).collect();
    Ok(model)
}

/// What data sets may differ in: shapes, lengths of sequences, optionals that are not given.
type Fixed = (Vec<(String, Vec<Extent>)>, Vec<(String, u64)>, Vec<String>);

/// `onnxc verify`.
pub fn verify(args: &Verify) -> Done<()> {
    let sets = data_sets(&args.data)?;
    let threads = args.machine.max_threads.unwrap_or(1);
    let mut failed = Vec::new();
    let mut ready: Option<(Fixed, Engine)> = None;
    for set in &sets {
        let model = with_shapes(&args.model, set)?;
        let fixed = (model.shapes.clone(), model.lengths.clone(), model.absent.clone());
        // Data sets with the same shapes share the compiled model.
        let engine = match ready.take() {
            Some((same, engine)) if same == fixed => engine,
            _ if args.interpret => engine::interpreter(&model)?,
            _ => engine::jit(&model, &super::this_machine(&args.machine, threads)?, &args.freedom, &args.debugging)?.0,
        };
        let (inputs, _) = data::read(set, "input", &engine.inputs)?;
        let (want, _) = data::read(set, "output", &engine.outputs)?;
        let got = engine.run(&inputs, threads)?;
        for (((name, _), got), want) in engine.outputs.slots.iter().zip(&got).zip(&want) {
            let verdict = compare(got, want, args.tolerance);
            let said = match &verdict {
                Ok(error) => format!("relative error {error:.2e}: ok"),
                Err(e) => format!("WRONG: {e}"),
            };
            println!("{}: output {name:?} {said}", set.display());
            if let Err(e) = verdict {
                failed.push(Diagnostic::new("verify::difference", format!("{}: output {name:?}: {e}", set.display())));
            }
        }
        ready = Some((fixed, engine));
    }
    if failed.is_empty() { Ok(()) } else { Err(Fault::Model(failed)) }
}

/// The folder itself, or its `test_data_set_<n>` folders in order of their numbers.
fn data_sets(folder: &Path) -> Done<Vec<PathBuf>> {
    let mut sets: Vec<(u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(|e| Fault::file(folder, e))?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(n) = name.strip_prefix("test_data_set_").and_then(|n| n.parse().ok()) {
            sets.push((n, entry.path()));
        }
    }
    sets.sort();
    Ok(if sets.is_empty() { vec![folder.to_path_buf()] } else { sets.into_iter().map(|s| s.1).collect() })
}

/// Magnitudes below the smallest normal f32 count as zero: some targets flush subnormals and some do not.
const SUBNORMAL: f64 = 1.2e-38;

/// `max|a-b| / max|b|` if it is within the tolerance; otherwise what differs.
pub fn compare(got: &Tensor, want: &Tensor, tolerance: f64) -> Result<f64, String> {
    if got.dtype() != want.dtype() || got.shape() != want.shape() {
        return Err(format!("is {}{:?}, expected {}{:?}", got.dtype(), got.shape(), want.dtype(), want.shape()));
    }
    let values = |t: &Tensor| -> Option<Vec<f64>> {
        let flush = |x: f64| if t.dtype() == DType::F32 && x.abs() < SUBNORMAL { 0.0 } else { x };
        Some(t.to_f64s()?.into_iter().map(flush).collect())
    };
    let (Some(a), Some(b)) = (values(got), values(want)) else {
        return if got == want { Ok(0.0) } else { Err("differs".to_string()) };
    };
    let (mut difference, mut scale) = (0f64, 0f64);
    for (i, (a, b)) in a.iter().zip(&b).enumerate() {
        if a == b || a.is_nan() && b.is_nan() {
            scale = if b.is_finite() { scale.max(b.abs()) } else { scale };
            continue;
        }
        if !(a.is_finite() && b.is_finite()) {
            return Err(format!("element {i} is {a}, expected {b}"));
        }
        difference = difference.max((a - b).abs());
        scale = scale.max(b.abs());
    }
    let error = if difference == 0.0 { 0.0 } else { difference / scale };
    if error <= tolerance { Ok(error) } else { Err(format!("relative error {error:.2e} is above {tolerance:.0e}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparison_is_relative_to_the_largest_value() {
        let t = |v: &[f32]| Tensor::from_vec(&[v.len() as u64], v.to_vec());
        assert!(compare(&t(&[100.0, 0.009]), &t(&[100.0, 0.0]), 1e-4).is_ok());
        assert!(compare(&t(&[100.0, 0.011]), &t(&[100.0, 0.0]), 1e-4).is_err());
        assert!(compare(&t(&[f32::NAN]), &t(&[f32::NAN]), 0.0).is_ok());
        assert!(compare(&t(&[f32::NAN]), &t(&[1.0]), 1.0).is_err());
        assert!(compare(&t(&[1.0]), &t(&[0.0]), 1e-4).is_err());
        assert!(compare(&t(&[1e-39]), &t(&[0.0]), 0.0).is_ok());
    }
}
