//! Memory: where buffers live in the arena.
//!
//! Buffers have a size and an interval of steps in which they are live. Larger buffers are placed first, each at the lowest offset that fits between
//! the buffers that are live at the same time (greedy by size; Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference",
//! 2020, section 4.3). Where that leaves gaps, the buffer on top is placed before all others, and so on for some rounds. Offsets are multiples of 64 bytes.

pub mod weights;

use onnxc_ir::dim::Dim;
use onnxc_ir::plan::{Base, Room};

/// Alignment of every buffer.
pub const ALIGN: u64 = 64;

/// A buffer of the arena.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// Size, the largest one where it depends on open sizes.
    pub bytes: u64,
    /// What is used of it, where that depends on open sizes.
    pub open: Option<Dim>,
    /// First step that writes it.
    pub first: usize,
    /// Last step that uses it.
    pub last: usize,
}

/// Offsets of the buffers, and the size of the arena that holds them all.
pub fn place(buffers: &[Buffer]) -> (Vec<u64>, u64) {
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|i| (std::cmp::Reverse(buffers[*i].bytes), buffers[*i].first, *i));
    let least = live_bytes(buffers);
    let mut best = place_in(buffers, &order);
    let mut last = best.clone();
    for _ in 0..ROUNDS {
        let top = order.iter().position(|i| last.0[*i] + buffers[*i].bytes.next_multiple_of(ALIGN) == last.1);
        let Some(top) = top.filter(|_| best.1 > least) else { break };
        order[..=top].rotate_right(1);
        last = place_in(buffers, &order);
        if last.1 < best.1 {
            best.clone_from(&last);
        }
    }
    best
}

/// Rounds in which the placement is mended.
const ROUNDS: usize = 32;

/// The most bytes that are live at one step: no arena can be smaller.
pub fn live_bytes(buffers: &[Buffer]) -> u64 {
    let mut change = vec![0i64; buffers.iter().map(|b| b.last + 2).max().unwrap_or(0)];
    for b in buffers {
        change[b.first] += b.bytes.next_multiple_of(ALIGN) as i64;
        change[b.last + 1] -= b.bytes.next_multiple_of(ALIGN) as i64;
    }
    let live = change.into_iter().scan(0, |live, by| {
        *live += by;
        Some(*live)
    });
    live.max().unwrap_or(0) as u64
}

/// The placement of buffers one after the other, each as low as it can.
fn place_in(buffers: &[Buffer], order: &[usize]) -> (Vec<u64>, u64) {
    let mut offsets = vec![0u64; buffers.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut end = 0;
    for i in order.iter().copied() {
        let size = buffers[i].bytes.next_multiple_of(ALIGN);
        let overlaps = |j: &usize| buffers[*j].first <= buffers[i].last && buffers[i].first <= buffers[*j].last;
        let mut busy: Vec<(u64, u64)> = placed
            .iter()
            .filter(|j| overlaps(j))
            .map(|j| (offsets[*j], offsets[*j] + buffers[*j].bytes.next_multiple_of(ALIGN)))
            .collect();
        busy.sort_unstable();
        let mut at = 0;
        for (from, to) in busy {
            if at + size <= from {
                break;
            }
            at = at.max(to);
        }
        offsets[i] = at;
        end = end.max(at + size);
        placed.push(i);
    }
    (offsets, end)
}

/// What becomes of a placement when open sizes are smaller than their bounds: buffers keep their order, and move down to what lies below them.
#[derive(Clone, PartialEq, Debug)]
pub struct Moved {
    /// For each buffer that moves, its room.
    pub room_of: Vec<Option<usize>>,
    /// Their offsets, those that others need first.
    pub rooms: Vec<Room>,
    /// The size of the arena.
    pub end: Room,
}

/// Of two buffers that are live at the same time the upper one begins behind the lower one at all sizes; at the bounds nothing begins later than `offsets` say.
/// What `offsets` are relative to lies at `base`.
pub fn moved(buffers: &[Buffer], offsets: &[u64], base: u64) -> Moved {
    let live = |a: &Buffer, b: &Buffer| a.first <= b.last && b.first <= a.last && a.bytes > 0 && b.bytes > 0;
    let mut order: Vec<usize> = (0..buffers.len()).collect();
    order.sort_by_key(|i| (offsets[*i], *i));
    let mut below: Vec<Vec<usize>> = vec![Vec::new(); buffers.len()];
    let mut moved = Moved { room_of: vec![None; buffers.len()], rooms: Vec::new(), end: Room::default() };
    let mut topmost = vec![true; buffers.len()];
    for (n, i) in order.iter().copied().enumerate() {
        below[i] =
            order[..n].iter().rev().copied().filter(|j| live(&buffers[i], &buffers[*j]) && offsets[*j] < offsets[i]).collect();
        // What lies below something that lies below is no news.
        let direct: Vec<usize> = below[i].iter().copied().filter(|j| !below[i].iter().any(|d| below[*d].contains(j))).collect();
        direct.iter().for_each(|j| topmost[*j] = false);
        if direct.iter().any(|j| moved.room_of[*j].is_some() || buffers[*j].open.is_some()) {
            let room = moved.behind(buffers, offsets, base, &direct);
            moved.room_of[i] = Some(moved.rooms.len());
            moved.rooms.push(room);
        }
    }
    let top: Vec<usize> = order.into_iter().filter(|i| topmost[*i]).collect();
    moved.end = moved.behind(buffers, offsets, base, &top);
    moved
}

impl Moved {
    fn behind(&self, buffers: &[Buffer], offsets: &[u64], base: u64, below: &[usize]) -> Room {
        let (mut behind, mut fixed) = (Vec::new(), base);
        for j in below {
            let size = buffers[*j].open.as_ref().map_or(Dim::Const(buffers[*j].bytes.next_multiple_of(ALIGN)), aligned);
            match (self.room_of[*j], size) {
                (None, Dim::Const(n)) => fixed = fixed.max(base + offsets[*j] + n),
                (None, open) => behind.push((Base::At(base + offsets[*j]), open)),
                (Some(room), size) => behind.push((Base::Room(room), size)),
            }
        }
        behind.push((Base::At(fixed), Dim::Const(0)));
        Room { behind }
    }
}

/// The next multiple of the alignment.
fn aligned(size: &Dim) -> Dim {
    size.offset(ALIGN as i64 - 1).div(&Dim::Const(ALIGN)).mul(&Dim::Const(ALIGN))
}

/// Two buffers that are live at the same time and overlap, if the placement is wrong.
pub fn conflict(buffers: &[Buffer], offsets: &[u64]) -> Option<(usize, usize)> {
    let live = |a: &Buffer, b: &Buffer| a.first <= b.last && b.first <= a.last;
    for (i, a) in buffers.iter().enumerate() {
        for (j, b) in buffers.iter().enumerate().take(i) {
            let apart = offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
            if live(a, b) && !apart && a.bytes > 0 && b.bytes > 0 {
                return Some((j, i));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnxc_ir::dim::DimBindings;

    fn buffer(bytes: u64, first: usize, last: usize) -> Buffer {
        Buffer { bytes, open: None, first, last }
    }

    /// Offsets at a value of N, and the size of the arena.
    fn at(n: u64, buffers: &[Buffer], offsets: &[u64], moved: &Moved) -> (Vec<u64>, u64) {
        let sizes = DimBindings::from([("N".to_string(), n)]);
        let mut rooms: Vec<u64> = Vec::new();
        let value = |rooms: &[u64], room: &Room| {
            let one = |(base, size): &(Base, Dim)| match base {
                Base::At(o) => o + size.bind(&sizes).as_const().unwrap_or(u64::MAX),
                Base::Room(r) => rooms[*r] + size.bind(&sizes).as_const().unwrap_or(u64::MAX),
            };
            room.behind.iter().map(one).max().unwrap_or(0)
        };
        for room in &moved.rooms {
            let offset = value(&rooms, room);
            rooms.push(offset);
        }
        let offsets = (0..buffers.len()).map(|i| moved.room_of[i].map_or(offsets[i], |r| rooms[r])).collect();
        (offsets, value(&rooms, &moved.end))
    }

    #[test]
    fn smaller_sizes_move_buffers_down_and_never_together() {
        let n = Dim::sym("N");
        let mut seed = 1u64;
        let mut draw = |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) % below
        };
        for _ in 0..200 {
            let buffers: Vec<Buffer> = (0..12)
                .map(|_| {
                    let (factor, first) = (draw(100), draw(8) as usize);
                    let open = (draw(3) > 0).then(|| n.mul(&Dim::Const(factor)));
                    Buffer { bytes: 64 * factor, open, first, last: first + draw(4) as usize }
                })
                .collect();
            let (offsets, end) = place(&buffers);
            let moved = moved(&buffers, &offsets, 0);
            let mut before = 0;
            for n in [1, 2, 17, 63, 64] {
                let sized: Vec<Buffer> = buffers
                    .iter()
                    .map(|b| Buffer { bytes: if b.open.is_some() { b.bytes / 64 * n } else { b.bytes }, ..b.clone() })
                    .collect();
                let (offsets, arena) = at(n, &buffers, &offsets, &moved);
                assert_eq!(conflict(&sized, &offsets), None, "{n}: {sized:?} {offsets:?}");
                assert!(sized.iter().zip(&offsets).all(|(b, o)| o + b.bytes <= arena && o.is_multiple_of(ALIGN)));
                assert!(before <= arena && arena <= end);
                before = arena;
            }
        }
    }

    #[test]
    fn buffers_share_memory_over_time() {
        let buffers = [buffer(1000, 0, 1), buffer(500, 1, 2), buffer(1000, 2, 3), buffer(64, 0, 3)];
        let (offsets, end) = place(&buffers);
        assert_eq!(conflict(&buffers, &offsets), None);
        assert_eq!(end, 1024 + 512 + 64);
    }

    /// Of two equally large ones the upper one lives longer, and what comes beside it has no room in one piece.
    #[test]
    fn gaps_are_mended() {
        let buffers = [buffer(128, 2, 3), buffer(320, 2, 2), buffer(384, 0, 1), buffer(384, 1, 3)];
        let (_, greedy) = place_in(&buffers, &[2, 3, 1, 0]);
        let (offsets, end) = place(&buffers);
        assert_eq!(conflict(&buffers, &offsets), None);
        assert!(end == live_bytes(&buffers) && end < greedy, "{end} of {greedy}");
    }

    #[test]
    fn conflict_sees_an_overlap() {
        let buffers = [buffer(8, 0, 1), buffer(8, 1, 1)];
        assert_eq!(conflict(&buffers, &[0, 0]), Some((0, 1)));
    }
}
