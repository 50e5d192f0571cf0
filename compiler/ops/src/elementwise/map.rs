//! `map`: a scalar program over operands broadcast together; what fusion makes of chains of elementwise operators. Attribute `program`.

use onnxc_ir::op::{OpError, OpResult, Tolerance};
use onnxc_ir::scalar::{BinOp, ScalarOp, ScalarProgram, UnOp};
use onnxc_ir::{Attr, Attrs, DType};

use super::{elementwise, eval};
use crate::common::sample::{data, f32s, sample};

fn program(attrs: &Attrs, t: &[DType]) -> OpResult<ScalarProgram> {
    let program = attrs.program("program").ok_or_else(|| OpError::new("attribute program is missing"))?;
    if program.nodes.is_empty() {
        return Err(OpError::new("the program is empty"));
    }
    for node in &program.nodes {
        if let ScalarOp::Arg(n) = node.op {
            match t.get(n as usize) {
                Some(t) if *t == node.dtype => {}
                Some(t) => return Err(OpError::new(format!("the program takes operand {n} as {}, it is {t}", node.dtype))),
                None => return Err(OpError::new(format!("the program reads operand {n}, there are {}", t.len()))),
            }
        }
    }
    Ok(program.clone())
}

elementwise!(MAP, "map", [], program, eval: |cx| eval(cx, program), dims: None, Tolerance::POLY,
|| {
    let mut p = ScalarProgram::default();
    let (a, b) = (p.arg(0, DType::F32), p.arg(1, DType::F32));
    let sum = p.bin(BinOp::Add, a, b);
    let s = p.un(UnOp::Sigmoid, sum);
    p.bin(BinOp::Mul, s, a);
    let attrs = Attrs::default().with("program", Attr::Program(p));
    let mut q = ScalarProgram::default();
    let a = q.arg(0, DType::U8);
    let x = q.cast(a, DType::F32);
    let k = q.float(0.5, DType::F32);
    q.bin(BinOp::Mul, x, k);
    let scale = Attrs::default().with("program", Attr::Program(q));
    vec![
        sample(attrs.clone(), vec![f32s(&[2, 3, 17]), f32s(&[17])]),
        sample(attrs.clone(), vec![f32s(&[2, 1, 5]), f32s(&[3, 1])]),
        sample(attrs, vec![f32s(&[0, 4]), f32s(&[4])]),
        sample(scale, vec![data(DType::U8, &[35])]),
    ]
});
