//! `non_max_suppression`: for each image and class the boxes with the highest scores that do not overlap a better one too much
//! (ONNX NonMaxSuppression-11).
//!
//! Operands: boxes f32 `[images, n, 4]`, scores f32 `[images, classes, n]`, then one i64 (most boxes of a class; absent: none) and two f32 (overlap above
//! which a box is dropped, absent: 0; score that a box must exceed). Results: rows of image, class, box, in the order in which they were chosen, i64
//! `[rows, 3]`, zeros behind them, `rows` being an attribute; and how many were chosen, which may be more than there are rows.

use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt, Var};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Extent, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType, ValueId};

use crate::at_run_time::{cut, or_counted};
use crate::common::axes::unknown;
use crate::common::elements::f64s;
use crate::common::nest::{self, ExprExt, int, select};
use crate::common::sample::{data_in, int_attrs, ints};
use crate::composed::Build;

/// `non_max_suppression`
pub(crate) static NON_MAX_SUPPRESSION: OpDef = OpDef {
    name: "non_max_suppression",
    onnx: &[Import { domain: "", name: "NonMaxSuppression", opsets: (10, NEWEST), build: import }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::EXACT,
    samples,
};

/// As many rows as the model declares, required that they are all there is; or as many as there can be.
fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (inputs, attrs) = (cx.inputs().to_vec(), cx.attrs().clone());
    or_counted(
        cx,
        |_| Err(unknown("the number of chosen boxes")),
        |b, size| {
            let rows = size.or(vec![most_rows(b)?, 3])?[0];
            let chosen = b.0.node("non_max_suppression", &inputs, attrs.with("rows", Attr::Int(rows as i64)))?;
            cut(b, size, (0, 0), vec![(chosen[0], 0)], chosen[1])
        },
    )
}

/// All boxes of all classes, or as many of each class as are wanted.
fn most_rows(b: &Build) -> OpResult<u64> {
    let scores = b.0.input(1)?;
    let [images, classes, n] = b.shape(scores)?[..] else { return Err(unknown("the number of boxes")) };
    let wanted = b.0.const_input(2).and_then(|t| t.to_i64s()?.first().copied()).map(|n| n.max(0) as u64);
    let rows = images.checked_mul(classes).and_then(|c| c.checked_mul(wanted.unwrap_or(n).min(n)));
    rows.ok_or_else(|| OpError::new("there are too many boxes"))
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (boxes, scores) = (cx.input(0)?, cx.input(1)?);
    let of = |ty: &TensorType| ty.dtype == DType::F32 && ty.rank() == 3;
    let fits = of(boxes)
        && of(scores)
        && boxes.shape[0] == scores.shape[0]
        && boxes.shape[1] == scores.shape[2]
        && boxes.shape[2] == Dim::Const(4);
    if !fits {
        return Err(OpError::new(format!(
            "boxes {boxes} and scores {scores} do not fit: f32[images, n, 4] and f32[images, classes, n]"
        )));
    }
    for (i, dtype) in [(2, DType::I64), (3, DType::F32), (4, DType::F32)] {
        if let Some(ty) = cx.opt(i).filter(|ty| ty.dtype != dtype || !ty.shape.iter().all(Dim::is_one)) {
            return Err(OpError::new(format!("operand {i} is {ty}, it must be one {dtype}")));
        }
    }
    let rows = cx.attrs.int("rows").and_then(|n| u64::try_from(n).ok()).ok_or_else(|| unknown("the number of chosen boxes"))?;
    Ok(vec![TensorType::fixed(DType::I64, &[rows, 3]), TensorType::fixed(DType::I64, &[])])
}

fn centered(attrs: &Attrs) -> bool {
    attrs.int("center_point_box").unwrap_or(0) != 0
}

/// Low and high ends of a box along both axes: corners in any order, or center and size.
fn ends(b: &[f32], centered: bool) -> [f32; 4] {
    if centered {
        return [b[0] - b[2] / 2.0, b[1] - b[3] / 2.0, b[0] + b[2] / 2.0, b[1] + b[3] / 2.0];
    }
    [b[0].min(b[2]), b[1].min(b[3]), b[0].max(b[2]), b[1].max(b[3])]
}

/// Intersection over union above the limit.
fn overlap(a: [f32; 4], b: [f32; 4], limit: f32) -> bool {
    let side = |d: usize| (a[d + 2].min(b[d + 2]) - a[d].max(b[d])).max(0.0);
    let area = |c: [f32; 4]| (c[2] - c[0]) * (c[3] - c[1]);
    let common = side(0) * side(1);
    let union = area(a) + area(b) - common;
    union > 0.0 && common / union > limit
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (boxes, scores) = (cx.input(0), cx.input(1));
    let floats = |t: &Tensor| f64s(t).map(|v| v.into_iter().map(|x| x as f32).collect::<Vec<f32>>());
    let (values, points) = (floats(boxes)?, floats(scores)?);
    let [images, classes, n] = [scores.shape()[0], scores.shape()[1], scores.shape()[2]].map(|d| d as usize);
    let most = cx.opt(2).and_then(|t| t.to_i64s()).map_or(0, |v| v[0]);
    let number = |i: usize| cx.opt(i).map(|t| f64s(t).map(|v| v[0] as f32)).transpose();
    let (limit, least) = (number(3)?.unwrap_or(0.0), number(4)?);
    let mut chosen: Vec<i64> = Vec::new();
    for (image, class) in (0..images).flat_map(|b| (0..classes).map(move |c| (b, c))) {
        let score = |i: usize| points[(image * classes + class) * n + i];
        let place = |i: usize| ends(&values[(image * n + i) * 4..][..4], centered(cx.attrs));
        let mut left: Vec<usize> = (0..n).filter(|i| least.is_none_or(|t| score(*i) > t)).collect();
        left.sort_by(|a, b| score(*b).total_cmp(&score(*a)).then(a.cmp(b)));
        let mut kept: Vec<usize> = Vec::new();
        for i in left {
            if (kept.len() as i64) < most && !kept.iter().any(|k| overlap(place(i), place(*k), limit)) {
                kept.push(i);
                chosen.extend([image as i64, class as i64, i as i64]);
            }
        }
    }
    let count = chosen.len() as i64 / 3;
    chosen.resize(cx.out_shape(0).iter().product::<u64>() as usize, 0);
    Ok(vec![Tensor::from_vec(&cx.out_shape(0), chosen), Tensor::scalar(count)])
}

/// Operands, and memory for the boxes of one class.
struct Choice {
    boxes: Arg,
    scores: Arg,
    rows: Arg,
    centered: bool,
    /// Boxes that are neither chosen nor dropped.
    left: BufId,
    /// Boxes that are chosen.
    kept: BufId,
    most: Var,
    limit: Var,
    least: Option<Var>,
    /// Rows so far.
    count: Var,
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (boxes, scores, rows, total) = (cx.input(0), cx.input(1), cx.output(0), cx.outputs.get(1).cloned());
    let n = scores.view.extent(2);
    let of_boxes = boxes.view.dims();
    nest::equal_extents(1, &[scores.view.dims()[0].clone(), n.dim()], &of_boxes[..2])?;
    nest::fixed(cx, 0, [2])?;
    let single = |cx: &mut LowerCx, i: usize| {
        cx.opt(i).map(|a| {
            let value = cx.load(&a, &nest::origin(a.view.shape.len()));
            cx.let_(value)
        })
    };
    let most = single(cx, 2).unwrap_or_else(|| cx.let_(Expr::Int(0)));
    let limit = single(cx, 3).unwrap_or_else(|| cx.let_(Expr::f32(0.0)));
    let least = single(cx, 4);
    let count = cx.let_(Expr::Int(0));
    let (left, kept) = (cx.scratch(DType::I64, n.bound.max(1), false), cx.scratch(DType::I64, n.bound.max(1), false));
    let (images, classes, extent) = (scores.view.extent(0), scores.view.extent(1), cx.count(&rows.view.extent(0)));
    nest::fill(cx, &rows, &Expr::Int(0));
    let choice = Choice { boxes, scores, rows, centered: centered(cx.attrs), left, kept, most, limit, least, count };
    if n.bound > 0 {
        cx.for_in(LoopKind::Serial, &images, |cx, image| {
            cx.for_in(LoopKind::Serial, &classes, |cx, class| choice.class(cx, &image, &class, &n, &extent));
        });
    }
    if let Some(total) = total {
        cx.store(&total, &[], Expr::Var(count));
    }
    Ok(())
}

impl Choice {
    /// All boxes of one class of one image.
    fn class(&self, cx: &mut LowerCx, image: &Expr, class: &Expr, n: &Extent, extent: &Expr) {
        let waiting = cx.let_(Expr::Int(0));
        cx.for_in(LoopKind::Serial, n, |cx, i| {
            let score = self.score(cx, image, class, i.clone());
            let enough = self.least.map_or(int(DType::Bool, 1), |t| Expr::bin(BinOp::Gt, score, Expr::Var(t)));
            cx.if_(
                enough,
                |cx| {
                    cx.push(Stmt::Store(self.left, Expr::Var(waiting), i.clone()));
                    cx.set(waiting, Expr::Var(waiting).add(Expr::Int(1)));
                },
                |_| {},
            );
        });
        let taken = cx.let_(Expr::Int(0));
        let more = Expr::bin(
            BinOp::And,
            Expr::bin(BinOp::Gt, Expr::Var(waiting), Expr::Int(0)),
            Expr::bin(BinOp::Lt, Expr::Var(taken), Expr::Var(self.most)),
        );
        let body = cx.block(|cx| {
            let i = self.take_best(cx, image, class, waiting);
            let free = self.is_free(cx, image, &i, taken);
            cx.if_(
                free,
                |cx| {
                    cx.push(Stmt::Store(self.kept, Expr::Var(taken), i.clone()));
                    cx.set(taken, Expr::Var(taken).add(Expr::Int(1)));
                    let room = Expr::bin(BinOp::Lt, Expr::Var(self.count), extent.clone());
                    cx.if_(
                        room,
                        |cx| {
                            for (column, value) in [image, class, &i].into_iter().enumerate() {
                                cx.store(&self.rows, &[Expr::Var(self.count), Expr::Int(column as i64)], value.clone());
                            }
                        },
                        |_| {},
                    );
                    cx.set(self.count, Expr::Var(self.count).add(Expr::Int(1)));
                },
                |_| {},
            );
        });
        cx.push(Stmt::While(more, body));
    }

    fn score(&self, cx: &LowerCx, image: &Expr, class: &Expr, i: Expr) -> Expr {
        cx.load(&self.scores, &[image.clone(), class.clone(), i])
    }

    /// Removes the box with the highest score from those that wait, the first one among equals.
    fn take_best(&self, cx: &mut LowerCx, image: &Expr, class: &Expr, waiting: Var) -> Expr {
        let best = cx.let_(Expr::Int(0));
        let first = Expr::Var(cx.let_(nest::at(self.left, Expr::Int(0))));
        let score = self.score(cx, image, class, first.clone());
        let (number, highest) = (cx.let_(first), cx.let_(score));
        cx.for_range(LoopKind::Serial, Expr::Int(1), Expr::Var(waiting), 1, |cx, j| {
            let other = Expr::Var(cx.let_(nest::at(self.left, j.clone())));
            let score = Expr::Var(cx.let_(self.score(cx, image, class, other.clone())));
            let higher = Expr::bin(BinOp::Gt, score.clone(), Expr::Var(highest));
            let equal = Expr::bin(BinOp::Eq, score.clone(), Expr::Var(highest));
            let earlier = Expr::bin(BinOp::And, equal, Expr::bin(BinOp::Lt, other.clone(), Expr::Var(number)));
            let better = Expr::Var(cx.let_(Expr::bin(BinOp::Or, higher, earlier)));
            cx.set(best, select(better.clone(), j, Expr::Var(best)));
            cx.set(number, select(better.clone(), other, Expr::Var(number)));
            cx.set(highest, select(better, score, Expr::Var(highest)));
        });
        let last = Expr::Var(cx.let_(Expr::Var(waiting).minus(Expr::Int(1))));
        cx.set(waiting, last.clone());
        cx.push(Stmt::Store(self.left, Expr::Var(best), nest::at(self.left, last)));
        Expr::Var(number)
    }

    /// Whether box `i` overlaps none of those that are chosen.
    fn is_free(&self, cx: &mut LowerCx, image: &Expr, i: &Expr, taken: Var) -> Expr {
        let mine = self.ends(cx, image, i);
        let area = |c: &[Expr; 4]| c[2].clone().minus(c[0].clone()).mul(c[3].clone().minus(c[1].clone()));
        let my_area = Expr::Var(cx.let_(area(&mine)));
        let free = cx.let_(int(DType::Bool, 1));
        cx.for_range(LoopKind::Serial, Expr::Int(0), Expr::Var(taken), 1, |cx, j| {
            let other = Expr::Var(cx.let_(nest::at(self.kept, j)));
            let theirs = self.ends(cx, image, &other);
            let side = |d: usize| {
                let high = Expr::bin(BinOp::Min, mine[d + 2].clone(), theirs[d + 2].clone());
                let low = Expr::bin(BinOp::Max, mine[d].clone(), theirs[d].clone());
                Expr::bin(BinOp::Max, high.minus(low), Expr::f32(0.0))
            };
            let common = Expr::Var(cx.let_(side(0).mul(side(1))));
            let union = my_area.clone().add(area(&theirs)).minus(common.clone());
            let union = Expr::Var(cx.let_(union));
            let some = Expr::bin(BinOp::Gt, union.clone(), Expr::f32(0.0));
            let ratio = Expr::bin(BinOp::Div, common, union);
            let over = Expr::bin(BinOp::And, some, Expr::bin(BinOp::Gt, ratio, Expr::Var(self.limit)));
            cx.set(free, select(over, int(DType::Bool, 0), Expr::Var(free)));
        });
        Expr::Var(free)
    }

    /// [`ends`] as code.
    fn ends(&self, cx: &mut LowerCx, image: &Expr, i: &Expr) -> [Expr; 4] {
        let b = [0, 1, 2, 3].map(|k| {
            let value = cx.load(&self.boxes, &[image.clone(), i.clone(), Expr::Int(k)]);
            Expr::Var(cx.let_(value))
        });
        let half = |k: usize| Expr::bin(BinOp::Div, b[k].clone(), Expr::f32(2.0));
        let e = if self.centered {
            [0, 1, 2, 3].map(|k| if k < 2 { b[k].clone().minus(half(k + 2)) } else { b[k - 2].clone().add(half(k)) })
        } else {
            [0, 1, 2, 3].map(|k| Expr::bin(if k < 2 { BinOp::Min } else { BinOp::Max }, b[k % 2].clone(), b[k % 2 + 2].clone()))
        };
        e.map(|e| Expr::Var(cx.let_(e)))
    }
}

fn samples() -> Vec<Sample> {
    let of = |images: u64, classes: u64, n: u64, rows: i64, center: i64, most: i64| Sample {
        attrs: int_attrs(&[("rows", rows), ("center_point_box", center)]),
        inputs: vec![
            data_in(DType::F32, &[images, n, 4], 0.0, 1.0),
            data_in(DType::F32, &[images, classes, n], 0.0, 1.0),
            ints(&[most]),
            data_in(DType::F32, &[1], 0.2, 0.4),
            data_in(DType::F32, &[], 0.1, 0.3),
        ],
        n_outputs: 2,
    };
    vec![of(1, 1, 17, 6, 0, 5), of(2, 3, 20, 40, 0, 20), of(1, 2, 9, 3, 1, 9), of(1, 1, 0, 2, 0, 3), of(1, 2, 8, 0, 0, 3)]
}
