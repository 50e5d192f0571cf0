//! `conv`: convolution over any number of spatial dimensions, grouped and dilated, with a fused epilogue.
//!
//! Inputs: x `[N, C, spatial...]`, w `[M, C/group, kernel...]` of the same type (or integers of type i8 beside f32), b `[M]` or absent, then operands of the epilogue (broadcast to the result).
//! Result: `[N, M, out...]` with `out = (in + pads - dilation*(kernel-1) - 1) / stride + 1` (ONNX Conv-22).
//!
//! Lowering: direct convolution by the matmul tile. Channels are innermost in memory; the tile reads x in place by broadcast, rows of a tile are
//! neighbouring outputs, its k loop runs over kernel positions and channels. Padding is a zero halo in scratch memory.

mod across;
mod edges;
mod lower;
pub mod winograd;

use onnxc_ir::op::{EvalCx, Import, ImportCx, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, SampleInput, Tolerance};
use onnxc_ir::scalar::{BinOp, ScalarProgram};
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType, ValueId};

use crate::common::elements::{f64s, for_coords, from_f64s, offset, strides};
use crate::common::{coded, epilogue, sample};
use crate::composed::contrib::{activation::activate, layout};
use crate::composed::{causal_conv::CAUSAL_CONV, fourier::STFT};

/// The record.
pub static CONV: OpDef = OpDef {
    name: "conv",
    onnx: &[
        Import { domain: "", name: "Conv", opsets: (1, NEWEST), build: import },
        Import { domain: "com.microsoft", name: "FusedConv", opsets: (1, NEWEST), build: import_fused },
        CAUSAL_CONV,
        STFT,
        layout::NHWC_CONV,
        layout::NHWC_FUSED_CONV,
    ],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower::lower),
    // Of samples in tiles of F(6x6, 3x3) more: `winograd::rounding`.
    tolerance: Tolerance::SUMS,
    samples,
};

/// Number of inputs before those of the epilogue.
pub(crate) const OWN_INPUTS: usize = 3;

fn import(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let inputs = [Some(cx.input(0)?), Some(cx.input(1)?), cx.opt_input(2)];
    let attrs = explicit_pads(cx.attrs(), cx.graph().ty(cx.input(0)?), cx.graph().ty(cx.input(1)?))?;
    cx.node("conv", &inputs, attrs)
}

/// com.microsoft FusedConv: a convolution, an optional residual and an activation.
fn import_fused(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let mut attrs = cx.attrs().clone();
    let activation = attrs.str("activation").unwrap_or_default().to_string();
    let params: Vec<Option<f32>> = attrs.floats("activation_params").unwrap_or_default().iter().copied().map(Some).collect();
    attrs.0.remove("activation");
    attrs.0.remove("activation_params");
    let inputs = [Some(cx.input(0)?), Some(cx.input(1)?), cx.opt_input(2)];
    let attrs = explicit_pads(&attrs, cx.graph().ty(cx.input(0)?), cx.graph().ty(cx.input(1)?))?;
    let mut y = cx.node("conv", &inputs, attrs)?[0];
    if let Some(z) = cx.opt_input(3) {
        y = cx.node1("add", &[y, z], Attrs::default())?;
    }
    Ok(vec![activate(cx, y, &activation, &params)?])
}

/// Strides, dilations and pads with their defaults filled in and `auto_pad` worked out.
pub(crate) fn explicit_pads(attrs: &Attrs, x: &TensorType, w: &TensorType) -> OpResult<Attrs> {
    if x.rank() < 3 || w.rank() != x.rank() {
        return Err(OpError::new(format!(
            "x has {} dimensions and w {}; both need the same number, at least 3",
            x.rank(),
            w.rank()
        )));
    }
    let spatial = x.rank() - 2;
    let kernel: Option<Vec<i64>> = w.shape[2..].iter().map(|d| d.as_const().map(|n| n as i64)).collect();
    let kernel = kernel.ok_or_else(|| OpError::new("the kernel's extents must be known"))?;
    if let Some(given) = attrs.ints("kernel_shape")
        && given != kernel
    {
        return Err(OpError::new(format!("kernel_shape {given:?} differs from the weights' {kernel:?}")));
    }
    let list = |name: &str, default: i64| -> OpResult<Vec<i64>> {
        let values = attrs.ints(name).map_or_else(|| vec![default; spatial], <[i64]>::to_vec);
        if values.len() != spatial || values.iter().any(|v| *v < 1 || *v > 1 << 20) {
            return Err(OpError::new(format!("{name} {values:?} must be {spatial} positive numbers")));
        }
        Ok(values)
    };
    let (strides, dilations) = (list("strides", 1)?, list("dilations", 1)?);
    let mut pads = attrs.ints("pads").map_or_else(|| vec![0; 2 * spatial], <[i64]>::to_vec);
    if pads.len() != 2 * spatial || pads.iter().any(|p| p.unsigned_abs() > 1 << 20) {
        return Err(OpError::new(format!("pads {pads:?} must be {} numbers of reasonable size", 2 * spatial)));
    }
    match attrs.str("auto_pad").unwrap_or("NOTSET") {
        "NOTSET" | "" => {}
        "VALID" => pads = vec![0; 2 * spatial],
        mode @ ("SAME_UPPER" | "SAME_LOWER") => {
            for d in 0..spatial {
                let n = x.shape[d + 2].as_const().ok_or_else(|| {
                    OpError::new(format!("auto_pad {mode} needs a known extent of dimension {}", d + 2))
                        .help("fix it with --dim or --shape")
                })? as i64;
                let out = (n + strides[d] - 1) / strides[d];
                let total = ((out - 1) * strides[d] + (kernel[d] - 1) * dilations[d] + 1 - n).max(0);
                let small = total / 2;
                let (lo, hi) = if mode == "SAME_UPPER" { (small, total - small) } else { (total - small, small) };
                (pads[d], pads[d + spatial]) = (lo, hi);
            }
        }
        other => return Err(OpError::new(format!("auto_pad {other:?} is unknown"))),
    }
    let mut out = attrs.clone();
    out.0.remove("auto_pad");
    out.0.remove("kernel_shape");
    let group = attrs.int("group").unwrap_or(1);
    if group < 1 {
        return Err(OpError::new(format!("group is {group}, it must be at least 1")));
    }
    Ok(out
        .with("strides", Attr::Ints(strides))
        .with("dilations", Attr::Ints(dilations))
        .with("pads", Attr::Ints(pads))
        .with("group", Attr::Int(group)))
}

/// Geometry with attributes' defaults, for graphs that did not come through import.
#[derive(Clone)]
pub(crate) struct Geometry {
    pub strides: Vec<i64>,
    pub dilations: Vec<i64>,
    pub pads: Vec<i64>,
    pub group: u64,
}

impl Geometry {
    pub fn of(attrs: &Attrs, spatial: usize) -> Geometry {
        let list = |name: &str, n: usize, default: i64| attrs.ints(name).map_or_else(|| vec![default; n], <[i64]>::to_vec);
        Geometry {
            strides: list("strides", spatial, 1),
            dilations: list("dilations", spatial, 1),
            pads: list("pads", 2 * spatial, 0),
            group: attrs.int("group").unwrap_or(1).max(1) as u64,
        }
    }
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (x, w) = (cx.input(0)?, cx.input(1)?);
    if x.rank() < 3 || w.rank() != x.rank() {
        return Err(OpError::new(format!("x is {x} and w is {w}; both need the same number of dimensions, at least 3")));
    }
    if !coded::fits(x.dtype, w.dtype) || !matches!(x.dtype, DType::F32 | DType::F64 | DType::F16 | DType::BF16) {
        return Err(OpError::new(format!("x is {x} and w is {w}; both need one float type, or w signed bytes beside f32")));
    }
    winograd::check(cx.attrs, w)?;
    crate::schedule::check(cx.attrs)?;
    let spatial = x.rank() - 2;
    let g = Geometry::of(cx.attrs, spatial);
    if g.strides.len() != spatial || g.dilations.len() != spatial || g.pads.len() != 2 * spatial {
        return Err(OpError::new("strides, dilations or pads have the wrong length"));
    }
    let channels = w.shape[1].mul(&Dim::Const(g.group));
    if let (Some(c), Some(want)) = (x.shape[1].as_const(), channels.as_const())
        && c != want
    {
        return Err(OpError::new(format!("x has {c} channels, w and group {} need {want}", g.group)));
    }
    if let Some(m) = w.shape[0].as_const()
        && m % g.group != 0
    {
        return Err(OpError::new(format!("{m} filters do not divide into {} groups", g.group)));
    }
    if let Some(b) = cx.opt(2)
        && (b.rank() != 1 || b.shape[0] != w.shape[0] || b.dtype != x.dtype)
    {
        return Err(OpError::new(format!("the bias is {b}, expected {}[{}]", x.dtype, w.shape[0])));
    }
    let mut shape = vec![x.shape[0].clone(), w.shape[0].clone()];
    for d in 0..spatial {
        let kernel = w.shape[d + 2].as_const().ok_or_else(|| OpError::new("the kernel's extents must be known"))?;
        let window = g.dilations[d] * (kernel as i64 - 1) + 1;
        let pad = g.pads[d] + g.pads[d + spatial];
        if let Some(n) = x.shape[d + 2].as_const()
            && (n as i64) + pad < window
        {
            return Err(OpError::new(format!(
                "dimension {} of x ({n} + {pad} padding) is smaller than the kernel ({window})",
                d + 2
            )));
        }
        shape.push(x.shape[d + 2].offset(pad - window).div(&Dim::Const(g.strides[d] as u64)).offset(1));
    }
    let dtype = epilogue::result_dtype(cx.attrs, x.dtype);
    Ok(vec![TensorType { dtype, shape }])
}

/// Plain loops: sums in f64 for f64 and in f32 for everything else, in the order of the formula.
fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let (x, w) = (cx.input(0), cx.input(1));
    let spatial = x.shape().len() - 2;
    let g = Geometry::of(cx.attrs, spatial);
    let round = |v: f64| if x.dtype() == DType::F64 { v } else { f64::from(v as f32) };
    let (xs, ws) = (f64s(x)?, f64s(w)?);
    let bias = cx.opt(2).map(f64s).transpose()?;
    let (x_steps, w_steps) = (strides(x.shape()), strides(w.shape()));
    let shape = cx.out_shape(0);
    let (filters, channels) = ((w.shape()[0] / g.group).max(1) as usize, w.shape()[1] as usize);
    let mut out = Vec::new();
    for_coords(&shape, |at| {
        let mut sum = bias.as_ref().map_or(0.0, |b| b[at[1]]);
        for_coords(&w.shape()[1..], |tap| {
            let mut from = at[0] * x_steps[0] + (at[1] / filters * channels + tap[0]) * x_steps[1];
            for d in 0..spatial {
                let i = at[d + 2] as i64 * g.strides[d] + tap[d + 1] as i64 * g.dilations[d] - g.pads[d];
                if i < 0 || i >= x.shape()[d + 2] as i64 {
                    return;
                }
                from += i as usize * x_steps[d + 2];
            }
            sum = round(sum + round(xs[from] * ws[at[1] * w_steps[0] + offset(tap, &w_steps[1..])]));
        });
        out.push(sum);
    });
    Ok(vec![epilogue::apply(cx, from_f64s(x.dtype(), &shape, out)?, OWN_INPUTS)?])
}

fn samples() -> Vec<Sample> {
    let mut all = plain_samples();
    all.extend(winograd_samples());
    all.extend(across_samples());
    all.extend(depthwise_samples());
    all
}

/// Values between -1 and 1.
fn data(shape: &[u64]) -> Option<SampleInput> {
    Some(SampleInput::Data(TensorType::fixed(DType::F32, shape), -1.0, 1.0))
}

/// Up to 50 over `over`.
fn weights(shape: &[u64], over: f32) -> Option<SampleInput> {
    let n: u64 = shape.iter().product();
    let values = (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / over).collect();
    Some(SampleInput::Const(Tensor::from_vec::<f32>(shape, values)))
}

/// An epilogue with an operand.
fn relu_of_sum() -> ScalarProgram {
    let mut p = ScalarProgram::default();
    let (y, other) = (p.arg(0, DType::F32), p.arg(1, DType::F32));
    let (sum, zero) = (p.bin(BinOp::Add, y, other), p.float(0.0, DType::F32));
    p.bin(BinOp::Max, sum, zero);
    p
}

/// Few filters: two and four outputs at a time, strides, more dimensions, operands that lie like the result, rows that do not divide, and more than there is.
fn across_samples() -> Vec<Sample> {
    let weights = |shape: &[u64]| weights(shape, 64.0);
    let ints = |v: &[i64]| Attr::Ints(v.to_vec());
    let case = |p: u64, attrs: Attrs, inputs| {
        let attrs = attrs.with(crate::schedule::ATTR, Attr::Str(format!("across={p}")));
        Sample { attrs, inputs, n_outputs: 1 }
    };
    let padded = |n: usize| Attrs::default().with("pads", ints(&vec![1; 2 * n]));
    vec![
        case(2, padded(2), vec![data(&[2, 3, 5, 12]), weights(&[4, 3, 3, 3]), weights(&[4])]),
        case(4, padded(2).with("strides", ints(&[2, 2])), vec![data(&[1, 1, 9, 16]), weights(&[3, 1, 3, 3]), None]),
        case(2, padded(1), vec![data(&[1, 5, 30]), weights(&[8, 5, 3]), weights(&[8])]),
        case(
            2,
            padded(2).with("epilogue", Attr::Program(relu_of_sum())),
            vec![data(&[1, 6, 4, 10]), weights(&[2, 6, 3, 3]), weights(&[2]), data(&[1, 2, 4, 10])],
        ),
        case(2, padded(2), vec![data(&[1, 3, 4, 9]), weights(&[4, 3, 3, 3]), weights(&[4])]),
        // So many that the weights would be gigabytes.
        case(1 << 15, padded(1), vec![data(&[1, 1, 1 << 15]), weights(&[2, 1, 3]), None]),
    ]
}

/// Vectors of channels, in pairs, by themselves and in part, for windows that fit in registers and ones that do not; strides, batches, edges, operands.
fn depthwise_samples() -> Vec<Sample> {
    let weights = |shape: &[u64]| weights(shape, 64.0);
    let ints = |v: &[i64]| Attr::Ints(v.to_vec());
    let case = |channels: i64, pads: i64, attrs: Attrs, inputs| {
        let attrs = attrs.with("group", Attr::Int(channels)).with("pads", ints(&[pads; 4]));
        Sample { attrs, inputs, n_outputs: 1 }
    };
    let plain = Attrs::default;
    let sum = plain().with("epilogue", Attr::Program(relu_of_sum()));
    vec![
        case(43, 2, plain(), vec![data(&[1, 43, 6, 15]), weights(&[43, 1, 5, 5]), weights(&[43])]),
        case(64, 1, plain().with("strides", ints(&[2, 2])), vec![data(&[2, 64, 7, 9]), weights(&[64, 1, 3, 3]), None]),
        case(40, 1, sum, vec![data(&[1, 40, 5, 8]), weights(&[40, 1, 3, 3]), weights(&[40]), data(&[1, 40, 5, 8])]),
        case(51, 0, plain(), vec![data(&[1, 51, 4, 5]), weights(&[51, 1, 2, 2]), weights(&[51])]),
    ]
}

fn plain_samples() -> Vec<Sample> {
    let weights = |shape: &[u64]| weights(shape, 64.0);
    let ints = |v: &[i64]| Attr::Ints(v.to_vec());
    let case = |attrs: Attrs, inputs| Sample { attrs, inputs, n_outputs: 1 };
    let plain = Attrs::default;
    let all = vec![
        case(plain(), vec![data(&[1, 3, 5, 7]), weights(&[4, 3, 3, 3]), None]),
        case(
            plain().with("pads", ints(&[1, 1, 1, 1])).with("strides", ints(&[2, 2])),
            vec![data(&[2, 3, 9, 8]), weights(&[33, 3, 3, 3]), weights(&[33])],
        ),
        case(plain(), vec![data(&[1, 17, 6, 5]), weights(&[40, 17, 1, 1]), weights(&[40])]),
        case(
            plain().with("group", Attr::Int(6)).with("pads", ints(&[1, 1, 1, 1])),
            vec![data(&[1, 6, 5, 9]), weights(&[6, 1, 3, 3]), weights(&[6])],
        ),
        case(plain().with("group", Attr::Int(2)), vec![data(&[1, 6, 4, 4]), weights(&[8, 3, 2, 2]), None]),
        case(
            plain().with("group", Attr::Int(3)).with("strides", ints(&[2, 1])),
            vec![data(&[1, 3, 7, 5]), weights(&[6, 1, 3, 1]), weights(&[6])],
        ),
        case(
            plain().with("dilations", ints(&[2, 3])).with("pads", ints(&[2, 3, 0, 1])),
            vec![data(&[1, 2, 8, 9]), weights(&[5, 2, 3, 3]), None],
        ),
        // Few filters: vectors along k, along rows, and outputs one pixel wide.
        case(plain().with("pads", ints(&[1, 1, 1, 1])), vec![data(&[1, 40, 5, 9]), weights(&[1, 40, 3, 3]), weights(&[1])]),
        case(plain(), vec![data(&[2, 37, 4, 5]), weights(&[3, 37, 1, 1]), None]),
        case(plain().with("strides", ints(&[2])), vec![data(&[1, 1, 300]), weights(&[1, 1, 70]), weights(&[1])]),
        case(plain(), vec![data(&[1, 1, 90, 40]), weights(&[2, 1, 3, 3]), weights(&[2])]),
        case(plain(), vec![data(&[1, 1, 20, 9]), weights(&[24, 1, 5, 9]), None]),
        case(plain().with("pads", ints(&[2, 1])), vec![data(&[2, 4, 11]), weights(&[7, 4, 4]), weights(&[7])]),
        case(plain(), vec![data(&[1, 2, 3, 4, 5]), weights(&[3, 2, 2, 2, 2]), None]),
        case(plain(), vec![data(&[1, 3, 4, 4]), data(&[2, 3, 3, 3]), data(&[2])]),
    ];
    // With lists from 15 on.
    let all = sample::and_sparse(all, &[0, 1, 2, 4, 6, 7, 13], 1, (0, 1));
    let mut all = sample::and_coded(all, &[0, 1, 2, 3, 4, 7, 8, 9, 11, 12, 13, 15, 16, 17, 20], 1);
    // Halves of convolutions of 1 by 1, and of what is none.
    let first = all.len();
    all.extend([
        case(plain(), vec![data(&[1, 16, 6, 5]), weights(&[40, 16, 1, 1]), weights(&[40])]),
        case(plain(), vec![data(&[1, 64, 7, 9]), weights(&[96, 64, 1, 1]), None]),
        case(plain().with("strides", ints(&[2, 2])), vec![data(&[1, 16, 6, 8]), weights(&[40, 16, 1, 1]), weights(&[40])]),
        case(plain(), vec![data(&[1, 4, 5, 7]), weights(&[8, 4, 3, 3]), None]),
    ]);
    let last = all.len();
    sample::and_strassen(all, first..last)
}

/// All algorithms: one tile and many, ragged ones, batches, few and many channels, blocks with a rest, epilogues.
fn winograd_samples() -> Vec<Sample> {
    // So small that results are of the order of one: the error is one part in some hundred thousand of the largest result.
    let weights = |shape: &[u64]| weights(shape, 1024.0);
    // Longer than what is computed together with the transform.
    let mut swish = ScalarProgram::default();
    let x = swish.arg(0, DType::F32);
    let mut value = x;
    for _ in 0..12 {
        let half = swish.float(0.5, DType::F32);
        value = swish.bin(BinOp::Mul, value, half);
        value = swish.bin(BinOp::Add, value, x);
    }
    let mut out = Vec::new();
    for (algorithm, points) in winograd::ALGORITHMS {
        let k = points.taps as u64;
        let same = [k as i64 / 2; 4];
        let along = |n: u64| n.div_ceil(points.stride as u64);
        let attrs = |pads: [i64; 4]| {
            let strides = Attr::Ints(vec![points.stride as i64; 2]);
            let attrs = Attrs::default().with("pads", Attr::Ints(pads.to_vec())).with("strides", strides);
            attrs.with(winograd::ATTR, Attr::Str((*algorithm).to_string()))
        };
        let epilogue = |attrs: Attrs, program: &ScalarProgram| attrs.with("epilogue", Attr::Program(program.clone()));
        let mut case = |attrs: Attrs, inputs| out.push(Sample { attrs, inputs, n_outputs: 1 });
        case(attrs([1; 4]), vec![data(&[1, 5, 8, 8]), weights(&[3, 5, k, k]), weights(&[3])]);
        case(attrs([0; 4]), vec![data(&[1, 3, k, k]), weights(&[1, 3, k, k]), None]);
        case(attrs([1, 0, 2, 1]), vec![data(&[2, 70, 7, 13]), weights(&[35, 70, k, k]), weights(&[35])]);
        case(attrs([1; 4]), vec![data(&[3, 16, 17, 30]), weights(&[16, 16, k, k]), None]);
        case(
            epilogue(attrs(same), &relu_of_sum()),
            vec![data(&[2, 9, 10, 11]), weights(&[33, 9, k, k]), weights(&[33]), data(&[2, 33, along(10), along(11)])],
        );
        case(epilogue(attrs(same), &relu_of_sum()), vec![data(&[1, 4, 6, 5]), weights(&[66, 4, k, k]), None, data(&[66, 1, 1])]);
        case(epilogue(attrs([1; 4]), &swish), vec![data(&[1, 20, 9, 9]), weights(&[20, 20, k, k]), weights(&[20])]);
        // Computed weights: the attribute is no more than a permission.
        case(attrs([1; 4]), vec![data(&[1, 3, 4, 4]), data(&[2, 3, k, k]), None]);
    }
    // Of the first two, with strides, and of F(2x2, 5x5).
    sample::and_sparse(out, &[2, 3, 4, 6, 10, 11, 12, 14, 26, 27, 28, 30, 34, 35, 36, 38], 1, (0, 1))
}
