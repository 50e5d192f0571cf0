//! Links an object with a C driver and runs it, on the host or under QEMU.

use std::path::Path;
use std::process::Command;

use onnxc_codegen::ObjectOutput;
use onnxc_ir::plan::Plan;

/// How a target's programs are made and run.
pub struct Tool {
    /// Rust-style triple.
    pub triple: &'static str,
    /// `--cpu`.
    pub cpu: &'static str,
    /// C compiler.
    pub cc: &'static str,
    /// Emulator with its arguments; empty on the host.
    pub run: &'static [&'static str],
    /// Linker arguments.
    pub link: &'static [&'static str],
}

/// A position-independent executable in which text relocations are errors.
pub const X86: Tool = Tool {
    triple: "x86_64-unknown-linux-gnu",
    cpu: "x86-64-v3",
    cc: "x86_64-linux-gnu-gcc",
    run: &[],
    link: &["-pie", "-Wl,-z,text", "-Wl,--fatal-warnings", "-Wl,--gc-sections"],
};
/// AArch64 under QEMU.
pub const ARM: Tool = Tool {
    triple: "aarch64-unknown-linux-gnu",
    cpu: "armv8-a",
    cc: "aarch64-linux-gnu-gcc",
    run: &["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"],
    link: &["-pie", "-Wl,-z,text"],
};
/// RISC-V without vectors.
pub const RISCV: Tool = Tool {
    triple: "riscv64gc-unknown-linux-gnu",
    cpu: "rv64gc",
    cc: "riscv64-linux-gnu-gcc",
    run: &["qemu-riscv64", "-cpu", "rv64,v=false", "-L", "/usr/riscv64-linux-gnu"],
    link: &["-pie", "-Wl,-z,text"],
};
/// RISC-V with vectors of 128 bits.
pub const RISCV_V: Tool = Tool {
    triple: "riscv64gc-unknown-linux-gnu",
    cpu: "rv64gcv",
    cc: "riscv64-linux-gnu-gcc",
    run: &["qemu-riscv64", "-cpu", "rv64,v=true,vlen=128", "-L", "/usr/riscv64-linux-gnu"],
    link: &["-pie", "-Wl,-z,text"],
};

/// Runs a command and insists on success.
pub fn sh(command: &mut Command) -> Vec<u8> {
    let out = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{command:?}: {}\n{text}", out.status);
    out.stdout
}

fn sizes(list: &[onnxc_ir::plan::Io]) -> String {
    let bytes = list.iter().map(|io| io.ty.const_shape().unwrap().iter().product::<u64>() * io.ty.dtype.bytes());
    bytes.map(|b| b.to_string()).chain(["0".to_string()]).collect::<Vec<_>>().join(", ")
}

/// The C program: reads all inputs from one file, runs twice, writes all outputs to another.
pub fn driver(plan: &Plan, arena: u64) -> String {
    let (n, m) = (plan.inputs.len(), plan.outputs.len());
    let (xs, ys) = (sizes(&plan.inputs), sizes(&plan.outputs));
    format!(
        r#"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#define TEXT(x) #x
#define SKIP(n) __asm__(".text\n.skip " TEXT(n) "\n");
SKIP(SHIFT)
typedef struct {{ const void *const *inputs; void *const *outputs; void *arena; const void *weights; const void *hooks; }} onnxc_call;
int32_t model_run(const onnxc_call *call);
static const long in_bytes[] = {{ {xs} }}, out_bytes[] = {{ {ys} }};
int main(int argc, char **argv) {{
  static void *in[{n} + 1], *out[{m} + 1];
  FILE *f = fopen(argv[1], "rb");
  if (argc != 3 || !f) return 90;
  for (int i = 0; i < {n}; i++) {{ in[i] = malloc(in_bytes[i] + 1); if (fread(in[i], 1, in_bytes[i], f) != (size_t)in_bytes[i]) return 91; }}
  fclose(f);
  for (int i = 0; i < {m}; i++) out[i] = calloc(out_bytes[i] + 1, 1);
  void *arena = aligned_alloc(64, {arena} + 64);
  onnxc_call call = {{ (const void *const *)in, out, arena, 0, 0 }};
  for (int k = 0; k < 2; k++) {{ int r = model_run(&call); if (r) return r; }}
  f = fopen(argv[2], "wb");
  for (int i = 0; i < {m}; i++) fwrite(out[i], 1, out_bytes[i], f);
  return fclose(f) ? 92 : 0;
}}
"#
    )
}

/// Links with the code so many bytes further on, and runs.
fn execute(tool: &Tool, dir: &Path, shift: u32) -> std::process::Output {
    let exe = dir.join("m");
    sh(Command::new(tool.cc)
        .args(["-O1", "-Wall", "-Werror", "-o"])
        .arg(&exe)
        .arg(format!("-DSHIFT={shift}"))
        .arg(dir.join("m.c"))
        .arg(dir.join("m.o"))
        .args(tool.link));
    let mut command = match tool.run {
        [] => Command::new(&exe),
        [emulator, args @ ..] => {
            let mut c = Command::new(emulator);
            c.args(args).arg(&exe);
            c
        }
    };
    command.arg(dir.join("in.bin")).arg(dir.join("out.bin")).output().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Links and runs; answers the outputs.
pub fn run(tool: &Tool, dir: &Path, plan: &Plan, object: &ObjectOutput, inputs: &[Vec<u8>]) -> Vec<Vec<u8>> {
    std::fs::write(dir.join("m.o"), object.bytes()).unwrap();
    std::fs::write(dir.join("m.c"), driver(plan, object.arena_bytes)).unwrap();
    std::fs::write(dir.join("in.bin"), inputs.concat()).unwrap();
    let undefined = sh(Command::new("nm").arg("-u").arg(dir.join("m.o")));
    assert_eq!(String::from_utf8_lossy(&undefined), "", "undefined symbols");
    // QEMU 7.2 fails by itself where a conversion of vectors begins a translation block, which depends on where pages end: then the code is moved.
    for shift in [0, 2, 510, 1022] {
        let out = execute(tool, dir, shift);
        let text = String::from_utf8_lossy(&out.stderr);
        if !(text.contains("qemu-") && text.contains("Assertion") && shift < 1022) {
            assert!(out.status.success(), "{}: {}\n{text}", tool.triple, out.status);
            break;
        }
    }
    let all = std::fs::read(dir.join("out.bin")).unwrap();
    let mut rest = &all[..];
    let mut out = vec![];
    for io in &plan.outputs {
        let n = (io.ty.const_shape().unwrap().iter().product::<u64>() * io.ty.dtype.bytes()) as usize;
        out.push(rest[..n].to_vec());
        rest = &rest[n..];
    }
    out
}
