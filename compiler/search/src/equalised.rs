//! Channels that are made alike before anything is measured, so that integers of 8 bits lose less of them.

use onnxc_ir::op::OpSet;
use onnxc_ir::{DType, Graph, Tensor, ValueId};
use onnxc_passes::compress::Matrix;
use onnxc_passes::compress::equalise;
use onnxc_passes::compress::weighted::{self, Weighted};

use crate::{Backend, Result, Samples, taps};

/// Values of a graph, and factors of their channels with which integers lose less.
pub type Factors = Vec<(u32, Vec<f32>)>;

/// Factors for the values of a graph that gain by them.
///
/// # Errors
/// As [`taps::Tapped::run`].
pub fn factors(backend: &dyn Backend, graph: &Graph, samples: &Samples) -> Result<Factors> {
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
        let readers: Vec<(&Weighted, &Matrix)> = readers.iter().map(|n| &layers[*n]).zip(&matrices).collect();
        found.extend(equalise::factors(seen, &readers).map(|factors| (x.0, factors)));
    }
    Ok(found)
}

/// The graph with these values equalised, and their names with the factors as recipes have them.
pub fn applied(mut graph: Graph, factors: Factors) -> (Graph, Vec<(String, Tensor)>) {
    let mut named = Vec::new();
    for (id, factors) in factors {
        let name = graph.value(ValueId(id)).name.clone();
        let fits = equalise::equalise(&mut graph, OpSet(onnxc_ops::ALL), ValueId(id), &factors);
        assert!(fits, "internal: search: values that were found can be equalised");
        named.push((name, Tensor::from_vec(&[factors.len() as u64], factors)));
    }
    graph.make_names_unique();
    (graph, named)
}

#[cfg(test)]
mod tests {
    use onnxc_ir::graph::Node;
    use onnxc_ir::{Attrs, TensorType, interp};

    use super::*;
    use crate::recipe::{Equalised, Recipe, VERSION, apply};

    /// x [1, 3, 2, 2] -> sigmoid -> project (2).
    fn graph() -> Graph {
        let mut graph = Graph::new("test");
        let ops = OpSet(onnxc_ops::ALL);
        let x = graph.add_input("x", TensorType::fixed(DType::F32, &[1, 3, 2, 2]));
        let w = graph.add_const("w", Tensor::from_vec(&[2, 3, 1, 1], vec![1.0f32, -2.0, 0.5, 0.25, 3.0, -1.5]));
        let mut node = |op: &str, name: &str, inputs: Vec<Option<ValueId>>, channels: u64| {
            let y = graph.add_value(name, TensorType::fixed(DType::F32, &[1, channels, 2, 2]), None);
            let (op, origins) = (ops.get(op).expect("an operator"), vec![name.to_string()]);
            graph.nodes.push(Node { op, inputs, outputs: vec![y], attrs: Attrs::default(), origins });
            y
        };
        let y = node("sigmoid", "act", vec![Some(x)], 3);
        let y = node("conv", "project", vec![Some(y), Some(w), None], 2);
        graph.outputs = vec![y];
        graph
    }

    fn recipe(entries: &[(&str, &str)]) -> Recipe {
        let entry = |(value, factors): &(&str, &str)| Equalised { value: value.to_string(), factors: factors.to_string() };
        Recipe { version: VERSION, equalised: entries.iter().map(entry).collect(), ..Recipe::default() }
    }

    #[test]
    fn recipes_equalise_as_the_search_does() {
        let factors = vec![1.0f32, 8.0, 2.0];
        let tensor = Tensor::from_vec(&[3], factors.clone());
        let made = apply(&graph(), &recipe(&[("act", "f")]), &vec![("f".to_string(), tensor.clone())]).unwrap();
        let act = (0..).map(ValueId).find(|id| graph().value(*id).name == "act").expect("a value");
        let (found, named) = applied(graph(), vec![(act.0, factors)]);
        assert_eq!(named, [("act".to_string(), tensor)]);
        let text = onnxc_ir::text::print;
        assert_eq!(text(&made), text(&found));
        assert!(text(&made).contains("%act.equalised"), "{}", text(&made));
        let x = Tensor::from_vec(&[1, 3, 2, 2], (0..12).map(|i| i as f32 / 5.0 - 1.0).collect::<Vec<f32>>());
        let run = |graph: &Graph| interp::run(graph, std::slice::from_ref(&x)).expect("values");
        assert_eq!(run(&made), run(&graph()));
    }

    #[test]
    fn all_that_does_not_fit_is_told() {
        let array = |name: &str, values: Vec<f32>| (name.to_string(), Tensor::from_vec(&[values.len() as u64], values));
        let arrays = vec![array("f", vec![1.0; 3]), array("two", vec![1.0; 2]), array("zero", vec![1.0, 0.0, 2.0])];
        let entries = [("nobody", "f"), ("act", "nothing"), ("act", "zero"), ("act", "two"), ("project", "two"), ("x", "f")];
        let why = apply(&graph(), &recipe(&entries), &arrays).unwrap_err().to_string();
        for part in ["no value \"nobody\"", "array nothing", "array zero", "value \"act\"", "value \"project\"", "value \"x\""] {
            assert!(why.contains(part), "{part}: {why}");
        }
    }
}
