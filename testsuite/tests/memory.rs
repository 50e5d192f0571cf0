//! What a compiled model touches: nothing beside its buffers, no more arena and stack than stated, nothing that threads share.

use onnxc_testsuite::artefact::{C11, build, onnxc};
use onnxc_testsuite::run::run;
use onnxc_testsuite::small::{self, PAIR, TINY};
use onnxc_testsuite::target;
use std::time::Duration;

/// Compiles a model for `target`, links it with `file` and returns what the program says.
fn measure(file: &str, target: &target::Target, name: &str, text: &str, flags: &[&str]) -> String {
    measure_as(file, target, name, (text, text), flags)
}

/// The same for a model whose results at its largest sizes are those of another one.
fn measure_as(file: &str, target: &target::Target, name: &str, (text, fixed): (&str, &str), flags: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let flags = [&["--target", target.triple, "--cpu", target.cpu], flags].concat();
    onnxc(folder.path(), name, text, &flags);
    let folder = folder.path();
    let model = [format!("-DMODEL={name}_model"), format!("-DMODEL_HEADER=\"{name}.h\"")];
    let flags = [&C11[..], &[&model[0], &model[1]]].concat();
    let program = build(target.cc, &flags, file, &[&format!("{name}.a")], folder);
    let said = run(&mut target.command(&program), Duration::from_secs(120)).expect_ok(target.name);
    small::check(&said, name, fixed);
    said
}

/// The numbers of the line that begins with `what`.
#[track_caller]
fn numbers(said: &str, what: &str) -> Vec<u64> {
    let line = said.lines().find_map(|l| l.strip_prefix(what)).unwrap_or_else(|| panic!("no {what} in {said}"));
    line.split_whitespace().map(|n| n.parse().expect("a number")).collect()
}

fn targets() -> impl Iterator<Item = &'static target::Target> {
    target::ALL.iter().filter(|t| t.can_run())
}

#[test]
fn the_planned_arena_is_the_real_one_and_the_stack_suffices() {
    for target in targets() {
        for (name, text, flags) in
            [("tiny", TINY, &[][..]), ("pair", PAIR, &[]), ("wide", &small::wide(), &["--max-threads", "4"])]
        {
            let said = measure("memory.c", target, name, text, flags);
            let [used, stated, shared] = numbers(&said, "arena ")[..] else { panic!("{said}") };
            // One thread uses the shared part and the first worker's scratch; sizes are rounded up to 64.
            assert!(shared <= stated && used <= stated, "{} {name}: arena {used} {stated} {shared}", target.name);
            assert!(used + 64 > shared, "{} {name}: arena {used} of {shared}", target.name);
            let [used, stated] = numbers(&said, "stack ")[..] else { panic!("{said}") };
            assert!(used <= stated && stated <= used + 4096, "{} {name}: stack {used} of {stated}", target.name);
        }
    }
}

#[test]
fn threads_share_a_model_and_workers_do_not_change_results() {
    let (fixed, open) = (small::wide(), small::wide_open());
    let range = format!("--dim=N=1..{}", small::WIDE_ROWS);
    let flags = ["--max-threads", "4", &range];
    for (target, text, flags) in targets().flat_map(|t| [(t, &fixed, &flags[..2]), (t, &open, &flags[..])]) {
        let said = measure_as("threads.c", target, "wide", (text, &fixed), flags);
        let line = said.lines().find(|l| l.starts_with("tasks ")).expect("the tasks");
        let words: Vec<u64> = line.split(' ').filter_map(|w| w.parse().ok()).collect();
        assert!(words[1] >= 2 && words[0] >= 4 * words[1], "{}: {line}: nothing was parallel", target.name);
        // ONNXC_PARALLEL when parallel_for fails.
        assert!(said.contains("refused 6\n"), "{}: {said}", target.name);
    }
}
