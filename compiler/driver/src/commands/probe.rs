//! Sizes that are tried for open dimensions, to tell what the model would compile for: the sizes of a model are open until somebody names them,
//! but what becomes of its operators can only be seen for some size or range.

use std::collections::BTreeMap;

use onnxc_ir::Graph;
use onnxc_targets::Target;

use crate::cli::{Debugging, Extent, Freedom, Model};
use crate::fault::{Diagnostic, Done, Fault};
use crate::pipeline;

/// A dimension without a value.
#[derive(Clone, Debug, PartialEq)]
pub struct Open {
    /// Its name; of one that has none in the model, the name that `--shape` would give it.
    pub name: String,
    /// The first input that has it, and the axis.
    pub at: (String, usize),
    /// It is the first of several: it usually counts things that have nothing to do with each other.
    batch: bool,
    /// The model gives it a name, which `--dim` knows.
    pub named: bool,
}

/// Values of a dimension: the multiples of a factor by all numbers of a range.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Values {
    /// The factor.
    pub factor: u64,
    /// First and last of the range.
    pub range: (u64, u64),
}

impl Values {
    fn one(n: u64) -> Values {
        Values { factor: 1, range: (n, n) }
    }
}

impl std::fmt::Display for Values {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (first, last) = (self.factor * self.range.0, self.factor * self.range.1);
        match self.factor {
            _ if first == last => write!(f, "{first}"),
            1 => write!(f, "{first}..{last}"),
            n => write!(f, "{first}..{last} (multiples of {n})"),
        }
    }
}

/// Values of all open dimensions, by name.
pub type Trial<'a> = BTreeMap<&'a str, Values>;

/// Whether a dimension may be a range.
#[derive(Clone, Debug, PartialEq)]
pub enum Span {
    /// It may; the values that were tried.
    Range(Values),
    /// It may not, for these reasons: one value, or several single ones.
    Single(Vec<String>),
    /// That was not tried.
    Unknown,
}

/// The dimensions of the inputs that have neither a value nor bounds, and for each input that has one its shape in terms of their names.
pub struct Dimensions {
    /// In the order of inputs and axes.
    pub open: Vec<Open>,
    shapes: Vec<(String, Vec<Extent>)>,
}

impl Dimensions {
    /// Of a graph as imported.
    pub fn of(graph: &Graph) -> Dimensions {
        let (mut open, mut shapes) = (Vec::<Open>::new(), Vec::new());
        for id in &graph.inputs {
            let (value, mut extents) = (graph.value(*id), Vec::new());
            for (axis, dim) in value.ty.shape.iter().enumerate() {
                let mut symbols = Vec::new();
                dim.symbols(&mut symbols);
                symbols.retain(|s| !graph.bounds.contains_key(&**s));
                let [symbol] = &symbols[..] else {
                    extents.push(dim.as_const().map_or_else(|| Extent::Name(1, dim.to_string()), Extent::Number));
                    continue;
                };
                let named = !symbol.starts_with('?');
                let name = if named { symbol.to_string() } else { format!("d{}_{axis}", shapes.len()) };
                if !open.iter().any(|o| o.name == name) {
                    let batch = axis == 0 && value.ty.rank() > 1;
                    open.push(Open { name: name.clone(), at: (value.name.clone(), axis), batch, named });
                }
                extents.push(Extent::Name(1, name));
            }
            shapes.push((value.name.clone(), extents));
        }
        Dimensions { open, shapes }
    }

    /// The model with values of each open dimension.
    fn model(&self, model: &Model, trial: &Trial) -> Model {
        let mut model = model.clone();
        let given = |input: &str| model.shapes.iter().any(|(name, _)| name == input);
        // What the model has no name for, and multiples, are said by shapes; those name their dimensions for all inputs, or for none.
        let by_shape = self.open.iter().any(|o| !o.named) || trial.values().any(|v| v.factor != 1);
        let extent = |e: &Extent| match e {
            Extent::Name(_, name) => Extent::Name(trial.get(&**name).map_or(1, |v| v.factor), name.clone()),
            number => number.clone(),
        };
        let shapes: Vec<_> = self.shapes.iter().filter(|(input, _)| by_shape && !given(input)).cloned().collect();
        model.shapes.extend(shapes.into_iter().map(|(input, extents)| (input, extents.iter().map(extent).collect())));
        model.dims.extend(trial.iter().map(|(name, values)| (name.to_string(), vec![values.range])));
        model
    }

    /// The model with the values that were found.
    pub fn planned(&self, model: &Model, found: &Found) -> Model {
        self.model(model, &found.values.iter().map(|(name, values)| (name.as_str(), *values)).collect())
    }

    /// `--shape` for an input, as far as it is needed to name its dimensions.
    pub fn shape_flag(&self, input: &str) -> Option<String> {
        let (_, extents) = self.shapes.iter().find(|(name, _)| name == input)?;
        let text = |e: &Extent| match e {
            Extent::Number(n) => n.to_string(),
            Extent::Name(_, name) => name.clone(),
        };
        Some(format!("--shape {input}={}", extents.iter().map(text).collect::<Vec<_>>().join(",")))
    }
}

/// Sizes to try, one after the other, for dimensions that are no batch.
const SIZES: [u64; 5] = [64, 224, 320, 16, 1];
/// Ranges to try for them, one after the other: not every model takes small numbers, or such as are no multiples.
const RANGES: [(u64, (u64, u64)); 3] = [(1, (1, 64)), (1, (32, 64)), (32, (1, 4))];
/// The range to try for a batch.
const BATCH: (u64, u64) = (1, 4);

/// What is compiled for.
pub type For<'a> = (&'a Target, &'a Freedom);

/// What the trials have shown.
#[derive(Default)]
pub struct Found {
    /// Values for which the model compiles, by name; empty when none were found.
    pub values: BTreeMap<String, Values>,
    /// For each open dimension.
    pub spans: Vec<Span>,
}

/// Tries values for the open dimensions: ranges for all of them at once; if that does not do, single sizes, and then a range for each dimension. An
/// error says what is wrong whatever the sizes are.
pub fn explore(model: &Model, dimensions: &Dimensions, target: For, with_ranges: bool) -> Done<Found> {
    // A batch has one range only.
    let ranges = if dimensions.open.iter().all(|o| o.batch) { &RANGES[..1] } else { &RANGES };
    for range in ranges.iter().filter(|_| with_ranges) {
        let trial: Trial = dimensions.open.iter().map(|o| (&*o.name, values(o, *range))).collect();
        if compiles(&dimensions.model(model, &trial), target)?.is_none() {
            let spans = dimensions.open.iter().map(|o| Span::Range(trial[&*o.name])).collect();
            return Ok(Found { values: named(&trial), spans });
        }
    }
    let Some(sizes) = sizes(model, dimensions, target)? else {
        return Ok(Found { values: BTreeMap::new(), spans: vec![Span::Unknown; dimensions.open.len()] });
    };
    let mut spans = Vec::new();
    for open in &dimensions.open {
        spans.push(if with_ranges { span(model, dimensions, &sizes, open, target)? } else { Span::Unknown });
    }
    Ok(Found { values: named(&sizes), spans })
}

fn values(open: &Open, (factor, range): (u64, (u64, u64))) -> Values {
    if open.batch { Values { factor: 1, range: BATCH } } else { Values { factor, range } }
}

fn named(trial: &Trial) -> BTreeMap<String, Values> {
    trial.iter().map(|(name, values)| (name.to_string(), *values)).collect()
}

/// The first single sizes for which the model compiles, if there are any.
fn sizes<'a>(model: &Model, dimensions: &'a Dimensions, target: For) -> Done<Option<Trial<'a>>> {
    for size in SIZES {
        let value = |o: &Open| Values::one(if o.batch { 1 } else { size });
        let trial: Trial = dimensions.open.iter().map(|o| (&*o.name, value(o))).collect();
        match compiles(&dimensions.model(model, &trial), target)? {
            None => return Ok(Some(trial)),
            // What has no code for one size has none for others.
            Some(problems) if problems.iter().all(|d| d.code.starts_with("lower::")) => return Err(Fault::Model(problems)),
            Some(_) => {}
        }
    }
    Ok(None)
}

/// Whether one dimension may be a range while the others have these sizes.
fn span(model: &Model, dimensions: &Dimensions, sizes: &Trial, open: &Open, target: For) -> Done<Span> {
    let mut why = Vec::new();
    for range in RANGES {
        let mut trial = sizes.clone();
        let tried = values(open, range);
        trial.insert(&open.name, tried);
        let Some(problems) = compiles(&dimensions.model(model, &trial), target)? else { return Ok(Span::Range(tried)) };
        // The reasons of the last range are those that other sizes do not help against.
        why = reasons(&problems);
        if open.batch {
            break;
        }
    }
    Ok(Span::Single(why))
}

/// What is wrong with a model whose sizes are given, if anything.
fn compiles(model: &Model, (target, freedom): For) -> Done<Option<Vec<Diagnostic>>> {
    match pipeline::compile(model, target, freedom, &Debugging::default()) {
        Ok(_) => Ok(None),
        Err(Fault::Model(problems)) => Ok(Some(problems)),
        Err(Fault::Usage(text)) => Ok(Some(vec![Diagnostic::new("usage", text)])),
        Err(other) => Err(other),
    }
}

/// The messages, equal ones once, with the number of nodes that they concern.
fn reasons(list: &[Diagnostic]) -> Vec<String> {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    list.iter().for_each(|d| *counts.entry(&d.message).or_default() += 1);
    let text = |(message, n): (&str, usize)| if n == 1 { message.to_string() } else { format!("{message} ({n} nodes)") };
    counts.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use onnxc_ir::{DType, Dim, TensorType};

    #[test]
    fn dimensions_without_a_name_get_one() {
        let mut graph = Graph::new("g");
        graph.add_input("x", TensorType::new(DType::F32, vec![Dim::sym("N"), Dim::Const(3), Dim::sym("?7")]));
        graph.add_input("y", TensorType::new(DType::F32, vec![Dim::sym("N")]));
        let dimensions = Dimensions::of(&graph);
        let names: Vec<_> = dimensions.open.iter().map(|o| (o.name.as_str(), o.at.1, o.named)).collect();
        assert_eq!(names, [("N", 0, true), ("d0_2", 2, false)]);
        assert_eq!(dimensions.shape_flag("x").as_deref(), Some("--shape x=N,3,d0_2"));
        let trial = BTreeMap::from([("N", Values::one(1)), ("d0_2", Values { factor: 32, range: (1, 2) })]);
        let model = dimensions.model(&Model::default(), &trial);
        assert_eq!(model.shapes[0].1[2], Extent::Name(32, "d0_2".into()));
        assert_eq!((model.shapes.len(), model.dims.len()), (2, 2));
    }
}
