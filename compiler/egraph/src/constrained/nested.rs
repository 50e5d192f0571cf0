//! Components in which no class is needed by two others at once: their choices nest, and dynamic programming follows them.
//!
//! A table is the least price for each number of steps of error, of all that was chosen so far. A class goes on top of a table once for each of its ways, with
//! the tables of what the way needs in between. Whatever two classes need in common counts once where only one of the two is there.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::Offer;
use super::component::Members;
use super::knapsack::{Picks, Steps, Table};

/// Tables that a component may take.
const STATES: usize = 1024;

/// Such a component.
pub(super) struct Nested(Members);

/// A table with the class that was put on it last.
pub(super) struct State {
    /// The class; none where nothing was.
    class: Option<usize>,
    pub best: Table,
    /// The way of the class, and its form, at each number of steps.
    ways: Picks,
    forms: Picks,
    /// The tables under the ways.
    under: Vec<Rc<State>>,
}

/// Tables by the class on top, and by the one that all of it stands on.
type Known = BTreeMap<(usize, usize), Rc<State>>;

impl Nested {
    /// The component, if it is one.
    pub(super) fn new(mut members: Members) -> Result<Nested, Members> {
        let mut reaches: BTreeMap<usize, Option<BTreeSet<usize>>> = BTreeMap::new();
        let apart = disjoint(members.entries.iter().map(|entry| reach(&members, *entry, &mut reaches, STATES)));
        // What stands on a table that several ways have in common is made once for all of them: the largest needs come first.
        let size = |class: &usize| reaches.get(class).and_then(Option::as_ref).map_or(0, BTreeSet::len);
        members.ways.values_mut().flatten().for_each(|way| way.needs.sort_by_key(|need| std::cmp::Reverse(size(need))));
        let few = || {
            let (mut known, mut last) = (BTreeMap::new(), 0);
            for entry in &members.entries {
                last = count(&members, *entry, last, &mut known)?;
            }
            Some(last)
        };
        if apart.is_some() && few().is_some() { Ok(Nested(members)) } else { Err(members) }
    }

    /// The table of everything on top of another one.
    pub(super) fn over(&self, offers: &[Vec<Offer>], before: Table, steps: &Steps) -> Rc<State> {
        let bottom = State { class: None, best: before, ways: Vec::new(), forms: Vec::new(), under: Vec::new() };
        let (mut known, mut state) = (Known::new(), Rc::new(bottom));
        for entry in &self.0.entries {
            state = self.on_top(*entry, &state, offers, steps, &mut known);
        }
        state
    }

    fn on_top(&self, class: usize, base: &Rc<State>, offers: &[Vec<Offer>], steps: &Steps, known: &mut Known) -> Rc<State> {
        let key = (class, Rc::as_ptr(base).addr());
        if let Some(state) = known.get(&key) {
            return state.clone();
        }
        let size = base.best.len();
        let (mut best, mut ways, mut forms) = (vec![f64::INFINITY; size], vec![0; size], vec![0; size]);
        let mut under = Vec::new();
        for (n, way) in self.0.ways[&class].iter().enumerate() {
            let mut below = base.clone();
            for need in &way.needs {
                below = self.on_top(*need, &below, offers, steps, known);
            }
            for form in &way.forms {
                let offer = offers[class][*form];
                let e = steps.of(offer.error);
                for at in e..size {
                    let price = below.best[at - e] + offer.price;
                    if price < best[at] {
                        (best[at], ways[at], forms[at]) = (price, n as u16, *form as u16);
                    }
                }
            }
            under.push(below);
        }
        // Tables stay in `known` as long as their addresses are keys there.
        let state = Rc::new(State { class: Some(class), best, ways, forms, under });
        known.insert(key, state.clone());
        state
    }

    /// The least sum of prices and weighted errors.
    pub(super) fn least(&self, offers: &[Vec<Offer>], weight: f64) -> f64 {
        let mut known = BTreeMap::new();
        self.0.entries.iter().map(|entry| self.least_of(*entry, offers, weight, &mut known)).sum()
    }

    fn least_of(&self, class: usize, offers: &[Vec<Offer>], weight: f64, known: &mut BTreeMap<usize, f64>) -> f64 {
        if let Some(value) = known.get(&class) {
            return *value;
        }
        let mut least = f64::INFINITY;
        for way in &self.0.ways[&class] {
            let below: f64 = way.needs.iter().map(|need| self.least_of(*need, offers, weight, known)).sum();
            least = least.min(below + way.least(class, offers, weight));
        }
        known.insert(class, least);
        least
    }
}

impl State {
    /// Follows the choice down from a number of steps: adds classes with their forms, and returns the steps that are left for what came before.
    pub(super) fn chosen(&self, mut at: usize, offers: &[Vec<Offer>], steps: &Steps, chosen: &mut Vec<(usize, usize)>) -> usize {
        let mut state = self;
        while let Some(class) = state.class {
            let form = state.forms[at] as usize;
            let below = &state.under[state.ways[at] as usize];
            chosen.push((class, form));
            at -= steps.of(offers[class][form].error);
            state = below;
        }
        at
    }
}

/// Sets joined, if no two of them have anything in common.
fn disjoint(sets: impl Iterator<Item = Option<BTreeSet<usize>>>) -> Option<BTreeSet<usize>> {
    let mut all = BTreeSet::new();
    for set in sets {
        for class in set? {
            if !all.insert(class) {
                return None;
            }
        }
    }
    Some(all)
}

/// The classes that a class may need, itself among them; `None` when a way of one of them needs a class twice, or they need each other in a circle, or they are too
/// deep. A class that is being looked at is as one that cannot be.
fn reach(
    members: &Members,
    class: usize,
    known: &mut BTreeMap<usize, Option<BTreeSet<usize>>>,
    depth: usize,
) -> Option<BTreeSet<usize>> {
    if let Some(set) = known.get(&class) {
        return set.clone();
    }
    known.insert(class, None);
    let mut all = BTreeSet::from([class]);
    for way in &members.ways[&class] {
        let depth = depth.checked_sub(1)?;
        let below: Vec<Option<BTreeSet<usize>>> = way.needs.iter().map(|need| reach(members, *need, known, depth)).collect();
        all.extend(disjoint(below.into_iter())?);
    }
    known.insert(class, Some(all.clone()));
    Some(all)
}

/// The number of the table of a class on top of another one, of which there are as many as the highest number; `None` when there are too many.
fn count(members: &Members, class: usize, base: usize, known: &mut BTreeMap<(usize, usize), usize>) -> Option<usize> {
    if let Some(number) = known.get(&(class, base)) {
        return Some(*number);
    }
    for way in &members.ways[&class] {
        let mut below = base;
        for need in &way.needs {
            below = count(members, *need, below, known)?;
        }
    }
    let number = known.len() + 1;
    known.insert((class, base), number);
    (number <= STATES).then_some(number)
}
