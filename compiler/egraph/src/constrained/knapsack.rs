//! One form for every class of a list of components, the cheapest choice within a limit of error.
//!
//! Errors add up and so do prices: a knapsack of multiple choices. It is solved by dynamic programming over the error in small steps, each form's error
//! rounded up, so that what is chosen keeps the limit. The optimum of the relaxed problem (Lagrangian over the lower convex hulls, Sinha and Zoltners, "The
//! Multiple-Choice Knapsack Problem", 1979) is a lower bound of every choice's price.

use std::rc::Rc;

use super::Offer;
use super::nested::{Nested, State};

/// A class that chooses among some of its forms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Part {
    pub class: usize,
    pub forms: Vec<usize>,
}

/// What a component may be: classes that choose by themselves.
pub(super) type Structure = Vec<Part>;

/// What is chosen from for a component.
pub(super) enum Item<'a> {
    /// One of some structures.
    Structures {
        structures: std::borrow::Cow<'a, [Structure]>,
        /// Classes that every structure has; stands for the structures in bounds where there are more of them than these.
        always: Option<Structure>,
    },
    /// Choices that nest.
    Nested(&'a Nested),
}

/// Steps of error.
const STEPS: usize = 4000;

/// Prices of everything so far with errors of so many steps at most.
pub(super) type Table = Vec<f64>;

/// Which form a class has at each number of steps, by its place in the part. Empty where there is one that costs nothing.
pub(super) type Picks = Vec<u16>;

/// Errors in steps, rounded up.
pub(super) struct Steps {
    unit: f64,
}

impl Steps {
    pub(super) fn of(&self, error: f64) -> usize {
        match (error <= 0.0, self.unit > 0.0) {
            (true, _) => 0,
            (false, true) => (error / self.unit).ceil().min(1e9) as usize,
            (false, false) => usize::MAX,
        }
    }
}

/// How a table came about.
enum Trace<'a> {
    /// The structure at each number of steps, and for each structure the forms of its classes.
    Structures {
        structures: &'a [Structure],
        which: Picks,
        picks: Vec<Vec<Picks>>,
    },
    Nested(Rc<State>),
}

/// The form of each class, in the order of items; `None` when no choice keeps the limit.
pub(super) fn choose(offers: &[Vec<Offer>], items: &[Item], limit: f64) -> Option<Vec<(usize, usize)>> {
    let steps = Steps { unit: limit.max(0.0) / STEPS as f64 };
    let mut best: Table = vec![0.0; STEPS + 1];
    let mut traces: Vec<Trace> = Vec::with_capacity(items.len());
    for item in items {
        match item {
            Item::Nested(nested) => {
                let state = nested.over(offers, best, &steps);
                best = state.best.clone();
                traces.push(Trace::Nested(state));
            }
            Item::Structures { structures, .. } => {
                let (next, which, picks) = best_of(structures, offers, &best, &steps);
                best = next;
                traces.push(Trace::Structures { structures, which, picks });
            }
        }
    }
    if !best[STEPS].is_finite() {
        return None;
    }
    let (mut at, mut chosen) = (STEPS, Vec::new());
    for trace in traces.iter().rev() {
        match trace {
            Trace::Nested(state) => at = state.chosen(at, offers, &steps, &mut chosen),
            Trace::Structures { structures, which, picks } => {
                let n = which[at] as usize;
                for (part, picks) in structures[n].iter().zip(&picks[n]).rev() {
                    let form = part.forms[picks.get(at).map_or(0, |n| *n as usize)];
                    chosen.push((part.class, form));
                    at -= steps.of(offers[part.class][form].error);
                }
            }
        }
    }
    Some(chosen)
}

/// The table behind the best of some structures at each number of steps, which one that is, and the forms of the classes of each.
fn best_of(structures: &[Structure], offers: &[Vec<Offer>], before: &[f64], steps: &Steps) -> (Table, Picks, Vec<Vec<Picks>>) {
    let (mut best, mut which, mut all) = (vec![f64::INFINITY; STEPS + 1], vec![u16::MAX; STEPS + 1], Vec::new());
    for (n, structure) in structures.iter().enumerate() {
        let (table, picks) = through(structure, offers, before, steps);
        for (at, price) in table.into_iter().enumerate() {
            if price < best[at] {
                (best[at], which[at]) = (price, n as u16);
            }
        }
        all.push(picks);
    }
    (best, which, all)
}

/// The table behind the classes of a structure.
fn through(structure: &[Part], offers: &[Vec<Offer>], before: &[f64], steps: &Steps) -> (Table, Vec<Picks>) {
    let (mut best, mut all) = (before.to_vec(), Vec::with_capacity(structure.len()));
    for part in structure {
        if let [form] = part.forms[..]
            && offers[part.class][form] == (Offer { price: 0.0, error: 0.0 })
        {
            all.push(Picks::new());
            continue;
        }
        let (mut next, mut picks) = (vec![f64::INFINITY; STEPS + 1], vec![u16::MAX; STEPS + 1]);
        for (n, form) in part.forms.iter().enumerate() {
            let offer = offers[part.class][*form];
            let e = steps.of(offer.error);
            for at in e..=STEPS {
                let price = best[at - e] + offer.price;
                if price < next[at] {
                    (next[at], picks[at]) = (price, n as u16);
                }
            }
        }
        best = next;
        all.push(picks);
    }
    (best, all)
}

/// A lower bound of the price, and the multiplier that gives it: the maximum of the Lagrangian, by ternary search (it is concave).
pub(super) fn relaxed(offers: &[Vec<Offer>], items: &[Item], limit: f64) -> (f64, f64) {
    let value = |weight: f64| items.iter().map(|item| item.least(offers, weight)).sum::<f64>() - weight * limit;
    let most = offers.iter().flatten().map(|o| o.price).fold(0.0, f64::max);
    let (mut low, mut high) = (-40.0f64, 40.0f64);
    let scale = most / limit.max(1e-300);
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

impl Item<'_> {
    /// The least sum of prices and weighted errors, or less.
    fn least(&self, offers: &[Vec<Offer>], weight: f64) -> f64 {
        let structure = |structure: &Structure| structure.iter().map(|part| part.least(offers, weight)).sum::<f64>();
        match self {
            Item::Nested(nested) => nested.least(offers, weight),
            Item::Structures { always: Some(always), .. } => structure(always),
            Item::Structures { structures, .. } => structures.iter().map(structure).fold(f64::INFINITY, f64::min),
        }
    }
}

impl Part {
    /// The least price and weighted error of a form that is on offer.
    pub(super) fn least(&self, offers: &[Vec<Offer>], weight: f64) -> f64 {
        least(&offers[self.class], &self.forms, weight)
    }
}

/// The least price and weighted error of some forms of a class; infinite when none is on offer.
pub(super) fn least(offers: &[Offer], forms: &[usize], weight: f64) -> f64 {
    least_of(forms.iter().map(|form| offers[*form]), weight)
}

/// The same of these forms.
pub(super) fn least_of(offers: impl Iterator<Item = Offer>, weight: f64) -> f64 {
    offers.filter(|o| o.error.is_finite()).map(|o| o.price + weight * o.error).fold(f64::INFINITY, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offers(seed: u64, n: usize, m: usize) -> Vec<Vec<Offer>> {
        let mut state = seed;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / (1u64 << 31) as f64
        };
        let offer = |i: usize, x: f64, y: f64| Offer { price: x + 0.2, error: if i == 0 { 0.0 } else { y } };
        (0..n).map(|_| (0..m).map(|i| offer(i, next(), next())).collect()).collect()
    }

    /// Each class by itself.
    fn items(offers: &[Vec<Offer>]) -> Vec<Item<'static>> {
        let part = |(class, forms): (usize, &Vec<Offer>)| Part { class, forms: (0..forms.len()).collect() };
        let item = |part: Part| Item::Structures { structures: vec![vec![part]].into(), always: None };
        offers.iter().enumerate().map(part).map(item).collect()
    }

    #[test]
    fn the_choice_is_the_best_of_all_but_for_the_steps() {
        for seed in 1..20 {
            let offers = offers(seed, 5, 4);
            let limit = 0.7;
            let best = |limit: f64| {
                let mut best = f64::INFINITY;
                for code in 0..4usize.pow(5) {
                    let picks: Vec<usize> = (0..5).map(|n| code / 4usize.pow(n) % 4).collect();
                    let sum = |f: fn(&Offer) -> f64| picks.iter().zip(&offers).map(|(p, l)| f(&l[*p])).sum::<f64>();
                    if sum(|o| o.error) <= limit {
                        best = best.min(sum(|o| o.price));
                    }
                }
                best
            };
            let chosen = choose(&offers, &items(&offers), limit).unwrap();
            let sum = |f: fn(&Offer) -> f64| chosen.iter().map(|(class, form)| f(&offers[*class][*form])).sum::<f64>();
            let (price, error) = (sum(|o| o.price), sum(|o| o.error));
            assert!(error <= limit && price >= best(limit) - 1e-12, "{chosen:?}");
            // Rounded up in steps, errors of five classes leave at most five of them unused.
            assert!(price <= best(limit * (1.0 - 5.0 / STEPS as f64)) + 1e-12, "{price} {}", best(limit));
            let (bound, _) = relaxed(&offers, &items(&offers), limit);
            assert!(bound <= best(limit) + 1e-9, "no bound: {bound} {}", best(limit));
        }
    }

    #[test]
    fn what_cannot_be_kept_is_refused() {
        let all_bad = vec![vec![Offer { price: 1.0, error: 2.0 }]];
        assert_eq!(choose(&all_bad, &items(&all_bad), 1.0), None);
        let some = offers(3, 4, 3);
        let exact = choose(&some, &items(&some), 0.0).unwrap();
        assert!(exact.iter().all(|(_, form)| *form == 0), "{exact:?}");
    }
}
