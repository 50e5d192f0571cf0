//! Microkernel calls from loops, on the host and under QEMU: a matmul of whole and partial tiles.

mod common;

use common::link::{ARM, RISCV, RISCV_V, Tool, X86, run};
use common::{Fun, assert_same};
use onnxc_codegen::{JitModel, ObjectOptions, ObjectOutput, compile_object};
use onnxc_ir::DType;
use onnxc_ir::kernel::{Kernel, TileKernel};
use onnxc_ir::lir::{Expr, LoopKind, Stmt};
use onnxc_ir::scalar::{BinOp, ScalarProgram};
use onnxc_targets::{Target, describe};

/// Rows, columns, inner extent: neither rows nor columns are multiples of a tile.
const M: i64 = 23;
const N: i64 = 37;
const K: i64 = 19;

/// `C = A * B` by tiles of the target, the panels of B packed into a constant; `scaled`: each panel's columns times a number of its own. Whole numbers, so that
/// every order of summation is exact.
fn matmul(target: &Target, scaled: bool) -> (Fun, Vec<u8>, Vec<u8>) {
    let (mr, nr) = target.desc.f32_tiles[0];
    let value = |i: i64, j: i64| ((i * 7 + j * 3) % 11 - 5) as f32;
    let a: Vec<u8> = (0..M * K).flat_map(|x| value(x / K, x % K).to_le_bytes()).collect();
    let mut packed = Vec::new();
    for panel in 0..i64::from((N as u32).div_ceil(nr)) {
        for k in 0..K {
            for j in panel * i64::from(nr)..(panel + 1) * i64::from(nr) {
                packed.extend(if j < N { value(k + 1, j) } else { 0.0 }.to_le_bytes());
            }
        }
    }
    let factor = |panel: u32| if scaled { panel as f32 + 2.0 } else { 1.0 };
    let mut want = Vec::new();
    for i in 0..M {
        for j in 0..N {
            let sum: f32 = (0..K).map(|k| value(i, k) * value(k + 1, j)).sum();
            want.extend((sum * factor(j as u32 / nr)).to_le_bytes());
        }
    }
    let mut f = Fun::new("matmul");
    let (x, y, w) = (f.input(DType::F32, (M * K) as u64), f.output(DType::F32, (M * N) as u64), f.constant(DType::F32, packed));
    let tile = |rows: u32, cols: u32, factor: f32| {
        let mut epilogue = ScalarProgram::default();
        let sum = epilogue.arg(0, DType::F32);
        if factor != 1.0 {
            let factor = epilogue.float(f64::from(factor), DType::F32);
            epilogue.bin(BinOp::Mul, sum, factor);
        }
        Kernel::Tile(TileKernel {
            a_dtype: DType::F32,
            b_dtype: DType::F32,
            short: 0,
            mr: rows,
            nr,
            cols,
            a_row: K * 4,
            nest: vec![(K as u32, 4)],
            open_k: false,
            list: false,
            c_row: N * 4,
            c_dtype: DType::F32,
            accumulate: false,
            bias: false,
            epilogue,
            operands: vec![],
            streams: 1,
            ahead: 0,
            less: None,
        })
    };
    let (m, n) = (i64::from(mr), i64::from(nr));
    let i = f.var(DType::I64);
    for panel in 0..(N as u32).div_ceil(nr) {
        let cols = nr.min(N as u32 - panel * nr);
        let args = |row: Expr| {
            let column = Expr::Int(i64::from(panel) * n);
            vec![(x, row.clone().times(K)), (w, Expr::Int(i64::from(panel) * n * K)), (y, row.times(N).add(column))]
        };
        if M / m > 0 {
            let body = vec![Stmt::Call(tile(mr, cols, factor(panel)), args(Expr::Var(i).times(m)), vec![])];
            f.push(Stmt::For { var: i, lo: Expr::Int(0), hi: Expr::Int(M / m), step: 1, kind: LoopKind::Serial, body });
        }
        if M % m > 0 {
            f.push(Stmt::Call(tile((M % m) as u32, cols, factor(panel)), args(Expr::Int(M / m * m)), vec![]));
        }
    }
    (f, a, want)
}

#[test]
fn tiles_in_this_process() {
    let host = target_lexicon::Triple::host().to_string();
    let mut cpus = vec!["native"];
    if cfg!(target_arch = "x86_64") {
        cpus.extend(["x86-64", "x86-64-v3"]);
    }
    for (cpu, scaled) in cpus.into_iter().flat_map(|cpu| [(cpu, false), (cpu, true)]) {
        let target = describe(&host, cpu, 1).unwrap();
        let (f, a, want) = matmul(&target, scaled);
        let mut out = vec![];
        let model = JitModel::new(&f.plan(), &target).unwrap();
        assert!(!model.kernels.is_empty());
        model.run(&[&a], &mut out, 1).unwrap();
        assert_same(DType::F32, &out[0], &want, cpu);
    }
}

fn object(tool: &Tool, scaled: bool) {
    let target = describe(tool.triple, tool.cpu, 1).unwrap();
    let (f, a, want) = matmul(&target, scaled);
    let plan = f.plan();
    let object = compile_object(&plan, &target, &ObjectOptions::default()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let outputs = run(tool, dir.path(), &plan, &object, &[a]);
    assert_same(DType::F32, &outputs[0], &want, tool.cpu);
}

#[test]
fn tiles_on_all_targets() {
    [X86, ARM, RISCV, RISCV_V].iter().for_each(|tool| object(tool, false));
}

/// The whole panels of x86-64-v3 are two, whose tiles differ in a number.
#[test]
fn tiles_that_differ_in_constants_share_code() {
    let target = describe(X86.triple, X86.cpu, 1).unwrap();
    let made = |scaled| compile_object(&matmul(&target, scaled).0.plan(), &target, &ObjectOptions::default()).unwrap();
    let bodies = |o: &ObjectOutput| o.functions.iter().filter(|(name, _)| name.ends_with("_body")).count();
    let (plain, scaled) = (made(false), made(true));
    assert_eq!((bodies(&plain), bodies(&scaled)), (0, 2), "of whole tiles and of those with fewer rows");
    let more = scaled.kernels.len() - plain.kernels.len();
    assert_eq!(more, 2, "an entry for each factor");
    object(&X86, true);
}
