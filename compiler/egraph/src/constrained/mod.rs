//! Extraction under constraints: for every class that the roots need one form, exact or lossy, so that prices sum up to least and errors to no more than a limit.
//!
//! Prices and errors are those of a DAG: a shared class is paid once and errs once. The problem falls apart into components (`component.rs`): most classes are
//! needed whatever is chosen and choose by themselves; where forms of a class need different classes below, all that depends on it is one component. Dynamic
//! programming over components (`knapsack.rs`) gives the optimum but for its steps of error: it follows choices that nest (`nested.rs`), and takes the best of
//! all structures of other components while they are few. The optimum of the relaxed problem (Lagrangian) is a lower bound of every choice's price: their distance is the gap that is stated, which also covers
//! components with too many structures, of which the best ones at some prices of error stand for all.

mod component;
mod knapsack;
mod needed;
mod nested;

use std::collections::BTreeMap;

use egg::Id;

use crate::analysis::Graph;
use crate::extract::{Choice, leaf};
use crate::lang::ENode;
use crate::lossy::{self, Form, Priced};
use component::Component;

/// What a form costs at the prices of one extraction.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Offer {
    price: f64,
    /// Infinite where it is not on offer.
    error: f64,
}

/// A form of a class with the classes that it needs, leaves left out.
#[derive(Clone, Debug)]
struct Candidate {
    priced: Priced,
    operands: Vec<usize>,
}

/// Classes with their forms, ascending by class; classes name each other by their place.
#[derive(Default)]
struct Classes {
    ids: Vec<Id>,
    forms: Vec<Vec<Candidate>>,
    roots: Vec<usize>,
}

/// An extraction problem, of which only prices and the limit are open.
#[derive(Default)]
pub struct Problem {
    classes: Classes,
    components: Vec<Component>,
}

/// What was extracted.
#[derive(Clone, PartialEq, Debug)]
pub struct Extracted {
    /// The form of every class that the roots need, by its number in [`Problem::forms`].
    pub forms: BTreeMap<Id, usize>,
    /// Sum of prices.
    pub price: f64,
    /// Sum of errors.
    pub error: f64,
    /// No choice within the limit is cheaper than `price * (1 - gap)`.
    pub gap: f64,
    /// What error costs at the limit: the multiplier of the relaxed problem. Among forms of a class that need the same classes the one with the least
    /// `price + weight * error` is chosen, but for what single steps of error decide.
    pub weight: f64,
}

impl Problem {
    /// The problem of an e-graph with priced forms. `free` are exact e-nodes that cost nothing by themselves; e-nodes that are neither priced nor free are not on
    /// offer, since nobody knows what they take. `None` when no choice is without a cycle.
    pub fn new(egraph: &Graph, roots: &[Id], free: &Choice) -> Option<Problem> {
        let classes = Classes::new(egraph, roots, free)?;
        let components = component::components(&classes)?;
        Some(Problem { classes, components })
    }

    /// The forms of a class that can be chosen: exact ones, then lossy ones by layer and rule. Empty for classes that cost nothing or that nothing needs.
    pub fn forms(&self, class: Id) -> impl Iterator<Item = &Priced> {
        let found = self.classes.ids.binary_search(&class).ok();
        found.into_iter().flat_map(|c| &self.classes.forms[c]).map(|candidate| &candidate.priced)
    }

    /// What forms cost; those for which `price` has none are not on offer.
    fn offers(&self, price: impl Fn(&Priced) -> Option<f64>) -> Vec<Vec<Offer>> {
        let offer = |c: &Candidate| {
            let price = if c.priced.takes.is_empty() { Some(0.0) } else { price(&c.priced) };
            price.map_or(Offer { price: 0.0, error: f64::INFINITY }, |price| Offer { price, error: c.priced.error })
        };
        self.classes.forms.iter().map(|forms| forms.iter().map(offer).collect()).collect()
    }

    /// The least sum of prices and of errors times `weight`, or less; infinite when there is no choice. `price` as in [`Problem::cheapest`].
    pub fn least(&self, weight: f64, price: impl Fn(&Priced) -> Option<f64>) -> f64 {
        let offers = self.offers(price);
        self.components.iter().map(|c| c.least(&offers, weight)).sum()
    }

    /// The cheapest choice whose errors sum up to `limit` at most; `None` when there is none. `price` makes a price, not negative, of what a form takes; forms for
    /// which it has none are not on offer.
    pub fn cheapest(&self, limit: f64, price: impl Fn(&Priced) -> Option<f64>) -> Option<Extracted> {
        let offers = self.offers(price);
        let items: Vec<_> = self.components.iter().map(|c| c.item(&self.classes, &offers, limit)).collect();
        let mut chosen = knapsack::choose(&offers, &items, limit)?;
        chosen.sort_unstable();
        let total = |f: fn(&Offer) -> f64| chosen.iter().map(|(class, form)| f(&offers[*class][*form])).sum::<f64>();
        let (price, error) = (total(|o| o.price), total(|o| o.error));
        let (bound, weight) = knapsack::relaxed(&offers, &items, limit);
        let gap = if price > 0.0 { ((price - bound) / price).max(0.0) } else { 0.0 };
        let forms = chosen.into_iter().map(|(class, form)| (self.classes.ids[class], form)).collect();
        Some(Extracted { forms, price, error, gap, weight })
    }
}

impl Classes {
    /// The classes that the roots may need, with the forms that can be chosen without a cycle; `None` when the roots cannot be had.
    fn new(egraph: &Graph, roots: &[Id], free: &Choice) -> Option<Classes> {
        let mut own: BTreeMap<Id, ENode> = BTreeMap::new();
        free.0.iter().for_each(|(id, node)| drop(own.insert(egraph.find(*id), lossy::canonical(egraph, node))));
        let roots: Vec<Id> = roots.iter().map(|r| egraph.find(*r)).filter(|r| leaf(egraph, *r).is_none()).collect();
        let mut found: BTreeMap<Id, Vec<(Priced, Vec<Id>)>> = BTreeMap::new();
        let mut queue = roots.clone();
        while let Some(id) = queue.pop() {
            if found.contains_key(&id) {
                continue;
            }
            let forms = with_operands(egraph, id, forms(egraph, id, own.get(&id)));
            queue.extend(forms.iter().flat_map(|(_, operands)| operands));
            found.insert(id, forms);
        }
        only_possible(&mut found);
        let ids: Vec<Id> = found.keys().copied().collect();
        let number = |id: &Id| ids.binary_search(id).ok();
        let roots = roots.iter().map(number).collect::<Option<Vec<usize>>>()?;
        let candidate = |(priced, operands): (Priced, Vec<Id>)| {
            Some(Candidate { priced, operands: operands.iter().map(number).collect::<Option<Vec<usize>>>()? })
        };
        let forms = found.into_values().map(|forms| forms.into_iter().filter_map(candidate).collect()).collect();
        Some(Classes { ids, forms, roots })
    }
}

/// The priced forms of a class behind its free one.
fn forms(egraph: &Graph, id: Id, free: Option<&ENode>) -> Vec<Priced> {
    let priced = lossy::forms(egraph, id);
    let exact = free.map(|node| Form::Exact(node.clone())).filter(|form| priced.iter().all(|p| p.form != *form));
    let exact = exact.map(|form| Priced { form, error: 0.0, takes: Box::default(), of: None });
    exact.into_iter().chain(priced).collect()
}

/// Forms with the classes that they need, ascending, leaves left out; without those that need their own class.
fn with_operands(egraph: &Graph, id: Id, forms: Vec<Priced>) -> Vec<(Priced, Vec<Id>)> {
    let operands = |form: &Form| {
        let all = match form {
            Form::Exact(node) => egg::Language::children(node),
            Form::Lossy(lossy) => &lossy.operands,
        };
        let mut operands: Vec<Id> = all.iter().copied().filter(|c| leaf(egraph, *c).is_none()).collect();
        operands.sort_unstable();
        operands.dedup();
        operands
    };
    let forms = forms.into_iter().map(|p| (operands(&p.form), p)).map(|(operands, p)| (p, operands));
    forms.filter(|(_, operands)| !operands.contains(&id)).collect()
}

/// Leaves the forms that end in leaves, and the classes that have any.
fn only_possible(found: &mut BTreeMap<Id, Vec<(Priced, Vec<Id>)>>) {
    let mut users: BTreeMap<Id, Vec<(Id, usize)>> = BTreeMap::new();
    let mut missing: BTreeMap<Id, Vec<usize>> = BTreeMap::new();
    let mut done: Vec<Id> = Vec::new();
    for (id, forms) in found.iter() {
        missing.insert(*id, forms.iter().map(|(_, operands)| operands.len()).collect());
        for (n, (_, operands)) in forms.iter().enumerate() {
            operands.iter().for_each(|o| users.entry(*o).or_default().push((*id, n)));
        }
        if forms.iter().any(|(_, operands)| operands.is_empty()) {
            done.push(*id);
        }
    }
    let mut possible: std::collections::BTreeSet<Id> = done.iter().copied().collect();
    while let Some(id) = done.pop() {
        for (user, n) in users.remove(&id).unwrap_or_default() {
            let left = missing.get_mut(&user).map(|m| &mut m[n]);
            if left.is_some_and(|left| {
                *left -= 1;
                *left == 0
            }) && possible.insert(user)
            {
                done.push(user);
            }
        }
    }
    found.retain(|id, _| possible.contains(id));
    found.values_mut().for_each(|forms| forms.retain(|(_, operands)| operands.iter().all(|o| possible.contains(o))));
}
