//! Tables of CPU features: what they are called, what they imply, how Cranelift and `cpuid` know them.

/// One feature of an architecture.
pub(crate) struct Feature {
    /// Name on the command line and in the descriptor.
    pub name: &'static str,
    /// Features that come with it.
    pub implies: &'static [&'static str],
    /// Cranelift flags that it switches on.
    pub flags: &'static [&'static str],
    /// x86-64: (leaf, subleaf, register 0..4 = eax ebx ecx edx, bit).
    pub cpuid: Option<(u32, u32, u8, u8)>,
}

const fn x86(
    name: &'static str,
    implies: &'static [&'static str],
    flags: &'static [&'static str],
    cpuid: (u32, u32, u8, u8),
) -> Feature {
    Feature { name, implies, flags, cpuid: Some(cpuid) }
}

const fn plain(name: &'static str, implies: &'static [&'static str], flags: &'static [&'static str]) -> Feature {
    Feature { name, implies, flags, cpuid: None }
}

/// Features of x86-64 that code here may use; Intel SDM volume 2, CPUID.
pub(crate) static X86_64: &[Feature] = &[
    x86("sse3", &[], &["has_sse3"], (1, 0, 2, 0)),
    x86("ssse3", &["sse3"], &["has_ssse3"], (1, 0, 2, 9)),
    x86("sse4.1", &["ssse3"], &["has_sse41"], (1, 0, 2, 19)),
    x86("sse4.2", &["sse4.1"], &["has_sse42"], (1, 0, 2, 20)),
    x86("popcnt", &[], &["has_popcnt"], (1, 0, 2, 23)),
    x86("avx", &["sse4.2"], &["has_avx"], (1, 0, 2, 28)),
    x86("fma", &["avx"], &["has_fma"], (1, 0, 2, 12)),
    x86("f16c", &["avx"], &[], (1, 0, 2, 29)),
    x86("avx2", &["avx"], &["has_avx2"], (7, 0, 1, 5)),
    x86("bmi1", &[], &["has_bmi1"], (7, 0, 1, 3)),
    x86("bmi2", &[], &["has_bmi2"], (7, 0, 1, 8)),
    x86("lzcnt", &[], &["has_lzcnt"], (0x8000_0001, 0, 2, 5)),
    x86("avx512f", &["avx2", "fma", "f16c", "bmi2"], &["has_avx512f"], (7, 0, 1, 16)),
    x86("avx512bw", &["avx512f"], &[], (7, 0, 1, 30)),
    x86("avx512cd", &["avx512f"], &[], (7, 0, 1, 28)),
    x86("avx512dq", &["avx512f"], &["has_avx512dq"], (7, 0, 1, 17)),
    x86("avx512vl", &["avx512f"], &["has_avx512vl"], (7, 0, 1, 31)),
    x86("avx512vnni", &["avx512f"], &["has_avx512vnni"], (7, 0, 2, 11)),
    x86("avx512vbmi", &["avx512bw"], &["has_avx512vbmi"], (7, 0, 2, 1)),
    x86("avxvnni", &["avx2"], &["has_avx_vnni"], (7, 1, 0, 4)),
    x86("avx512bf16", &["avx512bw"], &[], (7, 1, 0, 5)),
];

const V2: &[&str] = &["sse4.2", "popcnt"];
const V3: &[&str] = &["sse4.2", "popcnt", "avx2", "fma", "f16c", "bmi1", "bmi2", "lzcnt"];
const V4: &[&str] = &[
    "sse4.2", "popcnt", "avx2", "fma", "f16c", "bmi1", "bmi2", "lzcnt", "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl",
];
const VNNI: &[&str] = &[
    "sse4.2",
    "popcnt",
    "avx2",
    "fma",
    "f16c",
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
    "avx512bf16",
];

/// CPU names of x86-64; the first is the default.
pub(crate) static X86_64_CPUS: &[(&str, &[&str])] = &[
    ("x86-64-v3", V3),
    ("x86-64", &[]),
    ("x86-64-v1", &[]),
    ("x86-64-v2", V2),
    ("x86-64-v4", V4),
    ("haswell", V3),
    ("skylake-avx512", V4),
    ("sapphirerapids", VNNI),
    ("znver4", VNNI),
    ("znver5", VNNI),
];

/// Features of AArch64.
pub(crate) static AARCH64: &[Feature] =
    &[plain("fp16", &[], &["has_fp16"]), plain("dotprod", &[], &["has_dotprod"]), plain("i8mm", &["dotprod"], &["has_i8mm"])];

/// CPU names of AArch64.
pub(crate) static AARCH64_CPUS: &[(&str, &[&str])] = &[
    ("armv8-a", &[]),
    ("armv8.2-a", &["fp16", "dotprod"]),
    ("armv8.6-a", &["fp16", "dotprod", "i8mm"]),
    ("cortex-a53", &[]),
    ("cortex-a72", &[]),
    ("cortex-a76", &["fp16", "dotprod"]),
    ("neoverse-n1", &["fp16", "dotprod"]),
    ("neoverse-v1", &["fp16", "dotprod", "i8mm"]),
];

/// Features of RISC-V 64 above rv64gc. `v` implies registers of at least 128 bits.
pub(crate) static RISCV64: &[Feature] = &[
    plain("zvl128b", &[], &["has_zvl32b", "has_zvl64b", "has_zvl128b"]),
    plain("v", &["zvl128b"], &["has_v"]),
    plain("zba", &[], &["has_zba"]),
    plain("zbb", &[], &["has_zbb"]),
    plain("zbs", &[], &["has_zbs"]),
];

/// CPU names of RISC-V 64.
pub(crate) static RISCV64_CPUS: &[(&str, &[&str])] =
    &[("rv64gc", &[]), ("rv64gcv", &["v"]), ("rva22", &["zba", "zbb", "zbs"]), ("rva23", &["v", "zba", "zbb", "zbs"])];
