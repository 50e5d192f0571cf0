//! The cheapest choice of one candidate per layer within a limit of error.
//!
//! Errors of layers add up and so do prices: a knapsack of multiple choices. It is solved by dynamic programming over the error in small steps, each
//! candidate's error rounded up, so that what is chosen keeps the limit. The optimum of the relaxed problem (Lagrangian over the lower convex hulls,
//! Sinha and Zoltners, "The Multiple-Choice Knapsack Problem", 1979) is a lower bound of every choice's price: their distance is the gap that is stated.

/// A candidate of a layer.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Candidate {
    /// What it takes: seconds, bytes or joules.
    pub price: f64,
    /// Its part of the error.
    pub error: f64,
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

/// The cheapest choice whose errors sum up to `limit` at most; `None` when there is none.
pub fn choose(layers: &[Vec<Candidate>], limit: f64) -> Option<Chosen> {
    let unit = limit.max(0.0) / STEPS as f64;
    let steps = |error: f64| -> usize {
        match (error <= 0.0, unit > 0.0) {
            (true, _) => 0,
            (false, true) => (error / unit).ceil().min(1e9) as usize,
            (false, false) => usize::MAX,
        }
    };
    // best[e]: the least price of the layers so far with errors of e steps at most.
    let mut best = vec![0.0f64; STEPS + 1];
    let mut picks: Vec<Vec<u16>> = Vec::with_capacity(layers.len());
    for layer in layers {
        let (mut next, mut pick) = (vec![f64::INFINITY; STEPS + 1], vec![u16::MAX; STEPS + 1]);
        for (n, c) in layer.iter().enumerate() {
            let e = steps(c.error);
            for at in e..=STEPS {
                let price = best[at - e] + c.price;
                if price < next[at] {
                    (next[at], pick[at]) = (price, n as u16);
                }
            }
        }
        best = next;
        picks.push(pick);
    }
    if !best[STEPS].is_finite() {
        return None;
    }
    let (mut at, mut chosen) = (STEPS, vec![0; layers.len()]);
    for (n, layer) in layers.iter().enumerate().rev() {
        chosen[n] = picks[n][at] as usize;
        at -= steps(layer[chosen[n]].error);
    }
    let total = |f: fn(&Candidate) -> f64| chosen.iter().zip(layers).map(|(pick, layer)| f(&layer[*pick])).sum::<f64>();
    let (price, error) = (total(|c| c.price), total(|c| c.error));
    let (bound, weight) = relaxed(layers, limit);
    let gap = if price > 0.0 { ((price - bound) / price).max(0.0) } else { 0.0 };
    Some(Chosen { picks: chosen, price, error, gap, weight })
}

/// A lower bound of the price, and the multiplier that gives it: the maximum of the Lagrangian, by ternary search (it is concave).
fn relaxed(layers: &[Vec<Candidate>], limit: f64) -> (f64, f64) {
    let value = |weight: f64| -> f64 {
        let least = |layer: &Vec<Candidate>| layer.iter().map(|c| c.price + weight * c.error).fold(f64::INFINITY, f64::min);
        layers.iter().map(least).sum::<f64>() - weight * limit
    };
    let spread = |f: fn(&Candidate) -> f64| layers.iter().flatten().map(f).fold(0.0, f64::max);
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

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(seed: u64, n: usize, m: usize) -> Vec<Vec<Candidate>> {
        let mut state = seed;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64
        };
        let candidate = |i: usize, x: f64, y: f64| Candidate { price: x + 0.2, error: if i == 0 { 0.0 } else { y } };
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
            let chosen = choose(&layers, limit).unwrap();
            assert!(chosen.error <= limit && chosen.price >= best - 1e-12, "{chosen:?}");
            // Rounded up in 4000 steps, errors of five layers leave at most 5/4000 of the limit unused.
            let tighter = choose(&layers, limit * 0.998).unwrap().price;
            assert!(chosen.price <= best + 1e-12 || tighter >= best, "{} {best}", chosen.price);
            assert!(chosen.price * (1.0 - chosen.gap) <= best + 1e-9, "the gap is no bound: {chosen:?} {best}");
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let all_bad = vec![vec![Candidate { price: 1.0, error: 2.0 }]];
        assert_eq!(choose(&all_bad, 1.0), None);
        assert_eq!(choose(&layers(3, 4, 3), 0.0).unwrap().picks, [0; 4]);
    }
}
