//! What a choice is known to lose, and the model that is handed out.
//!
//! The loop measures models on the half of the samples that is held out. Before one of them is accepted it is made once more with both halves in each
//! other's place, so that every sample is judged by a model whose weights were not computed from it (two-fold cross-validation; Stone, "Cross-Validatory Choice and
//! Assessment of Statistical Predictions", 1974): twice the decisions, and half the doubt. The model that is handed out is computed from most of the samples,
//! since more of them repair better. Ranges of activations and the choice itself are those of the first halves throughout.

use onnxc_ir::Graph;

use crate::assemble::{Assembled, Method};
use crate::candidate::Pick;
use crate::metric::{JUDGED, Judge, Score};
use crate::outputs::Outputs;
use crate::recipe::{self, Recipe};
use crate::samples::Split;
use crate::search::{Found, Search};
use crate::taps::{Answers, Tapped};
use crate::{Result, work};

impl Search<'_> {
    /// A model that is computed from a part of the samples, from the store if it was made before.
    pub(crate) fn assembled(&self, picks: &[Pick], method: Method, split: Split) -> Result<Assembled> {
        let (store, subject) = (self.subject.backend.store(), &self.subject);
        let key = work::key("model", &[&self.known, &format!("{split:?} {method:?} {picks:?}")]);
        let kept = || -> Option<Assembled> {
            let recipe: Recipe = serde_json::from_slice(&store.get(&key)?).ok()?;
            let arrays = store.get_arrays(&key).filter(|a| recipe::fingerprint(a) == recipe.arrays)?;
            let graph = recipe::apply_partly(&subject.graph, &recipe, &arrays, &[]).ok()?;
            Some(Assembled { recipe, arrays, graph })
        };
        if let Some(found) = kept() {
            return Ok(found);
        }
        let made = subject.assemble(&subject.samples.split(split), picks, method)?;
        store.put_arrays(&key, &made.arrays);
        if let Ok(bytes) = serde_json::to_vec(&made.recipe) {
            store.put(&key, &bytes);
        }
        Ok(made)
    }

    /// The score of a choice over the samples that are held out.
    pub(crate) fn held_out(&self, picks: &[Pick], method: Method, graph: &Graph) -> Result<Score> {
        self.remembered("half", picks, method, || self.score(graph, &self.subject.samples.held_out()))
    }

    /// The score of a choice over all samples, each judged by the model that has not seen it; `None` if the half that is held out tells already that it loses
    /// more than `drop`. `graph` is that of [`Split::HALF`], `other` the model of the other half, if it was made.
    pub(crate) fn judged(
        &self,
        picks: &[Pick],
        method: Method,
        graph: &Graph,
        other: Option<Assembled>,
        drop: f64,
    ) -> Result<Option<Score>> {
        // A half that is somewhat over the budget may be within it together with the other one: another decision or two, and the wider bound of fewer samples.
        let doubt = 1.5 / self.subject.samples.held_out().len() as f64;
        if self.held_out(picks, method, graph)?.drop() > 1.4 * drop + doubt {
            return Ok(None);
        }
        self.folded(picks, method, graph, other).map(Some)
    }

    /// The score of a choice over all samples, each judged by the model that has not seen it. As [`Search::judged`].
    pub(crate) fn folded(&self, picks: &[Pick], method: Method, graph: &Graph, other: Option<Assembled>) -> Result<Score> {
        self.remembered("folded", picks, method, || {
            let other = other.map_or_else(|| self.assembled(picks, method, Split::OTHER_HALF), Ok)?;
            let mut answers = Answers::new();
            for (split, graph) in [(Split::HALF, graph), (Split::OTHER_HALF, &other.graph)] {
                answers.extend(self.answers(graph, &self.subject.samples.split(split).held_out())?);
            }
            Ok(self.all()?.score(&answers))
        })
    }

    /// The model that is handed out: computed from most samples, unless it decides worse than what was measured.
    pub(crate) fn handed_out(&self, found: Found) -> Result<Found> {
        if found.picks.iter().all(|p| *p == Pick::DENSE) {
            return Ok(found);
        }
        let method = self.goal.method;
        let made = self.assembled(&found.picks, method, Split::MOST)?;
        let score = self.remembered("handed out", &found.picks, method, || {
            Ok(self.all()?.score(&self.answers(&made.graph, &self.all_samples())?))
        })?;
        let better = score.drop() <= found.score.drop() && self.goal.caps.keeps(&self.taken_by_model(&made)?);
        Ok(if better { Found { assembled: made, ..found } } else { found })
    }

    fn remembered(&self, what: &str, picks: &[Pick], method: Method, compute: impl FnOnce() -> Result<Score>) -> Result<Score> {
        work::remember(self.subject.backend.store(), &self.score_key(what, picks, method), compute)
    }

    /// Is the score of a choice over the samples that are held out known from before?
    pub(crate) fn is_measured(&self, picks: &[Pick], method: Method) -> bool {
        self.subject.backend.store().get(&self.score_key("half", picks, method)).is_some()
    }

    fn score_key(&self, what: &str, picks: &[Pick], method: Method) -> String {
        work::key("score", &[&self.known, &format!("{what} {JUDGED} {} {method:?} {picks:?}", self.judged_by)])
    }

    /// All samples, in the order in which halves hold them out.
    fn all_samples(&self) -> Vec<usize> {
        [Split::HALF, Split::OTHER_HALF].iter().flat_map(|s| self.subject.samples.split(*s).held_out()).collect()
    }

    /// A judge over all samples.
    fn all(&self) -> Result<&Judge> {
        if let Some(known) = self.judge_of_all.get() {
            return Ok(known);
        }
        let answers = self.subject.answers(&self.all_samples())?;
        let (graph, metric, which) = (&self.subject.graph, self.judge.metric(), self.all_samples());
        let labels = self.subject.samples.labels(metric, Outputs::of(graph)?.ty(graph))?;
        let judge =
            Judge::new(graph, metric, &answers, labels.map(|l| l.of(&which)))?.strict(self.subject.samples.are_generated());
        Ok(self.judge_of_all.get_or_init(|| judge))
    }

    fn answers(&self, graph: &Graph, which: &[usize]) -> Result<Answers> {
        Tapped::new(self.subject.backend, graph, &graph.outputs)?.run_all(self.subject.samples, which)
    }
}
