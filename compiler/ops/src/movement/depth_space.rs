//! `depth_to_space` and `space_to_depth`: blocks of pixels become channels and back. Attributes `blocksize` and `mode`: DCR
//! (the block is the outer part of the channels) or CRD (the inner part).

use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Tolerance};
use onnxc_ir::{Attr, Attrs, DType, Tensor, TensorType};

use crate::common::elements::{Picker, for_coords, offset, strides};
use crate::common::nest;
use crate::common::sample::{data, f32s, int_attrs, sample};

/// `depth_to_space`
pub(crate) static DEPTH_TO_SPACE: OpDef = OpDef {
    name: "depth_to_space",
    onnx: &[Import { domain: "", name: "DepthToSpace", opsets: (1, NEWEST), build: |cx| cx.forward("depth_to_space") }],
    infer: |cx| {
        let (x, b) = (image(cx)?, blocksize(cx.attrs)?);
        is_crd(cx.attrs)?;
        if let Some(n) = x.shape[1].as_const().filter(|n| n % (b * b) != 0) {
            return Err(OpError::new(format!("{n} channels cannot be divided into blocks of {b} by {b}")));
        }
        let channels = x.shape[1].div(&(b * b).into());
        let wide = |d: usize| x.shape[d].mul(&b.into());
        Ok(vec![TensorType::new(x.dtype, vec![x.shape[0].clone(), channels, wide(2), wide(3)])])
    },
    infer_dims: None,
    eval: |cx| {
        let (b, crd, shape) = (blocksize(cx.attrs)? as usize, is_crd(cx.attrs)?, cx.out_shape(0));
        let channels = shape[1] as usize;
        eval(cx, |at| {
            let (row, column) = (at[2] % b, at[3] % b);
            let c = if crd { (at[1] * b + row) * b + column } else { (row * b + column) * channels + at[1] };
            [at[0], c, at[2] / b, at[3] / b]
        })
    },
    lower: Lower::OpenNest(|cx| {
        let crd = is_crd(cx.attrs)?;
        let (deep, wide) = (cx.input(0), cx.output(0));
        let (from, to) = blocks(&deep, &wide, blocksize(cx.attrs)?, crd)?;
        lower(cx, &from, &to)
    }),
    tolerance: Tolerance::EXACT,
    samples: || {
        let of = |b: i64, mode: &str| int_attrs(&[("blocksize", b)]).with("mode", Attr::Str(mode.to_string()));
        vec![
            sample(of(2, "DCR"), vec![f32s(&[2, 8, 3, 5])]),
            sample(of(2, "CRD"), vec![f32s(&[2, 8, 3, 5])]),
            sample(of(3, "CRD"), vec![data(DType::F16, &[1, 9, 2, 2])]),
            sample(of(3, "CRD"), vec![data(DType::U4, &[1, 9, 1, 3])]),
            sample(int_attrs(&[("blocksize", 1)]), vec![f32s(&[1, 3, 2, 17])]),
        ]
    },
};

/// `space_to_depth`
pub(crate) static SPACE_TO_DEPTH: OpDef = OpDef {
    name: "space_to_depth",
    onnx: &[Import { domain: "", name: "SpaceToDepth", opsets: (1, NEWEST), build: |cx| cx.forward("space_to_depth") }],
    infer: |cx| {
        let (x, b) = (image(cx)?, blocksize(cx.attrs)?);
        is_crd(cx.attrs)?;
        let narrow = |d: usize| match x.shape[d].as_const() {
            Some(n) if n % b != 0 => Err(OpError::new(format!("dimension {d} of {n} elements cannot be divided by {b}"))),
            _ => Ok(x.shape[d].div(&b.into())),
        };
        let shape = vec![x.shape[0].clone(), x.shape[1].mul(&(b * b).into()), narrow(2)?, narrow(3)?];
        Ok(vec![TensorType::new(x.dtype, shape)])
    },
    infer_dims: None,
    eval: |cx| {
        let (b, crd) = (blocksize(cx.attrs)? as usize, is_crd(cx.attrs)?);
        let channels = cx.input(0).shape()[1] as usize;
        eval(cx, |at| {
            let (block, c) = if crd { (at[1] % (b * b), at[1] / (b * b)) } else { (at[1] / channels, at[1] % channels) };
            [at[0], c, at[2] * b + block / b, at[3] * b + block % b]
        })
    },
    lower: Lower::OpenNest(|cx| {
        let (wide, deep) = (cx.input(0), cx.output(0));
        let (to, from) = blocks(&deep, &wide, blocksize(cx.attrs)?, is_crd(cx.attrs)?)?;
        lower(cx, &from, &to)
    }),
    tolerance: Tolerance::EXACT,
    samples: || {
        let of = |b: i64| int_attrs(&[("blocksize", b)]);
        vec![
            sample(of(2), vec![f32s(&[2, 3, 4, 6])]),
            sample(of(3), vec![data(DType::U8, &[1, 2, 3, 9])]),
            sample(of(1), vec![f32s(&[1, 2, 3, 4])]),
            sample(of(2).with("mode", Attr::Str("CRD".to_string())), vec![f32s(&[1, 3, 4, 2])]),
        ]
    },
};

fn image<'a>(cx: &'a InferCx) -> OpResult<&'a TensorType> {
    let x = cx.input(0)?;
    if x.rank() == 4 { Ok(x) } else { Err(OpError::new(format!("the input must have 4 dimensions, it is {x}"))) }
}

fn blocksize(attrs: &Attrs) -> OpResult<u64> {
    let b = attrs.int("blocksize").ok_or_else(|| OpError::new("attribute blocksize is missing"))?;
    u64::try_from(b).ok().filter(|b| (1..=1 << 15).contains(b)).ok_or_else(|| OpError::new(format!("attribute blocksize is {b}")))
}

fn is_crd(attrs: &Attrs) -> OpResult<bool> {
    match attrs.str("mode") {
        None | Some("DCR") => Ok(false),
        Some("CRD") => Ok(true),
        Some(other) => Err(OpError::new(format!("mode {other:?} is unknown")).help("DCR or CRD")),
    }
}

fn eval(cx: &EvalCx, source: impl Fn(&[usize]) -> [usize; 4]) -> OpResult<Vec<Tensor>> {
    let (x, shape) = (cx.input(0), cx.out_shape(0));
    let dense = strides(x.shape());
    let mut out = Picker::new(x.dtype());
    for_coords(&shape, |at| out.pick(x, offset(&source(at), &dense)));
    Ok(vec![out.finish(&shape)])
}

/// Both sides with the dimensions (image, channel, row, row of the block, column, column of the block), channel and pixel being those of the
/// smaller extents.
fn blocks(deep: &Arg, wide: &Arg, b: u64, crd: bool) -> OpResult<(Arg, Arg)> {
    let (d, w) = (&deep.view, &wide.view);
    let channels = w.shape[1];
    if !crd && w.open(1).is_some() {
        let error = OpError::new("the number of channels comes with the call, which has no code yet for blocks outside of them");
        return Err(error.help(nest::ONE_VALUE));
    }
    let shape = [d.extent(0), w.extent(1), d.extent(2), b.into(), d.extent(3), b.into()];
    let (b, channels) = (b as i64, channels as i64);
    let c = d.strides[1];
    let (channel, row, column) = if crd { (b * b * c, b * c, c) } else { (c, b * channels * c, channels * c) };
    let deep_strides = vec![d.strides[0], channel, d.strides[2], row, d.strides[3], column];
    let wide_strides = vec![w.strides[0], w.strides[1], b * w.strides[2], w.strides[2], b * w.strides[3], w.strides[3]];
    let arg = |arg: &Arg, strides| Arg { view: nest::view(&shape, strides, arg.view.offset), ..arg.clone() };
    Ok((arg(deep, deep_strides), arg(wide, wide_strides)))
}

fn lower(cx: &mut LowerCx, from: &Arg, to: &Arg) -> OpResult<()> {
    nest::movable(to.dtype)?;
    nest::copy(cx, from, to);
    Ok(())
}
