//! Which positions of a layer's weights are kept or dropped together: panels of outputs share positions, and positions come in units.

use std::ops::Range;

/// Positions that panels of columns share.
///
/// A position is a (tap, channel) pair, `tap * channels + channel`. A unit is `unit` neighbouring channels of one tap, or of all taps; the last
/// unit of a tap is smaller where `unit` does not divide `channels`. Units are counted in the order of their first positions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Outputs of a group that share positions; the last group may be smaller.
    pub group: usize,
    /// Neighbouring channels that are kept or dropped together: 1, or 4 for 8-bit dot products.
    pub unit: usize,
    /// Channels of a tap.
    pub channels: usize,
    /// Taps of the kernel; 1 for matrices.
    pub taps: usize,
    /// A unit holds its channels at every tap: what is dropped by all groups need not be computed by the layer before.
    pub whole_channels: bool,
}

impl Shape {
    /// Whole input channels, for all outputs at once (structured pruning; He et al., "Channel Pruning for Accelerating Very Deep Neural
    /// Networks", 2017, §3.1, with masks by loss in place of LASSO).
    pub fn structured(outputs: usize, channels: usize, taps: usize) -> Shape {
        Shape { group: outputs, unit: 1, channels, taps, whole_channels: true }
    }

    /// How many groups `n` outputs make.
    pub fn groups(&self, n: usize) -> usize {
        n.div_ceil(self.group.max(1))
    }

    /// The outputs of a group.
    pub fn outputs(&self, group: usize, n: usize) -> Range<usize> {
        let width = self.group.max(1);
        (group * width).min(n)..((group + 1) * width).min(n)
    }

    /// The positions of each unit.
    pub fn units(&self) -> Vec<Vec<usize>> {
        let starts = || (0..self.channels).step_by(self.unit.max(1));
        let end = |start: usize| (start + self.unit.max(1)).min(self.channels);
        let at = |tap: usize, start: usize| tap * self.channels + start..tap * self.channels + end(start);
        match self.whole_channels {
            true => starts().map(|start| (0..self.taps).flat_map(|tap| at(tap, start)).collect()).collect(),
            false => (0..self.taps).flat_map(|tap| starts().map(move |start| at(tap, start).collect())).collect(),
        }
    }

    /// The positions of some units, ascending.
    pub fn positions(&self, kept: &[u32]) -> Vec<usize> {
        let units = self.units();
        let mut at: Vec<usize> = kept.iter().flat_map(|&u| units[u as usize].iter().copied()).collect();
        at.sort_unstable();
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_cover_each_position_once() {
        for whole_channels in [false, true] {
            let shape = Shape { group: 4, unit: 4, channels: 6, taps: 3, whole_channels };
            let units = shape.units();
            assert_eq!(units.len(), if whole_channels { 2 } else { 6 });
            let all: Vec<u32> = (0..units.len() as u32).collect();
            assert_eq!(shape.positions(&all), (0..18).collect::<Vec<usize>>());
        }
    }

    #[test]
    fn the_last_group_is_what_is_left() {
        let shape = Shape { group: 4, unit: 1, channels: 1, taps: 1, whole_channels: false };
        assert_eq!((0..shape.groups(10)).map(|g| shape.outputs(g, 10)).collect::<Vec<_>>(), [0..4, 4..8, 8..10]);
    }
}
