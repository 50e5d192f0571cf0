//! Reference semantics: the formulas of the ONNX specification, one element after another.

use onnxc_ir::Tensor;
use onnxc_ir::op::{EvalCx, OpResult};

use super::activation::Activation;
use super::cell::{Cell, Kind};
use crate::common::elements::{f64s, from_f64s};

/// Operands of one direction, flat.
struct Weights<'a> {
    /// None where x was multiplied before.
    w: Option<&'a [f64]>,
    r: &'a [f64],
    /// Of w and of r.
    bias: [Option<&'a [f64]>; 2],
    peepholes: Option<&'a [f64]>,
    inputs: usize,
    hidden: usize,
}

pub(super) fn eval(cx: &EvalCx, kind: Kind) -> OpResult<Vec<Tensor>> {
    let (x, w, r) = (cx.input(0), cx.opt(1), cx.input(2));
    let (time, batch, inputs) = (x.shape()[0] as usize, x.shape()[1] as usize, x.shape()[2] as usize);
    let hidden = r.shape()[2] as usize;
    let cell = Cell::of(kind, cx.attrs, hidden as u64)?;
    let directions = cell.directions.len();
    let optional = |i: usize| cx.opt(i).map(f64s).transpose();
    let (xv, wv, mut rv) = (f64s(x)?, w.map(f64s).transpose()?, f64s(r)?);
    if let Some(scales) = optional(super::SCALE)? {
        rv.iter_mut().enumerate().for_each(|(i, r)| *r *= scales[i / hidden]);
    }
    let (bias, lens, h0, c0, peepholes) = (optional(3)?, optional(4)?, optional(5)?, optional(6)?, optional(7)?);
    let mut y = vec![0.0; time * directions * batch * hidden];
    let mut h = h0.unwrap_or_else(|| vec![0.0; directions * batch * hidden]);
    let mut c = c0.unwrap_or_else(|| vec![0.0; directions * batch * hidden]);
    let (gates, halves) = (kind.gates(), if w.is_some() { 2 } else { 1 });
    for (d, direction) in cell.directions.iter().enumerate() {
        let bias = |half: usize| bias.as_ref().map(|b| &b[(d * halves + half) * gates * hidden..]);
        let weights = Weights {
            w: wv.as_ref().map(|w| &w[d * gates * hidden * inputs..]),
            r: &rv[d * gates * hidden * hidden..],
            bias: [bias(0).filter(|_| w.is_some()), bias(halves - 1)],
            peepholes: peepholes.as_ref().map(|p| &p[d * 3 * hidden..]),
            inputs,
            hidden,
        };
        for b in 0..batch {
            let length = lens.as_ref().map_or(time, |l| l[b].clamp(0.0, time as f64) as usize);
            let state = (d * batch + b) * hidden;
            for step in 0..length {
                let t = if direction.reverse { length - 1 - step } else { step };
                let at = &xv[(t * batch + b) * inputs..][..inputs];
                // Products of all directions lie beside each other.
                let at = if w.is_some() { at } else { &at[d * gates * hidden..] };
                let (hs, cs) = (&mut h[state..state + hidden], &mut c[state..state + hidden]);
                weights.step(&cell, &direction.activations, at, hs, cs);
                y[((t * directions + d) * batch + b) * hidden..][..hidden].copy_from_slice(hs);
            }
        }
    }
    let tensor = |i: usize, values: Vec<f64>| from_f64s(x.dtype(), &cx.out_shape(i), values);
    let mut results = vec![tensor(0, y)?];
    for (i, values) in [h, c].into_iter().enumerate().take(cx.outputs.len() - 1) {
        results.push(tensor(i + 1, values)?);
    }
    Ok(results)
}

impl Weights<'_> {
    /// Row `row` of w times x, with its bias.
    fn sum_from_x(&self, row: usize, x: &[f64]) -> f64 {
        let Some(w) = self.w else { return x[row] };
        let sum: f64 = w[row * self.inputs..][..self.inputs].iter().zip(x).map(|(w, x)| w * x).sum();
        sum + self.bias[0].map_or(0.0, |b| b[row])
    }

    /// Row `row` of r times the state, with its bias.
    fn sum_from_h(&self, row: usize, h: &[f64]) -> f64 {
        let sum: f64 = self.r[row * self.hidden..][..self.hidden].iter().zip(h).map(|(r, h)| r * h).sum();
        sum + self.bias[1].map_or(0.0, |b| b[row])
    }

    fn step(&self, cell: &Cell, acts: &[Activation], x: &[f64], h: &mut [f64], c: &mut [f64]) {
        let n = self.hidden;
        let clip = |v: f64| cell.clip.map_or(v, |c| v.clamp(-f64::from(c), f64::from(c)));
        let old = h.to_vec();
        let sum = |gate: usize, j: usize| self.sum_from_x(gate * n + j, x) + self.sum_from_h(gate * n + j, &old);
        let peep = |gate: usize, j: usize| self.peepholes.map_or(0.0, |p| p[gate * n + j]);
        match cell.kind {
            Kind::Rnn => (0..n).for_each(|j| h[j] = acts[0].value(clip(sum(0, j)))),
            Kind::Lstm => {
                for j in 0..n {
                    let sums = [0, 1, 2, 3].map(|gate| sum(gate, j));
                    h[j] = lstm_unit(cell, acts, sums, [0, 1, 2].map(|gate| peep(gate, j)), &mut c[j]);
                }
            }
            Kind::Gru => {
                let reset: Vec<f64> = (0..n).map(|j| acts[0].value(clip(sum(1, j)))).collect();
                let scaled: Vec<f64> = reset.iter().zip(&old).map(|(r, h)| r * h).collect();
                for j in 0..n {
                    let update = acts[0].value(clip(sum(0, j)));
                    let recurrent = if cell.linear_before_reset {
                        reset[j] * self.sum_from_h(2 * n + j, &old)
                    } else {
                        self.sum_from_h(2 * n + j, &scaled)
                    };
                    let new = acts[1].value(clip(self.sum_from_x(2 * n + j, x) + recurrent));
                    h[j] = (1.0 - update) * new + update * old[j];
                }
            }
        }
    }
}

/// One unit of an LSTM: the new state from the sums of its gates, with the cell state updated.
pub(super) fn lstm_unit(cell: &Cell, acts: &[Activation], sums: [f64; 4], peep: [f64; 3], c: &mut f64) -> f64 {
    let clip = |v: f64| cell.clip.map_or(v, |c| v.clamp(-f64::from(c), f64::from(c)));
    let input = acts[0].value(clip(sums[0] + peep[0] * *c));
    let forget = if cell.input_forget { 1.0 - input } else { acts[0].value(clip(sums[2] + peep[2] * *c)) };
    *c = forget * *c + input * acts[1].value(clip(sums[3]));
    acts[0].value(clip(sums[1] + peep[1] * *c)) * acts[2].value(*c)
}
