//! Tiles whose steps of k are those of a list.

use onnxc_ir::kernel::NUMBERS;

use super::short::InA;
use super::{LINE, Tile, UNROLL};
use crate::emitter::{Emitter, Mem, P, V};
use crate::error::Error;

impl Tile<'_> {
    /// The steps of a list, as many as the argument behind it says.
    pub(super) fn listed(
        &self,
        e: &mut dyn Emitter,
        acc: &[V],
        (a, b): (P, P),
        regs: (&[V], &[V]),
        through_c: bool,
    ) -> Result<(), Error> {
        let place = self.behind_operands() + usize::from(self.k.ahead > 0) + usize::from(self.k.has_table());
        // Other rows go through the list again.
        let (list, count) =
            if through_c { (e.own_arg(place)?, e.own_arg(place + 1)?) } else { (e.arg(place)?, e.arg(place + 1)?) };
        let ahead = if through_c { None } else { self.ahead(e, 1)? };
        let together = self.together();
        let steps = |e: &mut dyn Emitter, from: i64, to: i64| {
            let place = |e: &mut dyn Emitter, u: i64| e.displaced(a, Mem { base: list, disp: 4 * u });
            let places = (from..to).map(|u| place(e, u)).collect::<Result<Vec<_>, _>>()?;
            let all: Vec<InA> = places.iter().map(|p| (*p, 0)).collect();
            self.several(e, acc, &all, (b, from), regs)?;
            places.into_iter().for_each(|p| e.free_ptr(p));
            Ok::<_, Error>(())
        };
        let several = self.unroll();
        let mut rounds = if self.k.has_table() { vec![several] } else { vec![several, together, 1] };
        rounds.dedup();
        for at_once in rounds {
            let open = e.while_at_least(count, at_once)?;
            if let Some((p, lines)) = ahead.filter(|_| at_once == several) {
                let lines = lines * i64::from(several / UNROLL);
                (0..lines).try_for_each(|n| e.prefetch(Mem { base: p, disp: n * LINE }, true))?;
                e.advance(p, lines * LINE)?;
            }
            let (n, together) = (i64::from(at_once), i64::from(together));
            (0..n).step_by(together as usize).try_for_each(|u| steps(e, u, n.min(u + together)))?;
            e.advance(list, 4 * i64::from(at_once))?;
            e.advance(b, self.b_bytes(i64::from(at_once)))?;
            e.end(open)?;
        }
        // The last word has fewer numbers.
        for u in 0..if self.k.has_table() { NUMBERS as i64 - 1 } else { 0 } {
            let open = e.if_some(count)?;
            steps(e, u, u + 1)?;
            e.end(open)?;
            e.advance(count, -1)?;
        }
        e.free_ptr(list);
        e.free_ptr(count);
        if let Some((p, _)) = ahead {
            e.free_ptr(p);
        }
        Ok(())
    }
}
