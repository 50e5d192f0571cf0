//! Memory: where buffers live in the arena.
//!
//! Buffers have a size and an interval of steps in which they are live. Larger buffers are placed first, each at the lowest offset that fits between
//! the buffers that are live at the same time (greedy by size; Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference",
//! 2020, section 4.3). Offsets are multiples of 64 bytes.

pub mod weights;

/// Alignment of every buffer.
pub const ALIGN: u64 = 64;

/// A buffer of the arena.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Buffer {
    /// Size.
    pub bytes: u64,
    /// First step that writes it.
    pub first: usize,
    /// Last step that uses it.
    pub last: usize,
}

/// Offsets of the buffers, and the size of the arena that holds them all.
pub fn place(buffers: &[Buffer]) -> (Vec<u64>, u64) {
    let mut by_size: Vec<usize> = (0..buffers.len()).collect();
    by_size.sort_by_key(|i| (std::cmp::Reverse(buffers[*i].bytes), buffers[*i].first, *i));
    let mut offsets = vec![0u64; buffers.len()];
    let mut placed: Vec<usize> = Vec::new();
    let mut end = 0;
    for i in by_size {
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

    #[test]
    fn buffers_share_memory_over_time() {
        let buffers = [
            Buffer { bytes: 1000, first: 0, last: 1 },
            Buffer { bytes: 500, first: 1, last: 2 },
            Buffer { bytes: 1000, first: 2, last: 3 },
            Buffer { bytes: 64, first: 0, last: 3 },
        ];
        let (offsets, end) = place(&buffers);
        assert_eq!(conflict(&buffers, &offsets), None);
        assert_eq!(end, 1024 + 512 + 64);
    }

    #[test]
    fn conflict_sees_an_overlap() {
        let buffers = [Buffer { bytes: 8, first: 0, last: 1 }, Buffer { bytes: 8, first: 1, last: 1 }];
        assert_eq!(conflict(&buffers, &[0, 0]), Some((0, 1)));
    }
}
