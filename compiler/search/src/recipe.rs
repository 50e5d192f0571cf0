//! What every layer of a model becomes, as text that people read and edit, and the tensors beside it.
//!
//! The text names layers by the ONNX nodes that they are; what is not named stays as it is. New weights are arrays in a second file, so that a recipe can be
//! applied without the calibration data: [`apply`] puts them in the graph, and everything behind it is compilation as usual.

use std::collections::BTreeMap;

use onnxc_ir::op::OpSet;
use onnxc_ir::{DType, Graph, Tensor, ValueId};
use onnxc_passes::compress::pairs::{self, Range};
use onnxc_passes::compress::{recurrent, reorder, split, weighted};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::candidate::{self, Applied};
use crate::explain::Report;
use crate::{Error, Result, equalised};

/// The version of the text that this crate reads and writes.
pub const VERSION: u32 = 1;

/// A recipe.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug, Default)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// [`VERSION`].
    pub version: u32,
    /// SHA-256 of the model file.
    pub model: String,
    /// SHA-256 of the file of arrays that lies beside the recipe.
    pub arrays: String,
    /// Where it comes from, for people.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub about: BTreeMap<String, String>,
    /// Filters that are in another order.
    #[serde(rename = "order", default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<Order>,
    /// Layers that change.
    #[serde(rename = "layer", default)]
    pub layers: Vec<Layer>,
    /// Values that become integers.
    #[serde(rename = "activation", default)]
    pub activations: Vec<Activation>,
    /// What the search has told of it. Nothing depends on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Report>,
}

/// The filters of a layer in another order ([`reorder`]), and with them those of all layers of its stream.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Order {
    /// The ONNX nodes that the layer does the work of.
    pub layer: String,
    /// The array of the filters' numbers in their new order.
    pub array: String,
}

/// A layer that changes.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// The ONNX nodes that it does the work of.
    pub name: String,
    /// What takes the place of its matrix: a name of [`candidate::FORMS`].
    pub form: String,
    /// Type of its weights.
    pub weights: Weights,
    /// Share of its multiplications that is left; of `coarse`, of its weights that are not zero.
    pub density: f64,
    /// Outputs that share positions, where some are dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<usize>,
    /// Input channels that are kept or dropped together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unit: Option<usize>,
    /// Channels between the layers that take its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ranks: Vec<usize>,
    /// Relative error of its result on the data that it was made with.
    pub error: f64,
    /// The array of what its integer weights are divided by: that of the activation that it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factors: Option<String>,
    /// The arrays of the orders that its filters or its inputs are in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orders: Vec<String>,
    /// Its arrays: `NAME.weights`, for integers `NAME.scales`, and `NAME.shift`, what is added to its bias. Where several layers take its place, they are
    /// `NAME.first.weights`, `NAME.second.weights` and so on.
    pub arrays: String,
}

impl Layer {
    /// The share of its multiplications that is left.
    pub fn multiplied(&self) -> f64 {
        candidate::form(&self.form).map_or(self.density, |form| form.multiplied(self.density))
    }
}

/// Type of weights.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Weights {
    /// 32-bit floats.
    F32,
    /// 8-bit integers with a scale for each output; what they multiply is 8 bits wide too.
    Int8,
    /// The same with integers of which two neighbouring ones add up to little enough that some targets multiply them faster
    /// ([`onnxc_ir::target::SHORT_SUM`]).
    Paired,
    /// The same where two such pairs do, those of two steps whose products are added within 16 bits.
    Paired2,
    /// The same where four do.
    Paired4,
    /// 16-bit integers with a scale for each output; what they multiply is 16 bits wide too.
    Int16,
    /// 8-bit integers with a scale for each output; what they multiply stays float.
    Byte,
    /// The same with no more than 16 different values, of which four bits are kept.
    Nibble,
    /// 8-bit integers with a scale for each output; what they multiply becomes 8 bits wide with a range that is found at run time, for each inference.
    Dynamic,
}

/// A value that becomes integers.
#[derive(Serialize, Deserialize, Clone, PartialEq, Debug)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// Its name in the graph.
    pub value: String,
    /// Distance of neighbouring values.
    pub scale: f32,
    /// The integer of zero; 0 of 16 bits.
    pub zero: u8,
    /// Bits of the integers: 8 without sign, or 16 with sign.
    #[serde(default = "byte", skip_serializing_if = "is_byte")]
    pub bits: u8,
    /// The array of what its channels are multiplied by before it becomes integers ([`onnxc_passes::compress::equalise`]); the weights of integers that read these are
    /// divided by it already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub factors: Option<String>,
}

fn byte() -> u8 {
    8
}

fn is_byte(bits: &u8) -> bool {
    *bits == byte()
}

/// Arrays by name.
pub type Arrays = Vec<(String, Tensor)>;

impl Recipe {
    /// Parses the text.
    ///
    /// # Errors
    /// When it is no recipe of this version; the message says where.
    pub fn parse(text: &str) -> Result<Recipe> {
        let recipe: Recipe = toml::from_str(text).map_err(|e| Error::Input(format!("not a recipe: {e}")))?;
        if recipe.version != VERSION {
            let why = format!("the recipe has version {}, this program reads version {VERSION}", recipe.version);
            return Err(Error::Input(format!("{why}: make it anew with --calib")));
        }
        Ok(recipe)
    }

    /// The text.
    ///
    /// # Errors
    /// None that a recipe of this crate has.
    pub fn text(&self) -> Result<String> {
        let body = toml::to_string(&Recipe { report: None, ..self.clone() }).map_err(|e| Error::Internal(e.to_string()))?;
        let body = body + &self.report.as_ref().map(report).transpose()?.unwrap_or_default();
        Ok(format!(
            "# What each layer of a model becomes; `onnxc compile MODEL --recipe FILE` compiles it. A layer that is taken out stays as it was.\n\n{body}"
        ))
    }
}

/// The section of a report: a line for each layer.
fn report(report: &Report) -> Result<String> {
    let mut out = "\n[report]\n".to_string();
    let toml::Value::Table(fields) = toml::Value::try_from(report).map_err(|e| Error::Internal(e.to_string()))? else {
        return Err(Error::Internal("a report is no table".to_string()));
    };
    for (name, value) in fields {
        match value {
            toml::Value::Array(rows) if rows.iter().any(toml::Value::is_table) => {
                let rows: Vec<String> = rows.iter().map(|row| format!("  {row},\n")).collect();
                out += &format!("{name} = [\n{}]\n", rows.concat());
            }
            value => out += &format!("{name} = {value}\n"),
        }
    }
    Ok(out)
}

/// The fingerprint of arrays: names, types, shapes and bytes.
pub fn fingerprint(arrays: &Arrays) -> String {
    let mut hash = Sha256::new();
    for (name, tensor) in arrays {
        hash.update(format!("{name} {}{:?}\n", tensor.dtype(), tensor.shape()));
        hash.update(tensor.bytes());
    }
    hash.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// A graph as recipes name its parts: recurrent layers are taken apart, and every value has a name of its own.
pub fn named(graph: &Graph) -> Graph {
    let mut graph = graph.clone();
    recurrent::unfold(&mut graph, OpSet(onnxc_ops::ALL));
    graph.make_names_unique();
    graph
}

/// The canonical graph of a model as a recipe wants it.
///
/// # Errors
/// When the recipe names a layer or a value that is not there, or arrays are missing or do not fit. All of them are told at once.
pub fn apply(graph: &Graph, recipe: &Recipe, arrays: &Arrays) -> Result<Graph> {
    let mut problems = Vec::new();
    let mut graph = named(graph);
    for Order { layer, array } in &recipe.orders {
        match ordered(&graph, layer, array, arrays) {
            Ok(moved) => graph = moved,
            Err(why) => problems.push(format!("the order of layer {layer:?}: {why}")),
        }
    }
    apply_to(&graph, recipe, arrays, &[], problems)
}

/// The graph with the filters of a layer in the order of an array.
fn ordered(graph: &Graph, layer: &str, array: &str, arrays: &Arrays) -> std::result::Result<Graph, String> {
    let order = arrays.iter().find(|(name, t)| name == array && t.dtype() == DType::I32);
    let order = order.ok_or_else(|| format!("there is no array {array} of i32 beside the recipe"))?.1.to_vec::<i32>();
    let order: Vec<u32> = order.into_iter().map(i32::cast_unsigned).collect();
    let moved = reorder::reorder(graph, layer, &order).map(|(moved, _)| moved);
    moved.ok_or_else(|| format!("the model has no such layer whose {} filters can be moved: make the recipe anew", order.len()))
}

/// The same for a graph whose filters are in their order already, and a recipe that need not be all there yet: nodes with the results `waiting` read what integers
/// make of their operands, but have no integers of their own.
///
/// # Errors
/// As [`apply`].
pub(crate) fn apply_partly(graph: &Graph, recipe: &Recipe, arrays: &Arrays, waiting: &[ValueId]) -> Result<Graph> {
    apply_to(&named(graph), recipe, arrays, waiting, Vec::new())
}

fn apply_to(dense: &Graph, recipe: &Recipe, arrays: &Arrays, waiting: &[ValueId], mut problems: Vec<String>) -> Result<Graph> {
    let (all, mut graph) = (weighted::layers(dense), dense.clone());
    let ops = OpSet(onnxc_ops::ALL);
    let (mut front, mut scaled) = (Vec::new(), Vec::new());
    for layer in &recipe.layers {
        let Some(found) = all.iter().find(|l| l.name == layer.name) else {
            problems.push(format!("the model has no layer {:?}", layer.name));
            continue;
        };
        let Some(form) = candidate::form(&layer.form) else {
            let known: Vec<&str> = candidate::FORMS.iter().map(|f| f.name()).collect();
            problems.push(format!("layer {:?}: there is no form {:?}, but {}", layer.name, layer.form, known.join(", ")));
            continue;
        };
        let numbers = candidate::numbers(layer.weights);
        // What its node multiplies is no operand, so that most forms have nothing to change.
        if found.is_state() && !(form.fits(found) && form.takes(numbers) && numbers.fits(found)) {
            let what = format!("{} with weights {:?}", layer.form, layer.weights).to_lowercase();
            problems.push(format!(
                "layer {:?}: what a recurrent layer multiplies its state by cannot be {what}; take it out",
                layer.name
            ));
            continue;
        }
        if layer.factors.is_some() && recipe.activations.iter().all(|a| a.factors != layer.factors) {
            let array = layer.factors.as_deref().unwrap_or_default();
            let why =
                format!("its weights are divided by {array}, and no activation is multiplied by it; take the layer out too");
            problems.push(format!("layer {:?}: {why}", layer.name));
        }
        if let Some(order) = layer.orders.iter().find(|name| recipe.orders.iter().all(|o| o.array != **name)) {
            let why = format!("its weights are in the order {order}, which is not there; take the layer out too");
            problems.push(format!("layer {:?}: {why}", layer.name));
        }
        let from = graph.nodes.len();
        match form.apply(&mut Applied { graph: &mut graph, ops, arrays }, found, layer) {
            Ok(nodes) => front.extend(nodes),
            Err(why) => problems.push(format!("layer {:?}: {why}", layer.name)),
        }
        if numbers.integers() {
            // What has taken the layer's place is behind all that was there, and it.
            scaled.extend(graph.nodes[from..].iter().chain([&graph.nodes[found.node]]).map(|n| n.outputs[0]));
        }
    }
    split::settle(&mut graph, dense.nodes.len());
    let ranges = integers((&mut graph, ops), dense, (recipe, arrays), [&scaled, waiting], &mut problems);
    if !problems.is_empty() {
        return Err(Error::Input(format!("the recipe does not fit the model: {}", problems.join("; "))));
    }
    pairs::activations(&mut graph, ops, &ranges);
    front.append(&mut graph.nodes);
    graph.nodes = front;
    graph.make_names_unique();
    Ok(graph)
}

/// What becomes integers: values, or what their channels are multiplied to, which nodes with the first results read; those with the others read what it makes of
/// the value.
fn integers(
    (graph, ops): (&mut Graph, OpSet),
    dense: &Graph,
    (recipe, arrays): (&Recipe, &Arrays),
    readers: [&[ValueId]; 2],
    problems: &mut Vec<String>,
) -> BTreeMap<ValueId, Range> {
    let mut ids: BTreeMap<String, ValueId> = BTreeMap::new();
    for (i, value) in graph.values.iter().enumerate() {
        ids.entry(value.name.clone()).or_insert(ValueId(i as u32));
    }
    let mut ranges = BTreeMap::new();
    for a in &recipe.activations {
        let Some(id) = ids.get(&a.value) else {
            problems.push(format!("the model has no value {:?}", a.value));
            continue;
        };
        if !a.scale.is_finite() || a.scale <= 0.0 {
            problems.push(format!("activation {:?}: its scale must be a positive number", a.value));
        }
        let words = a.bits == 16;
        if a.bits != byte() && !words || words && a.zero != 0 {
            problems.push(format!("activation {:?}: it must have 8 bits, or 16 and the zero 0", a.value));
        }
        let integers = match &a.factors {
            None => Ok(Some(*id)),
            Some(factors) => equalised::put((&mut *graph, ops), (dense, *id), (arrays, factors), readers),
        };
        match integers {
            Ok(id) => ranges.extend(id.map(|id| (id, Range { scale: a.scale, zero: a.zero, words }))),
            Err(why) => problems.push(why),
        }
    }
    ranges
}
