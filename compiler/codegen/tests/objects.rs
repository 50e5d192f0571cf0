//! Object files: linked with gcc for each target and run, on the host and under QEMU; compared with the interpreter.

mod common;

use common::assert_same;
use common::cases::{casts, floats, integers, merge};
use common::link::{ARM, RISCV, RISCV_V, Tool, X86, run, sh};
use onnxc_codegen::{ObjectOptions, compile_object};
use onnxc_targets::describe;
use std::process::Command;

fn all_operations(tool: &Tool) {
    let mut cases = casts();
    cases.extend(integers());
    cases.extend(floats());
    let (plan, inputs, wanted) = merge(&cases);
    let target = describe(tool.triple, tool.cpu, 1).unwrap();
    let object = compile_object(&plan, &target, &ObjectOptions::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let outputs = run(tool, dir.path(), &plan, &object, &inputs);
    for ((case, got), want) in cases.iter().zip(&outputs).zip(&wanted) {
        assert_same(case.result, got, want, &format!("{} on {} {}", case.what, tool.triple, tool.cpu));
    }
}

#[test]
fn all_operations_on_x86_64() {
    all_operations(&X86);
}

#[test]
fn all_operations_on_aarch64() {
    all_operations(&ARM);
}

#[test]
fn all_operations_on_riscv64() {
    all_operations(&RISCV);
}

#[test]
fn all_operations_on_riscv64_with_vectors() {
    all_operations(&RISCV_V);
}

#[test]
fn objects_are_the_same_twice_and_link_into_shared_libraries() {
    let (plan, ..) = merge(&floats());
    let dir = tempfile::tempdir().unwrap();
    for tool in [X86, ARM, RISCV] {
        let target = describe(tool.triple, tool.cpu, 2).unwrap();
        let object = compile_object(&plan, &target, &ObjectOptions::default()).unwrap();
        let again = compile_object(&plan, &target, &ObjectOptions::default()).unwrap();
        assert_eq!(object.bytes(), again.bytes(), "{}", tool.triple);
        let file = dir.path().join("m.o");
        std::fs::write(&file, object.bytes()).unwrap();
        let out = dir.path().join("m.so");
        sh(Command::new(tool.cc)
            .args(["-shared", "-nostdlib", "-Wl,-z,text", "-Wl,-z,defs", "-Wl,--fatal-warnings", "-o"])
            .arg(out)
            .arg(file));
    }
}
