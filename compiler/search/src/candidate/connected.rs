//! A part of the kernels of 3 by 3, those of the same input channels for all filters of a panel; what is left is fitted again (connectivity pruning: Niu et al.,
//! "PatDNN", 2020).
//!
//! What Winograd's algorithm multiplies is a sum over channels at each of its points, and a kernel is zero at all of them if it is zero, but not if some of its taps
//! are. So where single positions would leave no algorithm but the direct one, whole kernels leave these products shorter. They lose more than as many single
//! positions, which take 2.25 to 5.06 times as long: prices and errors decide.

use onnxc_passes::compress::weighted::Weighted;

use super::pruned::{PANELS, Pruned};

/// Input channels from which on it is tried: the lowest density leaves two of so many.
const LEAST: usize = 8;

/// The form. Of integers Winograd's algorithm leaves nothing out.
pub const KERNELS: Pruned = Pruned {
    name: "connected",
    whole_kernels: true,
    integers: false,
    densities: &[0.8, 0.65, 0.5, 0.4, 0.3, 0.2],
    probes: [0.5, 0.8, 0.2],
    alike: "connected",
    fits,
    ..PANELS
};

fn fits(layer: &Weighted) -> bool {
    layer.is_three_by_three() && layer.channels >= LEAST && (PANELS.fits)(layer)
}

#[cfg(test)]
mod tests {
    use onnxc_ir::op::OpSet;
    use onnxc_ir::{DType, Tensor, parse};
    use onnxc_ops::winograd;
    use onnxc_passes::compress::weighted::layers;

    use super::*;
    use crate::candidate::Form;

    /// Shapes of operand, weights and result, attributes, and whether a layer is of the form.
    const LAYERS: [([&str; 3], &str, bool); 8] = [
        (["1,8,9,9", "16,8,3,3", "1,16,9,9"], "pads = ints[1, 1, 1, 1]", true),
        (["1,8,9,9", "16,8,3,3", "1,16,4,4"], "strides = ints[2, 2]", false),
        (["1,8,9,9", "16,8,3,3", "1,16,5,5"], "dilations = ints[2, 2]", false),
        (["1,16,9,9", "16,8,3,3", "1,16,7,7"], "group = 2", false),
        (["1,8,9,9", "16,8,1,1", "1,16,9,9"], "group = 1", false),
        (["1,8,9,9", "16,8,3,1", "1,16,7,9"], "group = 1", false),
        (["1,8,9", "16,8,3", "1,16,7"], "group = 1", false),
        (["1,4,9,9", "16,4,3,3", "1,16,7,7"], "group = 1", false),
    ];

    #[test]
    fn layers_are_of_it_that_winograd_computes() {
        for ([x, w, y], attributes, fits) in LAYERS {
            let head = format!("graph @f(%x: f32[{x}]) {{\n  %w = const f32[{w}] blob(0000000000000001)\n");
            let text = format!("{head}  %y = conv %x, %w, _ {{{attributes}}} : f32[{y}]\n  return %y\n}}\n");
            let shape: Vec<u64> = w.split(',').map(|n| n.parse().expect("an extent")).collect();
            let weights = |_| Tensor::zeros(DType::F32, &shape);
            let graph = parse::parse(&text, OpSet(onnxc_ops::ALL), &weights).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(KERNELS.fits(&layers(&graph)[0]), fits, "{w} {attributes}");
            let node = &graph.nodes[0];
            let [x, w] = [0, 1].map(|i| graph.ty(node.inputs[i].expect("an operand")));
            assert!(!fits || winograd::fitting(node.op.name, &node.attrs, x, w).next().is_some(), "{attributes}");
        }
    }

    #[test]
    fn densities_that_are_measured_are_tried() {
        assert!(KERNELS.probes.iter().all(|d| KERNELS.densities.contains(d)));
    }
}
