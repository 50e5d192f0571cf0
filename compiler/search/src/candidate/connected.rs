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

/// The form. Winograd's algorithm is for floats.
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
