//! Which classes every choice needs, and which are on cycles.
//!
//! A class needs what all its forms need: the greatest fixed point of this is what all derivations from the roots have in common (landmarks of AND/OR graphs;
//! Keyder, Richter and Helmert, "Sound and Complete Landmarks for And/Or Graphs", 2010). Most of it follows from operands that all forms of a class share; sets are
//! computed for the few classes that are left.

use super::Classes;

/// Classes beyond these operands for which sets are computed; of more, none counts as needed by all.
const MOST: usize = 2048;

/// Says of each class whether every choice has it.
pub(super) fn certain(classes: &Classes) -> Vec<bool> {
    let mut certain = vec![false; classes.forms.len()];
    spread(classes, classes.roots.clone(), &mut certain);
    let reached = reached(classes);
    let region: Vec<usize> = reached.into_iter().filter(|c| !certain[*c]).collect();
    if region.is_empty() || region.len() > MOST {
        return certain;
    }
    let sets = landmarks(classes, &region);
    let mut more: Vec<usize> = Vec::new();
    for class in (0..certain.len()).filter(|c| certain[*c]) {
        let set = common(classes, class, &region, &sets).unwrap_or_default();
        more.extend(members(&set).map(|i| region[i]));
    }
    spread(classes, more, &mut certain);
    certain
}

/// Marks these classes and what all their forms have as operands, and so on.
fn spread(classes: &Classes, mut queue: Vec<usize>, marked: &mut [bool]) {
    while let Some(class) = queue.pop() {
        if std::mem::replace(&mut marked[class], true) {
            continue;
        }
        let Some((first, others)) = classes.forms[class].split_first() else { continue };
        queue.extend(first.operands.iter().filter(|o| others.iter().all(|f| f.operands.contains(o))));
    }
}

/// All classes that some choice has, ascending.
pub(super) fn reached(classes: &Classes) -> Vec<usize> {
    let (mut queue, mut seen) = (classes.roots.clone(), vec![false; classes.forms.len()]);
    while let Some(class) = queue.pop() {
        if !std::mem::replace(&mut seen[class], true) {
            queue.extend(classes.forms[class].iter().flat_map(|f| &f.operands));
        }
    }
    (0..seen.len()).filter(|c| seen[*c]).collect()
}

/// A set of members of the region, a bit for each.
type Set = Vec<u64>;

fn members(set: &Set) -> impl Iterator<Item = usize> {
    (0..set.len() * 64).filter(|i| set[i / 64] >> (i % 64) & 1 != 0)
}

/// For each class of the region the classes of it that it needs; `None` stands for all of them.
fn landmarks(classes: &Classes, region: &[usize]) -> Vec<Option<Set>> {
    let mut sets: Vec<Option<Set>> = vec![None; region.len()];
    loop {
        let mut changed = false;
        for (i, class) in region.iter().enumerate() {
            let Some(mut set) = common(classes, *class, region, &sets) else { continue };
            set[i / 64] |= 1 << (i % 64);
            if sets[i].as_ref() != Some(&set) {
                (sets[i], changed) = (Some(set), true);
            }
        }
        if !changed {
            return sets;
        }
    }
}

/// What all forms of a class need of the region; `None` for everything.
fn common(classes: &Classes, class: usize, region: &[usize], sets: &[Option<Set>]) -> Option<Set> {
    let mut all: Option<Set> = None;
    for form in &classes.forms[class] {
        let inside = form.operands.iter().filter_map(|o| region.binary_search(o).ok());
        let mut union: Option<Set> = Some(vec![0; region.len().div_ceil(64)]);
        for operand in inside {
            union = union.zip(sets[operand].as_ref()).map(|(a, b)| a.iter().zip(b).map(|(a, b)| a | b).collect());
        }
        all = match (all, union) {
            (Some(a), Some(b)) => Some(a.iter().zip(&b).map(|(a, b)| a & b).collect()),
            (a, b) => a.or(b),
        };
    }
    all
}

/// Says of each class whether it may be on a cycle of forms: what is left when classes without operands or without users are taken away again and again.
pub(super) fn on_cycles(classes: &Classes) -> Vec<bool> {
    let count = classes.forms.len();
    let mut below: Vec<Vec<usize>> = Vec::with_capacity(count);
    let mut above = vec![Vec::new(); count];
    for (class, forms) in classes.forms.iter().enumerate() {
        let mut operands: Vec<usize> = forms.iter().flat_map(|f| f.operands.iter().copied()).collect();
        operands.sort_unstable();
        operands.dedup();
        operands.iter().for_each(|o| above[*o].push(class));
        below.push(operands);
    }
    let mut left = vec![true; count];
    for (from, to) in [(&below, &above), (&above, &below)] {
        let mut open: Vec<usize> = from.iter().map(|list| list.iter().filter(|c| left[**c]).count()).collect();
        let mut queue: Vec<usize> = (0..count).filter(|c| left[*c] && open[*c] == 0).collect();
        while let Some(class) = queue.pop() {
            left[class] = false;
            for next in to[class].iter().filter(|c| left[**c]) {
                open[*next] -= 1;
                if open[*next] == 0 {
                    queue.push(*next);
                }
            }
        }
    }
    left
}
