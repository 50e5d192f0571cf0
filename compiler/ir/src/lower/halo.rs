//! What lies around a value in its buffer.

use crate::op::View;

/// Elements before and behind each dimension of a value that belong to its buffer and have a value of their own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Halo {
    /// Before and behind each dimension; nothing where there are none.
    pub around: Vec<(u64, u64)>,
    /// Each of their bytes.
    pub fill: u8,
}

/// A part of a border: for each dimension the first coordinate and the one behind the last, counted from the value's first element.
pub type Side = Vec<(Edge, Edge)>;

/// A coordinate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Edge {
    /// So far from the first element.
    Start(i64),
    /// So far behind the last element.
    End(i64),
}

impl Halo {
    /// The parts of the border, none twice, of a view of any extents.
    pub fn open_sides(&self) -> Vec<Side> {
        let whole = |(lo, hi): &(u64, u64)| (Edge::Start(-(*lo as i64)), Edge::End(*hi as i64));
        let inner = (Edge::Start(0), Edge::End(0));
        let mut sides = Vec::new();
        for (d, (lo, hi)) in self.around.iter().enumerate() {
            let before = (*lo > 0).then_some((Edge::Start(-(*lo as i64)), Edge::Start(0)));
            let behind = (*hi > 0).then_some((Edge::End(0), Edge::End(*hi as i64)));
            for side in before.into_iter().chain(behind) {
                let around = self.around.iter().enumerate().map(|(e, n)| match e.cmp(&d) {
                    std::cmp::Ordering::Less => inner,
                    std::cmp::Ordering::Equal => side,
                    std::cmp::Ordering::Greater => whole(n),
                });
                sides.push(around.collect());
            }
        }
        sides
    }

    /// True when there is at least as much as `other` asks for.
    pub fn covers(&self, other: &Halo) -> bool {
        self.fill == other.fill && self.around.iter().zip(&other.around).all(|(a, b)| a.0 >= b.0 && a.1 >= b.1)
    }

    /// The elements before and behind a dimension.
    pub fn at(&self, d: usize) -> (u64, u64) {
        self.around.get(d).copied().unwrap_or_default()
    }

    /// The value with its border.
    pub fn whole(&self, view: &View) -> View {
        let mut whole = view.clone();
        for (d, (lo, hi)) in self.around.iter().enumerate() {
            whole.shape[d] += lo + hi;
            whole.offset -= *lo as i64 * view.strides[d];
        }
        whole
    }

    /// The parts of the border, none twice, of a view whose extents are numbers.
    pub fn sides(&self, view: &View) -> Vec<View> {
        let mut sides = Vec::new();
        let mut inner = self.whole(view);
        for (d, (lo, hi)) in self.around.iter().enumerate() {
            let extent = view.shape[d];
            for (start, n) in [(0, *lo), (lo + extent, *hi)] {
                if n > 0 {
                    let mut side = inner.clone();
                    side.offset += start as i64 * side.strides[d];
                    side.shape[d] = n;
                    sides.push(side);
                }
            }
            inner.offset += *lo as i64 * inner.strides[d];
            inner.shape[d] = extent;
        }
        sides
    }
}
