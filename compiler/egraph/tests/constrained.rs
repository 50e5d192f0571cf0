//! Extraction under constraints against all choices there are, on small e-graphs; and what lossy e-nodes may not do.

use egg::Id;
use onnxc_egraph::analysis::{Facts, Graph};
use onnxc_egraph::constrained::{Extracted, Problem};
use onnxc_egraph::convert::{Converted, from_egraph, to_egraph};
use onnxc_egraph::extract::{Choice, extract};
use onnxc_egraph::lang::{ENode, Tables};
use onnxc_egraph::lossy::{self, Form, Layer, LossyRule, Measured};
use onnxc_egraph::{CostModel, Limits, Operand, Roots, Rule, RuleClass, rule};
use onnxc_ir::dim::DimBounds;
use onnxc_ir::op::{OpDef, OpSet};
use onnxc_ir::{Attr, Attrs, DType, TensorType, parse, text};

/// One way to have a class: what it needs, its price, and the lossy forms of it.
#[derive(Clone, Debug)]
struct Way {
    needs: Vec<usize>,
    price: f64,
    /// Price and error.
    lossy: Vec<(f64, f64)>,
}

/// Classes by number.
#[derive(Clone, Debug)]
struct Model {
    ways: Vec<Vec<Way>>,
    roots: Vec<usize>,
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as f64 / (1u64 << 31) as f64
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.next() * n as f64) as usize).min(n - 1)
    }
}

/// One form of every layer: price and error.
struct Table(Vec<Option<(f64, f64)>>);

impl LossyRule for Table {
    fn measured(&self, layer: usize, part: Option<usize>) -> Option<Measured> {
        let (price, error) = self.0[layer].filter(|_| part.is_none())?;
        Some(Measured { error, takes: [price].into(), reads: None })
    }
}

/// A layer before which there is nothing of which it could read a part.
fn layer(class: Id, node: ENode) -> Layer {
    Layer { class, node, before: Vec::new(), between: Vec::new(), own: Vec::new() }
}

/// Adds to each layer its forms, of which the first one is exact.
fn add(egraph: &mut Graph, layers: &[Layer], forms: &[Vec<(f64, f64)>]) {
    let most = forms.iter().map(Vec::len).max().unwrap_or(0);
    let tables: Vec<Table> = (0..most).map(|n| Table(forms.iter().map(|f| f.get(n).copied()).collect())).collect();
    let rules: Vec<&dyn LossyRule> = tables.iter().map(|t| t as &dyn LossyRule).collect();
    lossy::apply(egraph, layers, &rules);
}

fn facts() -> Facts {
    let inputs = vec![TensorType::fixed(DType::F32, &[4])];
    Facts::new(Tables::new(OpSet(onnxc_ops::ALL)), inputs, DimBounds::new())
}

/// The e-graph of a model with the classes in order. E-nodes are sums that are told apart by an attribute.
fn egraph(model: &Model) -> (Graph, Vec<Id>) {
    let mut egraph = Graph::new(facts());
    let input = egraph.add(ENode::Input(0));
    let mut count = 0;
    let mut node = |egraph: &mut Graph, children: Box<[Id]>| {
        count += 1;
        let op = egraph.analysis.tables.op_index("sum").expect("an operator");
        let attrs = egraph.analysis.tables.intern_attrs(Attrs::default().with("number", Attr::Int(count)));
        let node = ENode::Op { op, attrs, results: 1, children };
        (egraph.add(node.clone()), node)
    };
    // Classes come first: ways may need each other in circles.
    let ids: Vec<Id> = model.ways.iter().map(|_| node(&mut egraph, [input].into()).0).collect();
    let (mut layers, mut forms) = (Vec::new(), Vec::new());
    for (class, ways) in model.ways.iter().enumerate() {
        for way in ways {
            let children = way.needs.iter().map(|n| ids[*n]).chain([input]).collect();
            let (id, node) = node(&mut egraph, children);
            egraph.union(ids[class], id);
            layers.push(layer(id, node));
            forms.push([vec![(way.price, 0.0)], way.lossy.clone()].concat());
        }
    }
    egraph.rebuild();
    add(&mut egraph, &layers, &forms);
    let ids = ids.into_iter().map(|id| egraph.find(id)).collect();
    (egraph, ids)
}

fn problem(model: &Model) -> Option<Problem> {
    let (egraph, ids) = egraph(model);
    let roots: Vec<Id> = model.roots.iter().map(|r| ids[*r]).collect();
    Problem::new(&egraph, &roots, &Choice::default())
}

fn solve(problem: &Problem, limit: f64) -> Option<Extracted> {
    problem.cheapest(limit, |priced| Some(priced.takes[0]))
}

/// The least price of all choices within a limit.
fn best(model: &Model, limit: f64) -> Option<f64> {
    fn cyclic(model: &Model, chosen: &[Option<usize>], class: usize, above: &mut Vec<usize>) -> bool {
        if above.contains(&class) {
            return true;
        }
        above.push(class);
        let way = &model.ways[class][chosen[class].expect("a way")];
        let hit = way.needs.iter().any(|n| cyclic(model, chosen, *n, above));
        above.pop();
        hit
    }
    fn forms(model: &Model, chosen: &[Option<usize>], class: usize, price: f64, left: f64, best: &mut f64) {
        let Some(way) = chosen.get(class) else {
            *best = best.min(price);
            return;
        };
        let Some(way) = way.map(|w| &model.ways[class][w]) else { return forms(model, chosen, class + 1, price, left, best) };
        for (more, error) in std::iter::once((way.price, 0.0)).chain(way.lossy.iter().copied()) {
            if error <= left && price + more < *best {
                forms(model, chosen, class + 1, price + more, left - error, best);
            }
        }
    }
    fn ways(model: &Model, chosen: &mut Vec<Option<usize>>, open: &mut Vec<usize>, limit: f64, best: &mut f64) {
        let Some(class) = open.iter().copied().find(|c| chosen[*c].is_none()) else {
            if !model.roots.iter().any(|r| cyclic(model, chosen, *r, &mut Vec::new())) {
                forms(model, chosen, 0, 0.0, limit, best);
            }
            return;
        };
        for (n, way) in model.ways[class].iter().enumerate() {
            chosen[class] = Some(n);
            let before = open.len();
            open.extend(&way.needs);
            ways(model, chosen, open, limit, best);
            open.truncate(before);
        }
        chosen[class] = None;
    }
    let mut least = f64::INFINITY;
    ways(model, &mut vec![None; model.ways.len()], &mut model.roots.clone(), limit, &mut least);
    least.is_finite().then_some(least)
}

/// A way that needs some of these classes.
fn way(random: &mut Random, among: &[usize]) -> Way {
    let many = random.below(3).min(among.len());
    let mut needs: Vec<usize> = (0..many).map(|_| among[random.below(among.len())]).collect();
    needs.sort_unstable();
    needs.dedup();
    let lossy = (0..random.below(4)).map(|_| (random.next(), random.next() * 0.5)).collect();
    Way { needs, price: 0.3 + random.next(), lossy }
}

/// Six classes with up to three ways each; `cycles`: ways may need classes above.
fn model(seed: u64, cycles: bool) -> Model {
    let mut random = Random(seed * 7919);
    let mut ways = Vec::new();
    for class in 0..6 {
        let among: Vec<usize> = (0..if cycles { 6 } else { class }).filter(|c| *c != class).collect();
        ways.push((0..1 + random.below(3)).map(|_| way(&mut random, &among)).collect());
    }
    Model { ways, roots: vec![5, 4] }
}

/// What is said of a choice holds: it keeps the limit, no choice is cheaper than the bound, and it is the best one but for steps of error.
fn check(model: &Model, limit: f64, why: &str) {
    let Some(found) = problem(model).and_then(|p| solve(&p, limit)) else {
        assert_eq!(best(model, limit), None, "{why}: there is a choice");
        return;
    };
    let least = best(model, limit).expect("a choice was found");
    assert!(found.error <= limit && found.price >= least - 1e-9, "{why}: {found:?} {least}");
    assert!(found.price * (1.0 - found.gap) <= least + 1e-9, "{why}: the gap is no bound: {found:?} {least}");
    // Each class rounds its error up to one of 4000 steps.
    let tighter = best(model, limit * (1.0 - model.ways.len() as f64 / 4000.0));
    assert!(tighter.is_none_or(|t| found.price <= t + 1e-9), "{why}: {found:?} {least}");
}

#[test]
fn shared_classes_and_competing_forms_are_chosen_best() {
    for seed in 0..150 {
        for limit in [0.0, 0.1, 0.4, 1.0] {
            check(&model(seed, false), limit, &format!("seed {seed}, limit {limit}"));
        }
    }
}

#[test]
fn choices_have_no_cycles() {
    for seed in 0..150 {
        for limit in [0.0, 0.4] {
            check(&model(seed, true), limit, &format!("seed {seed}, limit {limit}"));
        }
    }
}

#[test]
fn what_all_ways_need_is_decided_by_itself() {
    // 24 diamonds, one above the other: 2^24 structures in all, but the class below a diamond is there whatever it is.
    let exact = |needs: &[usize], price: f64| Way { needs: needs.to_vec(), price, lossy: vec![(price / 4.0, 0.01)] };
    let mut ways = vec![vec![exact(&[], 1.0)]];
    for n in 0..24 {
        let below = ways.len() - 1;
        ways.push(vec![exact(&[below], 1.0)]);
        ways.push(vec![exact(&[below], 1.5)]);
        // With the dearer middle the class above is cheaper by more.
        ways.push(vec![exact(&[below + 1], 2.0), exact(&[below + 2], if n % 2 == 0 { 1.0 } else { 1.75 })]);
    }
    let model = Model { roots: vec![ways.len() - 1], ways };
    let found = solve(&problem(&model).unwrap(), 0.0).unwrap();
    assert_eq!((found.price, found.gap), (1.0 + 12.0 * 2.5 + 12.0 * 3.0, 0.0));
    let found = solve(&problem(&model).unwrap(), 1.0).unwrap();
    assert_eq!(found.price, (1.0 + 12.0 * 2.5 + 12.0 * 3.0) / 4.0);
}

/// Layers in a tree, each below the one that reads it. A form may read a part of the layers below only, which makes these cheaper, whatever they become: each
/// part is a class of its own.
fn parts(seed: u64) -> Model {
    const ABOVE: [Option<usize>; 6] = [None, Some(0), Some(0), None, Some(1), Some(4)];
    const SHARES: [f64; 3] = [1.0, 0.5, 0.25];
    let mut random = Random(seed * 7919 + 5);
    let prices: Vec<[f64; 3]> = ABOVE.iter().map(|_| [1.0 + random.next(), 0.5 + random.next(), random.next()]).collect();
    let errors: Vec<[f64; 3]> = ABOVE.iter().map(|_| [0.2, 0.1, 0.3].map(|e| e * random.next())).collect();
    // Three classes for each layer, those of roots included: of a root only the whole is needed.
    let way = |layer: usize, share: f64, part: usize| Way {
        needs: (0..6).filter(|n| ABOVE[*n] == Some(layer)).map(|n| 3 * n + part).collect(),
        price: prices[layer][part] * share + 0.2,
        lossy: vec![(0.6 * prices[layer][part] * share, errors[layer][part])],
    };
    let class = |n: usize| (0..3).map(|part| way(n / 3, SHARES[n % 3], part)).collect();
    Model { ways: (0..18).map(class).collect(), roots: vec![0, 9] }
}

#[test]
fn choices_that_nest_are_the_best_of_all() {
    // 3^4 structures or more of one root, which are too many to enumerate.
    for seed in 0..20 {
        for limit in [0.0, 0.2, 0.6] {
            check(&parts(seed), limit, &format!("seed {seed}, limit {limit}"));
        }
    }
}

#[test]
fn what_is_too_much_to_enumerate_keeps_its_bound() {
    for seed in 0..6 {
        // Eight classes with two ways each, which need some of ten others: 256 structures that share classes.
        let mut random = Random(seed + 77);
        let mut ways: Vec<Vec<Way>> = (0..10).map(|_| vec![way(&mut random, &[])]).collect();
        let pool: Vec<usize> = (0..10).collect();
        for _ in 0..8 {
            ways.push(
                (0..2)
                    .map(|_| Way { needs: (0..3).map(|_| pool[random.below(10)]).collect(), price: 0.1, lossy: vec![] })
                    .collect(),
            );
        }
        let model = Model { ways, roots: (10..18).collect() };
        let limit = 0.5;
        let found = solve(&problem(&model).unwrap(), limit).unwrap();
        let least = best(&model, limit).unwrap();
        assert!(found.error <= limit && found.price >= least - 1e-9, "seed {seed}: {found:?} {least}");
        assert!(found.price * (1.0 - found.gap) <= least + 1e-9, "seed {seed}: the gap is no bound: {found:?} {least}");
        assert!(found.price <= least * 1.1, "seed {seed}: {found:?} {least}");
    }
}

#[test]
fn what_has_no_price_is_not_on_offer() {
    let model = Model { ways: vec![vec![Way { needs: vec![], price: 1.0, lossy: vec![(0.5, 0.1)] }]], roots: vec![0] };
    let (egraph, ids) = egraph(&model);
    let problem = Problem::new(&egraph, &ids, &Choice::default()).unwrap();
    // The e-node that the class was made with was not priced.
    assert_eq!((egraph[ids[0]].nodes.len(), problem.forms(ids[0]).count()), (2, 2));
    assert_eq!(solve(&problem, 1.0).unwrap().price, 0.5);
    // As one that costs nothing by itself it is.
    let free = egraph[ids[0]].nodes.iter().min().expect("two e-nodes").clone();
    let problem = Problem::new(&egraph, &ids, &Choice([(ids[0], free)].into())).unwrap();
    assert_eq!(solve(&problem, 1.0).unwrap().price, 0.0);
    // Nor is what the caller has no price for.
    assert_eq!(problem.cheapest(1.0, |priced| (priced.takes[0] < 1.0).then_some(priced.takes[0])).unwrap().price, 0.0);
    let none = Problem::new(&egraph, &ids, &Choice::default()).unwrap().cheapest(1.0, |_| None);
    assert_eq!(none, None);
}

// ---- graphs

/// Two layers with the same weights and the same operand, and one with another operand.
const SHARED: &str = "graph @g(%x: f32[2,4]) {
  %w = const f32[4,4] [1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3, 4, 5, 6, 7]
  %a = matmul %x, %w : f32[2,4]
  %b = matmul %x, %w : f32[2,4]
  %s = add %a, %b : f32[2,4]
  %c = matmul %s, %w : f32[2,4]
  %i = identity %c : f32[2,4]
  return %i
}";

/// The e-graph of [`SHARED`] after some rules, its layers priced: each costs 1, or a quarter with an error of 0.1.
fn shared(rules: &[Rule]) -> (onnxc_ir::Graph, Converted) {
    let ops = OpSet(onnxc_ops::ALL);
    let graph = parse::parse(SHARED, ops, &|_| None).unwrap_or_else(|e| panic!("{e}"));
    let mut converted = to_egraph(&graph, ops);
    let class = |n: usize| converted.values[graph.nodes[n].outputs[0].0 as usize].expect("a class");
    let layers = [0, 1, 3].map(|n| layer(class(n), converted.original.0[&class(n)].clone()));
    add(&mut converted.egraph, &layers, &vec![vec![(1.0, 0.0), (0.25, 0.1)]; 3]);
    converted.egraph = rule::saturate(converted.egraph, rules, Limits::default()).0;
    (graph, converted)
}

/// All operators cost the same.
struct Count;

impl CostModel for Count {
    fn cost(&self, _: &OpDef, _: &Attrs, _: &[Option<Operand>], _: &[TensorType]) -> f64 {
        1.0
    }
}

/// What is not priced costs nothing.
fn problem_of(converted: &Converted) -> Problem {
    Problem::new(&converted.egraph, &converted.roots, &converted.original).expect("a graph has no cycles")
}

#[test]
fn shared_weights_are_paid_once_and_err_once() {
    let (graph, converted) = shared(&[]);
    let class = |n: usize| converted.values[graph.nodes[n].outputs[0].0 as usize].unwrap();
    assert_eq!(class(0), class(1), "one operand, one set of weights");
    assert_ne!(class(0), class(3));
    let problem = problem_of(&converted);
    let found = solve(&problem, 0.0).unwrap();
    assert_eq!((found.price, found.error), (2.0, 0.0));
    let found = solve(&problem, 0.1).unwrap();
    assert_eq!((found.price, found.error), (1.25, 0.1), "one of two classes has room for its error");
    let found = solve(&problem, 0.21).unwrap();
    assert_eq!((found.price, found.error), (0.5, 0.2), "both, and the one with two users once");
    let form = problem.forms(class(0)).nth(found.forms[&class(0)]).unwrap();
    assert!(matches!(&form.form, Form::Lossy(l) if l.layer == 0 && l.operands.len() == 1), "{form:?}");
}

/// The second rule reads a half of what is before; both cost half of a part, and an error of 0.1 goes with the second one.
struct Halves(bool);

impl LossyRule for Halves {
    fn measured(&self, layer: usize, part: Option<usize>) -> Option<Measured> {
        // Nothing is before the first layers.
        let lossy = self.0 && layer == 2;
        let share = if part.is_some() { 0.5 } else { 1.0 };
        (lossy || !self.0).then(|| Measured {
            error: if lossy { 0.1 } else { 0.0 },
            takes: [share * if lossy { 0.75 } else { 1.0 }].into(),
            reads: lossy.then_some(0),
        })
    }
}

#[test]
fn what_is_read_in_part_is_paid_in_part() {
    let ops = OpSet(onnxc_ops::ALL);
    let graph = parse::parse(SHARED, ops, &|_| None).unwrap_or_else(|e| panic!("{e}"));
    let mut converted = to_egraph(&graph, ops);
    let value = |n: usize| converted.values[graph.nodes[n].outputs[0].0 as usize].expect("a class");
    let mut layers = [0, 1, 3].map(|n| layer(value(n), converted.original.0[&value(n)].clone()));
    layers[2].before = vec![0, 1];
    let (whole, last) = (value(0), value(3));
    let classes = lossy::apply(&mut converted.egraph, &layers, &[&Halves(false), &Halves(true)]);
    assert_eq!((classes[0].len(), &classes[0], classes[2].len()), (2, &classes[1], 1), "one part of one class");
    let problem = problem_of(&converted);
    let exact = solve(&problem, 0.0).unwrap();
    assert_eq!((exact.price, exact.forms.contains_key(&whole), exact.forms[&last]), (2.0, true, 0));
    // The sum between the layers is not needed whole, nor is what it reads.
    let part = solve(&problem, 0.1).unwrap();
    assert_eq!((part.price, part.error, part.forms[&last]), (1.25, 0.1, 1));
    assert!(!part.forms.contains_key(&whole) && part.forms.contains_key(&classes[0][1]), "{part:?}");
    // Exact extraction knows neither.
    let (choice, ..) = extract(&converted.egraph, &converted.roots, &converted.original, &Count);
    let out = text::print(&from_egraph(&converted.egraph, &converted.roots, &choice, &graph));
    assert_eq!(out.matches("matmul").count(), 2, "{out}");
}

#[test]
fn exact_extraction_does_not_see_lossy_forms() {
    let (graph, converted) = shared(&[]);
    let (choice, ..) = extract(&converted.egraph, &converted.roots, &converted.original, &Count);
    let out = text::print(&from_egraph(&converted.egraph, &converted.roots, &choice, &graph));
    let bare = to_egraph(&graph, OpSet(onnxc_ops::ALL));
    let (choice, ..) = extract(&bare.egraph, &bare.roots, &bare.original, &Count);
    assert_eq!(out, text::print(&from_egraph(&bare.egraph, &bare.roots, &choice, &graph)));
    // Without room for errors extraction under constraints gives the same graph.
    let problem = problem_of(&converted);
    let found = solve(&problem, 0.0).unwrap();
    let exact = |(id, form): (&Id, &usize)| match &problem.forms(*id).nth(*form).expect("a form").form {
        Form::Exact(node) => (*id, node.clone()),
        Form::Lossy(lossy) => panic!("lossy without an error: {lossy:?}"),
    };
    let choice = Choice(found.forms.iter().map(exact).collect());
    assert_eq!(out, text::print(&from_egraph(&converted.egraph, &converted.roots, &choice, &graph)));
}

#[test]
fn exact_rules_neither_match_nor_join_lossy_forms() {
    // One rule joins the last two classes, the other one adds an e-node to every product.
    let rule = |name, roots, apply| Rule { name, class: RuleClass::Exact, roots: Roots::Named(roots), apply };
    let rules = [
        rule("identity-removal", &["identity"], |_, m| m.input(0)),
        rule("product-of-one", &["matmul"], |cx, m| {
            let tag = Attrs::default().with("alpha", Attr::Int(1));
            cx.node_of("matmul", &[m.input(0)?, m.input(1)?], tag)
        }),
    ];
    let (graph, converted) = shared(&rules);
    let bare = rule::saturate(to_egraph(&graph, OpSet(onnxc_ops::ALL)).egraph, &rules, Limits::default()).0;
    let size = |egraph: &Graph| (egraph.total_size(), egraph.total_number_of_nodes(), egraph.number_of_classes());
    assert_eq!(size(&converted.egraph), size(&bare));
    // Forms of the same rule do not make two classes one, and a class that another one joins keeps its forms.
    let class = |n: usize| converted.egraph.find(converted.values[graph.nodes[n].outputs[0].0 as usize].unwrap());
    assert_ne!(class(0), class(3));
    assert_eq!((class(3), converted.egraph[class(4)].data.priced.len()), (class(4), 2));
    let found = solve(&problem_of(&converted), 1.0).unwrap();
    assert_eq!((found.price, found.error), (0.5, 0.2));
}

#[test]
fn equal_classes_have_the_forms_of_both() {
    let lossy = |price: f64| vec![(price, 0.1)];
    let ways = |price: f64| vec![Way { needs: vec![], price, lossy: lossy(price / 2.0) }];
    let model = Model { ways: vec![ways(1.0), ways(3.0)], roots: vec![0, 1] };
    let (mut egraph, ids) = egraph(&model);
    let apart = Problem::new(&egraph, &ids, &Choice::default()).unwrap();
    assert_eq!(solve(&apart, 1.0).unwrap().price, 2.0);
    egraph.union(ids[0], ids[1]);
    egraph.rebuild();
    let joined = Problem::new(&egraph, &ids, &Choice::default()).unwrap();
    assert_eq!(joined.forms(egraph.find(ids[0])).count(), 4);
    assert_eq!((solve(&joined, 1.0).unwrap().price, solve(&joined, 0.0).unwrap().price), (0.5, 1.0));
}
