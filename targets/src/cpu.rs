//! From a triple and a CPU name to a [`Target`].

use std::collections::BTreeSet;
use std::str::FromStr;

use cranelift_codegen::isa::{self, OwnedTargetIsa};
use cranelift_codegen::settings::{self, Configurable};
use onnxc_ir::target::TargetDesc;
use target_lexicon::{Architecture, BinaryFormat, OperatingSystem, Triple};

use crate::error::Error;
use crate::features::{self, Feature};

/// The instruction set that vector code is made with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Isa {
    /// Assembled, 512-bit registers.
    Avx512 {
        /// `vpdpbusd` is there.
        vnni: bool,
        /// `vpermb` is there.
        vbmi: bool,
    },
    /// Assembled, 256-bit registers, with FMA.
    Avx2,
    /// Cranelift, 128-bit registers.
    Clif128,
    /// Cranelift, no vectors.
    Scalar,
}

/// A machine to generate code for.
#[derive(Clone)]
pub struct Target {
    /// What the middle of the compiler sees.
    pub desc: TargetDesc,
    /// Cranelift's view; `opt_level=none`, `is_pic=false`, unwind information on, no stack probes.
    pub isa: OwnedTargetIsa,
    /// How vectors are made.
    pub vectors: Isa,
    /// Features that the code needs, in the order of the tables here; empty for the base of the architecture.
    pub required_features: Vec<&'static str>,
    /// x86-64: a SysV leaf function `fn() -> u32` that answers 1 when the CPU and the OS have all required features, otherwise 0.
    /// None where nothing is required or user code cannot ask.
    pub cpu_check: Option<Vec<u8>>,
    /// A leaf function `fn() -> u64` that turns flushing of subnormals on (results and operands) and returns the old mode. None: the
    /// architecture has no such mode (RISC-V).
    pub set_ftz: Option<Vec<u8>>,
    /// A leaf function `fn(u64)` that restores what `set_ftz` returned.
    pub restore_ftz: Option<Vec<u8>>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("desc", &self.desc).field("features", &self.required_features).finish_non_exhaustive()
    }
}

impl Target {
    /// True when the code may use the feature.
    pub fn has(&self, feature: &str) -> bool {
        self.required_features.contains(&feature)
    }

    /// True when Cranelift has an instruction for `fma` of f32 and f64; otherwise it calls a library function.
    pub fn has_fma(&self) -> bool {
        !self.is_x86() || self.has("fma")
    }

    /// True when Cranelift has instructions for floor, ceil, trunc and nearest of f32 and f64; otherwise it calls library functions.
    pub fn has_round(&self) -> bool {
        !self.is_x86() || self.has("sse4.1")
    }

    /// True where dot products of bytes are multiplications of single bytes in lanes of 32 bits: RISC-V V has nothing that adds neighbours, and the tree of
    /// widening multiplications takes some fifty instructions there.
    pub(crate) fn dots_by_bytes(&self) -> bool {
        self.has(VECTORS_OF_RISCV)
    }

    /// True for x86-64.
    pub fn is_x86(&self) -> bool {
        self.isa.triple().architecture == Architecture::X86_64
    }
}

/// An architecture: canonical triple, CPU names (default first), features.
struct Arch {
    triple: &'static str,
    cpus: &'static [(&'static str, &'static [&'static str])],
    features: &'static [Feature],
}

static X86_64: Arch = Arch { triple: "x86_64-unknown-linux-gnu", cpus: features::X86_64_CPUS, features: features::X86_64 };
static AARCH64: Arch = Arch { triple: "aarch64-unknown-linux-gnu", cpus: features::AARCH64_CPUS, features: features::AARCH64 };
static RISCV64: Arch = Arch { triple: "riscv64gc-unknown-linux-gnu", cpus: features::RISCV64_CPUS, features: features::RISCV64 };

/// Supported targets for listings: (usual triple, CPU names with the default first, feature names).
pub fn targets() -> Vec<(&'static str, Vec<&'static str>, Vec<&'static str>)> {
    let row = |a: &Arch| {
        let mut cpus: Vec<_> = a.cpus.iter().map(|c| c.0).collect();
        if std::ptr::eq(a.features, features::X86_64) {
            cpus.push("native");
        }
        (a.triple, cpus, a.features.iter().map(|f| f.name).collect())
    };
    [&X86_64, &AARCH64, &RISCV64].into_iter().map(row).collect()
}

/// Describes the machine `cpu` of `triple`, for artefacts of up to `max_threads` threads.
///
/// `cpu` is a name, `native`, or empty for the default, followed by `+feature` and `-feature` in any number, separated by commas or by
/// nothing: `x86-64-v3,+avx512vnni`, `+dotprod`.
///
/// # Errors
/// Unknown triples, binary formats other than ELF, unknown CPUs and features.
pub fn describe(triple: &str, cpu: &str, max_threads: u32) -> Result<Target, Error> {
    let parsed = parse_triple(triple)?;
    let arch = match parsed.architecture {
        Architecture::X86_64 => &X86_64,
        Architecture::Aarch64(_) => &AARCH64,
        _ => &RISCV64,
    };
    let features = parse_cpu(arch, cpu, &parsed)?;
    let isa = build_isa(&parsed, arch, &features)?;
    let required: Vec<&'static str> = arch.features.iter().map(|f| f.name).filter(|n| features.contains(n)).collect();
    let vectors = vector_isa(parsed.architecture, &features);
    let (cpu_check, set_ftz, restore_ftz) = match parsed.architecture {
        Architecture::X86_64 => {
            let check = crate::assembled::entry::cpu_check(arch.features, &required)?;
            let (set, restore) = crate::assembled::entry::ftz()?;
            (check, Some(set), Some(restore))
        }
        Architecture::Aarch64(_) => {
            // mrs x0, fpcr; orr x1, x0, #1<<24 (FZ); msr fpcr, x1; ret
            let set = [0xD53B_4400u32, 0xB268_0001, 0xD51B_4401, 0xD65F_03C0];
            // msr fpcr, x0; ret
            let restore = [0xD51B_4400u32, 0xD65F_03C0];
            let bytes = |words: &[u32]| words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>();
            (None, Some(bytes(&set)), Some(bytes(&restore)))
        }
        _ => (None, None, None),
    };
    let desc = desc(triple, cpu, arch, vectors, parsed.architecture, &features, max_threads);
    Ok(Target { desc, isa, vectors, required_features: required, cpu_check, set_ftz, restore_ftz })
}

fn parse_triple(triple: &str) -> Result<Triple, Error> {
    let bad = |reason: String| Error::Triple { triple: triple.to_string(), reason };
    let mut parsed = Triple::from_str(triple).map_err(|e| bad(e.to_string()))?;
    match parsed.architecture {
        Architecture::X86_64 | Architecture::Riscv64(_) => {}
        Architecture::Aarch64(target_lexicon::Aarch64Architecture::Aarch64) => {}
        other => return Err(bad(format!("there is no code generator for {other}; supported are x86_64, aarch64 and riscv64"))),
    }
    // A bare-metal triple such as aarch64-unknown-none names no format; ELF is what such linkers read.
    if parsed.binary_format == BinaryFormat::Unknown
        && matches!(parsed.operating_system, OperatingSystem::Unknown | OperatingSystem::None_)
    {
        parsed.binary_format = BinaryFormat::Elf;
    }
    match parsed.binary_format {
        BinaryFormat::Elf => Ok(parsed),
        other => Err(bad(format!(
            "objects of format {other:?} are not written yet, only ELF; try an ELF triple such as {}-unknown-linux-gnu",
            parsed.architecture
        ))),
    }
}

/// The features of a CPU specification, closed under implication.
fn parse_cpu(arch: &Arch, cpu: &str, triple: &Triple) -> Result<BTreeSet<&'static str>, Error> {
    let bad = |reason: String| Error::Cpu { cpu: cpu.to_string(), reason };
    let mut on = BTreeSet::new();
    let mut rest = cpu.trim();
    let end = rest.find([',', '+']).unwrap_or(rest.len());
    // `-feature` right at the start also means the default CPU; names contain `-`, so only a leading one counts.
    let name = if rest.starts_with('-') { "" } else { rest[..end].trim() };
    if !name.is_empty() {
        rest = &rest[end..];
    }
    match name {
        "native" => native_features(arch, triple, &mut on).map_err(bad)?,
        _ => {
            let found = if name.is_empty() { arch.cpus.first() } else { arch.cpus.iter().find(|c| c.0 == name) };
            let Some((_, list)) = found else {
                let names: Vec<_> = arch.cpus.iter().map(|c| c.0).collect();
                return Err(bad(format!("unknown CPU `{name}`; there are {}", names.join(", "))));
            };
            list.iter().for_each(|f| switch_on(arch, f, &mut on));
        }
    }
    for item in split_features(rest) {
        let (sign, feature) = item.split_at(1);
        let Some(known) = arch.features.iter().find(|f| f.name == feature && sign != "?") else {
            let names: Vec<_> = arch.features.iter().map(|f| f.name).collect();
            let item = item.trim_start_matches('?');
            return Err(bad(format!("unknown feature `{item}`; write +NAME or -NAME with one of {}", names.join(", "))));
        };
        match sign {
            "+" => switch_on(arch, known.name, &mut on),
            _ => switch_off(arch, known.name, &mut on),
        }
    }
    Ok(on)
}

/// `,+a,-b+c` to `+a`, `-b`, `+c`. A piece without sign stays as it is and is refused by the caller.
fn split_features(text: &str) -> Vec<String> {
    let mut items = Vec::new();
    for piece in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let mut current = String::new();
        for c in piece.chars() {
            if c == '+' && !current.is_empty() {
                items.push(std::mem::take(&mut current));
            }
            current.push(c);
        }
        items.push(current);
    }
    items.into_iter().map(|i| if i.starts_with(['+', '-']) { i } else { format!("?{i}") }).collect()
}

fn switch_on(arch: &Arch, name: &str, on: &mut BTreeSet<&'static str>) {
    let feature = arch.features.iter().find(|f| f.name == name).expect("internal: targets: feature missing from the table");
    on.insert(feature.name);
    feature.implies.iter().for_each(|f| switch_on(arch, f, on));
}

fn switch_off(arch: &Arch, name: &str, on: &mut BTreeSet<&'static str>) {
    on.remove(name);
    for f in arch.features.iter().filter(|f| f.implies.contains(&name)) {
        if on.contains(f.name) {
            switch_off(arch, f.name, on);
        }
    }
}

/// What an instruction set does not tell of a core.
pub(crate) mod cores {
    /// How cores go about vectors of 512 bits.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub enum Core {
        /// One multiplication and addition in a cycle, or none of them known.
        Usual,
        /// Two in a cycle: Intel's servers.
        Twice,
        /// Two in a cycle, faster clocks and caches: Zen 5.
        Zen5,
    }

    /// CPU names of cores that are not the usual ones.
    const NAMES: [(&str, Core); 3] = [("skylake-avx512", Core::Twice), ("sapphirerapids", Core::Twice), ("znver5", Core::Zen5)];

    /// The core of a CPU specification.
    pub fn of(cpu: &str) -> Core {
        let name = cpu.trim().split([',', '+']).next().unwrap_or_default().trim();
        if name == "native" {
            return native();
        }
        NAMES.iter().find(|known| known.0 == name).map_or(Core::Usual, |known| known.1)
    }

    /// Family and model of a CPU from the first register of leaf 1 (Intel, "Software Developer's Manual", volume 2, CPUID).
    pub fn family_and_model(eax: u32) -> (u32, u32) {
        let (family, model) = (eax >> 8 & 15, eax >> 4 & 15);
        (if family == 15 { family + (eax >> 20 & 255) } else { family }, model | (eax >> 16 & 15) << 4)
    }

    #[cfg(target_arch = "x86_64")]
    fn native() -> Core {
        use std::arch::x86_64::__cpuid;
        let (vendor, own) = (__cpuid(0).ebx, family_and_model(__cpuid(1).eax));
        known(vendor, own)
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn native() -> Core {
        Core::Usual
    }

    /// `vendor` is the first part of its name. Of Intel the servers have two units: Skylake to Cooper Lake, Ice Lake, Sapphire and Emerald Rapids, Granite
    /// Rapids; of AMD what is Zen 5 or later.
    pub fn known(vendor: u32, (family, model): (u32, u32)) -> Core {
        const SERVERS: [u32; 7] = [0x55, 0x6A, 0x6C, 0x8F, 0xCF, 0xAD, 0xAE];
        match &vendor.to_le_bytes() {
            b"Genu" if family == 6 && SERVERS.contains(&model) => Core::Twice,
            b"Auth" if family >= 0x1A => Core::Zen5,
            _ => Core::Usual,
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn native_features(arch: &Arch, triple: &Triple, on: &mut BTreeSet<&'static str>) -> Result<(), String> {
    if triple.architecture != Architecture::X86_64 {
        return Err("`native` needs the target of this machine".to_string());
    }
    macro_rules! ask {
        ($($name:tt),*) => {[$(($name, std::is_x86_feature_detected!($name))),*]};
    }
    let found = ask!(
        "sse3",
        "ssse3",
        "sse4.1",
        "sse4.2",
        "popcnt",
        "avx",
        "fma",
        "f16c",
        "avx2",
        "bmi1",
        "bmi2",
        "lzcnt",
        "avx512f",
        "avx512bw",
        "avx512cd",
        "avx512dq",
        "avx512vl",
        "avx512vnni",
        "avx512vbmi",
        "avxvnni",
        "avx512bf16"
    );
    found.iter().filter(|f| f.1).for_each(|f| switch_on(arch, f.0, on));
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn native_features(_: &Arch, _: &Triple, _: &mut BTreeSet<&'static str>) -> Result<(), String> {
    Err("`native` is known on x86-64 hosts only".to_string())
}

fn build_isa(triple: &Triple, arch: &Arch, on: &BTreeSet<&'static str>) -> Result<OwnedTargetIsa, Error> {
    let internal = |e: &dyn std::fmt::Display| Error::Internal(format!("Cranelift settings: {e}"));
    let mut shared = settings::builder();
    let values = [
        ("opt_level", "none"),
        ("is_pic", "false"),
        ("unwind_info", "true"),
        ("enable_probestack", "false"),
        ("enable_llvm_abi_extensions", "true"),
        ("preserve_frame_pointers", "false"),
    ];
    for (name, value) in values {
        shared.set(name, value).map_err(|e| internal(&e))?;
    }
    let mut builder = isa::lookup(triple.clone())
        .map_err(|e| Error::Triple { triple: triple.to_string(), reason: format!("Cranelift: {e}") })?;
    for f in arch.features.iter().filter(|f| on.contains(f.name)) {
        for flag in f.flags {
            builder.enable(flag).map_err(|e| internal(&e))?;
        }
    }
    builder.finish(settings::Flags::new(shared)).map_err(|e| internal(&e))
}

fn vector_isa(arch: Architecture, on: &BTreeSet<&'static str>) -> Isa {
    match arch {
        Architecture::X86_64 if ["avx512bw", "avx512dq", "avx512vl", "bmi2"].iter().all(|f| on.contains(f)) => {
            Isa::Avx512 { vnni: on.contains("avx512vnni"), vbmi: on.contains("avx512vbmi") }
        }
        Architecture::X86_64 if on.contains("avx2") && on.contains("fma") => Isa::Avx2,
        Architecture::Riscv64(_) if !on.contains("v") => Isa::Scalar,
        _ => Isa::Clif128,
    }
}

/// The feature of RISC-V that has vectors.
const VECTORS_OF_RISCV: &str = "v";

/// The feature of x86-64 that adds pairs of products of unsigned and signed bytes.
const SHORT_PAIRS: &str = "ssse3";

/// Registers of a tile: accumulators, B, one element of A.
fn registers((mr, nr): (u32, u32), lanes: u32) -> u32 {
    (mr + 1) * nr / lanes + 1
}

/// Vector registers.
fn available(vectors: Isa) -> u32 {
    if vectors == Isa::Avx2 { 16 } else { 32 }
}

/// Tiles and caches. A tile of mr x nr needs `mr * nr / lanes` accumulators, `nr / lanes` registers for B and at least one for A.
fn desc(
    triple: &str,
    cpu: &str,
    arch: &Arch,
    vectors: Isa,
    architecture: Architecture,
    on: &BTreeSet<&'static str>,
    max_threads: u32,
) -> TargetDesc {
    let x86 = architecture == Architecture::X86_64;
    let (lanes, tiles): (u32, &[(u32, u32)]) = match vectors {
        Isa::Avx512 { .. } => (16, &[(14, 32), (28, 16), (8, 48), (6, 64)]),
        Isa::Avx2 => (8, &[(6, 16), (12, 8), (4, 24)]),
        Isa::Clif128 if x86 => (4, &[(5, 8), (10, 4)]),
        Isa::Clif128 => (4, &[(8, 8), (16, 4), (4, 16)]),
        Isa::Scalar => (1, &[(4, 4), (8, 2)]),
    };
    let i8_tiles: &[(u32, u32)] = match vectors {
        Isa::Avx512 { vnni: true, .. } => &[(14, 32), (28, 16), (8, 48)],
        Isa::Avx512 { vnni: false, .. } => &[(12, 32), (24, 16)],
        Isa::Avx2 => &[(4, 16), (8, 8)],
        // Bytes of B have four registers for a vector, those of A none.
        Isa::Clif128 if on.contains(VECTORS_OF_RISCV) => &[(8, 8), (16, 4)],
        // A dot product is one instruction: loads and spreads of A are shared by many.
        Isa::Clif128 if on.contains("dotprod") => &[(8, 8), (4, 16), (16, 4)],
        Isa::Clif128 => &[(4, 8), (8, 4)],
        Isa::Scalar => &[(4, 4), (8, 2)],
    };
    // Three instructions for four products of each lane, so that tiles are as high as those of floats. Sums of several steps have a vector of B for each of
    // these, and two vectors of words for each of columns.
    let short_tiles: &[(u32, &[(u32, u32)])] = match vectors {
        Isa::Avx2 => &[(1, &[(6, 16), (12, 8)]), (2, &[(4, 16), (12, 8)]), (4, &[(10, 8)])],
        Isa::Clif128 if on.contains(SHORT_PAIRS) => &[(1, &[(5, 8), (10, 4)])],
        _ => &[],
    };
    // No registers beside A and B where sums are added by the same instruction, one elsewhere.
    let word_tiles: &[(u32, u32)] = match vectors {
        Isa::Avx2 => &[(6, 16), (12, 8)],
        Isa::Clif128 if on.contains("dotprod") => &[(4, 8), (8, 4)],
        _ => i8_tiles,
    };
    let core = cores::of(cpu);
    TargetDesc {
        triple: triple.to_string(),
        cpu: if cpu.trim().is_empty() { arch.cpus[0].0.to_string() } else { cpu.trim().to_string() },
        lanes,
        f32_tiles: tiles.to_vec(),
        table_tiles: tiles.iter().copied().filter(|tile| registers(*tile, lanes) < available(vectors)).collect(),
        i8_tiles: i8_tiles.to_vec(),
        short_tiles: short_tiles.iter().map(|(steps, tiles)| (*steps, tiles.to_vec())).collect(),
        word_tiles: word_tiles.to_vec(),
        i8_unsigned_a: !on.contains("dotprod") || on.contains("i8mm"),
        depthwise_columns: match vectors {
            Isa::Avx512 { vnni: true, .. } => 64,
            Isa::Avx2 => 8,
            _ => 0,
        },
        depthwise_words: matches!(vectors, Isa::Avx2),
        byte_tables: matches!(vectors, Isa::Avx512 { vbmi: true, .. }),
        byte_lookups: match vectors {
            Isa::Avx512 { vbmi: true, .. } => 4,
            // 136 instructions, two at a time: measured on a Zen 3 core.
            Isa::Avx2 => 68,
            _ => 0,
        },
        float_sums: matches!(vectors, Isa::Avx512 { .. }),
        prefetches: matches!(vectors, Isa::Avx512 { .. } | Isa::Avx2),
        // Measured on a Zen 3 and a Zen 4 core; others may do with their own prefetchers too.
        row_streams: match (vectors, core) {
            (Isa::Avx512 { .. } | Isa::Avx2, cores::Core::Usual) => 8,
            _ => 1,
        },
        l1_bytes: 32 << 10,
        l2_bytes: match vectors {
            Isa::Avx512 { .. } => 1 << 20,
            Isa::Scalar => 128 << 10,
            _ => 256 << 10,
        },
        machine: crate::machine::of(vectors, core, on.contains(VECTORS_OF_RISCV)),
        max_threads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_cpu_is_described() {
        for (triple, cpus, features) in targets() {
            for cpu in cpus {
                let t = describe(triple, cpu, 1).unwrap();
                assert_eq!(t.desc.cpu, cpu);
                for tile in t.desc.f32_tiles.iter().chain(&t.desc.i8_tiles).chain(&t.desc.word_tiles) {
                    assert_eq!(tile.1 % t.desc.lanes, 0, "{triple} {cpu}");
                }
            }
            for f in features {
                assert!(describe(triple, &format!("+{f}"), 1).unwrap().has(f), "{triple} {f}");
            }
        }
    }

    #[test]
    fn short_weights_have_tiles_where_bytes_saturate() {
        let steps = |cpu: &str| describe("x86_64-unknown-linux-gnu", cpu, 1).unwrap().desc.short_steps();
        assert_eq!(["x86-64-v2", "x86-64-v3", "x86-64-v4"].map(steps), [1, 4, 0]);
    }

    #[test]
    fn cores_of_the_same_instructions_are_told_apart() {
        use cores::Core;
        let (intel, amd) = (u32::from_le_bytes(*b"Genu"), u32::from_le_bytes(*b"Auth"));
        // A Sapphire Rapids, a Tiger Lake, a Zen 4, a Zen 5.
        let all = [
            (intel, 0x806F8, Core::Twice),
            (intel, 0x806C1, Core::Usual),
            (amd, 0xA10F11, Core::Usual),
            (amd, 0xB00F21, Core::Zen5),
        ];
        for (vendor, eax, core) in all {
            assert_eq!(cores::known(vendor, cores::family_and_model(eax)), core, "{eax:x}");
        }
        let fma = |cpu: &str| describe("x86_64-unknown-linux-gnu", cpu, 1).unwrap().desc.machine.fma;
        assert!(fma("sapphirerapids,-avx512bf16") < fma("znver4") && fma("znver5") < fma("znver4"));
    }

    #[test]
    fn features_close_under_implication() {
        let t = describe("x86_64-unknown-linux-gnu", "x86-64,+avx512bw+avx512dq,+avx512vl", 1).unwrap();
        assert_eq!(t.vectors, Isa::Avx512 { vnni: false, vbmi: false });
        let t = describe("x86_64-unknown-linux-gnu", "znver4,-avx512f", 1).unwrap();
        assert_eq!(t.vectors, Isa::Avx2);
        assert!(!t.has("avx512vnni"));
        let t = describe("x86_64-unknown-linux-gnu", "-avx", 1).unwrap();
        assert_eq!(t.vectors, Isa::Clif128);
        assert!(t.has("sse4.2") && !t.has_fma());
    }

    #[test]
    fn bad_specifications_are_refused() {
        let error = |triple: &str, cpu: &str| describe(triple, cpu, 1).unwrap_err().to_string();
        assert!(error("x86_64-pc-windows-msvc", "").contains("only ELF"));
        assert!(error("aarch64-apple-darwin", "").contains("only ELF"));
        assert!(error("i686-unknown-linux-gnu", "").contains("no code generator"));
        assert!(error("nonsense", "").contains("nonsense"));
        assert!(error("x86_64-unknown-linux-gnu", "pentium").contains("haswell"));
        assert!(error("x86_64-unknown-linux-gnu", "x86-64,+magic").contains("magic"));
        assert!(error("x86_64-unknown-linux-gnu", "x86-64,avx2").contains("avx2"));
        assert!(error("aarch64-unknown-linux-gnu", "native").contains("native"));
    }

    #[test]
    fn bare_metal_triples_mean_elf() {
        for t in ["aarch64-unknown-none", "riscv64gc-unknown-none-elf", "x86_64-unknown-none"] {
            describe(t, "", 1).unwrap();
        }
    }
}
