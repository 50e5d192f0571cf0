//! Inputs for a model of which nobody has any: what the graph says that they can be, the same on every machine.
//!
//! Numbers are waves with noise, of unit power, as normalised images, sound and features are more than noise alone is; bytes are the same over their range.
//! Integers that select rows of a table (tokens, positions) are any of its rows, wherever the graph moves them on the way; other integers and booleans are
//! masks: ones, and zeros behind them. Such inputs show what rounding does to sums, not what a model decides on data of its own: nothing is fitted to them, and
//! they may use up only a half of what may be lost ([`Goal::by_weights_alone`](crate::search::Goal)).

use std::f64::consts::TAU;

use half::{bf16, f16};
use onnxc_ir::tensor::Bytes;
use onnxc_ir::{DType, Graph, Tensor, TensorType, ValueId};

use crate::{Error, Result, Samples};

/// Samples, as far as memory permits, and at least.
const SAMPLES: (u64, u64) = (128, 16);
/// Bytes of all samples, unless those are too few.
const BYTES: u64 = 128 << 20;
/// Waves in a sample, one more than the most periods of one along an axis, and the amplitude of the noise beside them.
const WAVES: usize = 4;
const PERIODS: u64 = 4;
const NOISE: f64 = 0.3;
/// Operators whose results are elements of their first operand.
const MOVES: [&str; 11] =
    ["identity", "cast", "reshape", "flatten", "squeeze", "unsqueeze", "expand", "transpose", "slice", "split", "tile"];

/// Samples of all inputs of a graph.
///
/// # Errors
/// For inputs of open extents, and of types for which there is nothing plausible.
pub fn samples(graph: &Graph) -> Result<Samples> {
    let inputs: Vec<(ValueId, &TensorType)> = graph.inputs.iter().map(|id| (*id, graph.ty(*id))).collect();
    let bytes = inputs.iter().filter_map(|(_, ty)| ty.least_bytes()).sum::<u64>();
    let count = (BYTES / bytes.max(1)).clamp(SAMPLES.1, SAMPLES.0);
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let arrays = inputs.into_iter().map(|(id, ty)| {
        let name = &graph.value(id).name;
        let refuse = |why: &str| Error::Input(format!("input {name:?} is {ty}: {why}; pass --calib FILE.npz"));
        let shape = ty.const_shape().ok_or_else(|| refuse("inputs of open extents cannot be generated"))?;
        let one = || values(&mut random, ty.dtype, &shape, rows(graph, id));
        let all: Option<Vec<Vec<u8>>> = std::iter::repeat_with(one).take(count as usize).collect();
        let all = all.ok_or_else(|| refuse("inputs of this type cannot be generated"))?.concat();
        let stacked = std::iter::once(count).chain(shape.iter().copied()).collect();
        let tensor = Tensor::from_bytes(ty.dtype, stacked, Bytes::new(all));
        Ok((name.clone(), tensor.ok_or_else(|| refuse("inputs of this type cannot be generated"))?))
    });
    let arrays = arrays.collect::<Result<Vec<(String, Tensor)>>>()?;
    Ok(Samples::new(graph, &arrays)?.generated())
}

/// The bytes of one sample of an input; `None` for types that there is nothing for.
fn values(random: &mut Random, dtype: DType, shape: &[u64], rows: Option<u64>) -> Option<Vec<u8>> {
    let n = shape.iter().product::<u64>() as usize;
    if dtype.is_packed() {
        return None;
    }
    if let Some(rows) = rows {
        let all: Vec<u64> = (0..n).map(|_| random.below(rows)).collect();
        return integers(dtype, &all);
    }
    match dtype {
        DType::F32 | DType::F64 | DType::F16 | DType::BF16 => floats(dtype, &waves(random, shape)),
        // Half of the range is two standard deviations.
        DType::U8 | DType::I8 => {
            let middle = if dtype == DType::U8 { 127.5 } else { -0.5 };
            let byte = |x: f64| (middle + 63.75 * x).clamp(middle - 127.5, middle + 127.5).round() as i64 as u8;
            Some(waves(random, shape).into_iter().map(byte).collect())
        }
        _ => {
            let last = shape.last().copied().unwrap_or(1).max(1) as usize;
            let ones = last - random.below(last as u64 / 2 + 1) as usize;
            let all: Vec<u64> = (0..n).map(|i| u64::from(i % last < ones)).collect();
            integers(dtype, &all)
        }
    }
}

fn floats(dtype: DType, values: &[f64]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(values.len() * dtype.bytes() as usize);
    for x in values {
        match dtype {
            DType::F32 => bytes.extend((*x as f32).to_le_bytes()),
            DType::F64 => bytes.extend(x.to_le_bytes()),
            DType::F16 => bytes.extend(f16::from_f64(*x).to_le_bytes()),
            DType::BF16 => bytes.extend(bf16::from_f64(*x).to_le_bytes()),
            _ => return None,
        }
    }
    Some(bytes)
}

fn integers(dtype: DType, values: &[u64]) -> Option<Vec<u8>> {
    let bytes = dtype.bytes() as usize;
    let fits = dtype == DType::Bool || dtype.is_int() && bytes <= 8;
    fits.then(|| values.iter().flat_map(|x| x.to_le_bytes()[..bytes].to_vec()).collect())
}

/// Waves along all axes in all directions, and noise, together of unit power; each sample is somewhat louder or softer than others.
fn waves(random: &mut Random, shape: &[u64]) -> Vec<f64> {
    let n = shape.iter().product::<u64>() as usize;
    // Few elements are channels rather than places.
    let most = |extent: u64| if extent <= PERIODS { extent } else { PERIODS.min(extent / 4 + 1) };
    let wave = |random: &mut Random| {
        let periods: Vec<f64> = shape.iter().map(|extent| random.below(most(*extent)) as f64).collect();
        (periods, random.uniform(), 0.3 + random.uniform())
    };
    let all: Vec<(Vec<f64>, f64, f64)> = (0..WAVES).map(|_| wave(random)).collect();
    let mut values: Vec<f64> = (0..n)
        .map(|i| {
            let at = |(periods, phase, amplitude): &(Vec<f64>, f64, f64)| {
                let (mut rest, mut turns) = (i as u64, *phase);
                for (extent, periods) in shape.iter().zip(periods).rev() {
                    turns += periods * (rest % extent) as f64 / *extent as f64;
                    rest /= extent;
                }
                amplitude * (TAU * turns).cos()
            };
            all.iter().map(at).sum::<f64>() + NOISE * 3.46 * (random.uniform() - 0.5)
        })
        .collect();
    let power = values.iter().map(|x| x * x).sum::<f64>() / n.max(1) as f64;
    let scale = (0.5 + random.uniform()) / power.max(1e-6).sqrt();
    values.iter_mut().for_each(|x| *x *= scale);
    values
}

/// How many rows the smallest table has that an input's elements select rows of; `None` for an input that selects none.
fn rows(graph: &Graph, input: ValueId) -> Option<u64> {
    let (uses, mut moved, mut least) = (graph.uses(), vec![input], None::<u64>);
    while let Some(id) = moved.pop() {
        for (node, operand) in uses[id.0 as usize].iter().filter(|_| graph.ty(id).dtype.is_int()) {
            let node = &graph.nodes[*node];
            if *operand == 0 && MOVES.contains(&node.op.name) {
                moved.extend(&node.outputs);
            }
            let table = || node.inputs.first().copied().flatten().map(|id| graph.ty(id));
            let extents = match (node.op.name, operand) {
                ("gather" | "gather_elements", 1) => {
                    let axis = node.attrs.int("axis").unwrap_or(0);
                    table().and_then(|t| t.shape.get(if axis < 0 { axis + t.rank() as i64 } else { axis } as usize)?.as_const())
                }
                ("gather_nd", 1) => {
                    let depth = graph.ty(id).shape.last().and_then(|d| d.as_const()).unwrap_or(0) as usize;
                    table().and_then(|t| t.const_shape()?.into_iter().take(depth).min())
                }
                _ => None,
            };
            least = extents.into_iter().chain(least).min();
        }
    }
    least.filter(|rows| *rows > 0)
}

/// xorshift64* (Vigna, "An experimental exploration of Marsaglia's xorshift generators, scrambled", 2016).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    /// In [0, 1).
    fn uniform(&mut self) -> f64 {
        self.next() as f64 / (1u64 << 32) as f64
    }

    fn below(&mut self, n: u64) -> u64 {
        (self.next() * n.min(1 << 32)) >> 32
    }
}

#[cfg(test)]
mod tests {
    use onnxc_ir::op::OpSet;
    use onnxc_ir::parse;

    use super::*;

    fn graph(text: &str) -> Graph {
        parse::parse(text, OpSet(onnxc_ops::ALL), &|_| None).unwrap_or_else(|e| panic!("{e}"))
    }

    fn of(samples: &Samples, input: usize) -> Vec<Tensor> {
        (0..samples.count).map(|i| samples.tensors(i).swap_remove(input)).collect()
    }

    #[test]
    fn inputs_are_what_the_graph_says_they_are() {
        let graph = graph(
            "graph @f(%ids: i64[1,6], %mask: i64[1,6], %image: f32[1,3,8,8], %bytes: u8[4,4]) {
  %table = const f32[5,2] [0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
  %flat = const i64[1] [-1]
  %a = reshape %ids, %flat : i64[6]
  %y = gather %table, %a : f32[6,2]
  %m = cast %mask {to = type f32} : f32[1,6]
  return %y, %m
}
",
        );
        let all = samples(&graph).unwrap();
        assert!(all.count == 128 && all.are_generated());
        let ids: Vec<i64> = of(&all, 0).iter().flat_map(|t| t.to_vec::<i64>()).collect();
        assert_eq!((ids.iter().min(), ids.iter().max()), (Some(&0), Some(&4)), "tokens are rows of the table");
        for mask in of(&all, 1) {
            let ones: Vec<i64> = mask.to_vec();
            assert!(ones[..3] == [1, 1, 1] && ones.is_sorted_by(|a, b| a >= b) && ones[5] >= 0, "{ones:?}");
        }
        let image = &of(&all, 2);
        let (mut power, mut steps, mut first) = (0.0, 0.0, Vec::new());
        for x in image.iter().map(|t| t.to_vec::<f32>()) {
            power += x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32 / image.len() as f32;
            steps += x.chunks(8).flat_map(|row| row.windows(2)).map(|w| (w[1] - w[0]).powi(2)).sum::<f32>()
                / 168.0
                / image.len() as f32;
            first.push(x[0]);
        }
        // Neighbours of noise alone differ by twice its power.
        assert!((0.8..1.4).contains(&power) && steps < power, "{power} {steps}");
        assert!(first.windows(2).all(|w| w[0] != w[1]), "samples differ");
        let bytes: Vec<u8> = of(&all, 3).iter().flat_map(|t| t.to_vec::<u8>()).collect();
        assert!(bytes.iter().min().unwrap() < &40 && bytes.iter().max().unwrap() > &215);
        assert_eq!(all.fingerprint(), samples(&graph).unwrap().fingerprint());
    }

    #[test]
    fn what_cannot_be_generated_is_told() {
        let open = samples(&graph("graph @f(%x: f32[N]) {\n  return %x\n}\n")).map(|s| s.count).unwrap_err().to_string();
        assert!(open.contains("\"x\"") && open.contains("--calib"), "{open}");
        assert!(samples(&graph("graph @f(%x: u4[4]) {\n  return %x\n}\n")).is_err());
    }
}
