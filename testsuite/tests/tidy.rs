//! The repository tells the truth about itself: crate boundaries, paths in documents, lists of files.
//!
//! Each check returns the complaints it has, all of them, and the test prints them together.

use onnxc_testsuite::data::repository;
use onnxc_testsuite::run;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Longest Rust file that needs no entry in `tidy/long_files.txt`.
const FILE_LINES: usize = 600;

#[track_caller]
fn none(complaints: Vec<String>) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// Every file of the repository, relative to its root, sorted; what builds and editors leave behind is skipped.
fn files() -> Vec<String> {
    fn walk(folder: &Path, root: &Path, out: &mut Vec<String>) {
        for entry in fs::read_dir(folder).expect("folder") {
            let path = entry.expect("entry").path();
            let name = path.file_name().expect("name").to_string_lossy().into_owned();
            if path.is_dir() && !path.is_symlink() {
                if !["target", ".git", ".venv", "__pycache__", "node_modules"].contains(&name.as_str()) {
                    walk(&path, root, out);
                }
            } else if name != ".git" {
                out.push(path.strip_prefix(root).expect("below root").to_string_lossy().into_owned());
            }
        }
    }
    let (root, mut out) = (repository(), Vec::new());
    walk(&root, &root, &mut out);
    out.sort();
    out
}

fn read(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn manifest(path: &str) -> toml::Table {
    read(path).parse().unwrap_or_else(|e| panic!("{path}: {e}"))
}

// ---- crate boundaries

/// The words of a table cell that stand in backquotes.
fn quoted(cell: &str) -> Vec<String> {
    cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Rows of `docs/architecture.md`: crate, own crates it may use (`None` for all), packages it must not use.
fn boundaries(text: &str) -> BTreeMap<String, (Option<Vec<String>>, Vec<String>)> {
    let rows = text.lines().skip_while(|l| *l != "| crate | may use | never |").skip(2).take_while(|l| l.starts_with('|'));
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [name, may, never] = cells[..] else { panic!("three cells expected: {line}") };
        let may = if may == "all" { None } else { Some(quoted(may)) };
        (quoted(name).concat(), (may, quoted(never)))
    };
    rows.map(row).collect()
}

/// True when `pattern`, which may end in `*`, names `package`.
fn matches(pattern: &str, package: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == package, |start| package.starts_with(start))
}

#[test]
fn the_page_of_operators_is_current() {
    let path = repository().join("docs/operators.md");
    let page = run::run(Command::new(run::onnxc()).args(["ops", "--markdown"]), Duration::from_secs(60)).expect_ok("onnxc ops");
    let kept = std::fs::read_to_string(&path).expect("docs/operators.md");
    assert!(kept == page, "write it anew: onnxc ops --markdown > docs/operators.md");
}

#[test]
fn manifests_keep_to_the_table_of_crates() {
    let table = boundaries(&read("docs/architecture.md"));
    let root = manifest("Cargo.toml");
    let members: Vec<&str> =
        root["workspace"]["members"].as_array().expect("members").iter().map(|m| m.as_str().expect("path")).collect();
    let last = |path: &str| path.rsplit('/').next().expect("a part").to_owned();
    let manifests: Vec<(String, toml::Table)> = members.iter().map(|m| (last(m), manifest(&format!("{m}/Cargo.toml")))).collect();
    let own: BTreeMap<&str, &str> =
        manifests.iter().map(|(name, m)| (m["package"]["name"].as_str().expect("name"), name.as_str())).collect();

    let mut bad = Vec::new();
    for (name, manifest) in &manifests {
        let Some((may, never)) = table.get(name) else {
            bad.push(format!("docs/architecture.md: no row for `{name}`"));
            continue;
        };
        let sections = ["dependencies", "build-dependencies"].iter().filter_map(|s| manifest.get(*s)?.as_table());
        for (package, how) in sections.flatten() {
            let optional = how.get("optional").and_then(toml::Value::as_bool) == Some(true);
            match own.get(package.as_str()) {
                Some(other) if may.as_ref().is_some_and(|m| !m.iter().any(|x| x == other)) => {
                    bad.push(format!("`{name}` uses `{other}`, which its row in docs/architecture.md does not allow"));
                }
                None if !optional && never.iter().any(|p| matches(p, package)) => {
                    bad.push(format!("`{name}` must never use {package}"))
                }
                _ => {}
            }
        }
    }
    let names: Vec<&String> = manifests.iter().map(|(n, _)| n).collect();
    bad.extend(
        table.keys().filter(|k| !names.contains(k)).map(|k| format!("docs/architecture.md: `{k}` is no member of the workspace")),
    );
    none(bad);
}

#[test]
fn the_table_is_read_as_written() {
    let t =
        boundaries("x\n| crate | may use | never |\n|---|---|---|\n| `a` | `b`, `c` (part) | `p-*`, `q` |\n| `d` | all | |\n\ny");
    assert_eq!(t["a"], (Some(vec!["b".into(), "c".into()]), vec!["p-*".into(), "q".into()]));
    assert_eq!(t["d"], (None, vec![]));
    assert!(matches("p-*", "p-x") && matches("q", "q") && matches("*", "z") && !matches("q", "qq"));
}

// ---- documents

/// Words of a Markdown text that begin with a top-level folder: these claim to be paths.
fn paths_in(text: &str, folders: &[String]) -> Vec<String> {
    let ends = |c: char| c.is_whitespace() || "`()[]\"',;|<>*{}$=".contains(c);
    // A path cut by a wildcard or a placeholder names no single file; its folder is checked instead.
    let whole = |at: usize, word: &str| !text[at + word.len()..].starts_with(['<', '*', '{', '$']);
    let mut out = Vec::new();
    for word in text.split(ends).filter(|w| folders.iter().any(|f| w.starts_with(&format!("{f}/")))) {
        let at = word.as_ptr() as usize - text.as_ptr() as usize;
        let word_alone = word.split(':').next().expect("a part");
        let path = if whole(at, word) {
            word_alone.trim_end_matches(['.', '/'])
        } else {
            word_alone.rsplit_once('/').expect("has a slash").0
        };
        out.push(path.to_owned());
    }
    out
}

#[test]
fn paths_named_in_documents_exist() {
    let root = repository();
    let mut folders: Vec<String> = files().iter().filter_map(|f| Some(f.split_once('/')?.0.to_owned())).collect();
    folders.dedup();
    let mut bad = Vec::new();
    for doc in files().iter().filter(|f| f.ends_with(".md")) {
        let text = read(doc);
        let missing = paths_in(&text, &folders).into_iter().filter(|p| !root.join(p).exists());
        bad.extend(missing.map(|p| format!("{doc}: {p} does not exist")));
        let beside = root.join(doc).parent().expect("folder").to_path_buf();
        let links = text.split("](").skip(1).filter_map(|l| l.split([')', '#']).next());
        let broken = links.filter(|l| !l.is_empty() && !l.contains("://") && !beside.join(l).exists());
        bad.extend(broken.map(|l| format!("{doc}: link to {l}, which does not exist")));
    }
    none(bad);
}

#[test]
fn paths_are_recognised_in_prose_and_commands() {
    let found =
        paths_in("see `docs/a.md`, (docs/b.md). docs/c/*.rs docs/<x>/y docs/run.sh --flag docs/d.rs:12", &["docs".into()]);
    assert_eq!(found, ["docs/a.md", "docs/b.md", "docs/c", "docs", "docs/run.sh", "docs/d.rs"]);
}

#[test]
fn nothing_refers_outside_the_repository() {
    // Written in two parts, so that this file does not find itself.
    let forbidden = [
        concat!("../", "shared"),
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/ho", "me/"),
        concat!("py", "pi.org"),
        concat!("registry.", "npmjs"),
        concat!("files.python", "hosted"),
    ];
    let mut bad = Vec::new();
    for file in files().iter().filter(|f| *f != "Cargo.lock") {
        let bytes = fs::read(repository().join(file)).unwrap_or_else(|e| panic!("{file}: {e}"));
        let Ok(text) = String::from_utf8(bytes) else {
            continue;
        };
        let hits =
            text.lines().zip(1..).flat_map(|(line, n)| forbidden.iter().filter(move |f| line.contains(**f)).map(move |f| (n, f)));
        bad.extend(hits.map(|(n, f)| format!("{file}:{n}: mentions {f}")));
    }
    none(bad);
}

// ---- source files

#[test]
fn every_operator_file_is_in_the_list() {
    let list = read("compiler/ops/src/lib.rs");
    let mut bad = Vec::new();
    for file in files().iter().filter(|f| f.starts_with("compiler/ops/src/") && f.ends_with(".rs") && !f.ends_with("/lib.rs")) {
        let path = PathBuf::from(file);
        let parent = if path.ends_with("mod.rs") { path.parent().expect("folder") } else { &path };
        let module = parent.file_stem().expect("stem").to_string_lossy().into_owned();
        // Modules of a folder are declared by its own mod.rs.
        let declared_in = parent.parent().expect("folder").join(if parent.parent().is_some_and(|p| p.ends_with("src")) {
            "lib.rs"
        } else {
            "mod.rs"
        });
        if !read(&declared_in.to_string_lossy()).lines().any(|l| l.trim().ends_with(&format!("mod {module};"))) {
            bad.push(format!("{file}: no `mod {module};` in {}", declared_in.display()));
        }
        for line in read(file).lines().filter(|l| l.contains("static ") && l.contains(": OpDef")) {
            let name = line.split("static ").nth(1).and_then(|l| l.split(':').next()).expect("a name").trim();
            if name.starts_with('$') {
                continue;
            }
            if !list.contains(&format!("::{name},")) {
                bad.push(format!("{file}: `{name}` is not in the list of compiler/ops/src/lib.rs"));
            }
        }
    }
    none(bad);
}

/// `tidy/long_files.txt` holds `LINES PATH` for files that are longer than usual.  The numbers may only shrink.
#[test]
fn rust_files_do_not_grow_beyond_their_subject() {
    let list = read("testsuite/tests/tidy/long_files.txt");
    let entries = list.lines().filter(|l| !l.starts_with('#') && !l.is_empty());
    let allowed: BTreeMap<&str, usize> = entries
        .map(|l| l.split_once(' ').and_then(|(n, p)| Some((p, n.parse().ok()?))).unwrap_or_else(|| panic!("long_files.txt: {l}")))
        .collect();
    let mut bad = Vec::new();
    for file in files().iter().filter(|f| f.ends_with(".rs")) {
        let lines = read(file).lines().count();
        match allowed.get(file.as_str()) {
            None if lines > FILE_LINES => bad.push(format!(
                "{file} has {lines} lines: are there two subjects in it? If not, add `{lines} {file}` to long_files.txt"
            )),
            Some(n) if lines > *n => bad.push(format!("{file} grew from {n} to {lines} lines")),
            Some(_) if lines <= FILE_LINES => bad.push(format!("{file} is short now: take it out of long_files.txt")),
            Some(n) if lines + 50 < *n => {
                bad.push(format!("{file} shrank to {lines} lines: write that number into long_files.txt"))
            }
            _ => {}
        }
    }
    bad.extend(allowed.keys().filter(|f| !repository().join(f).exists()).map(|f| format!("long_files.txt: {f} does not exist")));
    none(bad);
}

#[test]
fn rust_files_say_what_they_are_for() {
    let opens = |text: &str| text.lines().find(|l| !l.is_empty()).is_some_and(|l| l.starts_with("//!") || l.starts_with("#!"));
    // A handful of lines explains itself.
    let silent = |f: &&String| f.ends_with(".rs") && read(f).lines().count() > 20 && !opens(&read(f));
    none(files().iter().filter(silent).map(|f| format!("{f}: the first line should be a `//!` comment")).collect());
}
