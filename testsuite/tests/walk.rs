//! Walks through a model that changes behind them: operands and answers are those of the whole model, and no part runs twice.

use std::sync::Mutex;

use onnxc_codegen::JitModel;
use onnxc_ir::op::OpSet;
use onnxc_ir::{Graph, Tensor, parse};
use onnxc_passes::compress::weighted::{self, Weighted};
use onnxc_search::assemble::{Assembled, Subject};
use onnxc_search::candidate::{Pick, form};
use onnxc_search::recipe::Weights;
use onnxc_search::taps::Tapped;
use onnxc_search::walk::Walk;
use onnxc_search::{Backend, Cost, Error, Result, Samples, recipe};
use onnxc_targets::Target;

/// A residual block between two layers; `x` is read in the front alone, `%a` by two.
const TEXT: &str = "graph @f(%x: f32[1,16,8,8]) {
  %u = const f32[32,16,1,1] blob(0000000000000001)
  %v = const f32[32,32,3,3] blob(0000000000000002)
  %w = const f32[32,32,1,1] blob(0000000000000003)
  %z = const f32[8,32,1,1] blob(0000000000000004)
  %a = conv %x, %u {group = 1} : f32[1,32,8,8] @\"first\"
  %b = conv %a, %v {pads = ints[1, 1, 1, 1]} : f32[1,32,8,8] @\"second\"
  %c = relu %b : f32[1,32,8,8] @\"relu\"
  %d = conv %c, %w {group = 1} : f32[1,32,8,8] @\"third\"
  %e = add %a, %d : f32[1,32,8,8] @\"sum\"
  %y = conv %e, %z {group = 1} : f32[1,8,8,8] @\"fourth\"
  return %y
}
";

const SAMPLES: usize = 3;

/// Runs on this machine, and notes how many layers each model has that it is given.
struct Host {
    target: Target,
    layers: Mutex<Vec<usize>>,
}

impl Backend for Host {
    fn runner(&self, graph: &Graph) -> Result<JitModel> {
        self.layers.lock().unwrap().push(graph.nodes.iter().filter(|n| n.op.name == "conv").count());
        let (_, plan) = onnxc::pipeline::plan_of(graph, &self.target, &Default::default()).unwrap_or_else(|_| panic!("no plan"));
        JitModel::new(&plan, &self.target).map_err(|e| Error::Internal(e.to_string()))
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

fn numbers(shape: &[u64], seed: u64) -> Tensor {
    let value = |i: u64| ((i * 7919 + seed * 104_729) % 2003) as f32 / 2003.0 - 0.5;
    Tensor::from_vec(shape, (0..shape.iter().product()).map(value).collect())
}

fn weights(blob: u64) -> Option<Tensor> {
    let shape: &[u64] = match blob {
        1 => &[32, 16, 1, 1],
        2 => &[32, 32, 3, 3],
        3 => &[32, 32, 1, 1],
        _ => &[8, 32, 1, 1],
    };
    Some(numbers(shape, blob))
}

/// The model with the first layers of some forms; without a name a layer stays as it is.
fn changed(subject: &Subject, forms: &[&str]) -> Assembled {
    let change = |(layer, name): (&Weighted, &&str)| {
        let form = (!name.is_empty()).then(|| form(name).expect("a form"))?;
        let pick = Pick { form, density: form.densities()[0], weights: Weights::F32 };
        (subject.possible(layer, pick) == pick).then(|| (pick, form.rough(&subject.site(layer, Weights::F32), pick.density)))
    };
    let mut changes: Vec<_> = subject.layers.iter().zip(forms).map(change).collect();
    changes.resize_with(subject.layers.len(), || None);
    subject.with(changes).expect("a graph")
}

fn operands(backend: &Host, subject: &Subject, own: &Graph, layers: &[&Weighted]) -> Vec<Vec<Vec<u8>>> {
    let values: Vec<_> = layers.iter().map(|l| l.x_within(&subject.graph, own)).collect();
    let all: Vec<usize> = (0..SAMPLES).collect();
    Tapped::new(backend, own, &values).and_then(|t| t.run_all(subject.samples, &all)).expect("a run")
}

fn with_subject(check: impl FnOnce(&Host, &Subject)) {
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let target = onnxc_targets::describe(&triple, "", 1).expect("a target");
    let host = Host { target, layers: Mutex::default() };
    let graph = recipe::named(&parse::parse(TEXT, OpSet(onnxc_ops::ALL), &weights).unwrap_or_else(|e| panic!("{e}")));
    let layers = weighted::layers(&graph);
    let input = graph.value(graph.inputs[0]).name.clone();
    let samples = Samples::new(&graph, &[(input, numbers(&[SAMPLES as u64, 1, 16, 8, 8], 9))]).expect("samples");
    let subject = Subject {
        backend: &host,
        layers,
        graph,
        samples: &samples,
        group: 8,
        ranges: Default::default(),
        reordered: Vec::new(),
        equalised: Default::default(),
        sha256: "0".to_string(),
        known: String::new(),
        kept: Default::default(),
    };
    check(&host, &subject);
}

#[test]
fn each_part_of_a_model_runs_once() {
    with_subject(operands_are_those_of_the_whole_model);
}

fn operands_are_those_of_the_whole_model(host: &Host, subject: &Subject) {
    let (layers, samples) = (&subject.layers, subject.samples);
    // What the first layers have become, the first one that changes next, the one that is asked for, and the layers on the way to it.
    let one_by_one: [(&[&str], usize, usize, usize); 3] =
        [(&["pruned"], 1, 1, 1), (&["pruned", "low_rank"], 2, 2, 2), (&["pruned", "low_rank", "pruned"], 3, 3, 1)];
    // The second and the third layer change together.
    let together: [(&[&str], usize, usize, usize); 2] = [(&["pruned"], 1, 2, 2), (&["pruned", "low_rank", "pruned"], 3, 3, 3)];
    let begin = || Walk::new(host, &subject.graph, samples);
    let mut walk = begin();
    for ways in [&together[..], &one_by_one[..]] {
        walk = begin();
        for (forms, first, to, run) in ways {
            let own = changed(subject, forms);
            let mut way = walk.way(&own.graph, &layers[*first], &[&layers[*to]]).expect("a way");
            assert_eq!(host.layers.lock().unwrap().last(), Some(run), "layers on the way to layer {to}");
            let found = [walk.run(&mut way, &[0, 1]).expect("a run"), walk.run(&mut way, &[2]).expect("a run")].concat();
            walk.arrive(way);
            assert_eq!(found, operands(host, subject, &own.graph, &[&layers[*to]]), "operands of layer {to}");
        }
    }
    // The first layer has fewer filters now than when the walk passed it: it begins anew.
    let own = changed(subject, &["pruned", "channels", "pruned"]);
    assert_eq!(own.graph.nodes.iter().filter(|n| n.op.name == "conv").count(), 4);
    let mut way = walk.way(&own.graph, &layers[3], &[&layers[3]]).expect("a way");
    let found = walk.run(&mut way, &[0, 1, 2]).expect("a run");
    assert_eq!(found, operands(host, subject, &own.graph, &[&layers[3]]));
}

#[test]
fn answers_of_models_that_differ_behind_a_layer_need_no_run_of_what_is_before_it() {
    with_subject(|host, subject| {
        let all: Vec<usize> = (0..SAMPLES).collect();
        for (forms, from) in [(&["", "pruned"][..], 1), (&["", "", "low_rank"], 2), (&["", "pruned", "", "pruned"], 1)] {
            let own = changed(subject, forms);
            let mut walk = Walk::new(host, &subject.graph, subject.samples);
            walk.go(&subject.layers[from], &all).expect("a run");
            let found = walk.answers(&own.graph, &all).expect("answers");
            let whole = own.graph.nodes.iter().filter(|n| n.op.name == "conv").count();
            assert_eq!(host.layers.lock().unwrap().last(), Some(&(whole - from)), "{forms:?}");
            let tapped = Tapped::new(host, &own.graph, &own.graph.outputs).expect("code");
            assert!(found == tapped.run_all(subject.samples, &all).expect("answers"), "{forms:?}");
        }
    });
}
