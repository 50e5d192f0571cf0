//! `docs/abi.md` against the header: status codes, members, and the example, which must compile.

use onnxc_testsuite::{data, run};
use std::fs;
use std::process::Command;
use std::time::Duration;

fn document() -> String {
    fs::read_to_string(data::repository().join("docs/abi.md")).unwrap()
}

/// `#define ONNXC_X N` of the status codes.
fn statuses() -> Vec<(&'static str, &'static str)> {
    let codes = onnxc_runtime::HEADER.split("/* Status codes of a run. */").nth(1).expect("the list");
    let lines = codes.lines().skip(1).take_while(|l| l.starts_with("#define"));
    lines.map(|l| l.split_whitespace()).map(|mut w| (w.nth(1).expect("name"), w.next().expect("value"))).collect()
}

#[test]
fn every_status_is_documented() {
    let document = document();
    let statuses = statuses();
    assert!(statuses.len() >= 7 && statuses[0] == ("ONNXC_OK", "0"), "{statuses:?}");
    for (name, value) in statuses {
        assert!(document.contains(&format!("| `{name}` | {value} |")), "{name} = {value}");
    }
}

#[test]
fn every_member_of_the_descriptor_is_documented() {
    let document = document();
    let text = onnxc_runtime::HEADER.split("typedef struct onnxc_model {").nth(1).expect("the struct");
    let lines = text.lines().skip(1).take_while(|l| !l.starts_with('}')).filter(|l| !l.trim().starts_with("/*"));
    let members = lines.map(|l| {
        let declaration = l.split(';').next().expect("a member").trim();
        let declaration = declaration.split(')').next().expect("a member").split('[').next().expect("a member");
        declaration.rsplit([' ', '*']).next().expect("a name")
    });
    let members: Vec<&str> = members.filter(|m| *m != "reserved").collect();
    assert!(members.len() > 20, "{members:?}");
    for member in members {
        assert!(document.contains(&format!("`{member}`")), "{member}");
    }
}

#[test]
fn the_example_compiles() {
    let folder = tempfile::tempdir().unwrap();
    let document = document();
    let example = document.split("```c\n").nth(1).and_then(|t| t.split("```").next()).expect("the first block of C");
    fs::write(folder.path().join("example.c"), example).unwrap();
    let header = format!("{}\nextern const onnxc_model tiny_model;\n", onnxc_runtime::HEADER);
    fs::write(folder.path().join("tiny.h"), header).unwrap();
    let mut cc = Command::new("gcc");
    cc.args(["-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "example.c"]).current_dir(folder.path());
    run::run(&mut cc, Duration::from_secs(60)).expect_ok("gcc");
}
