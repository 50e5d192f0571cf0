//! Components: classes whose choices depend on each other, and what each component may be as a whole.
//!
//! A class that every choice has and whose forms all need classes that every choice has chooses by itself. Where forms need different classes, these
//! classes are there or not: together with those that decide on them they are one component. Where no class is needed by two others at once, choices nest
//! (`nested.rs`). Of other components the structures are enumerated: one way for each class that is there, where a way is all forms with the same needs. Within a
//! structure classes choose by themselves.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::knapsack::{self, Item, Part, Structure};
use super::nested::Nested;
use super::{Classes, Offer, needed};

/// Components with more classes or structures are not enumerated, nor are those for which it takes longer than this.
const CLASSES: usize = 64;
const STRUCTURES: usize = 64;
const STEPS: usize = 20_000;
/// Prices of error for which the best structure of a large component is looked for, in powers of two of its usual price.
const POWERS: [f64; 7] = [-12.0, -8.0, -4.0, -2.0, 0.0, 2.0, 6.0];
/// Sweeps of single changes of such a structure, and changes that are tried.
const SWEEPS: usize = 4;
const TRIES: usize = 20_000;

/// Classes that choose together.
pub(super) enum Component {
    /// No class is needed by two others at once.
    Nested(Nested),
    /// All that it may be.
    Small(Vec<Structure>),
    /// Too much for a list.
    Large(Members),
}

/// Forms of a class that need the same classes of its component.
#[derive(Clone, Debug)]
pub(super) struct Way {
    pub needs: Vec<usize>,
    pub forms: Vec<usize>,
}

impl Way {
    /// The least price and weighted error of a form that is on offer.
    pub(super) fn least(&self, class: usize, offers: &[Vec<Offer>], weight: f64) -> f64 {
        knapsack::least(&offers[class], &self.forms, weight)
    }
}

/// The classes of a component.
pub(super) struct Members {
    /// Those that every choice has.
    pub entries: Vec<usize>,
    pub ways: BTreeMap<usize, Vec<Way>>,
}

/// One way for each class.
type Ways = BTreeMap<usize, usize>;

/// The components in the order of their first classes; `None` when one of them cannot be without a cycle.
pub(super) fn components(classes: &Classes) -> Option<Vec<Component>> {
    let (certain, cyclic, reached) = (needed::certain(classes), needed::on_cycles(classes), needed::reached(classes));
    // Operands about which something is to be decided, or which may need what needs them.
    let open = |class: usize, operand: usize| !certain[operand] || (cyclic[class] && cyclic[operand]);
    let ways = |class: usize| -> Vec<Way> {
        let mut ways: BTreeMap<Vec<usize>, Vec<usize>> = BTreeMap::new();
        for (n, form) in classes.forms[class].iter().enumerate() {
            let needs = form.operands.iter().copied().filter(|o| open(class, *o)).collect();
            ways.entry(needs).or_default().push(n);
        }
        ways.into_iter().map(|(needs, forms)| Way { needs, forms }).collect()
    };
    let mut roots: Vec<usize> = (0..certain.len()).collect();
    let all: BTreeMap<usize, Vec<Way>> = reached.into_iter().map(|class| (class, ways(class))).collect();
    for (class, ways) in &all {
        for need in ways.iter().flat_map(|w| &w.needs) {
            let (a, b) = (root(&mut roots, *class), root(&mut roots, *need));
            roots[a.max(b)] = a.min(b);
        }
    }
    let mut members: BTreeMap<usize, Members> = BTreeMap::new();
    for (class, ways) in all {
        let of = members.entry(root(&mut roots, class)).or_insert_with(|| Members { entries: Vec::new(), ways: BTreeMap::new() });
        if certain[class] {
            of.entries.push(class);
        }
        of.ways.insert(class, ways);
    }
    members.into_values().map(Component::new).collect()
}

/// The first class of a component, by way of parents.
fn root(parents: &mut [usize], mut class: usize) -> usize {
    while parents[class] != class {
        parents[class] = parents[parents[class]];
        class = parents[class];
    }
    class
}

impl Component {
    fn new(members: Members) -> Option<Component> {
        let alone = members.ways.len() == 1;
        let members = match if alone { Err(members) } else { Nested::new(members) } {
            Ok(nested) => return Some(Component::Nested(nested)),
            Err(members) => members,
        };
        let mut found = Vec::new();
        let small = members.ways.len() <= CLASSES && members.extend(&mut Ways::new(), &mut found, &mut { STEPS });
        match (small, found.is_empty()) {
            (true, true) => None,
            (true, false) => Some(Component::Small(found)),
            (false, _) => Some(Component::Large(members)),
        }
    }

    /// The least sum of prices and weighted errors, or less.
    pub(super) fn least(&self, offers: &[Vec<Offer>], weight: f64) -> f64 {
        let structure = |structure: &Structure| structure.iter().map(|part| part.least(offers, weight)).sum::<f64>();
        match self {
            Component::Nested(nested) => nested.least(offers, weight),
            Component::Small(structures) => structures.iter().map(structure).fold(f64::INFINITY, f64::min),
            Component::Large(members) => {
                members.entries.iter().map(|class| knapsack::least_of(offers[*class].iter().copied(), weight)).sum()
            }
        }
    }

    /// What the knapsack chooses from at these prices.
    pub(super) fn item(&self, classes: &Classes, offers: &[Vec<Offer>], limit: f64) -> Item<'_> {
        let members = match self {
            Component::Nested(nested) => return Item::Nested(nested),
            Component::Small(structures) => return Item::Structures { structures: Cow::Borrowed(structures), always: None },
            Component::Large(members) => members,
        };
        let every = |class: &usize| Part { class: *class, forms: (0..classes.forms[*class].len()).collect() };
        let always = Some(members.entries.iter().map(every).collect());
        Item::Structures { structures: Cow::Owned(members.best(offers, limit)), always }
    }
}

impl Members {
    /// Adds the structures that have these ways; false when there are too many of them.
    fn extend(&self, ways: &mut Ways, found: &mut Vec<Structure>, steps: &mut usize) -> bool {
        if *steps == 0 || found.len() > STRUCTURES {
            return false;
        }
        *steps -= 1;
        let needs = ways.iter().flat_map(|(class, way)| &self.ways[class][*way].needs);
        let open = self.entries.iter().chain(needs).filter(|c| !ways.contains_key(c)).min().copied();
        let Some(class) = open else {
            found.extend(self.structure(ways));
            return found.len() <= STRUCTURES;
        };
        for way in 0..self.ways[&class].len() {
            ways.insert(class, way);
            if !self.extend(ways, found, steps) {
                return false;
            }
        }
        ways.remove(&class);
        true
    }

    /// The classes that entries need when classes have these ways; `None` when they need each other in a circle, or one has no way.
    fn structure(&self, ways: &Ways) -> Option<Structure> {
        let mut done: BTreeMap<usize, bool> = BTreeMap::new();
        let mut stack: Vec<(usize, bool)> = self.entries.iter().map(|c| (*c, false)).collect();
        while let Some((class, leaving)) = stack.pop() {
            if leaving {
                done.insert(class, true);
                continue;
            }
            if done.contains_key(&class) {
                continue;
            }
            done.insert(class, false);
            stack.push((class, true));
            let needs = &self.ways[&class][*ways.get(&class)?].needs;
            // What was entered and not left again is above.
            if needs.iter().any(|c| done.get(c) == Some(&false)) {
                return None;
            }
            stack.extend(needs.iter().filter(|c| !done.contains_key(c)).map(|c| (*c, false)));
        }
        Some(done.into_keys().map(|class| Part { class, forms: self.ways[&class][ways[&class]].forms.clone() }).collect())
    }

    /// The best structures that are found at some prices of error.
    fn best(&self, offers: &[Vec<Offer>], limit: f64) -> Vec<Structure> {
        let all = self.ways.keys().flat_map(|class| &offers[*class]);
        let usual = all.map(|o| o.price).fold(0.0, f64::max) / limit.max(1e-300);
        let weights = std::iter::once(0.0).chain(POWERS.iter().map(|power| usual * power.exp2()));
        let mut found: Vec<Structure> = Vec::new();
        for structure in weights.filter_map(|weight| self.best_at(&|part| part.least(offers, weight))) {
            if !found.contains(&structure) {
                found.push(structure);
            }
        }
        found
    }

    /// A structure with little of the sum of what its classes cost: greedy, as if classes were paid for by each that needs them, then by single changes.
    fn best_at(&self, cost: &dyn Fn(&Part) -> f64) -> Option<Structure> {
        let way_cost = |class: usize, way: &Way| cost(&Part { class, forms: way.forms.clone() });
        let mut values: BTreeMap<usize, (f64, usize)> = BTreeMap::new();
        loop {
            let mut changed = false;
            for (class, ways) in &self.ways {
                for (n, way) in ways.iter().enumerate() {
                    let below = way.needs.iter().map(|c| values.get(c).map(|v| v.0)).sum::<Option<f64>>();
                    let Some(value) = below.map(|below| below + way_cost(*class, way)).filter(|v| v.is_finite()) else {
                        continue;
                    };
                    if values.get(class).is_none_or(|v| value < v.0) {
                        values.insert(*class, (value, n));
                        changed = true;
                    }
                }
            }
            if !changed {
                break;
            }
        }
        let mut ways: Ways = values.into_iter().map(|(class, (_, way))| (class, way)).collect();
        let total = |s: &Structure| s.iter().map(cost).sum::<f64>();
        let mut best = self.structure(&ways)?;
        let mut tries = TRIES;
        for _ in 0..SWEEPS {
            let before = total(&best);
            for class in best.iter().map(|part| part.class).collect::<Vec<usize>>() {
                for way in 0..self.ways[&class].len() {
                    if tries == 0 {
                        return Some(best);
                    }
                    tries -= 1;
                    let Some(old) = ways.insert(class, way) else { continue };
                    match self.structure(&ways).filter(|s| total(s) < total(&best)) {
                        Some(better) => best = better,
                        None => drop(ways.insert(class, old)),
                    }
                }
            }
            if total(&best) >= before {
                break;
            }
        }
        Some(best)
    }
}
