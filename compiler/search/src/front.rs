//! The front: models between the dense one and small ones, of which none is better than another in all.

use crate::Result;
use crate::search::{Found, LEAST, Search};

/// Losses up to which points are of use.
pub(crate) const USEFUL: f64 = 0.1;
/// Limits nearer to each other than by this ratio have nothing between them.
const NEAR: f64 = 1.03;
/// How much of the space between a point of use and one of none counts.
const BEYOND: f64 = 0.3;
/// Limits from which the others go.
const FIRST: usize = 4;

impl Search<'_> {
    /// Models with losses up to a tenth, ascending by price, without those that another one beats in price and divergence. So many are tried: where the
    /// prices of neighbours are furthest from each other one is put between them.
    ///
    /// # Errors
    /// When no model keeps the caps.
    pub fn front(&self, points: usize) -> Result<Vec<Found>> {
        let mut found: Vec<(f64, Option<Found>)> = Vec::new();
        self.add(&mut found, 0.0)?;
        let most = self.most();
        for n in 0..FIRST {
            self.subject.backend.count("points", n, points);
            self.add(&mut found, LEAST * (most / LEAST).powf((n as f64 + 0.5) / FIRST as f64))?;
        }
        for n in FIRST..points {
            self.subject.backend.count("points", n, points);
            while let Some(limit) = widest(&found) {
                if self.add(&mut found, limit)? {
                    break;
                }
            }
        }
        self.subject.backend.count("points", points, points);
        let found = found.into_iter().filter_map(|f| f.1);
        // Prices of layers led the search; what counts in the end is what the compiler makes of the models.
        let mut found = found.map(|f| Ok((self.planned(&f)?, f))).collect::<Result<Vec<(f64, Found)>>>()?;
        if found.is_empty() {
            return Err(self.nearest(None)?);
        }
        found.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut least = f64::INFINITY;
        found.retain(|(_, f)| {
            let better = f.score.divergence < least;
            least = least.min(f.score.divergence);
            better
        });
        Ok(found.into_iter().map(|f| f.1).collect())
    }

    /// Notes the model of a limit; false if it was there before.
    fn add(&self, found: &mut Vec<(f64, Option<Found>)>, limit: f64) -> Result<bool> {
        let Some(chosen) = self.choice(limit)? else { return Ok(false) };
        let picks = self.picks(&chosen);
        let known = found.iter().any(|(_, f)| f.as_ref().is_some_and(|f| f.picks == picks));
        let made = if known { None } else { Some(self.make(limit, &chosen)?) };
        found.push((limit, made));
        found.sort_by(|a, b| a.0.total_cmp(&b.0));
        Ok(!known)
    }
}

/// The middle of the two limits between which models differ most in price, as long as the first one is of use.
fn widest(found: &[(f64, Option<Found>)]) -> Option<f64> {
    let mut best: Option<(f64, f64)> = None;
    let mut before: Option<(f64, &Found)> = None;
    for (limit, model) in found {
        // A limit with the model of one before or behind it narrows what is between.
        let Some(model) = model else {
            before = before.map(|(_, m)| (*limit, m));
            continue;
        };
        if let Some((low, first)) = before.filter(|(_, f)| f.score.drop() <= USEFUL) {
            let low = low.max(LEAST);
            // Between a point of use and one of none half of the space or more is of none.
            let part = if model.score.drop() <= USEFUL { 1.0 } else { BEYOND };
            let gap = part * (first.price.0 / model.price.0).ln();
            if *limit > low * NEAR && gap > best.map_or(0.0, |b| b.0) {
                best = Some((gap, (low * limit).sqrt()));
            }
        }
        before = Some((*limit, model));
    }
    best.map(|b| b.1)
}
