//! The targets that tests run on: how to compile C for them and how to start their programs here.

use std::path::Path;
use std::process::Command;

/// One target in one configuration.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Name in test output.
    pub name: &'static str,
    /// `--target` of `onnxc`.
    pub triple: &'static str,
    /// `--cpu` of `onnxc`.
    pub cpu: &'static str,
    /// C compiler.
    pub cc: &'static str,
    /// Emulator and its arguments; empty when programs run directly.
    pub emulator: &'static [&'static str],
}

const fn x86(name: &'static str, cpu: &'static str) -> Target {
    Target { name, triple: "x86_64-unknown-linux-gnu", cpu, cc: "gcc", emulator: &[] }
}

const fn riscv(name: &'static str, cpu: &'static str, emulator: &'static [&'static str]) -> Target {
    Target { name, triple: "riscv64gc-unknown-linux-gnu", cpu, cc: "riscv64-linux-gnu-gcc", emulator }
}

/// Every configuration: x86-64 at three levels, AArch64, RISC-V with V at two vector lengths and without V.
pub const ALL: &[Target] = &[
    x86("x86-64-v4", "x86-64-v4"),
    x86("x86-64-v3", "x86-64-v3"),
    x86("x86-64", "x86-64"),
    Target {
        name: "aarch64",
        triple: "aarch64-unknown-linux-gnu",
        cpu: "armv8-a",
        cc: "aarch64-linux-gnu-gcc",
        emulator: &["qemu-aarch64", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu"],
    },
    riscv(
        "riscv64-v128",
        "rv64gcv",
        &["qemu-riscv64", "-cpu", "rv64,v=true,vlen=128,vext_spec=v1.0", "-L", "/usr/riscv64-linux-gnu"],
    ),
    riscv(
        "riscv64-v256",
        "rv64gcv",
        &["qemu-riscv64", "-cpu", "rv64,v=true,vlen=256,vext_spec=v1.0", "-L", "/usr/riscv64-linux-gnu"],
    ),
    riscv("riscv64", "rv64gc", &["qemu-riscv64", "-cpu", "rv64", "-L", "/usr/riscv64-linux-gnu"]),
];

/// The configuration of that name.
///
/// # Panics
/// When there is none.
pub fn by_name(name: &str) -> &'static Target {
    ALL.iter().find(|t| t.name == name).unwrap_or_else(|| panic!("no target {name}"))
}

impl Target {
    /// A command that runs `program` of this target here.
    pub fn command(&self, program: &Path) -> Command {
        match self.emulator {
            [] => Command::new(program),
            [emulator, args @ ..] => {
                let mut c = Command::new(emulator);
                c.args(args).arg(program);
                c
            }
        }
    }

    /// True when programs of this target can be run here at full speed, without an emulator.
    pub fn is_native(&self) -> bool {
        self.emulator.is_empty()
    }

    /// True when this machine has the instructions (an emulator always has).
    pub fn can_run(&self) -> bool {
        if !self.is_native() {
            return crate::run::has(self.emulator[0]);
        }
        #[cfg(target_arch = "x86_64")]
        return match self.cpu {
            "x86-64-v4" => {
                is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512dq")
            }
            "x86-64-v3" => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            _ => true,
        };
        #[cfg(not(target_arch = "x86_64"))]
        return false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::run::run;
    use std::time::Duration;

    /// Each foreign tool chain compiles, links and runs a C program whose exit code is the size of a pointer.
    #[test]
    fn tool_chains_work() {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("a.c");
        std::fs::write(&source, "int main(void) { return sizeof(void *); }").unwrap();
        for t in ALL {
            let program = folder.path().join(t.name);
            run(Command::new(t.cc).arg(&source).arg("-o").arg(&program), Duration::from_secs(60)).expect_ok(t.cc);
            if t.can_run() {
                assert_eq!(run(&mut t.command(&program), Duration::from_secs(60)).code, Some(8), "{}", t.name);
            }
        }
    }
}
