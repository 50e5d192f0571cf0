//! Convolutions of which only the largest values count: the rest of the model reads the maxima (and minima) of their channels over all positions.
//!
//! Such a layer may be wrong wherever its values are small, so that it is fitted, and judged, mostly by the rows at which its channels have their maxima. Some
//! of the others stay: a value that was small must not become the largest. Of a network that tells types of files, pruned until it took half of its time, 8 of
//! 300 decisions on calibration inputs changed when all rows counted alike, and 3 when those of maxima alone did.

use std::collections::HashMap;

use onnxc_ir::{DType, Graph, ValueId};
use onnxc_passes::compress::weighted::Weighted;
use rayon::prelude::*;

use crate::taps::{BATCH, Tapped, floats};
use crate::{Backend, Result, Samples};

/// For each sample and channel the row at which it is largest.
pub type Places = HashMap<usize, Vec<u64>>;

/// Does the rest of the model read nothing of this layer but extremes of its channels?
pub fn are_all(graph: &Graph, layer: &Weighted) -> bool {
    let node = &graph.nodes[layer.node];
    let result = node.outputs[0];
    let one_image = graph.ty(result).shape.first().and_then(|d| d.as_const()) == Some(1);
    node.op.name == "conv" && one_image && layer.rows > 1 && reduced(graph, layer, result)
}

/// Do all that read a value reduce it to its channels, or read it as it is in another shape, of which that is true again?
fn reduced(graph: &Graph, layer: &Weighted, id: ValueId) -> bool {
    let readers: Vec<_> = graph.nodes.iter().filter(|n| n.inputs.contains(&Some(id))).collect();
    let fits = |n: &&onnxc_ir::graph::Node| match n.op.name {
        "squeeze" | "unsqueeze" | "reshape" => reduced(graph, layer, n.outputs[0]),
        "reduce_max" | "reduce_min" => leaves_channels(graph, layer, n),
        _ => false,
    };
    !readers.is_empty() && !graph.outputs.contains(&id) && readers.iter().all(fits)
}

/// Are the dimensions that are reduced those of positions, the last ones?
fn leaves_channels(graph: &Graph, layer: &Weighted, node: &onnxc_ir::graph::Node) -> bool {
    let operand = |n: usize| node.inputs.get(n).copied().flatten();
    let Some(shape) = operand(0).and_then(|x| graph.ty(x).const_shape()) else { return false };
    let Some(axes) = operand(1).and_then(|axes| graph.constant(axes)?.to_i64s()) else { return false };
    let rank = shape.len() as i64;
    let mut axes: Vec<usize> = axes.iter().map(|a| (a + rank) as usize % shape.len().max(1)).collect();
    axes.sort_unstable();
    let last = axes.iter().rev().zip((0..shape.len()).rev()).all(|(a, d)| *a == d);
    last && axes.iter().map(|a| shape[*a]).product::<u64>() == layer.rows
}

/// The places of these samples.
///
/// # Errors
/// As [`Tapped::run`].
pub fn places(backend: &dyn Backend, graph: &Graph, layer: &Weighted, samples: &Samples, which: &[usize]) -> Result<Places> {
    let result = graph.nodes[layer.node].outputs[0];
    debug_assert_eq!(graph.ty(result).dtype, DType::F32);
    let tapped = Tapped::new(backend, graph, &[result])?;
    let mut found = Places::new();
    for batch in which.chunks(BATCH) {
        let outputs = tapped.run_all(samples, batch)?;
        let largest = |o: &Vec<Vec<u8>>| floats(&o[0]).chunks_exact(layer.rows as usize).map(largest).collect();
        found.extend(batch.iter().copied().zip(outputs.par_iter().map(largest).collect::<Vec<Vec<u64>>>()));
    }
    Ok(found)
}

/// Where a channel is largest; the first place of several.
fn largest(channel: &[f32]) -> u64 {
    let better = |best: usize, at: usize| if channel[at] > channel[best] { at } else { best };
    (0..channel.len()).reduce(better).unwrap_or(0) as u64
}

#[cfg(test)]
mod tests {
    use onnxc_ir::op::OpSet;
    use onnxc_ir::{Tensor, parse};
    use onnxc_passes::compress::weighted;

    use super::*;

    fn model(rest: &str) -> Graph {
        let text = format!(
            "graph @f(%x: f32[1,3,10]) {{
  %w = const f32[4,3,3] blob(0000000000000000)
  %last = const i64[1] [-1]
  %second = const i64[1] [1]
  %a = conv %x, %w, _ : f32[1,4,8] @\"conv\"
{rest}}}
"
        );
        let blob = |_: u64| Some(Tensor::from_vec(&[4, 3, 3], (0..36).map(|i| i as f32).collect::<Vec<f32>>()));
        parse::parse(&text, OpSet(onnxc_ops::ALL), &blob).unwrap_or_else(|e| panic!("{e}"))
    }

    #[test]
    fn only_layers_whose_extremes_alone_are_read() {
        let both = "  %b = unsqueeze %a, %second : f32[1,1,4,8]\n  %h = reduce_max %b, %last {keepdims = 0} : f32[1,1,4]\n  %l = reduce_min %a, %last {keepdims = 1} : f32[1,4,1]\n";
        let cases = [
            (format!("{both}  return %h, %l\n"), true),
            (format!("{both}  return %h, %l, %a\n"), false),
            ("  %b = reduce_max %a, %second {keepdims = 0} : f32[1,8]\n  return %b\n".to_string(), false),
            (
                "  %b = relu %a : f32[1,4,8]\n  %c = reduce_max %b, %last {keepdims = 0} : f32[1,4]\n  return %c\n".to_string(),
                false,
            ),
        ];
        for (rest, all) in cases {
            let graph = model(&rest);
            let layer = weighted::layers(&graph).into_iter().next().expect("a layer");
            assert_eq!(are_all(&graph, &layer), all, "{rest}");
        }
    }

    #[test]
    fn the_first_of_the_largest_counts() {
        assert_eq!(largest(&[1.0, 3.0, f32::NAN, 3.0, -1.0]), 1);
        assert_eq!(largest(&[]), 0);
    }
}
