//! Lossy e-nodes: other forms of a layer, each with its measured error and its price.
//!
//! A lossy rule ([`LossyRule`]) looks at layers whose exact e-node was priced and adds such forms to the classes of their results. They stand in a list of
//! the class ([`Class::priced`](crate::analysis::Class::priced)), not among its e-nodes: equality of e-nodes in a class stays equality. No exact rule can
//! match on a lossy e-node, since rules see e-nodes only; congruence cannot join two classes because both have the same lossy form; no type, constant or
//! size follows from one; and [`crate::extract`] does not know them. A union of two classes joins their lists: whatever approximates the one value
//! approximates the other as well. A form may read less than its layer does: a part ([`ENode::Part`]) of the values before it, a class of its own that only forms
//! read, with the forms that the layer there has in part. The error of a form is therefore that of the class's value wherever it is read, and it is paid once. Only
//! [`crate::constrained`] looks at the lists, when nothing is rewritten any more.

use egg::{Id, Language};

use crate::analysis::Graph;
use crate::lang::ENode;

/// What takes the place of a layer, or of a part of it: a candidate of a rule.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Lossy {
    /// The layer, by its number among those that rules saw.
    pub layer: usize,
    /// The rule, by its number.
    pub rule: usize,
    /// What it reads: of a whole layer the operands that are no constants, or parts of what is before.
    pub operands: Box<[Id]>,
}

/// An e-node that can be chosen for a class.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Form {
    /// One of the class's e-nodes.
    Exact(ENode),
    /// A candidate.
    Lossy(Lossy),
}

/// An e-node and what was measured of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Priced {
    /// The e-node.
    pub form: Form,
    /// How far it moves the model's answers; 0 for exact ones.
    pub error: f64,
    /// What it takes of each resource; in which order and units is the caller's business.
    pub takes: Box<[f64]>,
    /// The layer and the rule that this was measured of; none for what costs nothing.
    pub of: Option<(usize, usize)>,
}

/// What was measured of a layer as a rule makes it.
#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    /// How far the model's answers move with it: sums over a model are what extraction limits.
    pub error: f64,
    /// What it takes of each resource.
    pub takes: Box<[f64]>,
    /// The part that it reads of the layers before it, by its number; none where it reads all.
    pub reads: Option<usize>,
}

/// A lossy rule.
pub trait LossyRule {
    /// What was measured of a layer in the rule's form, or of this part of the layer, where what reads it needs no more; `None` where it has no such form.
    fn measured(&self, layer: usize, part: Option<usize>) -> Option<Measured>;
}

/// A layer: an exact e-node that was measured.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The class of its result.
    pub class: Id,
    /// Its e-node.
    pub node: ENode,
    /// The layers, by number, whose results it reads alone, so that less of them is needed when it reads a part.
    pub before: Vec<usize>,
    /// What lies between these and the layer reads besides.
    pub between: Vec<Id>,
    /// What the layer reads that is not made by layers with the same layer behind them: what a part of it needs.
    pub own: Vec<Id>,
}

/// Applies lossy rules to layers. The first rule leaves layers as they are: its forms are the exact e-nodes. Two layers with equal operands and weights are one
/// e-node: the first one's forms stand for both. Returns for each layer its class and those of its parts.
pub fn apply(egraph: &mut Graph, layers: &[Layer], rules: &[&dyn LossyRule]) -> Vec<Vec<Id>> {
    let nodes: Vec<ENode> = layers.iter().map(|layer| canonical(egraph, &layer.node)).collect();
    let first: Vec<usize> = nodes.iter().map(|node| nodes.iter().position(|n| n == node).unwrap_or(0)).collect();
    let mut classes: Vec<Vec<Id>> = layers.iter().map(|layer| vec![egraph.find(layer.class)]).collect();
    // Forms may read parts, whose forms may read parts of what is before them.
    let mut open: Vec<(usize, Option<usize>)> = Vec::new();
    for layer in (0..layers.len()).filter(|layer| first[*layer] == *layer) {
        open.extend(add(egraph, layers, rules, (layer, None)));
    }
    while let Some((layer, part)) = open.pop() {
        let class = part.map_or(layers[layer].class, |part| part_of(egraph, layers[layer].class, part));
        if !classes[layer].contains(&class) {
            classes[layer].push(class);
            let owner = first[layer];
            open.extend(if owner == layer { add(egraph, layers, rules, (layer, part)) } else { vec![(owner, part)] });
        }
    }
    classes
}

/// Adds the forms of a layer, or of a part of one, to its class; returns what layers these read parts of, and which.
fn add(
    egraph: &mut Graph,
    layers: &[Layer],
    rules: &[&dyn LossyRule],
    (number, part): (usize, Option<usize>),
) -> Vec<(usize, Option<usize>)> {
    let (layer, mut priced, mut parts) = (&layers[number], Vec::new(), Vec::new());
    let class = part.map_or(egraph.find(layer.class), |part| part_of(egraph, layer.class, part));
    for (rule, of) in rules.iter().enumerate() {
        let Some(Measured { error, takes, reads }) = of.measured(number, part) else { continue };
        let operands: Vec<Id> = match (reads, part) {
            (Some(read), _) => {
                parts.extend(layer.before.iter().map(|before| (*before, Some(read))));
                let before = layer.before.iter().map(|before| part_of(egraph, layers[*before].class, read));
                before.collect::<Vec<Id>>().into_iter().chain(layer.between.iter().copied()).collect()
            }
            (None, Some(_)) => layer.own.clone(),
            (None, None) => layer.node.children().iter().copied().filter(|c| varies(egraph, *c)).collect(),
        };
        let form = match (rule, part) {
            (0, None) => Form::Exact(canonical(egraph, &layer.node)),
            _ => Form::Lossy(Lossy { layer: number, rule, operands: operands.into() }),
        };
        priced.push(Priced { form, error, takes, of: Some((number, rule)) });
    }
    join(&mut egraph[class].data.priced, priced);
    parts
}

/// Neither a constant nor an absent operand.
fn varies(egraph: &Graph, class: Id) -> bool {
    egraph[class].data.constant.is_none() && !egraph[class].data.types.is_empty()
}

/// The class of a part of a class's value.
fn part_of(egraph: &mut Graph, class: Id, part: usize) -> Id {
    let class = egraph.find(class);
    egraph.add(ENode::Part(part as u32, [class]))
}

/// Adds what is not there yet. Exact forms come first, then those of rules in their order.
pub(crate) fn join(to: &mut Vec<Priced>, from: Vec<Priced>) {
    for new in from {
        if let Err(at) = to.binary_search_by(|p| p.form.cmp(&new.form)) {
            to.insert(at, new);
        }
    }
}

/// The priced forms of a class with the operands' classes as they are now; where forms have become equal the first one stands.
pub(crate) fn forms(egraph: &Graph, class: Id) -> Vec<Priced> {
    let mut out: Vec<Priced> = Vec::new();
    for priced in &egraph[class].data.priced {
        let form = canonical_form(egraph, &priced.form);
        if !out.iter().any(|p| p.form == form) {
            out.push(Priced { form, ..priced.clone() });
        }
    }
    out
}

/// The e-node with the classes of its operands as they are now.
pub(crate) fn canonical(egraph: &Graph, node: &ENode) -> ENode {
    node.clone().map_children(|c| egraph.find(c))
}

fn canonical_form(egraph: &Graph, form: &Form) -> Form {
    match form {
        Form::Exact(node) => Form::Exact(canonical(egraph, node)),
        Form::Lossy(lossy) => {
            let operands = lossy.operands.iter().map(|c| egraph.find(*c)).collect();
            Form::Lossy(Lossy { operands, ..lossy.clone() })
        }
    }
}
