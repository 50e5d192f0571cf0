//! Activation functions: compositions, each with its formula in f64 as the judge.

use onnxc_ir::op::{OpResult, Sample, Tolerance};
use onnxc_ir::scalar::{BinOp, NodeIx, ScalarProgram, UnOp};
use onnxc_ir::scalar_eval::erf;
use onnxc_ir::{Attr, Attrs, DType};

use super::{elementwise, eval_f64, float_program, like, numeric_program, same};
use crate::common::sample::{SHAPES, data, data_in, plain, sample};
use crate::composed::contrib::transformer::{BIAS_GELU, FAST_GELU};

type P = ScalarProgram;

fn attr(attrs: &Attrs, name: &str, default: f32) -> f64 {
    f64::from(attrs.float(name).unwrap_or(default))
}

fn bin_k(p: &mut P, op: BinOp, x: NodeIx, k: f64) -> NodeIx {
    let k = like(p, x, k);
    p.bin(op, x, k)
}

/// `select(x < 0, a, b)`; NaN takes b.
fn if_negative(p: &mut P, x: NodeIx, a: NodeIx, b: NodeIx) -> NodeIx {
    let zero = like(p, x, 0.0);
    let negative = p.bin(BinOp::Lt, x, zero);
    p.select(negative, a, b)
}

/// `k * (exp(x / d) - 1)`.
fn exp_minus_one(p: &mut P, x: NodeIx, k: f64, d: f64) -> NodeIx {
    let scaled = if d == 1.0 { x } else { bin_k(p, BinOp::Div, x, d) };
    let e = p.un(UnOp::Exp, scaled);
    let e = bin_k(p, BinOp::Sub, e, 1.0);
    bin_k(p, BinOp::Mul, e, k)
}

fn samples(attrs: Attrs) -> Vec<Sample> {
    let mut all: Vec<Sample> = SHAPES.iter().map(|s| plain(vec![data_in(DType::F32, s, -6.0, 6.0)])).collect();
    all.extend([DType::F64, DType::F16, DType::BF16].map(|t| sample(attrs.clone(), vec![data(t, &[2, 9])])));
    all.push(sample(attrs, vec![data(DType::F32, &[2, 35])]));
    all
}

fn floats(pairs: &[(&str, f32)]) -> Attrs {
    pairs.iter().fold(Attrs::default(), |a, (k, v)| a.with(k, Attr::Float(*v)))
}

macro_rules! activation {
    ($id:ident $name:literal [$($import:expr),*] $program:ident $formula:ident $tolerance:ident $attrs:expr) => {
        elementwise!($id, $name, [$($import),*], $program,
            eval: |cx| eval_f64(cx, |x| $formula(cx.attrs, x[0])), dims: None, Tolerance::$tolerance, || samples(floats($attrs)));
    };
}

fn relu(_: &Attrs, t: &[DType]) -> OpResult<P> {
    numeric_program(&t[..1.min(t.len())], |p, a| bin_k(p, BinOp::Max, a[0], 0.0))
}

fn relu_f(_: &Attrs, x: f64) -> f64 {
    if x < 0.0 { 0.0 } else { x }
}

activation!(RELU "relu" [same!("Relu", 1, "relu")] relu relu_f EXACT &[]);

fn leaky_relu(attrs: &Attrs, t: &[DType]) -> OpResult<P> {
    let alpha = attr(attrs, "alpha", 0.01);
    float_program(t, |p, a| {
        let small = bin_k(p, BinOp::Mul, a[0], alpha);
        if_negative(p, a[0], small, a[0])
    })
}

fn leaky_relu_f(attrs: &Attrs, x: f64) -> f64 {
    if x < 0.0 { attr(attrs, "alpha", 0.01) * x } else { x }
}

activation!(LEAKY_RELU "leaky_relu" [same!("LeakyRelu", 6, "leaky_relu")] leaky_relu leaky_relu_f EXACT &[("alpha", 0.2)]);

fn elu(attrs: &Attrs, t: &[DType]) -> OpResult<P> {
    let alpha = attr(attrs, "alpha", 1.0);
    float_program(t, |p, a| {
        let e = exp_minus_one(p, a[0], alpha, 1.0);
        if_negative(p, a[0], e, a[0])
    })
}

fn elu_f(attrs: &Attrs, x: f64) -> f64 {
    if x < 0.0 { attr(attrs, "alpha", 1.0) * x.exp_m1() } else { x }
}

activation!(ELU "elu" [same!("Elu", 6, "elu")] elu elu_f POLY &[("alpha", 0.7)]);

const SELU_ALPHA: f32 = 1.673_263_2;
const SELU_GAMMA: f32 = 1.050_701;

fn selu(attrs: &Attrs, t: &[DType]) -> OpResult<P> {
    let (alpha, gamma) = (attr(attrs, "alpha", SELU_ALPHA), attr(attrs, "gamma", SELU_GAMMA));
    float_program(t, |p, a| {
        let e = exp_minus_one(p, a[0], alpha, 1.0);
        let y = if_negative(p, a[0], e, a[0]);
        bin_k(p, BinOp::Mul, y, gamma)
    })
}

fn selu_f(attrs: &Attrs, x: f64) -> f64 {
    let y = if x < 0.0 { attr(attrs, "alpha", SELU_ALPHA) * x.exp_m1() } else { x };
    attr(attrs, "gamma", SELU_GAMMA) * y
}

activation!(SELU "selu" [same!("Selu", 6, "selu")] selu selu_f POLY &[("alpha", 2.0), ("gamma", 3.0)]);

fn celu(attrs: &Attrs, t: &[DType]) -> OpResult<P> {
    let alpha = attr(attrs, "alpha", 1.0);
    float_program(t, |p, a| {
        let e = exp_minus_one(p, a[0], alpha, alpha);
        if_negative(p, a[0], e, a[0])
    })
}

fn celu_f(attrs: &Attrs, x: f64) -> f64 {
    let alpha = attr(attrs, "alpha", 1.0);
    if x < 0.0 { alpha * (x / alpha).exp_m1() } else { x }
}

activation!(CELU "celu" [same!("Celu", 12, "celu")] celu celu_f POLY &[("alpha", 2.0)]);

fn thresholded_relu(attrs: &Attrs, t: &[DType]) -> OpResult<P> {
    let alpha = attr(attrs, "alpha", 1.0);
    float_program(t, |p, a| {
        let above = bin_k(p, BinOp::Gt, a[0], alpha);
        let zero = like(p, a[0], 0.0);
        p.select(above, a[0], zero)
    })
}

fn thresholded_relu_f(attrs: &Attrs, x: f64) -> f64 {
    if x > attr(attrs, "alpha", 1.0) { x } else { 0.0 }
}

activation!(THRESHOLDED_RELU "thresholded_relu" [same!("ThresholdedRelu", 10, "thresholded_relu")] thresholded_relu thresholded_relu_f EXACT
    &[("alpha", 0.5)]);

/// `max(0, min(1, x*alpha + beta))`.
fn gate(p: &mut P, x: NodeIx, alpha: f64, beta: f64) -> NodeIx {
    let line = bin_k(p, BinOp::Mul, x, alpha);
    let line = bin_k(p, BinOp::Add, line, beta);
    let low = bin_k(p, BinOp::Max, line, 0.0);
    bin_k(p, BinOp::Min, low, 1.0)
}

fn hard_sigmoid(attrs: &Attrs, t: &[DType]) -> OpResult<P> {
    let (alpha, beta) = (attr(attrs, "alpha", 0.2), attr(attrs, "beta", 0.5));
    float_program(t, |p, a| gate(p, a[0], alpha, beta))
}

fn hard_sigmoid_f(attrs: &Attrs, x: f64) -> f64 {
    let y = attr(attrs, "alpha", 0.2) * x + attr(attrs, "beta", 0.5);
    if y.is_nan() { y } else { y.clamp(0.0, 1.0) }
}

activation!(HARD_SIGMOID "hard_sigmoid" [same!("HardSigmoid", 6, "hard_sigmoid")] hard_sigmoid hard_sigmoid_f POLY
    &[("alpha", 0.25), ("beta", 0.4)]);

fn hard_swish(_: &Attrs, t: &[DType]) -> OpResult<P> {
    float_program(t, |p, a| {
        let g = gate(p, a[0], f64::from(1f32 / 6.0), 0.5);
        p.bin(BinOp::Mul, a[0], g)
    })
}

fn hard_swish_f(_: &Attrs, x: f64) -> f64 {
    let gate = x / 6.0 + 0.5;
    if gate.is_nan() { gate } else { x * gate.clamp(0.0, 1.0) }
}

activation!(HARD_SWISH "hard_swish" [same!("HardSwish", 14, "hard_swish")] hard_swish hard_swish_f POLY &[]);

/// `max(x, 0) + log(1 + exp(-|x|))`: no overflow.
fn softplus_of(p: &mut P, x: NodeIx) -> NodeIx {
    let abs = p.un(UnOp::Abs, x);
    let neg = p.un(UnOp::Neg, abs);
    let e = p.un(UnOp::Exp, neg);
    let e = bin_k(p, BinOp::Add, e, 1.0);
    let log = p.un(UnOp::Log, e);
    let top = bin_k(p, BinOp::Max, x, 0.0);
    p.bin(BinOp::Add, top, log)
}

fn softplus(_: &Attrs, t: &[DType]) -> OpResult<P> {
    float_program(t, |p, a| softplus_of(p, a[0]))
}

fn softplus_f(_: &Attrs, x: f64) -> f64 {
    if x.is_nan() { x } else { x.max(0.0) + (-x.abs()).exp().ln_1p() }
}

activation!(SOFTPLUS "softplus" [same!("Softplus", 1, "softplus")] softplus softplus_f POLY &[]);

fn softsign(_: &Attrs, t: &[DType]) -> OpResult<P> {
    float_program(t, |p, a| {
        let abs = p.un(UnOp::Abs, a[0]);
        let bottom = bin_k(p, BinOp::Add, abs, 1.0);
        p.bin(BinOp::Div, a[0], bottom)
    })
}

fn softsign_f(_: &Attrs, x: f64) -> f64 {
    x / (1.0 + x.abs())
}

activation!(SOFTSIGN "softsign" [same!("Softsign", 1, "softsign")] softsign softsign_f POLY &[]);

fn mish(_: &Attrs, t: &[DType]) -> OpResult<P> {
    float_program(t, |p, a| {
        let s = softplus_of(p, a[0]);
        let s = p.un(UnOp::Tanh, s);
        p.bin(BinOp::Mul, a[0], s)
    })
}

fn mish_f(attrs: &Attrs, x: f64) -> f64 {
    x * softplus_f(attrs, x).tanh()
}

activation!(MISH "mish" [same!("Mish", 18, "mish")] mish mish_f POLY &[]);

fn swish(attrs: &Attrs, t: &[DType]) -> OpResult<P> {
    let alpha = attr(attrs, "alpha", 1.0);
    float_program(t, |p, a| {
        let scaled = if alpha == 1.0 { a[0] } else { bin_k(p, BinOp::Mul, a[0], alpha) };
        let s = p.un(UnOp::Sigmoid, scaled);
        p.bin(BinOp::Mul, a[0], s)
    })
}

fn swish_f(attrs: &Attrs, x: f64) -> f64 {
    x / (1.0 + (-attr(attrs, "alpha", 1.0) * x).exp())
}

/// ONNX Runtime's contributed name of the same function, with its own default.
const QUICK_GELU: onnxc_ir::op::Import = onnxc_ir::op::Import {
    domain: "com.microsoft",
    name: "QuickGelu",
    opsets: (1, onnxc_ir::op::NEWEST),
    build: |cx| {
        let x = cx.input(0)?;
        let alpha = cx.attrs().float("alpha").unwrap_or(1.702);
        cx.node("swish", &[Some(x)], Attrs::default().with("alpha", Attr::Float(alpha)))
    },
};

/// ONNX `SwiGLU`: the first operand's swish, gated by the second.
const SWI_GLU: onnxc_ir::op::Import = onnxc_ir::op::Import {
    domain: "",
    name: "SwiGLU",
    opsets: (28, onnxc_ir::op::NEWEST),
    build: |cx| {
        let (a, b, alpha) = (cx.input(0)?, cx.input(1)?, cx.attrs().float("alpha").unwrap_or(1.0));
        let swish = cx.node("swish", &[Some(a)], Attrs::default().with("alpha", Attr::Float(alpha)))?[0];
        cx.node("mul", &[Some(swish), Some(b)], Attrs::default())
    },
};

activation!(SWISH "swish" [same!("Swish", 24, "swish"), QUICK_GELU, SWI_GLU] swish swish_f POLY &[("alpha", 1.5)]);

fn is_tanh(attrs: &Attrs) -> bool {
    attrs.str("approximate") == Some("tanh")
}

const TANH_SCALE: f64 = 0.797_884_560_802_865_4; // sqrt(2 / pi)
const TANH_CUBIC: f64 = 0.044715;

fn gelu(attrs: &Attrs, t: &[DType]) -> OpResult<P> {
    let tanh = is_tanh(attrs);
    float_program(t, |p, a| {
        let x = a[0];
        if !tanh {
            let share = p.un(UnOp::NormalCdf, x);
            return p.bin(BinOp::Mul, x, share);
        }
        let square = p.bin(BinOp::Mul, x, x);
        let k = bin_k(p, BinOp::Mul, square, TANH_CUBIC);
        let k = bin_k(p, BinOp::Add, k, 1.0);
        let scaled = bin_k(p, BinOp::Mul, x, TANH_SCALE);
        let arg = p.bin(BinOp::Mul, scaled, k);
        let inner = p.un(UnOp::Tanh, arg);
        let one = bin_k(p, BinOp::Add, inner, 1.0);
        let half = bin_k(p, BinOp::Mul, x, 0.5);
        p.bin(BinOp::Mul, half, one)
    })
}

fn gelu_f(attrs: &Attrs, x: f64) -> f64 {
    let inner = if is_tanh(attrs) {
        (TANH_SCALE * (x + TANH_CUBIC * x * x * x)).tanh()
    } else {
        erf(x * std::f64::consts::FRAC_1_SQRT_2)
    };
    0.5 * x * (1.0 + inner)
}

const MS_GELU: onnxc_ir::op::Import = onnxc_ir::op::Import {
    domain: "com.microsoft",
    name: "Gelu",
    opsets: (1, onnxc_ir::op::NEWEST),
    build: |cx| cx.forward("gelu"),
};

elementwise!(GELU, "gelu", [same!("Gelu", 20, "gelu"), MS_GELU, BIAS_GELU, FAST_GELU], gelu,
eval: |cx| eval_f64(cx, |x| gelu_f(cx.attrs, x[0])), dims: None, Tolerance::POLY,
|| {
    let mut all = samples(Attrs::default());
    all.extend(samples(Attrs::default().with("approximate", Attr::Str("tanh".into()))));
    all
});

fn shrink(attrs: &Attrs, t: &[DType]) -> OpResult<P> {
    let (lambd, bias) = (attr(attrs, "lambd", 0.5), attr(attrs, "bias", 0.0));
    numeric_program(t, |p, a| {
        let x = a[0];
        let (zero, up, down) = (like(p, x, 0.0), bin_k(p, BinOp::Add, x, bias), bin_k(p, BinOp::Sub, x, bias));
        // Integers are compared as floats: the bound has a fraction.
        let y = if p.dtype(x).is_float() { x } else { p.cast(x, DType::F32) };
        let below = bin_k(p, BinOp::Lt, y, -lambd);
        let above = bin_k(p, BinOp::Gt, y, lambd);
        let rest = p.select(above, down, zero);
        p.select(below, up, rest)
    })
}

fn shrink_f(attrs: &Attrs, x: f64) -> f64 {
    let (lambd, bias) = (attr(attrs, "lambd", 0.5), attr(attrs, "bias", 0.0));
    if x < -lambd {
        x + bias
    } else if x > lambd {
        x - bias
    } else {
        0.0
    }
}

activation!(SHRINK "shrink" [same!("Shrink", 9, "shrink")] shrink shrink_f EXACT &[("lambd", 1.5), ("bias", 1.0)]);
