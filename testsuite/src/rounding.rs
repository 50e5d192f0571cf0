//! Whether compiled code gave what the graph means, as far as rounding lets one say.
//!
//! Compiled code computes in f32 and sums in its own order, the interpreter computes each operator in f64. Where they differ, the graph
//! itself is asked how sensitive it is, by evaluations with random rounding (Monte Carlo arithmetic; Parker 1997): every operator that
//! is not exact sees operands that are moved a little (its backward error), and every computed element of a result is moved a little.
//! If such evaluations differ as well, rounding decides and nothing can be said. Elements that an operator only moves stay as they
//! are, so ties and order are still tested.

use crate::compose::Composed;
use crate::samples::Random;
use onnxc_ir::graph::Node;
use onnxc_ir::{DType, Tensor, interp};
use std::collections::HashSet;

/// `max|a-b| / max|b|` that is allowed, and below which an absolute difference does not count.
const RELATIVE: f64 = 1e-3;
const ABSOLUTE: f64 = 1e-5;
/// How far elements are moved: some ten times what compiled code rounds, because few random evaluations do not find the worst.
const MOVED: f64 = 1e-5;
const EVALUATIONS: u64 = 4;
/// Squares of larger numbers are infinite in f32, but not in the interpreter's sums.
const LARGE: f64 = 1.8e19;

/// What a comparison says.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The outputs agree.
    Same,
    /// They differ, and so do evaluations with other rounding.
    Unstable,
    /// There is no code for these extents, and the error says what to do.
    Refused,
    /// They differ.
    Different(String),
}

/// Compares the outputs of compiled code with those of the interpreter.
///
/// # Errors
/// When an output has the wrong size.
pub fn judge(c: &Composed, got: &[Vec<u8>], want: &[Tensor], seed: u64) -> Result<Verdict, String> {
    let got: Vec<Tensor> = got.iter().zip(want).map(|(bytes, like)| tensor(bytes, like)).collect::<Result<_, _>>()?;
    let differences = differences(&got, want);
    if differences.is_empty() {
        return Ok(Verdict::Same);
    }
    if leaves_range(c)? {
        return Ok(Verdict::Unstable);
    }
    for round in 1..=EVALUATIONS {
        // An evaluation may also end at another place, for example with an index outside of the data.
        let Ok(moved) = moved(c, seed ^ (round << 40)) else { return Ok(Verdict::Unstable) };
        if !self::differences(&moved, want).is_empty() {
            return Ok(Verdict::Unstable);
        }
    }
    Ok(Verdict::Different(differences.join("; ")))
}

fn differences(got: &[Tensor], want: &[Tensor]) -> Vec<String> {
    got.iter().zip(want).enumerate().filter_map(|(j, (g, w))| difference(j, g, w)).collect()
}

/// How two tensors differ, if they do.
fn difference(j: usize, got: &Tensor, want: &Tensor) -> Option<String> {
    let (a, b) = (got.to_f64s()?, want.to_f64s()?);
    let finite = |v: &[f64]| v.iter().filter(|x| x.is_finite()).fold(0f64, |m, x| m.max(x.abs()));
    let allowed = ABSOLUTE + RELATIVE * finite(&b);
    let same = |a: f64, b: f64| a == b || a.is_nan() && b.is_nan() || (a - b).abs() <= allowed;
    let i = a.iter().zip(&b).position(|(a, b)| !same(*a, *b))?;
    Some(format!("output {j}, element {i}: got {}, wanted {}", a[i], b[i]))
}

fn tensor(bytes: &[u8], like: &Tensor) -> Result<Tensor, String> {
    let bytes = onnxc_ir::tensor::Bytes::new(bytes.to_vec());
    Tensor::from_bytes(like.dtype(), like.shape().to_vec(), bytes).ok_or_else(|| "an output has the wrong size".to_string())
}

/// Whether a node computes a number from which operators may make infinities in f32, or a NaN, about which operators that choose may differ.
fn leaves_range(c: &Composed) -> Result<bool, String> {
    let (values, _) = interp::run_all(&c.graph, &c.inputs).map_err(|e| e.to_string())?;
    let computed = c.graph.nodes.iter().flat_map(|n| &n.outputs).filter_map(|id| values[id.0 as usize].as_ref());
    Ok(computed.filter_map(Tensor::to_f64s).flatten().any(|x| x.is_nan() || x.abs() > LARGE))
}

/// The outputs of an evaluation with random rounding.
fn moved(c: &Composed, seed: u64) -> Result<Vec<Tensor>, String> {
    let mut random = Random::new(seed);
    let mut values: Vec<Option<Tensor>> = c.graph.values.iter().map(|v| v.constant.clone()).collect();
    for (id, tensor) in c.graph.inputs.iter().zip(&c.inputs) {
        values[id.0 as usize] = Some(shaken(tensor, &mut random, &HashSet::new()));
    }
    for node in &c.graph.nodes {
        let operands: Vec<Option<Tensor>> = node.inputs.iter().map(|i| i.and_then(|id| values[id.0 as usize].clone())).collect();
        for (id, tensor) in node.outputs.iter().zip(moved_node(node, operands, &mut random)?) {
            values[id.0 as usize] = Some(tensor);
        }
    }
    Ok(c.graph.outputs.iter().filter_map(|id| values[id.0 as usize].clone()).collect())
}

fn moved_node(node: &Node, mut operands: Vec<Option<Tensor>>, random: &mut Random) -> Result<Vec<Tensor>, String> {
    let is_f32 = |t: &&Tensor| t.dtype() == DType::F32;
    let same: HashSet<u32> = operands.iter().flatten().filter(is_f32).flat_map(|t| t.to_vec::<f32>()).map(f32::to_bits).collect();
    if node.op.tolerance.rel > 0.0 || node.op.tolerance.abs > 0.0 {
        operands.iter_mut().flatten().for_each(|t| *t = shaken(t, random, &HashSet::new()));
    }
    let operands: Vec<Option<&Tensor>> = operands.iter().map(Option::as_ref).collect();
    let results = interp::run_node(node, &operands).map_err(|e| e.to_string())?;
    Ok(results.iter().map(|t| shaken(t, random, &same)).collect())
}

/// Each f32 element a little larger or smaller, but for those in `kept`.
fn shaken(t: &Tensor, random: &mut Random, kept: &HashSet<u32>) -> Tensor {
    if t.dtype() != DType::F32 {
        return t.clone();
    }
    let mut shake = |x: f32| {
        let by = 1.0 + 2.0 * MOVED * (random.next() - 0.5);
        if kept.contains(&x.to_bits()) { x } else { (f64::from(x) * by) as f32 }
    };
    Tensor::from_vec(t.shape(), t.to_vec::<f32>().into_iter().map(&mut shake).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnxc_ir::op::OpSet;
    use onnxc_ir::parse;

    fn verdict(text: &str, input: Vec<f32>, got: &[f32]) -> Verdict {
        let graph = parse::parse(text, OpSet(onnxc_ops::ALL), &|_| None).expect("a graph");
        let c = Composed { graph, inputs: vec![Tensor::from_vec(&[input.len() as u64], input)] };
        let want = interp::run(&c.graph, &c.inputs).expect("values");
        let bytes = got.iter().flat_map(|x| x.to_le_bytes()).collect();
        judge(&c, &[bytes], &want, 1).expect("a verdict")
    }

    const DIFFERENCE_OF_NEIGHBOURS: &str = "graph @g(%x: f32[2]) {
  %s = const f32[] [1000000.0]
  %e = exp %x : f32[2]
  %l = log %e : f32[2]
  %d = sub %l, %x : f32[2]
  %y = mul %d, %s : f32[2]
  return %y
}";

    #[test]
    fn cancellation_cannot_be_compared() {
        assert_eq!(verdict(DIFFERENCE_OF_NEIGHBOURS, vec![1.0, 2.0], &[0.3, -0.2]), Verdict::Unstable);
    }

    #[test]
    fn mistakes_of_stable_graphs_are_found() {
        let text = "graph @g(%x: f32[2]) {\n  %y = exp %x : f32[2]\n  return %y\n}";
        assert_eq!(verdict(text, vec![0.0, 1.0], &[1.0, std::f32::consts::E]), Verdict::Same);
        assert!(matches!(verdict(text, vec![0.0, 1.0], &[1.0, 2.71]), Verdict::Different(_)));
    }

    #[test]
    fn ties_of_moved_elements_are_compared() {
        let text = "graph @g(%x: f32[2]) {\n  %n = const i64[1] [2]\n  %t = tile %x, %n : f32[4]\n  %i = arg_max %t {axis = 0, keepdims = 1} : i64[1]
  %y = cast %i {to = type f32} : f32[1]\n  return %y\n}";
        assert!(matches!(verdict(text, vec![0.0, 1.0], &[3.0]), Verdict::Different(_)));
    }
}
