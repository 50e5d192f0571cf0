//! The cheapest choice of one candidate per layer within a limit of error.
//!
//! Errors of layers add up and so do prices: a knapsack of multiple choices. It is solved by dynamic programming over the error in small steps, each
//! candidate's error rounded up, so that what is chosen keeps the limit. The optimum of the relaxed problem (Lagrangian, Sinha and Zoltners, "The
//! Multiple-Choice Knapsack Problem", 1979) is a lower bound of every choice's price: their distance is the gap that is stated.
//!
//! A layer that reads a part of its channels makes those before it cheaper, by the share that is left, whatever these become. So layers form trees, each
//! below the one that reads its channels, and the dynamic programming goes from the leaves to the roots, with a table for each share that the layer above may leave.

use std::collections::HashMap;
use std::rc::Rc;

/// A candidate of a layer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Candidate {
    /// What it takes: seconds, bytes or joules, where all its outputs are read.
    pub price: f64,
    /// Its part of the error.
    pub error: f64,
    /// The share of their price that it leaves to the layers before, 1 if it reads all channels.
    pub left: f64,
    /// Panels of filters share something that is lost when some of them go: it cannot be below a candidate that leaves less than 1.
    pub panels: bool,
}

impl Candidate {
    /// The price below a candidate that leaves a share.
    pub fn below(&self, share: f64) -> f64 {
        if self.panels && share < 1.0 { f64::INFINITY } else { self.price * share }
    }
}

/// A choice.
#[derive(Clone, PartialEq, Debug)]
pub struct Chosen {
    /// For each layer the number of its candidate.
    pub picks: Vec<usize>,
    /// Sum of prices.
    pub price: f64,
    /// Sum of errors.
    pub error: f64,
    /// No choice within the limit is cheaper than `price * (1 - gap)`.
    pub gap: f64,
    /// What error costs at the limit: the multiplier of the relaxed problem. Among candidates of a layer the one with the least `price + weight * error` is
    /// chosen, but for what single steps of error decide.
    pub weight: f64,
}

/// Steps of error.
const STEPS: usize = 4000;

/// The cheapest choice whose errors sum up to `limit` at most; `None` when there is none. `behind` is for each layer the one that reads its channels alone.
pub fn choose(layers: &[Vec<Candidate>], behind: &[Option<usize>], limit: f64) -> Option<Chosen> {
    let forest = Forest::new(layers, behind);
    let steps = Steps { unit: limit.max(0.0) / STEPS as f64 };
    let mut state = Rc::new(State { layer: None, best: vec![0.0; STEPS + 1], picks: Vec::new(), under: Vec::new() });
    for root in &forest.roots {
        state = forest.over(*root, &[1.0], &state, &steps).remove(0);
    }
    if !state.best[STEPS].is_finite() {
        return None;
    }
    let mut picks = vec![0; layers.len()];
    let mut at = STEPS;
    while let Some(layer) = state.layer {
        picks[layer] = state.picks[at] as usize;
        let chosen = &layers[layer][picks[layer]];
        at -= steps.of(chosen.error);
        let under = state.under.iter().find(|(left, _)| *left == chosen.left).map(|(_, under)| under.clone());
        state = under.expect("internal: search: a table for each share that is left");
    }
    let (price, error) = (forest.price(&picks), picks.iter().zip(layers).map(|(pick, of)| of[*pick].error).sum());
    let (bound, weight) = forest.relaxed(limit);
    let gap = if price > 0.0 { ((price - bound) / price).max(0.0) } else { 0.0 };
    Some(Chosen { picks, price, error, gap, weight })
}

/// Errors in steps, rounded up.
struct Steps {
    unit: f64,
}

impl Steps {
    fn of(&self, error: f64) -> usize {
        match (error <= 0.0, self.unit > 0.0) {
            (true, _) => 0,
            (false, true) => (error / self.unit).ceil().min(1e9) as usize,
            (false, false) => usize::MAX,
        }
    }
}

/// The least prices of some layers: those of a state under it, and one more.
struct State {
    /// The last layer; none where nothing is chosen yet.
    layer: Option<usize>,
    /// `best[e]`: the least price with errors of e steps at most.
    best: Vec<f64>,
    /// The candidate of the last layer for each number of steps.
    picks: Vec<u16>,
    /// The states under it, by the share that the candidate leaves.
    under: Vec<(f64, Rc<State>)>,
}

/// Layers below those that read their channels.
struct Forest<'a> {
    layers: &'a [Vec<Candidate>],
    behind: &'a [Option<usize>],
    /// Layers below each layer: those with others below them first.
    before: Vec<Vec<usize>>,
    roots: Vec<usize>,
}

impl Forest<'_> {
    fn new<'a>(layers: &'a [Vec<Candidate>], behind: &'a [Option<usize>]) -> Forest<'a> {
        let below = |n: usize| (0..layers.len()).filter(|i| behind[*i] == Some(n)).collect::<Vec<usize>>();
        let mut before: Vec<Vec<usize>> = (0..layers.len()).map(below).collect();
        let leaf: Vec<bool> = before.iter().map(Vec::is_empty).collect();
        before.iter_mut().for_each(|list| list.sort_by_key(|n| leaf[*n]));
        let roots = (0..layers.len()).filter(|n| behind[*n].is_none()).collect();
        Forest { layers, behind, before, roots }
    }

    /// The shares that candidates of a layer leave.
    fn shares(&self, layer: usize) -> Vec<f64> {
        let mut shares: Vec<f64> = self.layers[layer].iter().map(|c| c.left).collect();
        shares.sort_by(f64::total_cmp);
        shares.dedup();
        shares
    }

    /// A layer and all below it on top of a state, for each share that is left to the layer.
    fn over(&self, layer: usize, given: &[f64], base: &Rc<State>, steps: &Steps) -> Vec<Rc<State>> {
        let shares = self.shares(layer);
        let mut states: Vec<Rc<State>> = shares.iter().map(|_| base.clone()).collect();
        for (n, child) in self.before[layer].iter().enumerate() {
            states = match n {
                0 => self.over(*child, &shares, base, steps),
                _ => shares
                    .iter()
                    .zip(&states)
                    .map(|(share, under)| self.over(*child, &[*share], under, steps).remove(0))
                    .collect(),
            };
        }
        let under: Vec<(f64, Rc<State>)> = shares.into_iter().zip(states).collect();
        given.iter().map(|share| Rc::new(self.on_top(layer, *share, &under, steps))).collect()
    }

    fn on_top(&self, layer: usize, share: f64, under: &[(f64, Rc<State>)], steps: &Steps) -> State {
        let (mut best, mut picks) = (vec![f64::INFINITY; STEPS + 1], vec![u16::MAX; STEPS + 1]);
        for (n, c) in self.layers[layer].iter().enumerate() {
            let (e, own) = (steps.of(c.error), c.below(share));
            let state = under.iter().find(|(left, _)| *left == c.left).map(|(_, state)| state);
            let below = &state.expect("internal: search: a table for each share that is left").best;
            for at in e..=STEPS {
                let price = below[at - e] + own;
                if price < best[at] {
                    (best[at], picks[at]) = (price, n as u16);
                }
            }
        }
        State { layer: Some(layer), best, picks, under: under.to_vec() }
    }

    /// The price of a choice.
    fn price(&self, picks: &[usize]) -> f64 {
        let share = |n: usize| self.behind[n].map_or(1.0, |above| self.layers[above][picks[above]].left);
        (0..picks.len()).map(|n| self.layers[n][picks[n]].below(share(n))).sum()
    }

    /// A lower bound of the price, and the multiplier that gives it: the maximum of the Lagrangian, by ternary search (it is concave).
    fn relaxed(&self, limit: f64) -> (f64, f64) {
        let value = |weight: f64| -> f64 {
            let mut known = HashMap::new();
            self.roots.iter().map(|root| self.least(*root, 1.0, weight, &mut known)).sum::<f64>() - weight * limit
        };
        let spread = |f: fn(&Candidate) -> f64| self.layers.iter().flatten().map(f).filter(|x| x.is_finite()).fold(0.0, f64::max);
        let (mut low, mut high) = (-40.0f64, 40.0f64);
        let scale = spread(|c| c.price) / limit.max(1e-300);
        for _ in 0..200 {
            let (a, b) = (low + (high - low) / 3.0, high - (high - low) / 3.0);
            if value(scale * a.exp2()) < value(scale * b.exp2()) {
                low = a;
            } else {
                high = b;
            }
        }
        let weight = scale * low.exp2();
        if value(weight) > value(0.0) { (value(weight), weight) } else { (value(0.0), 0.0) }
    }

    /// The least price with errors at a price of a layer and all below it.
    fn least(&self, layer: usize, share: f64, weight: f64, known: &mut HashMap<(usize, u64), f64>) -> f64 {
        if let Some(value) = known.get(&(layer, share.to_bits())) {
            return *value;
        }
        let under: Vec<(f64, f64)> = self
            .shares(layer)
            .into_iter()
            .map(|left| (left, self.before[layer].iter().map(|n| self.least(*n, left, weight, known)).sum()))
            .collect();
        let one = |c: &Candidate| {
            let below = under.iter().find(|u| u.0 == c.left).map_or(0.0, |u| u.1);
            let error = if c.error == 0.0 { 0.0 } else { weight * c.error };
            below + c.below(share) + error
        };
        let value = self.layers[layer].iter().map(one).filter(|v| !v.is_nan()).fold(f64::INFINITY, f64::min);
        known.insert((layer, share.to_bits()), value);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(seed: u64, n: usize, m: usize) -> Vec<Vec<Candidate>> {
        let mut state = seed;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64
        };
        let candidate = |i: usize, x: f64, y: f64| Candidate {
            price: x + 0.2,
            error: if i == 0 { 0.0 } else { y },
            left: 1.0,
            panels: false,
        };
        (0..n).map(|_| (0..m).map(|i| candidate(i, next(), next())).collect()).collect()
    }

    #[test]
    fn the_choice_is_the_best_of_all_but_for_the_steps() {
        for seed in 1..20 {
            let layers = layers(seed, 5, 4);
            let limit = 0.7;
            let mut best = f64::INFINITY;
            for code in 0..4usize.pow(5) {
                let picks: Vec<usize> = (0..5).map(|n| code / 4usize.pow(n) % 4).collect();
                let sum = |f: fn(&Candidate) -> f64| picks.iter().zip(&layers).map(|(p, l)| f(&l[*p])).sum::<f64>();
                if sum(|c| c.error) <= limit {
                    best = best.min(sum(|c| c.price));
                }
            }
            let chosen = choose(&layers, &[None; 5], limit).unwrap();
            assert!(chosen.error <= limit && chosen.price >= best - 1e-12, "{chosen:?}");
            // Rounded up in 4000 steps, errors of five layers leave at most 5/4000 of the limit unused.
            let tighter = choose(&layers, &[None; 5], limit * 0.998).unwrap().price;
            assert!(chosen.price <= best + 1e-12 || tighter >= best, "{} {best}", chosen.price);
            assert!(chosen.price * (1.0 - chosen.gap) <= best + 1e-9, "the gap is no bound: {chosen:?} {best}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let all_bad = vec![vec![Candidate { price: 1.0, error: 2.0, left: 1.0, panels: false }]];
        assert_eq!(choose(&all_bad, &[None], 1.0), None);
        assert_eq!(choose(&layers(3, 4, 3), &[None; 4], 0.0).unwrap().picks, [0; 4]);
    }

    /// Layers in a tree: 0 and 3 are roots, 1 and 2 are below 0, 4 below 1.
    const TREE: [Option<usize>; 5] = [None, Some(0), Some(0), None, Some(1)];

    fn price_of(layers: &[Vec<Candidate>], picks: &[usize]) -> f64 {
        let share = |n: usize| TREE[n].map_or(1.0, |above| layers[above][picks[above]].left);
        (0..5).map(|n| layers[n][picks[n]].below(share(n))).sum()
    }

    #[test]
    fn what_a_layer_leaves_to_those_before_counts() {
        for seed in 1..40 {
            let mut layers = layers(seed, 5, 4);
            for (n, layer) in layers.iter_mut().enumerate() {
                layer[1].left = 0.5;
                layer[2].left = 0.25;
                layer[3].panels = n % 2 == 1;
            }
            let limit = 0.9;
            let mut best = f64::INFINITY;
            for code in 0..4usize.pow(5) {
                let picks: Vec<usize> = (0..5).map(|n| code / 4usize.pow(n) % 4).collect();
                if picks.iter().zip(&layers).map(|(p, l)| l[*p].error).sum::<f64>() <= limit {
                    best = best.min(price_of(&layers, &picks));
                }
            }
            let chosen = choose(&layers, &TREE, limit).unwrap();
            assert!((price_of(&layers, &chosen.picks) - chosen.price).abs() < 1e-12 && chosen.error <= limit, "{chosen:?}");
            let tighter = choose(&layers, &TREE, limit * 0.998).unwrap().price;
            assert!(chosen.price >= best - 1e-12 && (chosen.price <= best + 1e-12 || tighter >= best), "{chosen:?} {best}");
            assert!(chosen.price * (1.0 - chosen.gap) <= best + 1e-9, "the gap is no bound: {chosen:?} {best}");
        }
    }
}
