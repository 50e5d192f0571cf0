//! Steps of k with short weights: the products of several steps add up within 16 bits before they are added to the accumulators.
//!
//! Instructions that add words are few beside those that make double words of them: two steps of a vector take two products, an addition of words, a widening
//! one and the accumulator's, where one by one they take two of each.

use super::Tile;
use crate::emitter::{Dot, Emitter, Mem, P, Ty, V, alloc_many};
use crate::error::Error;

/// A place in A: a pointer and bytes behind it.
pub(super) type InA = (P, i64);
/// A step: its place in A, its place in B.
type Step = (InA, i64);

impl Tile<'_> {
    /// Steps whose products are added within 16 bits; 1 where there is nothing to add there.
    pub(super) fn together(&self) -> u32 {
        if self.dot == Dot::Short { self.k.short.max(1) } else { 1 }
    }

    /// Registers beside the accumulators.
    pub(super) fn factors(&self, e: &dyn Emitter) -> usize {
        let used = self.used as usize;
        match self.together() as usize {
            1 => (used + 1) * if self.integers { e.dot_parts(self.dot) } else { 1 } + e.dot_temps(self.dot),
            together => used * together + self.words(),
        }
    }

    /// Registers of words, and of the A that they are made of: those of the first step, and of another one.
    fn words(&self) -> usize {
        2 * self.used as usize
    }

    /// Registers for A and B where several steps go together.
    pub(super) fn factors_together(&self, e: &mut dyn Emitter) -> Result<(Vec<V>, Vec<V>), Error> {
        let b = alloc_many(e, Ty::I32, self.used as usize * self.together() as usize)?;
        Ok((alloc_many(e, Ty::I32, self.words())?, b))
    }

    /// Steps that follow each other, whose places in A are given; in B they are from step `first` behind the place of a pointer on.
    pub(super) fn several(
        &self,
        e: &mut dyn Emitter,
        acc: &[V],
        places: &[InA],
        (b, first): (P, i64),
        regs: (&[V], &[V]),
    ) -> Result<(), Error> {
        let steps: Vec<_> = places.iter().zip(first..).map(|(place, u)| (*place, self.b_at(u))).collect();
        match self.together() as usize {
            1 => steps.into_iter().try_for_each(|(a, at)| self.step(e, acc, a, (b, at), regs)),
            together => steps.chunks(together).try_for_each(|some| {
                let some: Vec<Step> = some.iter().map(|(a, (at, _))| (*a, *at)).collect();
                self.steps_together(e, acc, b, &some, regs)
            }),
        }
    }

    /// Steps that follow each other, no more than go together.
    fn steps_together(
        &self,
        e: &mut dyn Emitter,
        acc: &[V],
        b: P,
        steps: &[Step],
        (words, b_regs): (&[V], &[V]),
    ) -> Result<(), Error> {
        let used = self.used as usize;
        for ((_, b_at), regs) in steps.iter().zip(b_regs.chunks(used)) {
            for (j, reg) in regs.iter().enumerate() {
                let at = Mem { base: b, disp: b_at + j as i64 * self.vector() };
                e.dot_load_b(std::slice::from_ref(reg), at, self.dot)?;
            }
            self.prefetch_b(e, b, *b_at)?;
        }
        let (sums, others) = words.split_at(used);
        for (i, acc) in acc.chunks(used).enumerate() {
            for (n, ((place, a_at), _)) in steps.iter().enumerate() {
                let made = if n == 0 { sums } else { others };
                // The last product takes the place of A.
                let spread = made[used - 1];
                e.dot_splat_a(&[spread], Mem { base: *place, disp: a_at + i as i64 * self.k.a_row }, self.dot)?;
                for (word, b) in made.iter().zip(&b_regs[n * used..]) {
                    e.dot_words(*word, spread, *b)?;
                }
                if n > 0 {
                    sums.iter().zip(others).try_for_each(|(sum, other)| e.add_words(*sum, *other))?;
                }
            }
            acc.iter().zip(sums).try_for_each(|(acc, sum)| e.add_pairs(*acc, *sum))?;
        }
        Ok(())
    }
}
