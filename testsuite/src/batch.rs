//! Many small models in one program: their objects linked with `testsuite/tests/samples_foreign/main.c`, run once, under the emulator where
//! the target is foreign.

use crate::target::Target;
use crate::{data, run};
use onnxc_codegen::{ObjectOptions, Source, compile_object};
use onnxc_ir::Tensor;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Inputs or outputs that `main.c` has room for.
pub const MOST_TENSORS: usize = 64;

/// A call of a model whose object is in the folder.
#[derive(Clone, Copy, Debug)]
pub struct Model<'a> {
    /// The object is called `sN.o`.
    pub number: usize,
    /// Values of the open dimensions.
    pub dims: &'a [u64],
    /// A value per input.
    pub inputs: &'a [Tensor],
    /// Number of outputs.
    pub outputs: usize,
}

/// What a model left in the file of outputs: its status and, when that is 0, the bytes of its outputs.
pub type Record = (i32, Vec<Vec<u8>>);

/// Writes `sN.o` into `folder`.
///
/// # Errors
/// What code generation says.
pub fn write_object<'p>(
    source: impl Into<Source<'p>>,
    target: &onnxc_targets::Target,
    number: usize,
    folder: &Path,
) -> Result<(), String> {
    let options = ObjectOptions { name: format!("s{number}"), ..ObjectOptions::default() };
    let object = compile_object(source, target, &options).map_err(|e| e.to_string())?;
    fs::write(folder.join(format!("s{number}.o")), object.bytes()).map_err(|e| e.to_string())
}

/// Links the objects with the table `models` and `main.c`; writes `inputs`; returns the program.
///
/// # Panics
/// When files cannot be written, or the C compiler fails.
pub fn link(models: &[Model], on: &Target, folder: &Path) -> PathBuf {
    let mut table = onnxc_runtime::HEADER.to_owned();
    let (mut calls, mut objects, mut inputs) = (String::new(), BTreeSet::new(), Vec::new());
    for Model { number, dims, inputs: values, .. } in models {
        if objects.insert(format!("s{number}.o")) {
            writeln!(table, "extern const onnxc_model s{number}_model;").expect("memory");
        }
        // An array has at least one element.
        let dims = dims.iter().chain(&[0]).map(u64::to_string).collect::<Vec<_>>().join(", ");
        writeln!(calls, "    {{&s{number}_model, {{{dims}}}}},").expect("memory");
        inputs.extend(values.iter().flat_map(Tensor::bytes));
    }
    let objects: String = objects.into_iter().map(|o| o + "\n").collect();
    writeln!(table, "static const struct {{ const onnxc_model *model; uint64_t dims[4]; }} calls[] = {{\n{calls}}};")
        .expect("memory");
    fs::write(folder.join("models.h"), table).expect("models.h");
    fs::write(folder.join("objects"), objects).expect("objects");
    fs::write(folder.join("inputs"), inputs).expect("inputs");
    let mut cc = Command::new(on.cc);
    cc.current_dir(folder).args(["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-static", "-I."]);
    cc.arg(data::repository().join("testsuite/tests/samples_foreign/main.c")).args(["@objects", "-o", "program"]);
    run::run(&mut cc, Duration::from_secs(300)).expect_ok("C compiler");
    folder.join("program")
}

/// Statuses of models that did not come to an end.
const CRASHED: i32 = -1;
/// The emulator found a mistake of its own (QEMU 7.2 has one with certain instructions at the end of a page of code).
const EMULATOR_FAILED: i32 = -2;

/// What the models answered. A model that ends the program, or with which it does not end within `limit`, gets a negative status and no outputs; the
/// program is then started again behind it. One on which the emulator fails is run once more in a program of its own, where its code lies elsewhere.
///
/// # Panics
/// When the program itself fails.
pub fn execute(on: &Target, program: &Path, models: &[Model], folder: &Path, limit: Duration) -> Vec<Record> {
    let mut records = execute_once(on, program, models, folder, limit);
    for (model, record) in models.iter().zip(&mut records).filter(|(_, record)| record.0 == EMULATOR_FAILED) {
        let alone = tempfile::tempdir().expect("a folder for temporary files");
        let object = format!("s{}.o", model.number);
        fs::copy(folder.join(&object), alone.path().join(&object)).expect("the object of the model");
        let program = link(&[*model], on, alone.path());
        record.clone_from(&execute_once(on, &program, &[*model], alone.path(), limit)[0]);
    }
    records
}

fn execute_once(on: &Target, program: &Path, models: &[Model], folder: &Path, limit: Duration) -> Vec<Record> {
    let (count, mut records) = (models.len(), Vec::new());
    while records.len() < count {
        let outputs = folder.join("outputs");
        let mut command = on.command(program);
        command.arg(folder.join("inputs")).arg(&outputs).arg(records.len().to_string());
        let said = run::run(&mut command, limit);
        let before = records.len();
        let bytes = fs::read(&outputs).unwrap_or_default();
        let mut rest = bytes.as_slice();
        while let Some(model) = models.get(records.len())
            && let Some(record) = read_record(&mut rest, model.outputs)
        {
            records.push(record);
        }
        // The driver itself ends with a code below 4; a model that faults ends the program by a signal.
        assert!(
            matches!(said.code, None | Some(0 | 4..)) && (records.len() > before || said.code != Some(0)),
            "{}: {said:?}",
            on.name
        );
        if records.len() < count {
            let own = said.stderr.starts_with("qemu-") && said.stderr.contains("Assertion");
            records.push((if own { EMULATOR_FAILED } else { CRASHED }, Vec::new()));
        }
    }
    records
}

/// Takes a record with `outputs` outputs off the front of `rest`; none when it is not complete.
fn read_record(rest: &mut &[u8], outputs: usize) -> Option<Record> {
    let (status, mut tail) = rest.split_first_chunk()?;
    let status = i32::from_le_bytes(*status);
    let mut all = Vec::new();
    for _ in 0..if status == 0 { outputs } else { 0 } {
        let (size, after) = tail.split_first_chunk()?;
        let (bytes, after) = after.split_at_checked(u64::from_le_bytes(*size) as usize)?;
        all.push(bytes.to_vec());
        tail = after;
    }
    *rest = tail;
    Some((status, all))
}

/// The outputs of a record.
///
/// # Errors
/// Why there are none.
pub fn outputs((status, outputs): &Record) -> Result<&[Vec<u8>], String> {
    match status {
        0 => Ok(outputs),
        &CRASHED => Err("the program crashed or did not end".into()),
        &EMULATOR_FAILED => Err("the emulator failed".into()),
        100 => Err("wrote beyond the end of an output or the arena".into()),
        code => Err(format!("status {code}")),
    }
}
