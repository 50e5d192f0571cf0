//! `col2im`: blocks of an image, one in each column, added up where they overlap.
//!
//! Operands: x `[N, C*block, L]`, the image's spatial extents and the block's (constants). Attributes as of a convolution: `strides`, `pads`,
//! `dilations`. Result `[N, C, image...]`. Rules of ONNX Col2Im-18.

use onnxc_ir::lir::{BufId, Expr, LoopKind};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::op::{EvalCx, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::scalar_eval::{Scalar, bin};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType, ValueId};

use crate::at_run_time::{Guess, assume, or_declared};
use crate::common::axes::const_ints;
use crate::common::elements::{for_coords, from_scalars, offset, scalars, strides};
use crate::common::nest;
use crate::common::sample::{data, f32s, ints, lists, sample};
use crate::common::window::{explicit_pads, positive};
use crate::composed::Build;

/// The record.
pub(crate) static COL2IM: OpDef = OpDef {
    name: "col2im",
    onnx: &[Import { domain: "", name: "Col2Im", opsets: (18, NEWEST), build: |cx| or_declared(cx, import, blocks_of_declared) }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::SUMS,
    samples,
};

/// Types that round much are added up in f32.
fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (x, image, block) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    let (attrs, dtype) = (cx.attrs().clone(), cx.ty(0)?.dtype);
    if !matches!(dtype, DType::F16 | DType::BF16) {
        return Ok(vec![cx.node1("col2im", &[x, image, block], attrs)?]);
    }
    let to = |t: DType| Attrs::default().with("to", Attr::Type(t));
    let wide = cx.node1("cast", &[x], to(DType::F32))?;
    let y = cx.node1("col2im", &[wide, image, block], attrs)?;
    Ok(vec![cx.node1("cast", &[y], to(dtype))?])
}

/// The image is declared; every block of the right number of places is tried.
fn blocks_of_declared(b: &mut Build, to: &[u64]) -> OpResult<Vec<ValueId>> {
    let x = b.0.input(0)?;
    let rows = b.shape(x)?.get(1).copied().unwrap_or(0);
    let (channels, image) = (to.get(1).copied().unwrap_or(0), to.get(2..).unwrap_or_default());
    let mut blocks: Vec<Vec<u64>> = vec![vec![]];
    let mut left = vec![if channels > 0 && rows % channels == 0 { rows / channels } else { 0 }];
    for d in 0..image.len() {
        let last = d + 1 == image.len();
        let mut longer = Vec::new();
        for (block, left) in blocks.iter().zip(&left) {
            let sizes = (1..=image[d].min(*left)).filter(|n| left % n == 0 && (!last || n == left));
            longer.extend(sizes.take(64).map(|n| ([&block[..], &[n]].concat(), left / n)));
        }
        longer.truncate(4096);
        (blocks, left) = longer.into_iter().unzip();
    }
    let case = |block: Vec<u64>| vec![Guess::new(1, image.iter().copied()), Guess::new(2, block)];
    let open = |b: &Build, g: &Guess| b.0.const_input(g.operand).is_none();
    let cases: Vec<Vec<Guess>> =
        blocks.into_iter().map(|block| case(block).into_iter().filter(|g| open(b, g)).collect()).collect();
    assume(b, import, to, cases)
}

/// Where blocks lie, along each dimension.
struct Blocks {
    image: Vec<u64>,
    block: Vec<u64>,
    strides: Vec<u64>,
    dilations: Vec<u64>,
    pads: Vec<u64>,
    /// Number of blocks.
    count: Vec<u64>,
}

impl Blocks {
    fn of(attrs: &Attrs, image: &[i64], block: &[i64]) -> OpResult<Blocks> {
        let n = image.len();
        let extents = |list: &[i64], what: &str| -> OpResult<Vec<u64>> {
            let fits = list.len() == n && n > 0 && list.iter().all(|e| (1..=1 << 31).contains(e));
            let small = list.iter().try_fold(1i64, |all, e| all.checked_mul(*e)).is_some();
            if !fits || !small {
                return Err(OpError::new(format!("{what} {list:?} must be positive extents of each of {n} dimensions")));
            }
            Ok(list.iter().map(|e| *e as u64).collect())
        };
        let (image, block) = (extents(image, "image_shape")?, extents(block, "block_shape")?);
        let (strides, dilations) = (positive(attrs, "strides", n)?, positive(attrs, "dilations", n)?);
        let (begin, end) = explicit_pads(attrs, n)?;
        let mut count = Vec::new();
        for d in 0..n {
            let room = image[d] as i128 + i128::from(begin[d]) + i128::from(end[d]);
            let extent = i128::from(block[d] - 1) * i128::from(dilations[d]) + 1;
            if begin[d] < 0 || end[d] < 0 || room < extent {
                return Err(OpError::new(format!(
                    "a block of {extent} does not fit {} elements with pads {} and {} (spatial dimension {d})",
                    image[d], begin[d], end[d]
                )));
            }
            count.push(((room - extent) / i128::from(strides[d])) as u64 + 1);
        }
        let pads = begin.iter().map(|p| *p as u64).collect();
        Ok(Blocks { image, block, strides, dilations, pads, count })
    }

    /// Of place `k` of blocks along `d`: where the first block has it in the image, and the first and last block that have it inside.
    fn place(&self, d: usize, k: u64) -> (i64, i64, i64) {
        let (first, stride) = ((k * self.dilations[d]) as i64 - self.pads[d] as i64, self.strides[d] as i64);
        let low = (-first).max(0).div_euclid(stride) + i64::from((-first).max(0).rem_euclid(stride) != 0);
        let high = (self.image[d] as i64 - 1 - first).div_euclid(stride) + 1;
        (first, low, high.clamp(low, (self.count[d] as i64).max(low)))
    }
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let x = cx.input(0)?;
    if !(matches!(x.dtype, DType::F32 | DType::F64) || x.dtype.is_int() && x.dtype.bits() >= 8) {
        return Err(OpError::new(format!("adding blocks of {} is not supported", x.dtype)).help("use a float or integer type"));
    }
    let blocks = Blocks::of(cx.attrs, &const_ints(cx, 1, "image_shape")?, &const_ints(cx, 2, "block_shape")?)?;
    let (places, columns): (u64, Option<u64>) =
        (blocks.block.iter().product(), blocks.count.iter().try_fold(1u64, |n, c| n.checked_mul(*c)));
    let [n, rows, all] = &x.shape[..] else {
        return Err(OpError::new(format!("x is {x}, it must be [N, C * block, L]")));
    };
    let Some(rows) = rows.as_const() else {
        return Err(OpError::new(format!("the extent 1 of {x} is not known")).help("fix it with --dim or --shape"));
    };
    if rows % places != 0 || all.as_const().is_some_and(|l| Some(l) != columns) {
        return Err(OpError::new(format!(
            "x is {x}: its extents must be a multiple of {places} and {columns:?} (blocks {:?})",
            blocks.count
        )));
    }
    let mut shape = vec![n.clone(), Dim::Const(rows / places)];
    shape.extend(blocks.image.iter().map(|n| Dim::Const(*n)));
    Ok(vec![TensorType::new(x.dtype, shape)])
}

/// The blocks of a node whose constants inference has seen.
fn known(attrs: &Attrs, image: Option<&Tensor>, block: Option<&Tensor>) -> OpResult<Blocks> {
    let list = |t: Option<&Tensor>| t.and_then(Tensor::to_i64s).unwrap_or_default();
    Blocks::of(attrs, &list(image), &list(block))
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, shape) = (cx.input(0), cx.out_shape(0));
    let blocks = known(cx.attrs, cx.opt(1), cx.opt(2))?;
    let (values, steps, channels) = (scalars(x)?, strides(&shape), shape[1] as usize);
    let columns = x.shape()[2] as usize;
    let zero = if x.dtype().is_float() { Scalar::Float(0.0) } else { Scalar::Int(0) };
    let mut y = vec![zero; shape.iter().product::<u64>() as usize];
    for_coords(&shape[..2], |nc| {
        let mut row = 0;
        for_coords(&blocks.block, |k| {
            let mut column = 0;
            for_coords(&blocks.count, |l| {
                let along = |d: usize| {
                    let at = (l[d] as u64 * blocks.strides[d] + k[d] as u64 * blocks.dilations[d]).checked_sub(blocks.pads[d])?;
                    (at < blocks.image[d]).then_some(at as usize)
                };
                if let Some(at) = (0..k.len()).map(along).collect::<Option<Vec<usize>>>() {
                    let places = x.shape()[1] as usize / channels;
                    let from = ((nc[0] * channels + nc[1]) * places + row) * columns + column;
                    let to = offset(nc, &steps[..2]) + offset(&at, &steps[2..]);
                    y[to] = bin(BinOp::Add, y[to], values[from], x.dtype());
                }
                column += 1;
            });
            row += 1;
        });
    });
    Ok(vec![from_scalars(x.dtype(), &shape, y)?])
}

/// Tables of [`Blocks::place`] along one dimension.
struct Places {
    first: BufId,
    low: BufId,
    high: BufId,
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (x, y) = (cx.input(0), cx.output(0));
    let constant = |i: usize| cx.input(i).constant;
    let blocks = known(cx.attrs, constant(1).as_ref(), constant(2).as_ref())?;
    nest::require(x.dtype)?;
    if y.view.shape.contains(&0) {
        return Ok(());
    }
    let tables: Vec<Places> = (0..blocks.block.len()).map(|d| tables(cx, &blocks, d)).collect();
    nest::fixed(cx, 0, [1, 2])?;
    let channels = y.view.shape[1];
    cx.for_in(LoopKind::Parallel, &y.view.extent(0).times(&channels.into()), |cx, row| {
        let (n, c) = nest::split(cx, row, channels);
        let plane = [n.clone(), c.clone()];
        let zero = nest::number(y.dtype, 0.0);
        let image = blocks.image.clone();
        cx.for_each(&image, &y.view.strides[2..], |cx, at| cx.store(&y, &[&plane[..], at].concat(), zero));
        cx.for_serial(&blocks.block, |cx, k| {
            let mut place = c.clone();
            k.iter().zip(&blocks.block).for_each(|(k, n)| place = place.clone().times(*n as i64).add(k.clone()));
            let place = Expr::Var(cx.let_(place));
            let firsts: Vec<Expr> = tables.iter().zip(k).map(|(t, k)| Expr::Var(cx.let_(nest::at(t.first, k.clone())))).collect();
            columns(cx, &tables, k, &mut Vec::new(), &mut |cx, l| {
                let steps = l.iter().zip(&blocks.strides).map(|(l, s)| l.clone().times(*s as i64));
                let at: Vec<Expr> = steps.zip(&firsts).map(|(e, first)| e.add(first.clone())).collect();
                let mut column = Expr::Int(0);
                l.iter().zip(&blocks.count).for_each(|(l, n)| column = column.clone().times(*n as i64).add(l.clone()));
                let to = [&plane[..], &at].concat();
                let sum = cx.load(&y, &to).add(cx.load(&x, &[n.clone(), place.clone(), column]));
                cx.store(&y, &to, sum);
            });
        });
    });
    Ok(())
}

fn tables(cx: &mut LowerCx, blocks: &Blocks, d: usize) -> Places {
    let all: Vec<(i64, i64, i64)> = (0..blocks.block[d]).map(|k| blocks.place(d, k)).collect();
    let mut of = |f: fn(&(i64, i64, i64)) -> i64| nest::table(cx, &all.iter().map(f).collect::<Vec<_>>());
    Places { first: of(|p| p.0), low: of(|p| p.1), high: of(|p| p.2) }
}

/// Loops over the blocks that have place `k` inside of the image, the last dimension in vectors.
fn columns(cx: &mut LowerCx, tables: &[Places], k: &[Expr], l: &mut Vec<Expr>, body: &mut dyn FnMut(&mut LowerCx, &[Expr])) {
    let Some(places) = tables.get(l.len()) else { return body(cx, l) };
    let k_here = k[l.len()].clone();
    let (low, high) = (nest::at(places.low, k_here.clone()), nest::at(places.high, k_here));
    let (low, high) = (Expr::Var(cx.let_(low)), Expr::Var(cx.let_(high)));
    let kind = if l.len() + 1 == tables.len() { LoopKind::Vector } else { LoopKind::Serial };
    cx.for_range(kind, low, high, 1, |cx, i| {
        l.push(i);
        columns(cx, tables, k, l, body);
        l.pop();
    });
}

fn samples() -> Vec<Sample> {
    let case = |attrs: Attrs, x, image: &[i64], block: &[i64]| sample(attrs, vec![x, ints(image), ints(block)]);
    let padded = lists(&[("pads", &[0, 1, 0, 1])]);
    vec![
        case(Attrs::default(), f32s(&[1, 5, 5]), &[5, 5], &[1, 5]),
        case(lists(&[("strides", &[2, 2])]), f32s(&[2, 18, 4]), &[5, 5], &[3, 3]),
        case(padded.clone(), f32s(&[1, 5, 15]), &[5, 5], &[1, 5]),
        case(lists(&[("dilations", &[1, 5])]), f32s(&[1, 4, 5]), &[6, 6], &[2, 2]),
        case(Attrs::default(), f32s(&[1, 10, 12]), &[3, 4, 5], &[1, 1, 5]),
        case(lists(&[("strides", &[3, 2]), ("pads", &[2, 4, 1, 3])]), f32s(&[1, 18, 152]), &[21, 33], &[2, 3]),
        case(lists(&[("strides", &[2]), ("pads", &[3, 0])]), data(DType::F64, &[1, 6, 10]), &[17], &[2]),
        case(padded.clone(), data(DType::I8, &[2, 10, 15]), &[5, 5], &[1, 5]),
        case(padded.clone(), data(DType::U8, &[1, 5, 15]), &[5, 5], &[1, 5]),
        case(padded, data(DType::I64, &[0, 5, 15]), &[5, 5], &[1, 5]),
    ]
}
