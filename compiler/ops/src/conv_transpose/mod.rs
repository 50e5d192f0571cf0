//! `conv_transpose`: each input element adds its multiple of the filter to the result (the gradient of a convolution).
//!
//! Operands: x, w `[C, M/group, k...]`, bias (may be absent), then those of the epilogue.

mod lower;

use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, Tolerance};
use onnxc_ir::{Attr, Attrs, Dim, Tensor, TensorType};

use crate::common::convolution::groups;
use crate::common::elements::{f64s, for_coords, from_f64s, offset, strides};
use crate::common::sample::{add_relu, lists};
use crate::common::window::{explicit_pads, kernel_shape, positive};
use crate::common::{broadcast, epilogue, float, sample};
use crate::conv::OWN_INPUTS as OWN;

pub(crate) static CONV_TRANSPOSE: OpDef = OpDef {
    name: "conv_transpose",
    onnx: &[Import { domain: "", name: "ConvTranspose", opsets: (1, NEWEST), build: |cx| cx.forward("conv_transpose") }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower::lower),
    tolerance: Tolerance::SUMS,
    samples,
};

/// Extents of a transposed convolution along its spatial dimensions.
pub(crate) struct Geometry {
    pub(crate) kernel: Vec<u64>,
    pub(crate) strides: Vec<u64>,
    pub(crate) dilations: Vec<u64>,
    /// Elements cut off (negative: added) before the first.
    pub(crate) begin: Vec<i64>,
    pub(crate) out: Vec<Dim>,
}

impl Geometry {
    pub(crate) fn new(attrs: &Attrs, x: &[Dim], w: &[Dim]) -> OpResult<Geometry> {
        let kernel = kernel_shape(attrs, Some(w))?;
        let n = kernel.len();
        let (strides, dilations) = (positive(attrs, "strides", n)?, positive(attrs, "dilations", n)?);
        let (mut begin, end) = explicit_pads(attrs, n)?;
        let extra = attrs.ints("output_padding").filter(|l| !l.is_empty()).map_or_else(|| vec![0; n], <[i64]>::to_vec);
        let wanted = attrs.ints("output_shape").filter(|l| !l.is_empty());
        let auto = attrs.str("auto_pad").unwrap_or("NOTSET");
        if extra.len() != n || extra.iter().any(|e| *e < 0) || wanted.is_some_and(|l| l.len() != n || l.iter().any(|d| *d < 0)) {
            return Err(OpError::new(format!("output_padding and output_shape need {n} values that are not negative")));
        }
        let mut out = Vec::with_capacity(n);
        for d in 0..n {
            let extent = ((kernel[d] - 1) * dilations[d] + 1) as i64;
            // Nothing is cut off or added: s*(x-1) + extent + output_padding.
            let full = x[d].mul(&Dim::Const(strides[d])).offset(extent + extra[d] - strides[d] as i64);
            let target = match (wanted, auto) {
                (Some(list), _) => Dim::Const(list[d] as u64),
                (None, "SAME_UPPER" | "SAME_LOWER") => x[d].mul(&Dim::Const(strides[d])),
                (None, "VALID") => {
                    begin[d] = 0;
                    out.push(full);
                    continue;
                }
                (None, "NOTSET" | "") => {
                    out.push(full.offset(-begin[d] - end[d]));
                    continue;
                }
                (None, other) => return Err(OpError::new(format!("auto_pad {other:?} is unknown"))),
            };
            let total = full.sub(&target).as_const().ok_or_else(|| OpError::new("padding depends on an unknown extent"))?;
            let total = total as i64;
            begin[d] = if auto == "SAME_UPPER" { total / 2 } else { total - total / 2 };
            out.push(target);
        }
        Ok(Geometry { kernel, strides, dilations, begin, out })
    }

    /// Result coordinate that tap `k` of input element `i` adds to, if it exists.
    pub(crate) fn target(&self, d: usize, i: usize, k: usize) -> Option<usize> {
        let at = (i as u64 * self.strides[d] + k as u64 * self.dilations[d]) as i64 - self.begin[d];
        let n = self.out[d].as_const().unwrap_or(0) as i64;
        (0..n).contains(&at).then_some(at as usize)
    }
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    crate::schedule::check(cx.attrs)?;
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    float::check(x.dtype, "transposed convolution")?;
    broadcast::same_dtype(cx, 0..OWN)?;
    if x.rank() < 3 || w.rank() != x.rank() {
        return Err(OpError::new(format!(
            "operands of rank {} and {}: both need the same rank of at least 3",
            x.rank(),
            w.rank()
        )));
    }
    let group = groups(cx.attrs)?;
    if let (Some(c), Some(wc)) = (x.shape[1].as_const(), w.shape[0].as_const())
        && (c != wc || c % group != 0)
    {
        return Err(OpError::new(format!("{c} input channels, but the weights have {wc} in {group} groups")));
    }
    let channels = w.shape[1].mul(&Dim::Const(group));
    if let Some(b) = cx.opt(2)
        && (b.rank() != 1 || b.shape[0] != channels)
    {
        return Err(OpError::new(format!("the bias has type {b}, expected {channels} elements")));
    }
    let geometry = Geometry::new(cx.attrs, &x.shape[2..], &w.shape[2..])?;
    let mut shape = vec![x.shape[0].clone(), channels];
    shape.extend(geometry.out);
    Ok(vec![TensorType::new(epilogue::result_dtype(cx.attrs, x.dtype), shape)])
}

fn dims(shape: &[u64]) -> Vec<Dim> {
    shape.iter().map(|d| Dim::Const(*d)).collect()
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, w) = (cx.input(0), cx.input(1));
    let shape = cx.out_shape(0);
    let geometry = Geometry::new(cx.attrs, &dims(&x.shape()[2..]), &dims(&w.shape()[2..]))?;
    let per_channel = shape[2..].iter().product::<u64>() as usize;
    let mut y = vec![0f64; shape.iter().product::<u64>() as usize];
    if let Some(b) = cx.opt(2) {
        let b = f64s(b)?;
        y.iter_mut().enumerate().for_each(|(i, y)| *y = b[i / per_channel % b.len()]);
    }
    let (xv, wv) = (f64s(x)?, f64s(w)?);
    let (sw, sy) = (strides(w.shape()), strides(&shape));
    let group = groups(cx.attrs)? as usize;
    let (in_group, out_group) = (x.shape()[1] as usize / group, w.shape()[1] as usize);
    let mut at = 0;
    for_coords(x.shape(), |i| {
        for_coords(&geometry.kernel, |k| {
            let target: Option<Vec<usize>> = (0..k.len()).map(|d| geometry.target(d, i[2 + d], k[d])).collect();
            let Some(target) = target else { return };
            for m in 0..out_group {
                let channel = i[1] / in_group * out_group + m;
                let w_at = i[1] * sw[0] + m * sw[1] + offset(k, &sw[2..]);
                y[i[0] * sy[0] + channel * sy[1] + offset(&target, &sy[2..])] += xv[at] * wv[w_at];
            }
        });
        at += 1;
    });
    Ok(vec![epilogue::apply(cx, from_f64s(x.dtype(), &shape, y)?, OWN)?])
}

fn samples() -> Vec<Sample> {
    let case = |attrs: Attrs, x: &[u64], w: &[u64], bias: u64| {
        let bias = if bias > 0 { sample::const_f32s(&[bias]) } else { None };
        sample::sample(attrs, vec![sample::f32s(x), sample::const_f32s(w), bias])
    };
    let two = lists(&[("strides", &[2, 2])]);
    let mut all = vec![
        case(Attrs::default(), &[1, 3, 4, 5], &[3, 6, 3, 3], 6),
        case(two.clone(), &[2, 17, 3, 4], &[17, 20, 2, 2], 20),
        case(two.clone().with("pads", Attr::Ints(vec![1, 1, 1, 1])), &[1, 4, 5, 5], &[4, 3, 3, 3], 0),
        case(two.clone().with("output_padding", Attr::Ints(vec![1, 1])), &[1, 4, 3, 3], &[4, 18, 3, 3], 18),
        case(two.clone().with("output_shape", Attr::Ints(vec![9, 8])), &[1, 2, 4, 4], &[2, 2, 3, 3], 0),
        case(two.clone().with("auto_pad", Attr::Str("SAME_UPPER".into())), &[1, 2, 4, 3], &[2, 5, 3, 3], 5),
        case(lists(&[("dilations", &[2, 2])]).with("group", Attr::Int(2)), &[1, 4, 3, 3], &[4, 3, 2, 2], 6),
        case(lists(&[("strides", &[3])]), &[2, 4, 7], &[4, 9, 5], 9),
        case(two.clone(), &[1, 6, 3, 40], &[6, 1, 2, 2], 1),
        case(two.clone(), &[2, 24, 3, 5], &[24, 24, 2, 2], 24),
        case(two.clone(), &[1, 40, 3, 5], &[40, 1, 2, 2], 1),
    ];
    let inputs = vec![sample::f32s(&[1, 4, 3, 3]), sample::const_f32s(&[4, 20, 2, 2]), None, sample::const_f32s(&[20, 1, 1])];
    all.push(sample::sample(two.clone().with("epilogue", add_relu()), inputs));
    let inputs = vec![sample::f32s(&[1, 4, 3, 3]), sample::const_f32s(&[4, 1, 2, 2]), None, sample::f32s(&[1, 1, 6, 6])];
    all.push(sample::sample(two.clone().with("epilogue", add_relu()), inputs));
    let attrs = two.with("epilogue", add_relu());
    let inputs = vec![sample::f32s(&[1, 4, 3, 3]), sample::const_f32s(&[4, 20, 2, 2]), None, sample::f32s(&[20, 1, 1])];
    all.push(sample::sample(attrs, inputs));
    all
}
