//! Artefacts of `onnxc compile` in programs: C and C++, position independent, shared, with unused models removed.

use onnxc_testsuite::artefact::{C11, C99, X86, build, inspect, onnxc};
use onnxc_testsuite::run::{self, run};
use onnxc_testsuite::small::{self, PAIR, TINY};
use onnxc_testsuite::target;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// A folder with the models tiny and pair for the oldest x86-64.
fn two_models() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    onnxc(folder.path(), "tiny", TINY, &X86);
    onnxc(folder.path(), "pair", PAIR, &X86);
    folder
}

fn said(program: &Path) -> String {
    run(&mut Command::new(program), Duration::from_secs(60)).expect_ok("the program")
}

#[test]
fn two_models_in_one_program() {
    if !target::by_name("x86-64").can_run() {
        return;
    }
    let folder = two_models();
    let strict = ["-Wl,--fatal-warnings"];
    let static_ = [&strict[..], &["-static"]].concat();
    let pie = [&strict[..], &["-fPIE", "-pie", "-Wl,-z,text"]].concat();
    for link in [&strict[..], &static_, &pie] {
        let flags = [&C99[..], link].concat();
        let said = said(&build("gcc", &flags, "two.c", &["tiny.a", "pair.a"], folder.path()));
        small::check(&said, "tiny", TINY);
        small::check(&said, "pair", PAIR);
    }
    let flags = ["-x", "c++", "-std=c++11", "-Wall", "-Wextra", "-Werror", "-pedantic"];
    let said = said(&build("g++", &flags, "two.c", &["-x", "none", "tiny.a", "pair.a"], folder.path()));
    small::check(&said, "tiny", TINY);
    small::check(&said, "pair", PAIR);
}

#[test]
fn models_in_a_shared_library() {
    if !target::by_name("x86-64").can_run() {
        return;
    }
    let folder = two_models();
    let library = folder.path().join("models.so");
    let mut gcc = Command::new("gcc");
    gcc.args([
        "-shared",
        "-Wl,-z,text",
        "-Wl,-z,defs",
        "-Wl,--fatal-warnings",
        "-nostdlib",
        "-Wl,--whole-archive",
        "tiny.a",
        "pair.a",
    ]);
    gcc.args(["-Wl,--no-whole-archive", "-o"]).arg(&library).current_dir(folder.path());
    run(&mut gcc, Duration::from_secs(60)).expect_ok("gcc -shared");
    let dynamic = inspect("readelf", &["-dW"], &library);
    assert!(dynamic.contains("SYMTAB") && !dynamic.contains("TEXTREL"), "{dynamic}");
    let program = build("gcc", &C11, "load.c", &["-ldl"], folder.path());
    let said = run(Command::new(&program).arg(&library).args(["tiny_model", "pair_model"]), Duration::from_secs(60));
    let said = said.expect_ok("load");
    small::check(&said, "tiny", TINY);
    small::check(&said, "pair", PAIR);
}

#[test]
fn an_unused_model_is_removed() {
    if !target::by_name("x86-64").can_run() {
        return;
    }
    let folder = two_models();
    let flags = [&C99[..], &["-ffunction-sections", "-Wl,--gc-sections", "-Wl,--fatal-warnings"]].concat();
    // The whole archive is offered, so that only the removal of sections can leave the other model out.
    let archives = ["-Wl,--whole-archive", "tiny.a", "pair.a", "-Wl,--no-whole-archive"];
    let program = build("gcc", &flags, "one.c", &archives, folder.path());
    small::check(&said(&program), "tiny", TINY);
    let symbols = inspect("nm", &[], &program);
    assert!(symbols.contains("tiny_run") && symbols.contains("tiny_model"), "{symbols}");
    assert!(!symbols.contains("pair"), "{symbols}");
}

#[test]
fn objects_of_every_target_are_self_contained() {
    for target in target::ALL {
        let folder = tempfile::tempdir().unwrap();
        onnxc(folder.path(), "tiny", TINY, &["--target", target.triple, "--cpu", target.cpu]);
        let archive = folder.path().join("tiny.a");
        let prefix = target.cc.strip_suffix("gcc").expect("a cross compiler's name");
        let undefined = inspect(&format!("{prefix}nm"), &["-u"], &archive);
        assert!(!undefined.contains(" U ") && !undefined.contains(" w "), "{}: {undefined}", target.name);
        // The linker refuses relocations in code where the library may not have any.
        let library = folder.path().join("tiny.so");
        let mut cc = Command::new(target.cc);
        cc.args(["-shared", "-nostdlib", "-Wl,-z,text", "-Wl,-z,defs", "-Wl,--fatal-warnings", "-Wl,--whole-archive"]);
        run(cc.arg(&archive).arg("-o").arg(&library), Duration::from_secs(60)).expect_ok(target.name);
        let dynamic = inspect(&format!("{prefix}readelf"), &["-dW"], &library);
        assert!(dynamic.contains("SYMTAB") && !dynamic.contains("TEXTREL"), "{}: {dynamic}", target.name);
        // The stack need not be executable, in the object and therefore in the library.
        let segments = inspect(&format!("{prefix}readelf"), &["-lW"], &library);
        let stack = segments.lines().find(|l| l.contains("GNU_STACK")).expect("a GNU_STACK header");
        assert!(!stack.contains("RWE"), "{}: {stack}", target.name);
    }
}

/// Every file of a folder, by its path.
fn contents(folder: &Path, into: &mut Vec<(PathBuf, Vec<u8>)>, root: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            contents(&path, into, root);
        } else {
            into.push((path.strip_prefix(root).unwrap().to_path_buf(), fs::read(&path).unwrap()));
        }
    }
    into.sort();
}

#[test]
fn two_compilations_are_the_same_bytes() {
    let model = tempfile::tempdir().unwrap();
    let model = model.path().join("wide.nir");
    fs::write(&model, small::wide()).unwrap();
    for target in ["x86-64-v4", "aarch64", "riscv64-v128"].map(target::by_name) {
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        for (i, folder) in folders.iter().enumerate() {
            let mut onnxc = Command::new(run::onnxc());
            onnxc.arg("compile").arg(&model).args(["--target", target.triple, "--cpu", target.cpu, "--max-threads", "4"]);
            onnxc.args(["--weights=file", "--emit=lib,obj,header,rust,crate,report,asm,clif,ir"]);
            // Once with a path to the model's folder and once within the folder of the results.
            let output = if i == 0 { folder.path().join("wide.a") } else { PathBuf::from("wide.a") };
            onnxc.arg("-o").arg(output).current_dir(if i == 0 { Path::new("/") } else { folder.path() });
            run(&mut onnxc, Duration::from_secs(300)).expect_ok("onnxc compile");
        }
        let [a, b] = folders.each_ref().map(|f| {
            let mut files = Vec::new();
            contents(f.path(), &mut files, f.path());
            files
        });
        assert!(a.len() >= 12, "{:?}", a.iter().map(|f| &f.0).collect::<Vec<_>>());
        assert_eq!(a.iter().map(|f| &f.0).collect::<Vec<_>>(), b.iter().map(|f| &f.0).collect::<Vec<_>>());
        for ((path, a), (_, b)) in a.iter().zip(&b) {
            assert!(a == b, "{}: {} differs", target.name, path.display());
        }
    }
}

/// The model wide in `folder`, linked with `file`.
fn wide(folder: &Path, file: &str, text: &str, flags: &[&str]) -> PathBuf {
    onnxc(folder, "wide", text, &[&X86[..], flags].concat());
    let flags = [&C11[..], &["-DMODEL=wide_model", "-DMODEL_HEADER=\"wide.h\"", "-Wl,--fatal-warnings"]].concat();
    build("gcc", &flags, file, &["wide.a"], folder)
}

#[test]
fn weights_in_a_file() {
    if !target::by_name("x86-64").can_run() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let text = small::wide();
    let program = wide(folder.path(), "weights.c", &text, &["--weights=file"]);
    let weights = folder.path().join("wide.weights");
    let said = run(Command::new(program).arg(&weights), Duration::from_secs(60)).expect_ok("weights");
    // ONNXC_NO_WEIGHTS and ONNXC_MISALIGNED.
    assert!(said.contains("status without 5\n") && said.contains("status misaligned 2\n"), "{said}");
    small::check(&said, "wide", &text);
    let (object, file) = (fs::metadata(folder.path().join("wide.a")).unwrap().len(), fs::metadata(weights).unwrap().len());
    assert!(file >= 100_000 && object < 50_000, "{file} bytes of weights, {object} of archive");
}

#[test]
fn weights_in_a_section() {
    if !target::by_name("x86-64").can_run() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let text = small::wide();
    let program = wide(folder.path(), "memory.c", &text, &["--weights=section:.model_weights"]);
    small::check(&said(&program), "wide", &text);
    for file in [folder.path().join("wide.a"), program] {
        let sections = inspect("readelf", &["-SW"], &file);
        let line = sections.lines().find(|l| l.contains(" .model_weights ")).unwrap_or_else(|| panic!("{sections}"));
        let words: Vec<&str> = line.split(']').nth(1).expect("the name").split_whitespace().collect();
        // Name, type, address, offset, size; then the entries' size and flags: allocated, not written, not executed.
        assert!(words[1] == "PROGBITS" && u64::from_str_radix(words[4], 16).unwrap() >= 100_000 && words[6] == "A", "{line}");
    }
}
