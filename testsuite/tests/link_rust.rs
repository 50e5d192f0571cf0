//! Artefacts of `onnxc compile` in Rust programs: the crate, the module without `std`, the runtime around a compiled model.

use onnxc_testsuite::artefact::{X86, onnxc};
use onnxc_testsuite::run::run;
use onnxc_testsuite::small::{self, PAIR, TINY};
use onnxc_testsuite::{data, target};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

/// A package `app` in `folder` with these dependencies and this program; built without network, run with `arguments`.
fn cargo_run(folder: &Path, dependencies: &str, program: &str, arguments: &[&str]) -> String {
    let app = folder.join("app");
    fs::create_dir_all(app.join("src")).unwrap();
    let manifest = format!(
        "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}\n[workspace]\n"
    );
    fs::write(app.join("Cargo.toml"), manifest).unwrap();
    // The versions that this workspace has are there already.
    fs::copy(data::repository().join("Cargo.lock"), app.join("Cargo.lock")).unwrap();
    fs::write(app.join("src/main.rs"), format!("{program}{HEX}")).unwrap();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["run", "--quiet", "--offline", "--target-dir"]).arg(folder.join("target")).arg("--").args(arguments);
    // The flags are for the compiled crates too: they have no warnings.
    cargo.env("RUSTFLAGS", "-D warnings").env_remove("CARGO_ENCODED_RUSTFLAGS").current_dir(app);
    run(&mut cargo, Duration::from_secs(600)).expect_ok("cargo run")
}

/// Prints a line `NAME J HEX`; and the inputs that `small` has.
const HEX: &str = r#"
fn show(name: &str, j: usize, values: &[f32]) {
    print!("{name} {j} ");
    values.iter().flat_map(|v| v.to_le_bytes()).for_each(|b| print!("{b:02x}"));
    println!();
}

fn value(i: usize) -> f32 {
    ((i * 7 % 13) as f32 - 6.0) / 8.0
}
"#;

#[test]
fn a_crate_is_a_dependency() {
    if !target::by_name("x86-64").can_run() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("tiny", TINY), ("pair", PAIR)] {
        onnxc(folder.path(), name, text, &[&X86[..], &["--emit=crate"]].concat());
    }
    let program = r#"
static DESCRIPTOR: fn() -> &'static pair::abi::onnxc_model = pair::descriptor;

fn main() {
    let x: [f32; 144] = std::array::from_fn(value);
    let mut y = [0.0; 5];
    let mut memory = Vec::with_capacity(tiny::ARENA_BYTES + 64);
    let arena = tiny::Arena::within(memory.spare_capacity_mut()).expect("enough memory");
    tiny::run(&tiny::Inputs { x: &x }, &mut tiny::Outputs { y: &mut y }, arena).unwrap();
    show("tiny", 0, &y);
    assert!(tiny::Arena::within(&mut memory.spare_capacity_mut()[..tiny::ARENA_BYTES - 1]).is_none());

    let (a, b): ([f32; 24], [f32; 8]) = (std::array::from_fn(value), std::array::from_fn(|i| value(24 + i)));
    let (mut t, mut p) = ([0.0; 24], [0.0; 24]);
    pair::run(&pair::Inputs { a: &a, b: &b }, &mut pair::Outputs { t: &mut t, p: &mut p }, &mut pair::Arena::new()).unwrap();
    show("pair", 0, &t);
    show("pair", 1, &p);
    assert_eq!(DESCRIPTOR().n_inputs, 2);
    let error: Box<dyn std::error::Error> = Box::new(pair::Error::Status(4));
    assert!(error.to_string().contains('4'));
}
"#;
    let said = cargo_run(folder.path(), "tiny = { path = \"../tiny\" }\npair = { path = \"../pair\" }\n", program, &[]);
    small::check(&said, "tiny", TINY);
    small::check(&said, "pair", PAIR);
}

#[test]
fn a_module_needs_only_core() {
    let folder = tempfile::tempdir().unwrap();
    onnxc(folder.path(), "tiny", TINY, &X86);
    onnxc(folder.path(), "wide", &small::wide(), &[&X86[..], &["--weights=file"]].concat());
    onnxc(folder.path(), "coded", TINY, &[&X86[..], &["--weights=coded"]].concat());
    let library = "#![no_std]\n#![deny(warnings, missing_docs)]\n//! Three models.\n/// Tiny.\npub mod tiny;\n/// Wide.\npub mod wide;\n\
        /// Coded.\npub mod coded;\n";
    fs::write(folder.path().join("lib.rs"), library).unwrap();
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "--crate-type", "lib", "lib.rs"]).current_dir(folder.path());
    run(&mut rustc, Duration::from_secs(120)).expect_ok("rustc");
    if !target::by_name("x86-64").can_run() {
        return;
    }
    // As a private module of a program, linked with the archive by its path.
    let program = r#"mod tiny;
mod coded;
#[repr(align(64))]
struct Memory([core::mem::MaybeUninit<u8>; coded::WEIGHTS_BYTES]);

fn main() {
    let x: [f32; 144] = std::array::from_fn(value);
    let mut y = [0.0; 5];
    let mut arena = tiny::Arena::new();
    tiny::run(&tiny::Inputs { x: &x }, &mut tiny::Outputs { y: &mut y }, &mut arena).unwrap();
    show("tiny", 0, &y);
    let mut memory = Memory([const { core::mem::MaybeUninit::uninit() }; coded::WEIGHTS_BYTES]);
    assert_eq!(coded::unpack(&mut memory.0[1..]), Err(coded::Error::Weights));
    assert!(coded::CODED_BYTES > 0 && coded::UNPACK_STACK_BYTES > 0);
    let weights = coded::unpack(&mut memory.0).unwrap();
    coded::run(&coded::Inputs { x: &x }, &mut coded::Outputs { y: &mut y }, &mut coded::Arena::new(), weights).unwrap();
    show("coded", 0, &y);
}
"#;
    fs::write(folder.path().join("main.rs"), format!("{program}{HEX}")).unwrap();
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition", "2024", "-C", "link-arg=tiny.a", "-C", "link-arg=coded.a", "main.rs"]).current_dir(folder.path());
    run(&mut rustc, Duration::from_secs(120)).expect_ok("rustc");
    let said = run(&mut Command::new(folder.path().join("main")), Duration::from_secs(60)).expect_ok("main");
    small::check(&said, "tiny", TINY);
    small::check(&said, "coded", TINY);
}

#[test]
fn the_runtime_runs_a_compiled_model_with_mapped_or_decoded_weights_and_threads() {
    if !target::by_name("x86-64").can_run() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let text = small::wide();
    onnxc(folder.path(), "wide", &text, &[&X86[..], &["--emit=crate", "--weights=file", "--max-threads", "4"]].concat());
    onnxc(folder.path(), "coded", &text, &[&X86[..], &["--emit=crate", "--weights=coded"]].concat());
    let program = r#"
use onnxc_runtime::{Error, Hooks, Input, Model, Output, Phase, ThreadPool, UnpackedWeights, WeightFile, WeightFileError};
use std::cell::RefCell;

fn main() {
    let path = std::env::args().nth(1).unwrap();
    // SAFETY: the crate and the runtime have the same ABI version; the descriptor is constant data.
    let model = unsafe { Model::new(&*std::ptr::from_ref(wide::descriptor()).cast()) }.unwrap();
    assert_eq!((model.name(), model.arena_bytes()), ("wide", wide::ARENA_BYTES as u64));
    let (x, z) = (model.inputs().next().unwrap(), model.outputs().next().unwrap());
    assert_eq!((x.name, x.dtype, x.dims, z.dims), ("x", 1, &[128, 96][..], &[128, 64][..]));

    let weights = WeightFile::open(&path, &model).unwrap();
    let x: Vec<f32> = (0..128 * 96).map(value).collect();
    let mut z = vec![0f32; 128 * 64];
    let mut memory = Vec::with_capacity(wide::ARENA_BYTES + 64);
    let memory = memory.spare_capacity_mut();
    let arena = &mut memory[..];
    let from = arena.as_ptr().align_offset(model.arena_align() as usize);
    let arena = &mut arena[from..][..wide::ARENA_BYTES];
    let steps = RefCell::new(Vec::new());
    let profile = |step, phase| steps.borrow_mut().push((step, phase));
    let pool = ThreadPool::new(4).unwrap();
    let input = || [Input::from(x.as_slice())];
    let refused = model.run(input(), [Output::from(z.as_mut_slice())], arena, None, Hooks::default());
    assert_eq!(refused, Err(Error::NoWeights));
    let hooks = Hooks { profile: Some(&profile), ..pool.hooks() };
    model.run(input(), [Output::from(z.as_mut_slice())], arena, Some(weights.bytes()), hooks).unwrap();
    show("wide", 0, &z);
    let n = model.steps().len() as u32;
    let each: Vec<_> = (0..n).flat_map(|i| [(i, Phase::Begin), (i, Phase::End)]).collect();
    assert_eq!(*steps.borrow(), each, "every step begins and ends, in order");

    // The same through the binding, on one thread.
    let mut again = vec![0f32; 128 * 64];
    let outputs = &mut wide::Outputs { z: again.as_mut_slice().try_into().unwrap() };
    let inputs = wide::Inputs { x: x.as_slice().try_into().unwrap() };
    let arena = wide::Arena::within(memory).unwrap();
    assert_eq!(wide::run(&inputs, outputs, arena, &weights.bytes()[1..]), Err(wide::Error::Weights));
    wide::run(&inputs, outputs, arena, weights.bytes()).unwrap();
    assert!(again.iter().zip(&z).all(|(a, b)| a.to_bits() == b.to_bits()));

    // Coded weights, decoded once.
    // SAFETY: as above.
    let coded = unsafe { Model::new(&*std::ptr::from_ref(coded::descriptor()).cast()) }.unwrap();
    let unpacked = UnpackedWeights::new(&coded).unwrap();
    assert!(unpacked.bytes().len() == coded::WEIGHTS_BYTES && UnpackedWeights::new(&model).is_err());
    let inputs = coded::Inputs { x: x.as_slice().try_into().unwrap() };
    let mut decoded = vec![0f32; 128 * 64];
    let outputs = &mut coded::Outputs { z: decoded.as_mut_slice().try_into().unwrap() };
    let mut memory = Vec::with_capacity(coded::ARENA_BYTES + 64);
    let arena = coded::Arena::within(memory.spare_capacity_mut()).unwrap();
    coded::run(&inputs, outputs, arena, unpacked.bytes()).unwrap();
    assert!(decoded.iter().zip(&z).all(|(a, b)| a.to_bits() == b.to_bits()));

    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    assert!(matches!(WeightFile::open(&path, &model), Err(WeightFileError::Hash)));
}
"#;
    let runtime = data::repository().join("runtime");
    let dependencies = format!(
        "wide = {{ path = \"../wide\" }}\ncoded = {{ path = \"../coded\" }}\nonnxc-runtime = {{ path = \"{}\", features = [\"std\"] }}\n",
        runtime.display()
    );
    let weights = folder.path().join("wide.weights");
    let said = cargo_run(folder.path(), &dependencies, program, &[weights.to_str().expect("UTF-8")]);
    small::check(&said, "wide", &text);
}

#[test]
fn open_dimensions_come_with_each_call() {
    if !target::by_name("x86-64").can_run() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let model = data::require("zoo/ppocr2_cls.onnx");
    let mut compile = Command::new(onnxc_testsuite::run::onnxc());
    compile.arg("compile").arg(model).arg("-o").arg(folder.path().join("cls.a")).args(X86);
    compile.args(["--emit=crate", "--shape=x=N,3,48,192", "--dim=N=1,2"]);
    run(&mut compile, Duration::from_secs(120)).expect_ok("onnxc compile");
    let program = r#"
use onnxc_runtime::{Error, Hooks, Input, Model, Output};

const ONE: usize = 3 * 48 * 192;

fn main() {
    let x: Vec<f32> = (0..2 * ONE).map(|i| value(i % ONE)).collect();
    let (mut one, mut two) = ([0f32; 2], [0f32; 4]);
    let mut memory = Vec::with_capacity(cls::ARENA_BYTES + 64);
    let memory = memory.spare_capacity_mut();
    let arena = cls::Arena::within(memory).unwrap();
    let mut run = |n, x: &[f32], y: &mut [f32]| {
        cls::run(cls::Dims { n }, &cls::Inputs { x }, &mut cls::Outputs { save_infer_model_scale_0_tmp_1: y }, arena)
    };
    run(1, &x[..ONE], &mut one).unwrap();
    run(2, &x, &mut two).unwrap();
    // Another size may sum in another order.
    assert!(two.iter().zip(one.iter().cycle()).all(|(a, b)| (a - b).abs() < 1e-5));
    assert!((one[0] + one[1] - 1.0).abs() < 1e-6 && (one[0] - one[1]).abs() > 0.1);
    assert_eq!(run(3, &x, &mut two), Err(cls::Error::Dims));
    assert_eq!(run(2, &x[..ONE], &mut two), Err(cls::Error::Size("x")));
    assert_eq!(run(1, &x[..ONE], &mut two), Err(cls::Error::Size("save_infer_model_scale_0_tmp_1")));

    // The same through the runtime, which learns the dimension from the descriptor.
    // SAFETY: the crate and the runtime have the same ABI version; the descriptor is constant data.
    let model = unsafe { Model::new(&*std::ptr::from_ref(cls::descriptor()).cast()) }.unwrap();
    let dim = model.dims().next().unwrap();
    let ranges: Vec<_> = dim.ranges.iter().map(|r| (r.first, r.last)).collect();
    assert_eq!((dim.name, ranges, dim.from), ("N", vec![(1, 1), (2, 2)], (0, 0)));
    assert_eq!(model.at(&[4]).err(), Some(Error::Dims));
    let at = model.at(&[2]).unwrap();
    let (mut extents, mut again) = ([0; 2], [0f32; 4]);
    at.output_dims(&mut extents).unwrap();
    assert_eq!(extents, [2, 2]);
    assert!(at.arena_bytes() <= model.arena_bytes() && model.at(&[1]).unwrap().arena_bytes() < at.arena_bytes());
    let from = memory.as_ptr().align_offset(64);
    let arena = &mut memory[from..][..at.arena_bytes() as usize];
    let input = || [Input::from(x.as_slice())];
    at.run(input(), [Output::from(&mut again)], arena, None, Hooks::default()).unwrap();
    assert_eq!(again, two);
    let refused = model.run(input(), [Output::from(&mut again)], arena, None, Hooks::default());
    assert_eq!(refused, Err(Error::Dims));
    show("cls", 0, &two);
}
"#;
    let runtime = data::repository().join("runtime");
    let dependencies =
        format!("cls = {{ path = \"../cls\" }}\nonnxc-runtime = {{ path = \"{}\", features = [\"std\"] }}\n", runtime.display());
    assert!(cargo_run(folder.path(), &dependencies, program, &[]).starts_with("cls 0 "));
}
