//! The file of measurements: one JSON object a line, sorted, readable.
//!
//! Whoever adds to it takes a lock on a file beside it, reads what others have added meanwhile, and puts a new file in its place, so readers always see a
//! whole one. What is there first stays, so that compilers that measured the same at the same time go on with the same numbers.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use onnxc_targets::Target;
use serde::{Deserialize, Serialize};

use super::Times;
use crate::data::write_file;
use crate::fault::{Done, Fault};

/// Changes when the same choices come out as other code, when the lowering chooses otherwise by itself, or when measuring changes.
const REVISION: u32 = 8;

/// What measurements are true for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Machine {
    /// Version of the compiler.
    version: String,
    /// The CPU's own name.
    cpu: String,
    /// Features that the code uses.
    features: String,
    /// Threads of an inference.
    threads: u32,
    /// `fast` or `strict`.
    math: String,
    /// Bytes that are read between the runs.
    around: u64,
}

impl Machine {
    pub fn of(target: &Target, fast: bool, around: u64) -> Machine {
        Machine {
            version: version(),
            cpu: cpu_name(),
            features: target.required_features.join(" "),
            threads: target.desc.max_threads,
            math: if fast { "fast" } else { "strict" }.to_string(),
            around,
        }
    }
}

fn version() -> String {
    format!("{}.{REVISION}", env!("CARGO_PKG_VERSION"))
}

/// What the operating system calls the CPU.
fn cpu_name() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field =
        |name: &str| info.lines().find_map(|l| l.split_once(':').filter(|(key, _)| key.trim() == name)).map(|l| l.1.trim());
    let parts: Vec<&str> =
        ["model name", "cpu family", "model", "CPU implementer", "CPU part", "uarch"].into_iter().filter_map(field).collect();
    if parts.is_empty() { "unknown".to_string() } else { parts.join(" / ") }
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    layer: String,
    #[serde(flatten)]
    machine: Machine,
    /// Nanoseconds by choice.
    ns: BTreeMap<String, u64>,
}

type Entries = BTreeMap<(Machine, String), Times>;

/// The measurements of a file, and those that are true here.
pub struct Cache {
    path: PathBuf,
    machine: Machine,
    entries: Entries,
}

impl Cache {
    /// Reads a file. What cannot be read, or is of another version, is left out with a warning.
    pub fn read(path: &Path, machine: Machine) -> Cache {
        let (entries, complaint) = load(path);
        if let Some(complaint) = complaint {
            eprintln!("warning: {}: {complaint}", path.display());
        }
        Cache { path: path.to_path_buf(), machine, entries }
    }

    /// Times of the layer with this signature on this machine.
    pub fn get(&self, layer: &str) -> Option<&Times> {
        self.entries.get(&(self.machine.clone(), layer.to_string()))
    }

    /// Adds measurements, to the file too.
    pub fn add(&mut self, measured: BTreeMap<String, Times>) -> Done<()> {
        let folder = self.path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let fault = |e| Fault::file(&self.path, e);
        std::fs::create_dir_all(folder).map_err(fault)?;
        // Given back when it is dropped.
        let lock = File::create(self.path.with_extension("lock")).map_err(fault)?;
        lock.lock().map_err(fault)?;
        let mut entries = load(&self.path).0;
        for (layer, times) in measured {
            entries.entry((self.machine.clone(), layer)).or_insert(times);
        }
        let text: String = entries.iter().map(line).collect();
        write_file(&self.path, text.as_bytes())?;
        self.entries = entries;
        Ok(())
    }
}

fn line(((machine, layer), times): (&(Machine, String), &Times)) -> String {
    let ns = times.iter().map(|(choice, ns)| (choice.to_string(), *ns)).collect();
    let line = Line { layer: layer.clone(), machine: machine.clone(), ns };
    serde_json::to_string(&line).expect("internal: text and numbers become JSON") + "\n"
}

/// The entries of a file that are of this version, and what is wrong with the others.
fn load(path: &Path) -> (Entries, Option<String>) {
    let text = match std::fs::read(path) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Default::default(),
        Err(e) => return (Entries::new(), Some(format!("{e}; nothing of it is used"))),
    };
    let (mut entries, mut damaged, mut old) = (Entries::new(), 0, 0);
    for text in text.lines().filter(|l| !l.trim().is_empty()) {
        match entry(text) {
            Some((key, _)) if key.0.version != version() => old += 1,
            Some((key, times)) => drop(entries.insert(key, times)),
            None => damaged += 1,
        }
    }
    let complaint = match (damaged, old) {
        (0, 0) => None,
        (0, _) => Some(format!("{old} measurements are of another version and not used")),
        _ => Some(format!("{damaged} lines are damaged and not used; layers without measurements are measured again")),
    };
    (entries, complaint)
}

fn entry(text: &str) -> Option<((Machine, String), Times)> {
    let line: Line = serde_json::from_str(text).ok()?;
    let times = line.ns.into_iter().map(|(choice, ns)| Some((choice.parse().ok()?, ns))).collect::<Option<Times>>()?;
    (!times.is_empty()).then_some(((line.machine, line.layer), times))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(around: u64) -> Machine {
        let target = onnxc_targets::describe("x86_64-unknown-linux-gnu", "haswell", 1).unwrap();
        Machine::of(&target, true, around)
    }

    fn times(ns: u64) -> Times {
        [("direct".parse().unwrap(), ns), ("winograd4 14x32".parse().unwrap(), ns / 2)].into()
    }

    #[test]
    fn entries_come_back_and_others_stay() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep").join("tune.jsonl");
        let (mut a, mut b) = (Cache::read(&path, machine(1)), Cache::read(&path, machine(2)));
        a.add([("conv".to_string(), times(100))].into()).unwrap();
        b.add([("conv".to_string(), times(200))].into()).unwrap();
        // Whoever is late goes on with what is there.
        a.add([("conv".to_string(), times(900)), ("matmul".to_string(), times(300))].into()).unwrap();
        let read = |around| Cache::read(&path, machine(around));
        assert_eq!((read(1).get("conv"), a.get("conv")), (Some(&times(100)), Some(&times(100))));
        assert_eq!((read(2).get("conv"), read(2).get("matmul")), (Some(&times(200)), None));
        assert_eq!(read(1).get("matmul"), Some(&times(300)));
    }

    #[test]
    fn damaged_and_old_lines_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tune.jsonl");
        let mut cache = Cache::read(&path, machine(1));
        cache.add([("conv".to_string(), times(100)), ("matmul".to_string(), times(300))].into()).unwrap();
        let good = std::fs::read_to_string(&path).unwrap();
        let half = &good[..good.len() - 30];
        std::fs::write(&path, half).unwrap();
        let (entries, complaint) = load(&path);
        assert_eq!((entries.len(), complaint.unwrap().contains("1 lines are damaged")), (1, true));
        std::fs::write(&path, good.replace(&version(), "0.0.1")).unwrap();
        assert!(load(&path).0.is_empty() && load(&path).1.unwrap().contains("another version"));
        std::fs::write(&path, [0xff, 0xfe, 0, 10, 0x80]).unwrap();
        assert!(load(&path).1.unwrap().contains("damaged"));
        cache.add([("gemm".to_string(), times(5))].into()).unwrap();
        assert_eq!(load(&path).1, None, "what is written is whole again");
    }

    #[test]
    fn writers_at_the_same_time_lose_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tune.jsonl");
        std::thread::scope(|scope| {
            for i in 0..8 {
                let path = &path;
                scope.spawn(move || Cache::read(path, machine(1)).add([(format!("layer{i}"), times(i))].into()).unwrap());
            }
        });
        assert_eq!(load(&path).0.len(), 8);
    }
}
