//! Compiled code on machines without operating system or C library: `bare/main.c` on the `virt` boards of QEMU, against the reference
//! interpreter. Also the size of the runtime there.

use onnxc_ir::op::OpSet;
use onnxc_ir::{Tensor, interp, parse};
use onnxc_testsuite::{data, run};
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Convolution with padding, epilogue, reduction, matrix product, exponential: scratch, weights and vector loops are all used.
const MODEL: &str = r#"graph @tiny(%x: f32[1,1,12,12]) {
  %w = const f32[2,1,2,2] [0.5, -1.0, 0.25, 0.75, -0.5, 1.0, 0.125, -0.25]
  %b = const f32[2] [0.5, -0.125]
  %axes = const i64[2] [2, 3]
  %f = const f32[2,5] [1.0, -0.5, 0.25, 2.0, -1.0, 0.5, 0.75, -2.0, 1.5, -0.25]
  %r = conv %x, %w, %b {dilations = ints[1, 1], epilogue = program "f32 a0; f32 0.0; f32 max %0 %1", group = 1, pads = ints[1, 1, 1, 1], strides = ints[1, 1]} : f32[1,2,13,13]
  %p = reduce_mean %r, %axes : f32[1,2,1,1]
  %q = flatten %p : f32[1,2]
  %m = matmul %q, %f : f32[1,5]
  %y = softmax %m : f32[1,5]
  return %y
}
"#;

struct Board {
    name: &'static str,
    triple: &'static str,
    cpu: &'static str,
    cc: &'static str,
    flags: &'static [&'static str],
    emulator: &'static [&'static str],
}

const BOARDS: &[Board] = &[
    Board {
        name: "aarch64",
        triple: "aarch64-unknown-linux-gnu",
        cpu: "armv8-a",
        cc: "aarch64-linux-gnu-gcc",
        flags: &["-mstrict-align"],
        emulator: &["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a53", "-semihosting"],
    },
    Board {
        name: "riscv64",
        triple: "riscv64gc-unknown-linux-gnu",
        cpu: "rv64gc",
        cc: "riscv64-linux-gnu-gcc",
        flags: &["-mcmodel=medany"],
        emulator: &["qemu-system-riscv64", "-M", "virt", "-bios", "none", "-cpu", "rv64"],
    },
    Board {
        name: "riscv64",
        triple: "riscv64gc-unknown-linux-gnu",
        cpu: "rv64gcv",
        cc: "riscv64-linux-gnu-gcc",
        flags: &["-mcmodel=medany"],
        emulator: &["qemu-system-riscv64", "-M", "virt", "-bios", "none", "-cpu", "rv64,v=true,vlen=128,vext_spec=v1.0"],
    },
];

/// What `bare/main.c` gives the model.
fn input() -> Tensor {
    let values: Vec<f32> = (0..144).map(|i| ((i * 7 % 13) as f32 - 6.0) / 8.0).collect();
    Tensor::from_vec(&[1, 1, 12, 12], values)
}

fn expected() -> Vec<f32> {
    let graph = parse::parse(MODEL, OpSet(onnxc_ops::ALL), &|_| None).expect("the model's text");
    interp::run(&graph, &[input()]).expect("interpreter")[0].to_vec()
}

/// Compiles the model; returns its header, and what to link: the object and a descriptor.
fn model(board: &Board, folder: &Path) -> (PathBuf, Vec<PathBuf>) {
    let (text, object) = (folder.join("tiny.nir"), folder.join("tiny.o"));
    fs::write(&text, MODEL).unwrap();
    let mut onnxc = Command::new(run::onnxc());
    onnxc.arg("compile").arg(&text).arg("-o").arg(&object).args(["--target", board.triple, "--cpu", board.cpu]);
    run::run(onnxc.arg("--emit=obj,report"), Duration::from_secs(300)).expect_ok("onnxc compile");
    let report: serde_json::Value = serde_json::from_slice(&fs::read(folder.join("tiny.json")).unwrap()).unwrap();
    let fact = |name: &str| report[name].as_u64().expect("a number");
    let descriptor = format!(
        r#"#include "tiny.h"
extern int32_t tiny_run(const onnxc_call *);
static const uint64_t x[] = {{1, 1, 12, 12}}, y[] = {{1, 5}};
static const onnxc_tensor inputs[] = {{{{"x", x, 576, 1, 4, -1, 0}}}}, outputs[] = {{{{"y", y, 20, 1, 2, -1, 0}}}};
const onnxc_model tiny_model = {{
    .magic = ONNXC_MAGIC, .abi_version = ONNXC_ABI_VERSION, .model_bytes = sizeof(onnxc_model), .tensor_bytes = sizeof(onnxc_tensor),
    .name = "tiny", .run = tiny_run, .inputs = inputs, .outputs = outputs, .n_inputs = 1, .n_outputs = 1, .max_threads = 1,
    .arena_bytes = {}, .arena_shared = {}, .arena_align = 64, .stack_bytes = {},
}};
"#,
        fact("arena_bytes"),
        fact("arena_shared"),
        fact("stack_bytes")
    );
    let (header, source) = (folder.join("tiny.h"), folder.join("descriptor.c"));
    fs::write(&header, format!("{}\nextern const onnxc_model tiny_model;\n", onnxc_runtime::HEADER)).unwrap();
    fs::write(&source, descriptor).unwrap();
    (header, vec![source, object])
}

/// Links without any library; returns the program.
fn link(board: &Board, header: &Path, model: &[PathBuf], folder: &Path) -> PathBuf {
    let bare = data::repository().join("testsuite/bare");
    let program = folder.join("program");
    let mut cc = Command::new(board.cc);
    cc.args([
        "-std=gnu11",
        "-O2",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-ffreestanding",
        "-nostdlib",
        "-static",
        "-no-pie",
        "-fno-pie",
    ]);
    cc.args(["-fno-stack-protector", "-fno-tree-loop-distribute-patterns", "-Wl,--gc-sections", "-Wl,--build-id=none"]);
    cc.args(board.flags).arg("-I").arg(&bare).arg(format!("-DMODEL_HEADER=\"{}\"", header.display())).arg("-DMODEL=tiny_model");
    cc.arg("-T").arg(bare.join(format!("{}.ld", board.name))).arg(bare.join(format!("start_{}.S", board.name)));
    cc.arg(bare.join("board.c")).arg(bare.join("main.c")).args(model).arg("-o").arg(&program);
    run::run(&mut cc, Duration::from_secs(60)).expect_ok("C compiler");
    program
}

/// The f32 values of a line `output J HEX`.
fn values(hex: &str) -> Vec<f32> {
    let bytes: Vec<u8> = (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).expect("hex")).collect();
    bytes.chunks(4).map(|c| f32::from_le_bytes(c.try_into().expect("four bytes"))).collect()
}

#[test]
fn models_run_without_operating_system() {
    let want = expected();
    for board in BOARDS {
        let folder = tempfile::tempdir().unwrap();
        let (header, files) = model(board, folder.path());
        let program = link(board, &header, &files, folder.path());
        let mut emulator = Command::new(board.emulator[0]);
        emulator
            .args(&board.emulator[1..])
            .args(["-m", "64", "-nic", "none", "-display", "none", "-serial", "stdio", "-monitor", "none"]);
        let said = run::run(emulator.arg("-kernel").arg(&program), Duration::from_secs(60)).expect_ok(board.cpu);
        let output = said.lines().find_map(|l| l.strip_prefix("output 0 ")).unwrap_or_else(|| panic!("{}: {said}", board.cpu));
        let got = values(output);
        let mut table = String::new();
        for (g, w) in got.iter().zip(&want) {
            writeln!(table, "{g} {w}").unwrap();
        }
        let close = got.len() == want.len() && got.iter().zip(&want).all(|(g, w)| (g - w).abs() <= 1e-5 * w.abs());
        assert!(close && said.ends_with("done\n"), "{}\n{table}{said}", board.cpu);
    }
}

#[test]
fn the_runtime_is_small_on_bare_metal() {
    let said =
        run::run(&mut Command::new(data::repository().join("testsuite/size.sh")), Duration::from_secs(300)).expect_ok("size.sh");
    assert_eq!(said.lines().filter(|l| l.contains("bytes of text")).count(), 2, "{said}");
}
