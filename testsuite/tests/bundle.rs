//! Bundles: several points of a model in one archive, against the archives that the points are by themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use onnxc_testsuite::artefact::{C99, build, inspect};
use onnxc_testsuite::data::repository;
use onnxc_testsuite::run::{self, Output, run};
use onnxc_testsuite::target::{self, Target};
use serde_json::Value;

const POINTS: [&str; 3] = ["dense", "tight", "loose"];

/// A folder with two recipes of the digits' network, the smallest within two limits.
struct Made(tempfile::TempDir);

static MADE: LazyLock<Made> = LazyLock::new(|| {
    let made = Made(tempfile::tempdir().expect("a folder"));
    for (name, drop) in [("tight", "1%"), ("loose", "12%")] {
        // Without calibration inputs weights alone decide, so that both points have some of them in common.
        made.compile(&format!("{name}.a"), &["--max-drop", drop, "--objective", "size", "--forget"]).expect_ok("a recipe");
    }
    made
});

impl Made {
    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    /// Compiles the network to a file of the folder.
    fn compile(&self, to: &str, flags: &[&str]) -> Output {
        let model = repository().join("testsuite/accuracy/mnist.onnx").display().to_string();
        let to = self.text(to);
        let args = ["compile", &model, "--shape=input=1,1,28,28", "-o", &to];
        run(Command::new(run::onnxc()).args([&args[..], flags].concat()).current_dir(self.0.path()), Duration::from_secs(900))
    }

    /// A folder inside with `net.a`, the bundle, and an archive for each point, for a target; and what was said.
    fn bundle(&self, target: &Target, flags: &[&str]) -> (PathBuf, String) {
        let name = format!("{}{}", target.name, flags.concat().replace(['-', '=', ':', '.'], "_"));
        let machine = ["--target", target.triple, "--cpu", target.cpu];
        let points = ["--emit=bundle", "--recipe", "dense", "--recipe", "tight.recipe", "--recipe", "loose.recipe"];
        let output = self.compile(&format!("{name}/net.a"), &[&machine[..], &points, flags].concat());
        let told = output.stderr.clone();
        output.expect_ok("compile --emit=bundle");
        for point in POINTS {
            let recipe = format!("{point}.recipe");
            let recipe = if point == "dense" { vec![] } else { vec!["--recipe", &recipe] };
            self.compile(&format!("{name}/{point}.a"), &[&machine[..], &recipe].concat()).expect_ok("a point by itself");
        }
        (self.at(&name), told)
    }
}

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Links the bundle with the archives of its points; the program compares them.
fn compare(folder: &Path, target: &Target, file: Option<&Path>) {
    let archives = POINTS.map(|p| format!("{p}.a"));
    let archives = [&["net.a"][..], &archives.each_ref().map(|a| &a[..])].concat();
    let program = build(target.cc, &[&C99[..], &["-Wl,--fatal-warnings"]].concat(), "bundle.c", &archives, folder);
    if target.can_run() {
        run(target.command(&program).args(file), Duration::from_secs(300)).expect_ok(target.name);
    }
}

#[test]
fn points_answer_what_they_answer_by_themselves() {
    for target in ["x86-64-v4", "x86-64-v3", "aarch64", "riscv64-v128"].map(target::by_name) {
        let (folder, _) = MADE.bundle(target, &[]);
        compare(&folder, target, None);
        let prefix = target.cc.strip_suffix("gcc").expect("a cross compiler's name");
        let symbols = inspect(&format!("{prefix}nm"), &[], &folder.join("net.a"));
        let exported: Vec<&str> = symbols
            .lines()
            .filter_map(|l| l.rsplit_once(' '))
            .filter(|(kind, _)| kind.ends_with(|c: char| c.is_ascii_uppercase()))
            .map(|(_, name)| name)
            .collect();
        assert_eq!(exported, ["net_point_count", "net_points", "net_run", "net_sizes"], "{}: {symbols}", target.name);
        let of_points = (0..3).all(|i| symbols.contains(&format!(" net_p{i}_s0_")));
        assert!(of_points && !symbols.contains(" U ") && !symbols.contains(" w "), "{}: {symbols}", target.name);
        let library = folder.join("net.so");
        let mut cc = Command::new(target.cc);
        cc.args(["-shared", "-nostdlib", "-Wl,-z,text", "-Wl,-z,defs", "-Wl,--fatal-warnings", "-Wl,--whole-archive"]);
        run(cc.arg(folder.join("net.a")).arg("-o").arg(&library), Duration::from_secs(60)).expect_ok(target.name);
    }
}

#[test]
fn what_points_share_is_stored_once() {
    let target = target::by_name("x86-64-v3");
    let (folder, told) = MADE.bundle(target, &["--name=net"]);
    let size = |name: &str| bytes(&folder.join(name)).len() as u64;
    let report: Value = serde_json::from_slice(&bytes(&folder.join("net.json"))).expect("a report");
    let number = |v: &Value| v.as_u64().unwrap_or_else(|| panic!("no number: {v}"));
    let (stored, saved) = (number(&report["weights_bytes"]), number(&report["shared_weight_bytes"]));
    let points = report["points"].as_array().expect("points");
    let alone: u64 = points.iter().map(|p| number(&p["weights_bytes"])).sum();
    // Both recipes have layers in the same numbers of 8 bits, which are more than biases.
    assert!(saved == alone - stored && saved > 50_000, "{report:#}");
    assert!(told.contains(&format!("{stored} bytes of weights, {saved} fewer than in 3 archives")), "{told}");
    let sum: u64 = POINTS.iter().map(|p| size(&format!("{p}.a"))).sum();
    assert!(size("net.a") + saved < sum, "{} bytes against {sum}: code is shared too", size("net.a"));
    let of = |what: &str| points.iter().map(|p| number(&p[what])).max();
    assert_eq!(of("arena_bytes"), Some(number(&report["arena_bytes"])));
    assert!(of("stack_bytes") <= Some(number(&report["stack_bytes"])), "{report:#}");
    let names: Vec<&Value> = points.iter().map(|p| &p["name"]).collect();
    assert_eq!(names, POINTS);
    assert!(points[0]["compression"].is_null() && points[1]["compression"]["layer"].is_array(), "{report:#}");
    // The number of threads is not in the file.
    let (again, _) = MADE.bundle(target, &["--name=net", "-j1"]);
    for file in ["net.a", "net.h", "net.rs", "net.json"] {
        assert!(bytes(&folder.join(file)) == bytes(&again.join(file)), "{file} differs");
    }
}

#[test]
fn weights_may_be_in_a_file_or_in_a_section_or_coded() {
    let target = target::by_name("x86-64");
    let (folder, _) = MADE.bundle(target, &["--weights=file"]);
    compare(&folder, target, Some(&folder.join("net.weights")));
    let (folder, _) = MADE.bundle(target, &["--weights=coded"]);
    compare(&folder, target, None);
    let (folder, _) = MADE.bundle(target, &["--weights=section:.flash"]);
    compare(&folder, target, None);
    let sections = inspect("readelf", &["-SW"], &folder.join("net.a"));
    assert!(sections.lines().filter(|l| l.contains(" .flash")).count() == 1 && !sections.contains("net_weights"), "{sections}");
}

#[test]
fn inspect_lists_the_points() {
    let (folder, _) = MADE.bundle(target::by_name("aarch64"), &["--name=net"]);
    let archive = folder.join("net.a").display().to_string();
    let onnxc = |args: &[&str]| run(Command::new(run::onnxc()).args(args), Duration::from_secs(60));
    let text = onnxc(&["inspect", &archive]).expect_ok("inspect");
    let rows: Vec<&str> = text.lines().skip(2).filter_map(|l| l.split_whitespace().nth(1)).collect();
    assert!(text.starts_with("bundle net\n") && rows == POINTS, "{text}");
    let json: Value = serde_json::from_str(&onnxc(&["inspect", "--json", &archive]).expect_ok("inspect --json")).expect("JSON");
    let report: Value = serde_json::from_slice(&bytes(&folder.join("net.json"))).expect("a report");
    for (listed, told) in json["points"].as_array().expect("points").iter().zip(report["points"].as_array().expect("points")) {
        for what in ["name", "predicted_ms", "drop", "arena_bytes", "weights_bytes"] {
            assert_eq!(listed[what], told[what], "{what}");
        }
    }
    let other = onnxc(&["inspect", &folder.join("dense.a").display().to_string()]);
    assert!(other.code == Some(1) && other.stderr.contains("no bundle"), "{}", other.stderr);
    // A file that ends early is no reason to fall over.
    let whole = bytes(&folder.join("net.a"));
    for part in [100, 2000, whole.len() / 2] {
        fs::write(folder.join("part.a"), &whole[..part]).expect("written");
        let output = onnxc(&["inspect", &folder.join("part.a").display().to_string()]);
        assert!(output.code == Some(1) && output.stderr.contains("part.a"), "{part}: {}", output.stderr);
    }
}

#[test]
fn rust_programs_choose_a_point() {
    let target = target::by_name("x86-64");
    if !target.can_run() {
        return;
    }
    let (folder, _) = MADE.bundle(target, &["--name=digits"]);
    fs::copy(folder.join("net.a"), folder.join("libdigits.a")).expect("copied");
    fs::copy(folder.join("net.rs"), folder.join("digits.rs")).expect("copied");
    let program = r#"mod digits;
fn main() {
    let input: [f32; 784] = std::array::from_fn(|i| ((i * 7 % 13) as f32 - 6.0) / 8.0);
    let mut arena = Box::new(digits::Arena::new());
    let mut answers = Vec::new();
    for point in 0..digits::POINT_COUNT {
        let mut output = [0.0; 10];
        digits::run(point as u32, &digits::Inputs { input: &input }, &mut digits::Outputs { logits: &mut output }, &mut arena).unwrap();
        answers.push(output);
        assert!(digits::POINT_ARENA_BYTES[point] <= digits::ARENA_BYTES);
        assert_eq!(digits::points()[point].arena_bytes, digits::POINT_ARENA_BYTES[point] as u64);
    }
    assert!(answers[0] != answers[1] && answers[1] != answers[2] && answers[0].iter().any(|x| *x != 0.0));
    assert_eq!(digits::POINT_NAMES, ["dense", "tight", "loose"]);
    let none = digits::run(3, &digits::Inputs { input: &input }, &mut digits::Outputs { logits: &mut answers[0] }, &mut arena);
    assert_eq!(none, Err(digits::Error::Point));
}
"#;
    fs::write(folder.join("main.rs"), program).expect("written");
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    rustc.args(["--edition", "2024", "-D", "warnings", "-L", ".", "-l", "static=digits", "main.rs"]).current_dir(&folder);
    run(&mut rustc, Duration::from_secs(120)).expect_ok("rustc");
    run(&mut Command::new(folder.join("main")), Duration::from_secs(60)).expect_ok("the program");
}

#[test]
fn what_is_no_bundle_is_refused() {
    let made = &*MADE;
    fs::create_dir_all(made.at("folder")).expect("a folder");
    for name in ["tight.recipe", "tight.recipe.npz"] {
        fs::copy(made.at(name), made.at("folder").join(name)).expect("copied");
    }
    let recipes = ["--recipe", "tight.recipe", "--recipe", "loose.recipe"];
    let cases: [(&[&str], &str); 6] = [
        (&["--emit=bundle"], "name its points"),
        (&["--emit=bundle", "--recipe", "tight.recipe"], "one point is no bundle"),
        (&["--emit=bundle", "--recipe", "tight.recipe", "--recipe", "folder"], "two points are called tight"),
        (&["--emit=bundle", "--max-drop", "1%"], "name its points"),
        (&["--emit=bundle,ir", "--recipe", "dense", "--recipe", "tight.recipe"], "ir shows one graph"),
        (&recipes, "--emit=bundle"),
    ];
    for (flags, why) in cases {
        let output = made.compile("refused.a", flags);
        assert!(output.code == Some(2) && output.stderr.contains(why), "{flags:?}: {}", output.stderr);
        assert!(!made.at("refused.a").exists());
    }
    let size = made.compile("refused.a", &[&["--emit=bundle", "--max-size", "100K"][..], &recipes].concat());
    assert!(size.code == Some(1) && size.stderr.contains("--max-size permits 102400"), "{}", size.stderr);
    // A folder is all recipes of it.
    made.compile("two.a", &["--emit=bundle", "--recipe", "dense", "--recipe", "folder"]).expect_ok("a folder of recipes");
}
