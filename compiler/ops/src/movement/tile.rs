//! `tile`: the data repeated along each dimension. Operands data, repeats (`[rank]` i64, known when compiling).

use onnxc_ir::TensorType;
use onnxc_ir::lir::Expr;
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{Extent, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Tolerance, View};

use crate::at_run_time::{self, or_counted};
use crate::common::axes::unknown;
use crate::common::elements::{Picker, for_coords, offset, strides};
use crate::common::nest::{self, ExprExt};
use crate::common::sample::{data, f32s, ints, plain};

/// `tile`
pub(crate) static TILE: OpDef = OpDef {
    name: "tile",
    onnx: &[Import {
        domain: "",
        name: "Tile",
        opsets: (6, NEWEST),
        build: |cx| or_counted(cx, |cx| cx.forward("tile"), at_run_time::tile),
    }],
    infer,
    infer_dims: None,
    eval: |cx| {
        let (x, shape) = (cx.input(0), cx.out_shape(0));
        let dense = strides(x.shape());
        let mut out = Picker::new(x.dtype());
        for_coords(&shape, |at| {
            let from: Vec<usize> = at.iter().zip(x.shape()).map(|(i, n)| i % *n as usize).collect();
            out.pick(x, offset(&from, &dense));
        });
        Ok(vec![out.finish(&shape)])
    },
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples: || {
        use onnxc_ir::DType;
        vec![
            plain(vec![f32s(&[2, 3]), ints(&[3, 2])]),
            plain(vec![f32s(&[1, 17, 1]), ints(&[2, 1, 5])]),
            plain(vec![data(DType::I64, &[4]), ints(&[3])]),
            plain(vec![data(DType::F16, &[2, 1, 3]), ints(&[1, 4, 1])]),
            plain(vec![data(DType::U2, &[1, 3]), ints(&[3, 1])]),
            plain(vec![f32s(&[2, 3]), ints(&[0, 2])]),
            plain(vec![f32s(&[]), ints(&[])]),
        ]
    },
};

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    let repeats = cx.as_dims(1).ok_or_else(|| match cx.constant(1) {
        Some(_) => OpError::new("repeats are negative or no integers"),
        None => unknown("repeats"),
    })?;
    if repeats.len() != x.rank() {
        return Err(OpError::new(format!("there are {} repeats for {} dimensions", repeats.len(), x.rank())));
    }
    let shape = x.shape.iter().zip(&repeats).map(|(n, r)| n.mul(r)).collect();
    Ok(vec![TensorType::new(x.dtype, shape)])
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    nest::movable(y.dtype)?;
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    if !(x.view.is_fixed() && y.view.is_fixed()) {
        return lower_open(cx, &x, &y);
    }
    // Each dimension is two, the repeats and the data; the operand does not move along the repeats.
    let split = |arg: &Arg, repeat_stride: &dyn Fn(usize) -> i64| {
        let mut view = View { shape: Vec::new(), open: Vec::new(), strides: Vec::new(), offset: arg.view.offset };
        for (d, n) in x.view.shape.iter().enumerate() {
            view.shape.extend([y.view.shape[d] / n, *n]);
            view.strides.extend([repeat_stride(d), arg.view.strides[d]]);
        }
        Arg { view, ..arg.clone() }
    };
    let from = split(&x, &|_| 0);
    let to = split(&y, &|d| y.view.strides[d] * x.view.shape[d] as i64);
    nest::copy(cx, &from, &to);
    Ok(())
}

/// The same with extents that come with the call, behind which the next repeat begins.
fn lower_open(cx: &mut LowerCx, x: &Arg, y: &Arg) -> OpResult<()> {
    let (mut shape, mut order) = (Vec::new(), Vec::new());
    for d in 0..x.view.shape.len() {
        let (n, all) = (x.view.extent(d), y.view.extent(d));
        let repeats = all.dim().exact_div(&n.dim()).ok_or_else(|| {
            let error = OpError::new(format!("it is not known how often {} fits into {}", n.dim(), all.dim()));
            error.help(nest::ONE_VALUE)
        })?;
        let open = repeats.as_const().is_none().then_some(repeats);
        shape.extend([Extent { bound: all.bound / n.bound, open }, n.clone()]);
        order.extend([y.view.strides[d] * n.bound as i64, y.view.strides[d]]);
    }
    let counts: Vec<Expr> = (0..x.view.shape.len()).map(|d| cx.count(&x.view.extent(d))).collect();
    cx.for_each(&shape, &order, |cx, at| {
        let from: Vec<Expr> = at.iter().skip(1).step_by(2).cloned().collect();
        let starts = at.iter().step_by(2).zip(&counts);
        let to: Vec<Expr> = starts.zip(&from).map(|((repeat, n), i)| times(repeat, n).add(i.clone())).collect();
        let value = cx.load(x, &from);
        cx.store(y, &to, value);
    });
    Ok(())
}

/// A product of which each factor may be a number.
fn times(a: &Expr, b: &Expr) -> Expr {
    match (a, b) {
        (e, Expr::Int(n)) | (Expr::Int(n), e) => e.clone().times(*n),
        (a, b) => a.clone().mul(b.clone()),
    }
}
