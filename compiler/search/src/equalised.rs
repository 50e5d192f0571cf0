//! Channels that are made alike before they become integers of 8 bits, so that these lose less of them.

use std::collections::BTreeMap;

use onnxc_ir::op::OpSet;
use onnxc_ir::{DType, Graph, Tensor, ValueId};
use onnxc_passes::compress::equalise::{self, Reader};
use onnxc_passes::compress::pairs::Ranges;
use onnxc_passes::compress::weighted::{self, Weighted};
use onnxc_passes::compress::{ActivationRange, Matrix};

use crate::recipe::Arrays;
use crate::{Backend, Result, Samples, taps};

/// Values of a graph, and factors of their channels with which integers lose less.
pub type Factors = Vec<(u32, Vec<f32>)>;

/// Factors for the values of a graph that gain by them. `largest` are the largest integers that weights may be limited to.
///
/// # Errors
/// As [`taps::Tapped::run`].
pub fn factors(backend: &dyn Backend, graph: &Graph, samples: &Samples, largest: &[f64]) -> Result<Factors> {
    let layers = weighted::layers(graph);
    let known = |id: ValueId| graph.ty(id).dtype == DType::F32 && graph.ty(id).shape.iter().all(|d| d.as_const().is_some());
    let mut values = equalise::values(graph, &layers);
    values.retain(|(x, readers)| known(*x) && readers.iter().all(|n| layers[*n].rows > 0));
    if values.is_empty() {
        return Ok(Vec::new());
    }
    let places: Vec<(ValueId, usize)> = values.iter().map(|(x, readers)| (*x, layers[readers[0]].input_axis(graph))).collect();
    let seen = taps::channels(backend, graph, &places, samples)?;
    let mut found = Vec::new();
    for ((x, readers), seen) in values.iter().zip(&seen) {
        let matrices: Vec<Matrix> = readers.iter().map(|n| layers[*n].matrix(graph)).collect();
        let mut reading = Vec::new();
        for (layer, weights) in readers.iter().map(|n| &layers[*n]).zip(&matrices) {
            // Layers of several groups are rounded without moments: nothing is known that could come off their biases.
            reading.push(Reader { layer, weights, shifted: layer.groups == 1 && weighted::takes_shift(graph, layer) });
        }
        found.extend(equalise::factors(seen, &reading, largest).map(|factors| (x.0, factors)));
    }
    Ok(found)
}

/// The graph with products of values and these factors, and which value has which product.
pub fn products(
    graph: &Graph,
    layers: &[Weighted],
    factors: &BTreeMap<ValueId, Vec<f32>>,
) -> (Graph, BTreeMap<ValueId, ValueId>) {
    let (mut with, mut products) = (graph.clone(), BTreeMap::new());
    for (x, factors) in factors {
        let Some(reader) = layers.iter().find(|l| l.x(graph) == *x) else { continue };
        let (ops, name) = (OpSet(onnxc_ops::ALL), format!("{}.equalised", graph.value(*x).name));
        let (y, node) = equalise::product(&mut with, ops, *x, reader.input_axis(graph), factors, &name);
        with.nodes.push(node);
        products.insert(*x, y);
    }
    with.make_names_unique();
    (with, products)
}

/// Integers for everything that layers multiply, or for what its channels are multiplied to before.
///
/// # Errors
/// As [`taps::Tapped::run`].
pub fn ranges(
    backend: &dyn Backend,
    graph: &Graph,
    layers: &[Weighted],
    equalised: &BTreeMap<ValueId, Vec<f32>>,
    (samples, method): (&Samples, ActivationRange),
) -> Result<Vec<(u32, Ranges)>> {
    let mut values: Vec<ValueId> = layers.iter().map(|l| l.x(graph)).collect();
    values.sort_unstable();
    values.dedup();
    let (graph, products) = products(graph, layers, equalised);
    let measured: Vec<ValueId> = values.iter().map(|id| products.get(id).copied().unwrap_or(*id)).collect();
    let found = taps::ranges(backend, &graph, &measured, samples, method)?;
    Ok(values.iter().zip(&measured).filter_map(|(id, of)| Some((id.0, *found.get(of)?))).collect())
}

/// Multiplies a value of a dense graph by the factors in an array, in a graph that was made from it: for nodes with the first results, and for those with the others
/// back again. What is to become integers; `None` if no node reads it.
///
/// # Errors
/// When there is no such array, or it does not fit the value.
pub fn put(
    (graph, ops): (&mut Graph, OpSet),
    (dense, x): (&Graph, ValueId),
    (arrays, name): (&Arrays, &str),
    readers: [&[ValueId]; 2],
) -> std::result::Result<Option<ValueId>, String> {
    let array = arrays.iter().find(|a| a.0 == name).map(|a| &a.1).filter(|t| t.dtype() == DType::F32);
    let factors = array.map(Tensor::to_vec::<f32>).filter(|f| f.iter().all(|f| f.is_normal() && *f > 0.0));
    let factors = factors.ok_or_else(|| format!("the array {name} is missing or not of positive numbers"))?;
    let layers = weighted::layers(dense);
    let known = equalise::values(dense, &layers).into_iter().find(|v| v.0 == x).map(|(_, readers)| &layers[readers[0]]);
    let Some(layer) = known.filter(|l| l.input_channels() == factors.len()) else {
        let (value, count) = (&graph.value(x).name, factors.len());
        return Err(format!(
            "value {value:?} cannot be equalised: layers with constant weights alone must read it, with {count} channels"
        ));
    };
    Ok(equalise::multiply(graph, ops, (x, layer.input_axis(dense)), &factors, readers))
}

#[cfg(test)]
mod tests {
    use onnxc_codegen::JitModel;
    use onnxc_ir::{interp, parse, text, verify};
    use onnxc_passes::compress::Moments;
    use onnxc_passes::compress::pairs::Ranges;

    use super::*;
    use crate::assemble::{Assembled, Method, Subject};
    use crate::candidate::{FORMS, Form, Pick};
    use crate::recipe::{self, Activation, Recipe, VERSION, Weights, apply};
    use crate::{Cost, Error};

    const TEXT: &str = "
graph @f(%x: f32[1,3,6,5]) {
  %w1 = const f32[16,3,1,1] blob(0000000000000001)
  %w2 = const f32[24,16,3,3] blob(0000000000000002)
  %w3 = const f32[4,16,1,1] blob(0000000000000003)
  %a = conv %x, %w1, _ : f32[1,16,6,5] @\"expand\"
  %act = hard_swish %a : f32[1,16,6,5] @\"act\"
  %y = conv %act, %w2, _ {pads = ints[1, 1, 1, 1]} : f32[1,24,6,5] @\"project\"
  return %y
}
";

    fn numbers_of(n: usize, seed: usize) -> Vec<f32> {
        (0..n).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0).collect()
    }

    /// With `shared` a second layer reads what the first one does.
    fn graph(shared: bool) -> Graph {
        let other = "  %z = conv %act, %w3, _ : f32[1,4,6,5] @\"other\"\n  return %y, %z\n";
        let text = if shared { TEXT.replace("  return %y\n", other) } else { TEXT.to_string() };
        let shapes: [&[u64]; 3] = [&[16, 3, 1, 1], &[24, 16, 3, 3], &[4, 16, 1, 1]];
        let blob = |n: u64| {
            let shape = shapes[n as usize - 1];
            Some(Tensor::from_vec(shape, numbers_of(shape.iter().product::<u64>() as usize, n as usize)))
        };
        recipe::named(&parse::parse(&text, OpSet(onnxc_ops::ALL), &blob).unwrap_or_else(|e| panic!("{e}")))
    }

    fn named(graph: &Graph, name: &str) -> ValueId {
        (0..graph.values.len() as u32).map(ValueId).find(|id| graph.value(*id).name == name).expect("a value")
    }

    fn factors_of_channels() -> Vec<f32> {
        (0..16).map(|c| [1.0, 2.0, 0.5, 4.0][c % 4]).collect()
    }

    fn run(graph: &Graph) -> Vec<Vec<f32>> {
        let x = Tensor::from_vec(&[1, 3, 6, 5], numbers_of(90, 9));
        interp::run(graph, &[x]).expect("values").iter().map(Tensor::to_vec).collect()
    }

    /// How far numbers are apart, as a part of what they are: roots of sums of squares.
    fn apart(want: &[f32], got: &[f32]) -> f32 {
        let norm = |list: &mut dyn Iterator<Item = f32>| list.map(|x| x * x).sum::<f32>().sqrt();
        norm(&mut want.iter().zip(got).map(|(a, b)| a - b)) / norm(&mut want.iter().copied())
    }

    struct NoCompiler;

    impl Backend for NoCompiler {
        fn runner(&self, _: &Graph) -> Result<JitModel> {
            Err(Error::Internal("nothing is run here".to_string()))
        }
        fn cost(&self, _: &Graph) -> Result<Cost> {
            Err(Error::Internal("nothing is priced here".to_string()))
        }
        fn name(&self) -> String {
            String::new()
        }
        fn target(&self) -> String {
            String::new()
        }
    }

    /// The model whose layer `project` is of a form with integers of 8 bits, of an operand that is multiplied by these factors first if there are any.
    fn made(form: &'static dyn Form, graph: Graph, equalised: BTreeMap<ValueId, Vec<f32>>) -> Assembled {
        let sample = Tensor::from_vec(&[1, 1, 3, 6, 5], numbers_of(90, 9));
        let samples = Samples::new(&graph, &[("x".to_string(), sample)]).expect("samples");
        let act = named(&graph, "act");
        let (with, products) = products(&graph, &weighted::layers(&graph), &equalised);
        let values = run(&Graph { outputs: vec![*products.get(&act).unwrap_or(&act)], ..with }).remove(0);
        let (low, high) = values.iter().fold((0f32, 0f32), |(low, high), x| (low.min(*x), high.max(*x)));
        let layers = weighted::layers(&graph);
        let subject = Subject {
            backend: &NoCompiler,
            ranges: BTreeMap::from([(act, Ranges::of((low, high), (low, high)))]),
            graph,
            reordered: Vec::new(),
            equalised,
            samples: &samples,
            group: 8,
            sha256: "0".to_string(),
            known: String::new(),
            kept: Default::default(),
            layers,
        };
        let project = subject.layers.iter().position(|l| l.name == "project").expect("a layer");
        let (site, density) = (subject.site(&subject.layers[project], Weights::Int8), form.densities()[0]);
        assert!(form.fits(site.layer), "{form:?}");
        let moments = Moments::identity(site.layer.k());
        let treated = form.fitted(&site, density, (&moments, &moments), Method::default());
        let mut changes: Vec<_> = subject.layers.iter().map(|_| None).collect();
        changes[project] = Some((Pick { form, density, weights: Weights::Int8 }, treated));
        let mut made = subject.with(changes).expect("a graph");
        // Nothing has measured what is between the parts of a layer: it stays floats.
        made.recipe.activations.retain(|a| a.value == "act");
        made.graph = apply(&subject.graph, &made.recipe, &made.arrays).expect("a graph");
        made
    }

    #[test]
    fn integers_of_all_forms_have_factors() {
        for form in FORMS {
            let graph = graph(false);
            let factors = BTreeMap::from([(named(&graph, "act"), factors_of_channels())]);
            let (plain, scaled) = (made(*form, graph.clone(), BTreeMap::new()), made(*form, graph.clone(), factors));
            verify::verify(&scaled.graph).unwrap_or_else(|e| panic!("{form:?}: {e:?}"));
            let off = apart(&run(&plain.graph)[0], &run(&scaled.graph)[0]);
            // Steps that are coarse for the weights are as coarse in other places for those that are divided.
            let most = if form.name() == "coarse" { 0.1 } else { 0.03 };
            assert!(off > 0.0 && off < most, "{form:?}: {off}");
            assert!(text::print(&scaled.graph).contains("%act.equalised.q"), "{form:?}: {}", text::print(&scaled.graph));
            // The recipe makes the same of it.
            let told = scaled.recipe.text().expect("text");
            assert!(
                told.contains("factors = \"equalised_0000\"") && !plain.recipe.text().expect("text").contains("factors"),
                "{told}"
            );
            let again = apply(&graph, &Recipe::parse(&told).expect("a recipe"), &scaled.arrays).expect("a graph");
            assert_eq!(text::print(&again), text::print(&scaled.graph), "{form:?}");
        }
    }

    #[test]
    fn floats_read_what_they_did() {
        let (dense, form) = (graph(true), Pick::DENSE.form);
        let made = made(form, dense.clone(), BTreeMap::from([(named(&dense, "act"), factors_of_channels())]));
        let [want, got] = [&dense, &made.graph].map(run);
        assert!(apart(&want[0], &got[0]) > 0.0 && apart(&want[0], &got[0]) < 0.05);
        assert_eq!(want[1], got[1], "the other layer stays what it was");
        let dense_result = dense.outputs[1];
        let waiting = recipe::apply_partly(&dense, &made.recipe, &made.arrays, &[dense_result]).expect("a graph");
        let got = run(&waiting);
        assert!(apart(&want[1], &got[1]) > 0.0 && apart(&want[1], &got[1]) < 0.03, "it will be integers");
        assert!(text::print(&waiting).contains("%act.restored"), "{}", text::print(&waiting));
        // Where no layer of integers reads the value, it stays floats.
        let floats = Recipe { layers: Vec::new(), ..made.recipe.clone() };
        assert_eq!(run(&apply(&dense, &floats, &made.arrays).expect("a graph")), want);
        // Weights that are divided by factors need their products.
        let torn = Recipe { activations: Vec::new(), ..made.recipe };
        let why = apply(&dense, &torn, &made.arrays).unwrap_err().to_string();
        assert!(why.contains("\"project\"") && why.contains("take the layer out too"), "{why}");
    }

    #[test]
    fn products_are_measured() {
        let (graph, factors) = (graph(false), factors_of_channels());
        let act = named(&graph, "act");
        let (with, products) = super::products(&graph, &weighted::layers(&graph), &BTreeMap::from([(act, factors.clone())]));
        let values = |id: ValueId| run(&Graph { outputs: vec![id], ..with.clone() }).remove(0);
        let want: Vec<f32> = values(act).iter().enumerate().map(|(i, x)| x * factors[i / 30]).collect();
        assert_eq!(values(products[&act]), want);
    }

    #[test]
    fn recipes_without_factors_are_read() {
        let text = "version = 1\nmodel = \"0\"\narrays = \"0\"\n[[activation]]\nvalue = \"act\"\nscale = 0.5\nzero = 3\n";
        let activation = Activation { value: "act".to_string(), scale: 0.5, zero: 3, bits: 8, factors: None };
        assert_eq!(Recipe::parse(text).expect("a recipe").activations, [activation]);
    }

    #[test]
    fn all_that_does_not_fit_is_told() {
        let array = |name: &str, values: Vec<f32>| (name.to_string(), Tensor::from_vec(&[values.len() as u64], values));
        let arrays = vec![array("f", vec![1.0; 16]), array("two", vec![1.0; 2]), array("zero", vec![1.0, 0.0, 2.0])];
        let entries = [("nobody", "f"), ("act", "nothing"), ("act", "zero"), ("act", "two"), ("y", "two"), ("a", "f")];
        let entry = |(value, factors): (&str, &str)| {
            let (value, factors) = (value.to_string(), Some(factors.to_string()));
            Activation { value, scale: 1.0, zero: 0, bits: 8, factors }
        };
        let recipe = Recipe { version: VERSION, activations: entries.map(entry).to_vec(), ..Recipe::default() };
        let why = apply(&graph(true), &recipe, &arrays).unwrap_err().to_string();
        for part in ["no value \"nobody\"", "array nothing", "array zero", "value \"act\"", "value \"y\"", "value \"a\""] {
            assert!(why.contains(part), "{part}: {why}");
        }
    }
}
