//! What each part of the method is good for: models with all layers alike, one part more in each.

use onnxc_passes::compress::{Balance, Damping, Mask, Repair, Rounding};

use crate::Result;
use crate::assemble::{Assembled, Method};
use crate::candidate::{self, Pick};
use crate::metric::Score;
use crate::recipe::Weights;
use crate::samples::Split;
use crate::search::Search;

/// Shares of positions that stay: magnitude alone fails at the first on trained networks, a refit by itself at the last.
const DENSITIES: [f64; 3] = [0.8, 0.5, 0.3];
/// Damping where none is looked for.
const DAMPING: f64 = 1e-2;

/// A method with one part more than the one before.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Variant {
    /// What is new in it.
    pub name: &'static str,
    /// The same in names of files.
    pub file: &'static str,
    weights: Weights,
    method: Method,
}

/// All of them, in order. Reordered filters are the last but one of the floats' and stand beside the line: their score is what masks of groups that like the
/// same positions would give, but the model's filters stay where they are ([`crate::reordered`] moves them).
pub fn variants() -> [Variant; 9] {
    let bare = Method {
        mask: Mask::Magnitude,
        repair: Repair::None,
        damping: Damping::Fixed(DAMPING),
        balance: Balance::Equal,
        reorder: false,
        rounding: Rounding::Nearest,
        range: Method::default().range,
        apart: false,
        stages: 1,
    };
    let refit = Method { repair: Repair::Refit, ..bare };
    let sequential = Method { stages: Method::default().stages, ..refit };
    let obs = Method { mask: Mask::Obs, ..sequential };
    let validated = Method { damping: Damping::CrossValidated, ..obs };
    let free = Method { balance: Balance::Free, ..validated };
    let floats = |name, file, method| Variant { name, file, weights: Weights::F32, method };
    let integers = |name, file, method| Variant { name, file, weights: Weights::Int8, method };
    [
        floats("magnitude without repair", "magnitude", bare),
        floats("+ refit", "refit", refit),
        floats("+ each for what those before it pass on", "sequential", sequential),
        floats("+ OBS masks", "obs", obs),
        floats("+ cross-validated damping", "validated", validated),
        floats("+ filter reorder", "reorder", Method { reorder: true, ..validated }),
        floats("+ free positions instead of equal counts", "free", free),
        integers("the same in int8, rounded to nearest", "nearest", free),
        integers("+ quantisation-aware repair", "gptq", Method { rounding: Rounding::Gptq, ..free }),
    ]
}

/// A model of an ablation.
pub struct Ablated {
    /// Its method.
    pub variant: Variant,
    /// Share of positions that is left.
    pub density: f64,
    /// On the samples that are held out.
    pub score: Score,
    /// The model.
    pub assembled: Assembled,
}

impl Search<'_> {
    /// All methods at three densities.
    ///
    /// # Errors
    /// When a model has no code.
    pub fn ablate(&self) -> Result<Vec<Ablated>> {
        let permitted = |v: &Variant| self.goal.integers || v.weights == Weights::F32;
        let variants: Vec<Variant> = variants().into_iter().filter(permitted).collect();
        let all: Vec<(Variant, f64)> = variants.iter().flat_map(|v| DENSITIES.map(|d| (*v, d))).collect();
        let one = |(n, (variant, density)): (usize, &(Variant, f64))| {
            self.subject.backend.count("ablation", n, all.len());
            let form = candidate::form("pruned").unwrap_or(Pick::DENSE.form);
            let pick = Pick { form, density: *density, weights: variant.weights };
            let picks: Vec<Pick> = self.subject.layers.iter().map(|l| self.subject.possible(l, pick)).collect();
            let assembled = self.assembled(&picks, variant.method, Split::HALF)?;
            let score = self.held_out(&picks, variant.method, &assembled.graph)?;
            Ok(Ablated { variant: *variant, density: *density, score, assembled })
        };
        let models = all.iter().enumerate().map(one).collect();
        self.subject.backend.count("ablation", all.len(), all.len());
        models
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_methods_are_what_searches_use() {
        let all = variants();
        assert_eq!(all[8].method, Method::default());
        assert_eq!(Method { rounding: Rounding::Gptq, ..all[6].method }, Method::default());
        assert!(all.windows(2).all(|v| v[0].file != v[1].file && (v[0].method, v[0].weights) != (v[1].method, v[1].weights)));
    }
}
