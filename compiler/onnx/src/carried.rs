//! Types of the values that loops carry: those that hold for every iteration.
//!
//! An extent that an iteration changes becomes a symbol, whose value is what the iteration before made of it. Where one can see how often the loop
//! runs and by how much the extent grows, or where the user says it (`--bound`), the symbol has a largest value, for which memory is planned.

use onnx_protobuf::{GraphProto, NodeProto};
use onnxc_ir::dim::DimBounds;
use onnxc_ir::{Dim, TensorType};

use crate::control::{Body, CODE};
use crate::import::Importer;
use crate::items::Form;
use crate::node::{Fault, fault};

/// Rounds in which the types of values that a loop carries may become more general.
const TYPE_ROUNDS: usize = 8;

/// An extent that iterations change, of one or several carried values.
struct Grown {
    symbol: String,
    /// What it is before the first iteration, and after one in terms of what it was before.
    start: Dim,
    after: Dim,
    /// Carried values and dimensions.
    places: Vec<(usize, usize)>,
}

/// A body that fits the types of the values that it carries.
pub struct Settled {
    pub body: Body,
    /// The symbols in these types whose values change.
    pub sizes: Vec<String>,
}

/// What is known of a loop besides its body.
pub struct Frame<'a, F> {
    /// The types of all inputs of the body, given those of the carried values.
    pub formal: F,
    /// The place of the first carried value among the body's outputs.
    pub first: usize,
    /// The most iterations.
    pub trips: Option<u64>,
    /// The node.
    pub node: &'a NodeProto,
}

impl<'m> Importer<'m> {
    /// Builds a loop's body until the types of its carried values hold for every iteration.
    pub fn settled<F: Fn(&[TensorType]) -> Vec<TensorType>>(
        &mut self,
        frame: &Frame<'m, F>,
        proto: &'m GraphProto,
        types: &mut [TensorType],
    ) -> Result<Option<Settled>, Fault> {
        let mut grown: Vec<Grown> = Vec::new();
        let (counts, bounds) = (self.counts.clone(), self.frames[0].builder.graph.bounds.clone());
        for _ in 0..TYPE_ROUNDS {
            let reported = self.report.clone();
            let Some(body) = self.body(proto, &(frame.formal)(types))? else { return Ok(None) };
            if let Some((i, form)) = body.forms.iter().enumerate().find(|(_, f)| **f != Form::Tensor) {
                return fault(CODE, format!("output {i} of the body is {form}, and no input of the node is one"));
            }
            let after: Vec<TensorType> =
                (0..types.len()).map(|i| body.graph.ty(body.graph.outputs[frame.first + i]).clone()).collect();
            let changed = self.widen(frame.node, types, &after, &mut grown)?;
            grown.retain(|g| !g.places.is_empty());
            let ranges = self.ranges(frame, &grown);
            // What the body does may depend on how large its values can be.
            let known = &self.frames[0].builder.graph.bounds;
            let same = grown.iter().zip(&ranges).all(|(g, range)| known.get(&g.symbol) == range.as_ref());
            if !changed && same {
                return Ok(Some(Settled { body, sizes: grown.into_iter().map(|g| g.symbol).collect() }));
            }
            self.report = reported;
            // The body is built again, with the same names; the symbols of this loop stay.
            self.counts.clone_from(&counts);
            self.counts.extend(grown.iter().map(|g| g.symbol.clone()));
            let all = &mut self.frames[0].builder.graph.bounds;
            all.clone_from(&bounds);
            all.extend(grown.iter().zip(ranges).filter_map(|(g, range)| Some((g.symbol.clone(), range?))));
        }
        fault(CODE, "the types of the carried values do not settle")
    }

    /// Puts symbols in the place of extents that an iteration changes; whether there were any.
    fn widen(
        &mut self,
        node: &NodeProto,
        types: &mut [TensorType],
        after: &[TensorType],
        grown: &mut Vec<Grown>,
    ) -> Result<bool, Fault> {
        let mut seen: Vec<Option<Dim>> = vec![None; grown.len()];
        let mut changed = false;
        for (i, ty) in types.iter_mut().enumerate() {
            if after[i].dtype != ty.dtype || after[i].rank() != ty.rank() {
                return fault(CODE, format!("carried value {i} is {ty} before and {} after an iteration", after[i]));
            }
            for d in 0..ty.rank() {
                let (before, now) = (ty.shape[d].clone(), after[i].shape[d].clone());
                let at = grown.iter().position(|g| g.places.contains(&(i, d)));
                let start = match at {
                    None if before == now => continue,
                    None => before,
                    Some(g) => {
                        if *seen[g].get_or_insert_with(|| now.clone()) == now {
                            grown[g].after = now;
                            continue;
                        }
                        // Values that were as long as others turn out to grow in another way.
                        grown[g].places.retain(|p| *p != (i, d));
                        grown[g].start.clone()
                    }
                };
                changed = true;
                // Values that begin alike and change alike have one symbol, so that they still fit each other.
                let like = grown.iter().skip(seen.len()).position(|g| g.start == start && g.after == now);
                let g = like.map(|g| seen.len() + g).unwrap_or_else(|| {
                    let output = node.output.get(i).map(String::as_str).filter(|name| !name.is_empty());
                    let symbol = self.counted(output.unwrap_or(&node.output[0]), d, None);
                    grown.push(Grown { symbol, start, after: now, places: Vec::new() });
                    grown.len() - 1
                });
                grown[g].places.push((i, d));
                ty.shape[d] = Dim::sym(&grown[g].symbol);
            }
        }
        Ok(changed)
    }

    /// Smallest and largest values of symbols, as far as they are known: the largest is what the user says, or what so many iterations make of them at most,
    /// or any number.
    fn ranges<F>(&self, frame: &Frame<'_, F>, grown: &[Grown]) -> Vec<Option<(u64, u64)>> {
        let stated = |g: &Grown| {
            let of = |(i, d): &(usize, usize)| self.options.bounds.get(frame.node.output.get(*i)?)?.get(*d).copied();
            g.places.iter().filter_map(of).min()
        };
        let mut bounds = self.bounds();
        for g in grown {
            let (low, high) = g.start.range(&bounds);
            let most = stated(g).unwrap_or(high);
            bounds.insert(g.symbol.clone(), (low.min(most), most));
        }
        let open: Vec<&Grown> = grown.iter().filter(|g| stated(g).is_none()).collect();
        let settles = grow(&open, frame.trips, &mut bounds);
        // What never shrinks is never smaller than at first.
        while let Some(g) = grown.iter().find(|g| g.after.range(&bounds).0 < bounds[&g.symbol].0) {
            let most = bounds[&g.symbol].1;
            bounds.insert(g.symbol.clone(), (0, most));
        }
        let range = |g: &Grown| Some(bounds[&g.symbol]).filter(|(_, most)| *most < MOST && (settles || stated(g).is_some()));
        grown.iter().map(range).collect()
    }
}

/// No size that is larger counts as known.
pub const MOST: u64 = 1 << 40;
/// Iterations that are looked at one by one.
const STEPS: u64 = 4096;
/// Looks at a size altogether: bodies may carry many values.
const WORK: u64 = 1 << 18;
/// And where nobody knows how many there are.
const TRIED: u64 = 64;

/// Raises the upper ends of symbols' ranges to what iterations make of them; whether they are right then.
fn grow(sizes: &[&Grown], trips: Option<u64>, bounds: &mut DimBounds) -> bool {
    let steps = trips.unwrap_or(TRIED).min(STEPS).min(WORK / (sizes.len() as u64 + 1));
    let mut once = vec![0; sizes.len()];
    for _ in 0..steps {
        let after: Vec<u64> = sizes.iter().map(|g| g.after.range(bounds).1).collect();
        let mut larger = false;
        for ((g, n), added) in sizes.iter().zip(after).zip(&mut once) {
            let most = &mut bounds.get_mut(&g.symbol).expect("internal: a symbol without a range").1;
            larger |= n > *most;
            *added = n.saturating_sub(*most);
            *most = n.max(*most);
        }
        if !larger {
            return true;
        }
    }
    // What grows by as much each time goes on like that.
    let steady = |g: &&&Grown| !g.after.sub(&Dim::sym(&g.symbol)).mentions(&g.symbol);
    let Some(left) = trips.map(|n| n - steps) else { return false };
    if left > 0 && !sizes.iter().all(|g| steady(&g)) {
        return false;
    }
    for (g, added) in sizes.iter().zip(once) {
        let most = &mut bounds.get_mut(&g.symbol).expect("internal: a symbol without a range").1;
        *most = most.saturating_add(added.saturating_mul(left));
    }
    true
}
