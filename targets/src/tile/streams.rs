//! Tiles of one row whose steps take turns at several places of B.
//!
//! Such a tile loads B for every product, so that it takes what memory takes. Prefetchers of a core stop at the end of a page, and wait for their second line
//! in the next one: with eight pages at a time there are always some that run. A Zen 4 core multiplies by 103 MB in 3.5 ms
//! that way, in 5.8 ms with one stream (pages of 4 KB); a Zen 3 core by 411 MB in 19 ms, in 26 to 31 ms with one.

use super::Tile;
use super::short::InA;
use crate::emitter::{Emitter, P, V};
use crate::error::Error;

/// Bytes of B in a panel from which on there are several streams. What is less may lie in a cache, where one stream is as fast, or faster: two products of
/// 512 steps take 8 % less with one.
const LEAST: i64 = 256 << 10;
/// Bytes of B that an instruction reaches.
const FARTHEST: i64 = 1 << 30;

impl Tile<'_> {
    /// Places of B that a loop of so many steps reads.
    pub(super) fn streams(&self, count: u32) -> u32 {
        let plain = self.k.mr == 1 && !self.k.open_k && !self.k.has_table() && self.k.less.is_none() && self.together() == 1;
        let streams = if plain && self.k.ahead == 0 { self.k.streams } else { 1 };
        if (LEAST..=FARTHEST).contains(&self.b_bytes(count.into())) { streams } else { 1 }
    }

    /// The innermost loop in turns; advances both pointers past the steps that all streams have, and says how many there are.
    pub(super) fn in_turns(
        &self,
        e: &mut dyn Emitter,
        acc: &[V],
        (a, b): (P, P),
        regs: (&[V], &[V]),
        (count, step): (u32, i64),
        streams: u32,
    ) -> Result<u32, Error> {
        let apart = i64::from(count / streams);
        let open = e.repeat(apart as u64)?;
        for stream in 0..i64::from(streams) {
            let place: InA = (a, stream * apart * step);
            self.step(e, acc, place, (b, self.b_at(stream * apart)), regs)?;
        }
        e.advance(a, step)?;
        e.advance(b, self.b_bytes(1))?;
        e.end(open)?;
        let others = i64::from(streams - 1) * apart;
        e.advance(a, others * step)?;
        e.advance(b, self.b_bytes(others))?;
        Ok(streams * apart as u32)
    }
}
