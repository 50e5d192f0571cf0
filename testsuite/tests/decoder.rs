//! A language model with a cache of keys and values, compiled: the tokens of a text one after the other get the logits that the whole text gets at
//! once, and what the interpreter says at every step.

use std::path::PathBuf;

use onnxc_testsuite::compare;
use onnxc_testsuite::data;
use onnxc_testsuite::decoder::{self, Form, POSITIONS, VOCABULARY};
use onnxc_testsuite::harness::{self, Program, answers};
use onnxc_testsuite::interpret::{self, Engine};
use onnxc_testsuite::target::{self, Target};
use onnxc_testsuite::tensor::Tensor;

const TEXT: [i64; 12] = [7, 60, 0, 13, 13, 42, 1, 29, 30, 5, 60, 8];
/// Tokens that are read at once before the others follow one by one.
const PROMPT: usize = 5;
const TOLERANCE: f64 = 1e-5;
const TARGETS: [&str; 5] = ["x86-64-v4", "x86-64-v3", "aarch64", "riscv64-v128", "riscv64"];

/// A model compiled and linked for a target.
struct Built {
    folder: tempfile::TempDir,
    model: PathBuf,
    program: PathBuf,
    target: &'static Target,
}

impl Built {
    fn new(form: Form, target: &'static Target, more: &[String]) -> Built {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let model = path.join("decoder.onnx");
        std::fs::write(&model, decoder::model(form)).unwrap();
        let (main, flags) = match form {
            Form::Growing => ("tests/open_dims/main.c", vec![format!("--dim=past=0,1..{}", POSITIONS - 1)]),
            Form::Whole(_) | Form::Fixed(_) => ("adapters/raw_main.c", more.to_vec()),
        };
        harness::compile(&model, target, "model", path, &flags).expect_ok("onnxc compile");
        let root = data::repository();
        let (main, include) = (root.join("testsuite").join(main), format!("-I{}", root.join("runtime/include").display()));
        let (header, archive) = (path.join("model.h"), path.join("model.a"));
        let program = Program { main: &main, header: &header, archive: &archive, symbol: "model_model", flags: &[&include] };
        let program = program.build(target, path);
        Built { model, program, target, folder }
    }

    /// Its answers, which must be those of the interpreter.
    #[track_caller]
    fn run(&self, values: &[usize], inputs: &[Tensor]) -> Vec<Tensor> {
        let got = answers(&self.program, self.target, self.folder.path(), values, inputs);
        let want = interpret::run(&self.model, inputs, Engine::Interpreter).unwrap();
        assert_eq!(got.len(), want.len());
        for (j, (got, want)) in got.iter().zip(&want).enumerate() {
            compare::close(got, want, TOLERANCE).unwrap_or_else(|e| panic!("{}: output {j}: {e}", self.target.name));
        }
        got
    }
}

fn ids(tokens: &[i64]) -> Tensor {
    Tensor::i64(&[1, tokens.len()], tokens)
}

/// The logits of the whole text, by token.
fn whole(target: &'static Target) -> Vec<Tensor> {
    let logits = Built::new(Form::Whole(TEXT.len()), target, &[]).run(&[], &[ids(&TEXT)]).remove(0);
    logits
        .bytes
        .chunks(4 * VOCABULARY)
        .map(|row| Tensor { dims: vec![1, 1, VOCABULARY], bytes: row.to_vec(), ..logits })
        .collect()
}

#[track_caller]
fn same_logits(got: &Tensor, want: &Tensor, at: usize, target: &Target) {
    compare::close(got, want, TOLERANCE).unwrap_or_else(|e| panic!("{}: token {at}: {e}", target.name));
}

fn targets() -> impl Iterator<Item = &'static Target> {
    TARGETS.into_iter().map(target::by_name).filter(|t| t.can_run())
}

/// Caches that are updated in the buffers in which they were given.
#[test]
fn a_cache_of_fixed_size_is_written_at_the_position() {
    let names = (0..decoder::LAYERS).flat_map(|l| [format!("key_{l}"), format!("value_{l}")]);
    let in_place: Vec<String> = names.map(|name| format!("--alias=past_{name}=present_{name}")).collect();
    for target in targets() {
        let whole = whole(target);
        let step = |built: &Built, at: usize, n: usize, caches: Vec<Tensor>| {
            let given = [ids(&TEXT[at..at + n]), Tensor::i64(&[1], &[at as i64])].into_iter().chain(caches);
            built.run(&[], &given.collect::<Vec<_>>())
        };
        let prompt = Built::new(Form::Fixed(PROMPT), target, &in_place);
        let mut answer = step(&prompt, 0, PROMPT, decoder::caches(Form::Fixed(PROMPT)));
        let last = answer.remove(0).bytes.split_off(4 * VOCABULARY * (PROMPT - 1));
        same_logits(&Tensor { bytes: last, ..whole[0].clone() }, &whole[PROMPT - 1], PROMPT - 1, target);
        let one = Built::new(Form::Fixed(1), target, &in_place);
        for (at, want) in whole.iter().enumerate().skip(PROMPT) {
            answer = step(&one, at, 1, answer);
            same_logits(&answer.remove(0), want, at, target);
        }
    }
}

#[test]
fn a_cache_grows_with_every_token() {
    for target in targets() {
        let built = Built::new(Form::Growing, target, &[]);
        let mut caches = decoder::caches(Form::Growing);
        for (at, want) in whole(target).iter().enumerate() {
            let given: Vec<Tensor> = std::iter::once(ids(&TEXT[at..=at])).chain(caches).collect();
            let mut answer = built.run(&[at], &given);
            same_logits(&answer.remove(0), want, at, target);
            assert!(answer.iter().all(|c| c.dims[2] == at + 1), "{at}: {:?}", answer[0].dims);
            caches = answer;
        }
        let beyond = harness::call(&built.program, target, built.folder.path(), &[POSITIONS]);
        assert_eq!(beyond.code, Some(onnxc_runtime::abi::ONNXC_DIMS));
    }
}
