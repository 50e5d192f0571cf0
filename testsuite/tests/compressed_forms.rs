//! Every kind of compressed layer in the planned graph: one snapshot for each form, with all types of weights that it can have.
//!
//! Weights are what the search prices a kind with ([`Form::rough`]), so that nothing is run.

use std::collections::BTreeMap;

use onnxc_codegen::JitModel;
use onnxc_ir::op::OpSet;
use onnxc_ir::{Graph, Tensor, parse, text};
use onnxc_passes::compress::pairs::Ranges;
use onnxc_passes::compress::weighted::{self, Weighted};
use onnxc_passes::compress::{Matrix, Moments};
use onnxc_search::assemble::{Method, Subject};
use onnxc_search::candidate::{self, FORMS, Form, NUMBERS, Pick};
use onnxc_search::{Backend, Cost, Error, Result, Samples, coded, recipe};

const TEXT: &str = "graph @one(%x: f32[1,32,14,14]) {
  %w = const f32[64,32,3,3] blob(0000000000000001)
  %b = const f32[64] blob(0000000000000002)
  %a = conv %x, %w, %b {pads = ints[1, 1, 1, 1]} : f32[1,64,14,14] @\"layer\"
  %y = relu %a : f32[1,64,14,14] @\"relu\"
  return %y
}
";

/// The same behind a layer that nothing else reads, for forms that reach back to it.
const CHAIN: &str = "graph @two(%z: f32[1,16,14,14]) {
  %v = const f32[32,16,1,1] blob(0000000000000003)
  %w = const f32[64,32,3,3] blob(0000000000000001)
  %b = const f32[64] blob(0000000000000002)
  %x = conv %z, %v {group = 1} : f32[1,32,14,14] @\"before\"
  %a = conv %x, %w, %b {pads = ints[1, 1, 1, 1]} : f32[1,64,14,14] @\"layer\"
  %y = relu %a : f32[1,64,14,14] @\"relu\"
  return %y
}
";

/// A compiler that only plans.
struct Planner;

impl Backend for Planner {
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

fn weights(blob: u64) -> Option<Tensor> {
    let shape: &[u64] = match blob {
        1 => &[64, 32, 3, 3],
        2 => &[64],
        _ => &[32, 16, 1, 1],
    };
    let value = |i: u64| ((i * 7919 + blob * 104_729) % 2003) as f32 / 2003.0 - 0.5;
    Some(Tensor::from_vec(shape, (0..shape.iter().product()).map(value).collect()))
}

fn graph(text: &str) -> Graph {
    recipe::named(&parse::parse(text, OpSet(onnxc_ops::ALL), &weights).unwrap_or_else(|e| panic!("{e}")))
}

/// The number of the layer that becomes something.
fn layer(layers: &[Weighted]) -> usize {
    layers.iter().position(|l| l.name == "layer").expect("a layer of this name")
}

/// What the compiler plans for a model whose layer is of a kind.
fn planned(subject: &Subject, form: &'static dyn Form, weights: recipe::Weights) -> Option<String> {
    let density = form.densities()[form.densities().len() / 2];
    let Plan { graph, .. } = plan(subject, Pick { form, density, weights })?;
    Some(format!("{weights:?}, density {density}\n{}", text::print(&graph)))
}

/// A plan, and what the search thinks that its weights take when they are coded.
struct Plan {
    graph: Graph,
    plan: onnxc_ir::plan::Plan,
    expected: f64,
}

fn plan(subject: &Subject, pick: Pick) -> Option<Plan> {
    let number = layer(&subject.layers);
    let layer = &subject.layers[number];
    if subject.possible(layer, pick) != pick {
        return None;
    }
    let treated = pick.form.rough(&subject.site(layer, pick.weights), pick.density);
    let expected = coded::bytes(subject, layer, pick, Some(&treated));
    let mut changes: Vec<_> = subject.layers.iter().map(|_| None).collect();
    changes[number] = Some((pick, treated));
    let made = subject.with(changes).expect("a graph");
    let target = onnxc_targets::describe("x86_64-unknown-linux-gnu", "znver4", 1).expect("a target");
    let freedom = onnxc::cli::Freedom::default();
    let (graph, plan) =
        onnxc::pipeline::plan_of(&made.graph, &target, &freedom).unwrap_or_else(|_| panic!("{pick:?} has no plan"));
    Some(Plan { graph, plan, expected })
}

/// Does something with a model that has a layer which can be of a form.
fn with_subject<T>(form: &'static dyn Form, run: impl FnOnce(&Subject) -> T) -> T {
    let alone = graph(TEXT);
    let fits = form.fits(&weighted::layers(&alone)[0]);
    let (graph, shape) = if fits { (alone, [4, 1, 32, 14, 14]) } else { (graph(CHAIN), [4, 1, 16, 14, 14]) };
    let layers = weighted::layers(&graph);
    let sample = Tensor::from_vec(&shape, vec![0f32; shape.iter().product::<u64>() as usize]);
    let input = graph.value(graph.inputs[0]).name.clone();
    let samples = Samples::new(&graph, &[(input, sample)]).expect("samples");
    let ranges = BTreeMap::from([(layers[layer(&layers)].x(&graph), Ranges::of((-1.0, 1.0), (-1.0, 1.0)))]);
    run(&Subject {
        backend: &Planner,
        graph,
        layers,
        samples: &samples,
        group: 32,
        ranges,
        reordered: Vec::new(),
        equalised: Default::default(),
        sha256: "0".to_string(),
        known: String::new(),
        kept: Default::default(),
    })
}

#[test]
fn kinds_of_layers() {
    for form in FORMS {
        with_subject(*form, |subject| {
            let taken: Vec<_> = NUMBERS.iter().filter(|n| form.takes(**n)).collect();
            let all: Vec<String> = taken.iter().filter_map(|n| planned(subject, *form, n.weights())).collect();
            assert!(all.len() >= taken.len().min(2), "{} in the types that it has", form.name());
            insta::assert_snapshot!(form.name(), all.join("\n"));
        });
    }
}

#[test]
fn whole_kernels_are_left_out_of_panels() {
    let form = candidate::form("connected").expect("a form of this name");
    with_subject(form, |subject| {
        let site = subject.site(&subject.layers[layer(&subject.layers)], recipe::Weights::F32);
        for density in form.densities() {
            let treated = form.rough(&site, *density);
            let weights = treated.arrays.iter().find(|a| a.0 == "weights").expect("weights").1.to_vec::<f32>();
            // Taps that are zero in each kernel, of panels of 32 filters and 32 channels.
            let zeros = |f: usize, c: usize| weights[(f * 32 + c) * 9..][..9].iter().filter(|w| **w == 0.0).count();
            let panels = (0..2).flat_map(|panel| (0..32).map(move |c| (panel, c)));
            let kept = panels.filter(|(panel, c)| {
                let all: Vec<usize> = (0..32).map(|f| zeros(32 * panel + f, *c)).collect();
                assert!(all.iter().all(|n| *n < 2) || all.iter().all(|n| *n == 9), "{density}: {all:?}");
                all[0] < 9
            });
            assert_eq!(kept.count(), (64.0 * density).round() as usize, "{density}");
        }
    });
}

/// What coded weights are expected to take is near to what the coder makes of those that are packed, with the bias. Sums of weights, which products of integers
/// have beside them, are a part of the smallest. Weights of half a byte are left out where most are zero: those here are too regular for any pairs of them.
#[test]
fn coded_bytes_of_layers_are_known_before() {
    let bias = onnxc_codegen::coded_bytes(weights(2).expect("a bias").bytes()) as f64;
    let mut told = Vec::new();
    for form in ["whole", "coarse"].map(|name| candidate::form(name).expect("a form")) {
        with_subject(form, |subject| {
            let numbers = NUMBERS.iter().filter(|n| n.integers() || form == Pick::DENSE.form);
            let picks = numbers.flat_map(|n| form.densities().iter().map(|d| (n.weights(), *d)));
            for pick in picks.map(|(weights, density)| Pick { form, density, weights }).filter(|pick| *pick != Pick::DENSE) {
                let Some(Plan { plan, expected, .. }) = plan(subject, pick) else { continue };
                let real = onnxc_codegen::coded_weight_bytes(&plan).expect("bytes") as f64;
                told.push((pick, (expected + bias) / real));
            }
        });
    }
    let far: Vec<String> = told.iter().filter(|t| (t.1 - 1.0).abs() > 0.1).map(|t| format!("{:?}: {:.3}", t.0, t.1)).collect();
    assert!(told.len() > 40 && far.is_empty(), "of {}:\n{}", told.len(), far.join("\n"));
}

/// What a form leaves out of an operand that is 1 on average must not move what is measured: the bias makes up for it, as in the models that are made.
#[test]
fn effects_are_measured_with_the_bias_that_belongs_to_them() {
    for form in FORMS {
        with_subject(*form, |subject| {
            let layer = &subject.layers[layer(&subject.layers)];
            let numbers = NUMBERS.iter().find(|n| form.takes(**n)).expect("numbers");
            let (site, k) = (subject.site(layer, numbers.weights()), layer.k());
            let rows: Vec<f32> = (0..400 * k as u64).map(|i| 0.5 + (i * 7919 % 10_007) as f32 / 10_007.0).collect();
            let mut moments = Moments::new(k, false);
            moments.add(&rows, None);
            let Some(curve) = candidate::curve(&site, *form, (&moments, &moments), Method::default()) else { return };
            let outputs = |weights: &Matrix| -> Vec<f64> {
                let one = |row: &[f32]| row.iter().zip(&moments.sum).map(|(w, sum)| f64::from(*w) * sum / moments.rows).sum();
                weights.values.chunks_exact(k).map(one).collect()
            };
            for probe in &curve.probes {
                let treated = site.probed(probe);
                let shift = treated.arrays.iter().find(|a| a.0 == "shift").expect("something for the bias").1.to_vec::<f32>();
                for ((want, got), shift) in outputs(&site.matrix()).iter().zip(outputs(&probe.weights)).zip(shift) {
                    assert!((want - got - f64::from(shift)).abs() < 1e-3, "{}: {want}, not {got} + {shift}", form.name());
                }
            }
        });
    }
}
