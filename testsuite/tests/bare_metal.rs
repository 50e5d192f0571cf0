//! Compiled code on machines without operating system or C library: `bare/main.c` on the `virt` boards of QEMU, against the reference
//! interpreter. Also the size of the runtime there.

use onnxc_testsuite::small::{self, TINY};
use onnxc_testsuite::{data, run};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

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

/// Compiles the model: `tiny.a` and `tiny.h`.
fn model(board: &Board, folder: &Path) {
    fs::write(folder.join("tiny.nir"), TINY).unwrap();
    let mut onnxc = Command::new(run::onnxc());
    onnxc.args(["compile", "tiny.nir", "-o", "tiny.a", "--target", board.triple, "--cpu", board.cpu]).current_dir(folder);
    run::run(&mut onnxc, Duration::from_secs(300)).expect_ok("onnxc compile");
}

/// Links without any library; returns the program.
fn link(board: &Board, folder: &Path) -> PathBuf {
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
    cc.args(board.flags).arg("-I").arg(&bare).arg("-I").arg(folder).arg("-DMODEL_HEADER=\"tiny.h\"").arg("-DMODEL=tiny_model");
    cc.arg("-T").arg(bare.join(format!("{}.ld", board.name))).arg(bare.join(format!("start_{}.S", board.name)));
    cc.arg(bare.join("board.c")).arg(bare.join("main.c")).arg(folder.join("tiny.a")).arg("-o").arg(&program);
    run::run(&mut cc, Duration::from_secs(60)).expect_ok("C compiler");
    program
}

#[test]
fn models_run_without_operating_system() {
    for board in BOARDS {
        let folder = tempfile::tempdir().unwrap();
        model(board, folder.path());
        let program = link(board, folder.path());
        let mut emulator = Command::new(board.emulator[0]);
        emulator
            .args(&board.emulator[1..])
            .args(["-m", "64", "-nic", "none", "-display", "none", "-serial", "stdio", "-monitor", "none"]);
        let said = run::run(emulator.arg("-kernel").arg(&program), Duration::from_secs(60)).expect_ok(board.cpu);
        small::check(&said, "output", TINY);
        assert!(said.ends_with("done\n"), "{}\n{said}", board.cpu);
    }
}

#[test]
fn the_runtime_is_small_on_bare_metal() {
    let outcome = run::run(&mut Command::new(data::repository().join("testsuite/size.sh")), Duration::from_secs(300));
    // The toolchain of the machine may lack these targets and have no way to fetch them.
    if outcome.code == Some(3) {
        println!("not measured: {}", outcome.stderr);
        return;
    }
    let said = outcome.expect_ok("size.sh");
    assert_eq!(said.lines().filter(|l| l.contains("bytes of text")).count(), 2, "{said}");
}
