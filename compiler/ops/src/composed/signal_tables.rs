//! ONNX `HannWindow`, `HammingWindow`, `BlackmanWindow` and `MelWeightMatrix`: constants, computed when the model is compiled.

use std::f64::consts::TAU;

use onnxc_ir::op::{Import, ImportCx, NEWEST, OpError, OpResult};
use onnxc_ir::{DType, ValueId};

use crate::at_run_time::{Guess, assume, or_declared};
use crate::common::axes::unknown;
use crate::common::elements::from_f64s;

/// ONNX `HannWindow`.
pub(crate) const HANN: Import =
    Import { domain: "", name: "HannWindow", opsets: (17, NEWEST), build: |cx| import_window(cx, [0.5, 0.5, 0.0]) };

/// ONNX `HammingWindow`.
pub(crate) const HAMMING: Import = Import {
    domain: "",
    name: "HammingWindow",
    opsets: (17, NEWEST),
    build: |cx| import_window(cx, [25.0 / 46.0, 21.0 / 46.0, 0.0]),
};

/// ONNX `BlackmanWindow`.
pub(crate) const BLACKMAN: Import =
    Import { domain: "", name: "BlackmanWindow", opsets: (17, NEWEST), build: |cx| import_window(cx, [0.42, 0.5, 0.08]) };

/// ONNX `MelWeightMatrix`.
pub(crate) const MEL_WEIGHTS: Import = Import { domain: "", name: "MelWeightMatrix", opsets: (17, NEWEST), build: mel };

/// Elements of a table up to which models do not grow beyond reason.
const LARGEST: u64 = 1 << 24;

/// The only number of constant operand `i`.
pub(super) fn number(cx: &dyn ImportCx, i: usize, what: &str) -> OpResult<f64> {
    let all = cx.const_input(i).ok_or_else(|| unknown(what))?.to_f64s().unwrap_or_default();
    match all[..] {
        [one] => Ok(one),
        _ => Err(OpError::new(format!("{what} must be one number"))),
    }
}

/// A number of elements.
fn count(cx: &dyn ImportCx, i: usize, what: &str) -> OpResult<u64> {
    let n = number(cx, i, what)?;
    if (0.0..=LARGEST as f64).contains(&n) { Ok(n as u64) } else { Err(OpError::new(format!("{what} {n} is not supported"))) }
}

fn output_type(cx: &dyn ImportCx) -> OpResult<DType> {
    let code = cx.attrs().int("output_datatype").unwrap_or(1);
    let dtype = i32::try_from(code).ok().and_then(DType::from_onnx);
    dtype.ok_or_else(|| OpError::new(format!("output_datatype {code} is unknown")))
}

fn import_window(cx: &mut dyn ImportCx, coefficients: [f64; 3]) -> OpResult<Vec<ValueId>> {
    or_declared(
        cx,
        |cx| window(cx, coefficients),
        |b, to| assume(b, |cx| window(cx, coefficients), to, vec![vec![Guess::new(0, to.first().copied())]]),
    )
}

/// `a - b * cos(t) + c * cos(2t)` along one turn.
fn window(cx: &mut dyn ImportCx, [a, b, c]: [f64; 3]) -> OpResult<Vec<ValueId>> {
    let (size, dtype) = (count(cx, 0, "the size")?, output_type(cx)?);
    let periodic = cx.attrs().int("periodic").unwrap_or(1) != 0;
    // A symmetric window of one element has no turn: it is its own middle.
    let turn = if periodic { size as f64 } else { size as f64 - 1.0 };
    let value = |i: u64| {
        let t = if turn > 0.0 { TAU * i as f64 / turn } else { TAU / 2.0 };
        a - b * t.cos() + c * (2.0 * t).cos()
    };
    let table = from_f64s(dtype, &[size], (0..size).map(value))?;
    Ok(vec![cx.constant(table)])
}

/// Triangles over the bins of a spectrum, evenly spaced on the mel scale.
fn mel(cx: &mut dyn ImportCx) -> OpResult<Vec<ValueId>> {
    let (bands, length) = (count(cx, 0, "num_mel_bins")?, count(cx, 1, "dft_length")?);
    let rate = number(cx, 2, "sample_rate")?;
    let (low, high) = (number(cx, 3, "lower_edge_hertz")?, number(cx, 4, "upper_edge_hertz")?);
    let (dtype, bins) = (output_type(cx)?, length / 2 + 1);
    if bins.saturating_mul(bands) > LARGEST {
        return Err(OpError::new(format!("a matrix of {bins} times {bands} mel weights is too large")));
    }
    let scale = |hertz: f64| 2595.0 * (1.0 + hertz / 700.0).log10();
    let step = (scale(high) - scale(low)) / (bands as f64 + 2.0);
    let edge = |i: u64| {
        let hertz = 700.0 * (10f64.powf((scale(low) + step * i as f64) / 2595.0) - 1.0);
        ((length as f64 + 1.0) * hertz / rate).floor()
    };
    let edges: Vec<f64> = (0..bands + 2).map(edge).collect();
    let rising = edges.windows(2).all(|e| e[0] <= e[1]);
    if rate <= 0.0 || !rising || edges.iter().any(|e| !(0.0..=bins as f64).contains(e)) {
        return Err(OpError::new(format!("the band from {low} to {high} Hz does not lie in a spectrum up to {} Hz", rate / 2.0)));
    }
    let weight = |bin: f64, e: &[f64]| match bin {
        b if b < e[0] || b > e[2] => 0.0,
        b if b == e[1] => 1.0,
        b if b < e[1] => (b - e[0]) / (e[1] - e[0]),
        b => (e[2] - b) / (e[2] - e[1]),
    };
    let values = (0..bins).flat_map(|bin| edges.windows(3).map(move |e| weight(bin as f64, e)));
    let table = from_f64s(dtype, &[bins, bands], values)?;
    Ok(vec![cx.constant(table)])
}
