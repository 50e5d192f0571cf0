//! The pipeline: every pass from the model file to the plan, in order, and what can be watched on the way.
//!
//! Code generation follows the plan; it is the commands' business whether it goes to an object or into this process.

use std::path::Path;
use std::time::Instant;

use onnxc_ir::dim::DimBounds;
use onnxc_ir::plan::Plan;
use onnxc_ir::{Attr, Graph, ValueId, text, verify};
use onnxc_onnx::Port;
use onnxc_passes::choose;
use onnxc_passes::plan::{self, Lowered};
use onnxc_targets::Target;
use sha2::Digest;

use crate::cli::{Debugging, Freedom, Model};
use crate::commands::constant_bytes;
use crate::data;
use crate::fault::{Diagnostic, Done, Fault};
use crate::progress::Progress;
use crate::{compress, nir, plan_text, reproducer, sizes, tune};

/// A pass of the pipeline.
pub struct Pass {
    /// Phase, for `--stop-after`.
    pub phase: &'static str,
    /// Name, for `--dump-after`.
    pub name: &'static str,
    /// What it does.
    pub about: &'static str,
    run: Run,
}

enum Run {
    Import,
    Compress,
    Graph(fn(&Graph, &Target, &Freedom) -> Graph),
    Choose,
    Lower,
    Place,
    Plan(fn(&mut Plan, &Target)),
    /// Named here for the lists; the command runs it.
    Codegen,
}

/// Every pass, in order.
pub const PASSES: &[Pass] = &[
    Pass { phase: "import", name: "import", about: "ONNX to graph: types, functions, constants folded", run: Run::Import },
    Pass {
        phase: "canonicalize",
        name: "canonicalize",
        about: "exact rules, recognition of decomposed operators, folding into weights (e-graph)",
        run: Run::Graph(|g, t, f| onnxc_passes::run_within(f.math(), onnxc_passes::Phase::Canonicalize, g, &t.desc).0),
    },
    Pass {
        phase: "compress",
        name: "compress",
        about: "with --recipe weights and integers as it says; then canonicalisation again",
        run: Run::Compress,
    },
    Pass {
        phase: "fuse",
        name: "channel-order",
        about: "channels in an order in which shuffles, splits and concatenations move nothing",
        run: Run::Graph(|g, t, _| onnxc_passes::channel_order::run(g, &t.desc)),
    },
    Pass {
        phase: "fuse",
        name: "fuse",
        about: "elementwise work into maps and epilogues (e-graph)",
        run: Run::Graph(|g, t, f| onnxc_passes::run_within(f.math(), onnxc_passes::Phase::Fuse, g, &t.desc).0),
    },
    Pass {
        phase: "fuse",
        name: "requantize",
        about: "epilogues that end in integers without their division",
        run: Run::Graph(|g, _, f| {
            if f.math().allows(onnxc_passes::requantize::CLASS) { onnxc_passes::requantize::run(g) } else { g.clone() }
        }),
    },
    Pass {
        phase: "choose",
        name: "choose",
        about: "algorithms of convolutions of 3 by 3, lists for weights with zeros; with --tune all of every product, by measurement",
        run: Run::Choose,
    },
    Pass {
        phase: "choose",
        name: "row-chain",
        about: "convolutions one behind the other, some rows at a time",
        run: Run::Graph(|g, t, _| onnxc_passes::row_chain::run(g, &t.desc)),
    },
    Pass {
        phase: "layout",
        name: "schedule",
        about: "dead code, order of execution",
        run: Run::Graph(|g, _, _| plan::schedule(g)),
    },
    Pass {
        phase: "lower",
        name: "lower",
        about: "strides and storage of every value, loop nests of every node",
        run: Run::Lower,
    },
    Pass { phase: "memory", name: "place", about: "arena offsets by liveness, weight blob", run: Run::Place },
    Pass {
        phase: "memory",
        name: "threads",
        about: "layers that several threads do not finish sooner stay on one",
        run: Run::Plan(|plan, target| onnxc_passes::threads::run(plan, &target.desc)),
    },
    Pass { phase: "codegen", name: "codegen", about: "loop nests and microkernels to machine code", run: Run::Codegen },
];

/// The graph with the ways that its layers are computed in, where there is a choice.
fn choose(graph: &Graph, target: &Target, freedom: &Freedom, progress: &Progress) -> Done<Graph> {
    let growth = freedom.growth(constant_bytes(graph));
    if freedom.tuning.tune {
        return tune::run(graph, (target, freedom), growth, progress);
    }
    Ok(choose::by_costs(graph, &target.desc, growth, freedom.math()))
}

/// What the pipeline has made so far.
enum State {
    Nothing,
    Graph(Graph),
    Lowered(Lowered),
    Plan(Plan),
}

/// A model on its way: the answers of the passes that reports need.
pub struct Compiled {
    /// After the last pass on graphs.
    pub graph: Graph,
    /// The plan.
    pub plan: Plan,
    /// What the inputs of the plan are in the model.
    pub inputs: Vec<Port>,
    /// And the outputs.
    pub outputs: Vec<Port>,
    /// SHA-256 of the model file.
    pub sha256: [u8; 32],
    /// Seconds of each pass.
    pub times: Times,
    /// Bytes live at the busiest step: no arena can be smaller.
    pub live_bytes: u64,
}

/// Wall time of each pass.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Times(pub Vec<(String, f64)>);

impl Times {
    /// Runs `f` and writes down how long it took.
    pub fn measure<T>(&mut self, name: &str, f: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = f();
        self.0.push((name.to_string(), start.elapsed().as_secs_f64()));
        result
    }

    /// Prints the table where `--time-passes` wants it.
    pub fn report(&self, debugging: &Debugging) -> Done<()> {
        let Some(to) = &debugging.time_passes else { return Ok(()) };
        let mut table: String = self.0.iter().map(|(name, s)| format!("{:>10.3} ms  {name}\n", s * 1e3)).collect();
        table += &format!("{:>10.3} ms  total\n", self.0.iter().map(|t| t.1).sum::<f64>() * 1e3);
        if let Some(kilobytes) = peak_memory() {
            table += &format!("{:>10.1} MB  peak memory\n", kilobytes as f64 * 1.024e-3);
        }
        match to {
            Some(path) => crate::data::write_file(path, table.as_bytes()),
            None => {
                eprint!("{table}");
                Ok(())
            }
        }
    }
}

/// The most memory that this process had so far, in 1024 bytes, where the system tells it.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Checks the names on the command line and answers `--print-passes`.
pub fn prepare(debugging: &Debugging) -> Done<()> {
    if debugging.print_passes {
        for p in PASSES {
            println!("{:<13} {:<13} {}", p.phase, p.name, p.about);
        }
        return Err(Fault::Stop);
    }
    let names: Vec<&str> = PASSES.iter().map(|p| p.name).collect();
    if let Some(wrong) = debugging.dump_after.iter().find(|d| *d != "all" && !names.contains(&d.as_str())) {
        return Err(Fault::Usage(format!("--dump-after {wrong}: the passes are {}", names.join(", "))));
    }
    let phases: Vec<&str> = PASSES.iter().map(|p| p.phase).collect();
    if let Some(wrong) = debugging.stop_after.as_ref().filter(|s| !phases.contains(&s.as_str())) {
        return Err(Fault::Usage(format!("--stop-after {wrong}: the phases are {}", phases.join(", "))));
    }
    Ok(())
}

/// The import alone: for commands that look at the model and compile nothing.
pub fn import(model: &Model) -> Done<(Graph, Option<onnxc_onnx::Imported>)> {
    import_part(model, false)
}

/// The inputs of a model, of which the rest may not be importable as long as their extents are open.
pub fn inputs(model: &Model) -> Done<(Graph, Option<onnxc_onnx::Imported>)> {
    import_part(model, true)
}

fn import_part(model: &Model, inputs_only: bool) -> Done<(Graph, Option<onnxc_onnx::Imported>)> {
    if model.model.extension().is_some_and(|e| e == "nir") {
        let (mut graph, sizes) = (nir::read(&model.model)?, sizes::fixed(model)?);
        let values = sizes.dims.into_iter().map(|(name, n)| (name, (n, n)));
        graph.set_bounds(sizes.bounds.iter().map(|(name, range)| (name.clone(), *range)).chain(values).collect());
        graph.bounds = sizes.bounds;
        return Ok((graph, None));
    }
    let sizes::Fixed { dims, shapes, bounds } = sizes::fixed(model)?;
    let mut options = onnxc_onnx::Options {
        dims,
        shapes,
        lengths: model.lengths.iter().cloned().collect(),
        absent: model.absent.iter().cloned().collect(),
        ranges: bounds.clone(),
        bounds: model.bounds.iter().cloned().collect(),
        limits: limits(&model.limits)?,
        inputs_only,
        ..onnxc_onnx::Options::default()
    };
    for (name, path) in &model.consts {
        options.consts.insert(name.clone(), data::read_tensor(path)?);
    }
    let mut imported = onnxc_onnx::import(&model.model, &options)?;
    let mut graph = std::mem::take(&mut imported.graph);
    graph.set_bounds(bounds);
    for (name, _) in &model.shapes {
        if !graph.inputs.iter().any(|id| graph.value(*id).name == *name) {
            let inputs: Vec<&str> = graph.inputs.iter().map(|id| graph.value(*id).name.as_str()).collect();
            return Err(Fault::Usage(format!("--shape {name}: the model's inputs are {}", inputs.join(", "))));
        }
    }
    Ok((graph, Some(imported)))
}

/// The limits with what the command line sets.
pub fn limits(given: &[(String, u64)]) -> Done<onnxc_onnx::Limits> {
    let mut limits = onnxc_onnx::Limits::default();
    for (name, value) in given {
        let small = usize::try_from(*value).unwrap_or(usize::MAX);
        match name.as_str() {
            "nodes" => limits.nodes = small,
            "rank" => limits.rank = small,
            "depth" => limits.depth = small,
            "tensor-bytes" => limits.tensor_bytes = *value,
            "fold-bytes" => limits.fold_bytes = *value,
            "sequence" => limits.sequence = small,
            "unroll-bytes" => limits.unroll_bytes = *value,
            _ => {
                let all = "nodes, rank, tensor-bytes, depth, fold-bytes, sequence, unroll-bytes";
                return Err(Fault::Usage(format!("--limit {name}: the limits are {all}")));
            }
        }
    }
    Ok(limits)
}

/// The model as passes before `compress` leave it, and the SHA-256 of its file.
pub fn canonical(model: &Model, target: &Target, freedom: &Freedom) -> Done<(Graph, [u8; 32])> {
    let (graph, imported) = import(model)?;
    let sha256 = imported.map_or_else(|| sha2::Sha256::digest(text::print(&graph)).into(), |i| i.hash);
    compilable(&graph)?;
    Ok((onnxc_passes::run_within(freedom.math(), onnxc_passes::Phase::Canonicalize, &graph, &target.desc).0, sha256))
}

/// The plan of a graph that may need canonicalisation: every pass from there on, for searches. Without measurements.
pub fn plan_of(graph: &Graph, target: &Target, freedom: &Freedom) -> Done<(Graph, Plan)> {
    let mut graph = graph.clone();
    for pass in PASSES {
        graph = match pass.run {
            Run::Graph(pass_fn) => pass_fn(&graph, target, freedom),
            Run::Choose => choose::by_costs(&graph, &target.desc, freedom.growth(constant_bytes(&graph)), freedom.math()),
            _ => graph,
        };
    }
    compilable(&graph)?;
    let mut plan = plan::plan(&graph, &target.desc).map_err(|e| Fault::Model(e.iter().map(Diagnostic::from).collect()))?;
    for pass in PASSES {
        if let Run::Plan(pass_fn) = pass.run {
            pass_fn(&mut plan, target);
        }
    }
    Ok((graph, plan))
}

/// Runs every pass up to the plan.
pub fn compile(model: &Model, target: &Target, freedom: &Freedom, debugging: &Debugging) -> Done<Compiled> {
    prepare(debugging)?;
    let progress = Progress::start("import");
    let mut times = Times::default();
    let (mut state, mut graph, mut live_bytes, mut sha256) = (State::Nothing, Graph::default(), 0, [0; 32]);
    let (mut inputs, mut outputs, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for pass in PASSES {
        progress.say(pass.name);
        reproducer::entering(pass.name, if let State::Graph(g) = &state { Some(g) } else { None });
        // Printing reads every constant of the model.
        let before = match &state {
            State::Graph(g) if wanted(debugging, pass.name) => Some(text::print(g)),
            _ => None,
        };
        state = match (&pass.run, state) {
            (Run::Import, _) => {
                let (g, imported) = times.measure(pass.name, || import(model))?;
                sha256 = times.measure("hash", || match &imported {
                    Some(i) => i.hash,
                    None => sha2::Sha256::digest(text::print(&g)).into(),
                });
                let (given, made) = data::sides(&g, imported.as_ref());
                (inputs, outputs) = (given.ports, made.ports);
                names = made.slots.into_iter().map(|(name, _)| name).collect();
                State::Graph(g)
            }
            (Run::Graph(pass_fn), State::Graph(g)) => State::Graph(times.measure(pass.name, || pass_fn(&g, target, freedom))),
            (Run::Compress, State::Graph(g)) => {
                State::Graph(times.measure(pass.name, || compress::run(&g, target, freedom, &sha256))?)
            }
            (Run::Choose, State::Graph(g)) => State::Graph(times.measure(pass.name, || choose(&g, target, freedom, &progress))?),
            (Run::Lower, State::Graph(g)) => {
                compilable(&g)?;
                let aliases = aliases(&g, &names, &model.aliases)?;
                let lowered = times.measure(pass.name, || plan::lower_sharing(&g, &target.desc, &aliases));
                let lowered = lowered.map_err(|e| Fault::Model(e.iter().map(Diagnostic::from).collect()))?;
                live_bytes = lowered.live_bytes();
                graph = g;
                State::Lowered(lowered)
            }
            (Run::Place, State::Lowered(l)) => State::Plan(times.measure(pass.name, || l.place())),
            (Run::Plan(pass_fn), State::Plan(mut plan)) => {
                times.measure(pass.name, || pass_fn(&mut plan, target));
                State::Plan(plan)
            }
            (_, state) => state,
        };
        if let State::Graph(g) = &state {
            check(pass.name, g)?;
        }
        show(debugging, pass, &state, before.as_deref(), &model.model)?;
        if debugging.stop_after.as_deref() == Some(pass.phase) && pass.phase != "codegen" {
            times.report(debugging)?;
            return Err(Fault::Stop);
        }
    }
    match state {
        State::Plan(mut plan) => {
            // The caller knows outputs by the model's names, also where passes found that one is an input or another output.
            plan.outputs.iter_mut().zip(names).for_each(|(io, name)| io.name = name);
            Ok(Compiled { graph, plan, inputs, outputs, sha256, times, live_bytes })
        }
        _ => Err(Fault::Internal("the pipeline ends without a plan".to_string())),
    }
}

/// Numbers of the inputs and outputs that `--alias` names. `outputs` are the model's names of the outputs.
fn aliases(graph: &Graph, outputs: &[String], named: &[(String, String)]) -> Done<Vec<(usize, usize)>> {
    let mut pairs: Vec<(usize, usize)> = Vec::new();
    for (input, output) in named {
        let fail = |why: &str| Err(Fault::Usage(format!("--alias {input}={output}: {why}")));
        let i = graph.inputs.iter().position(|id| graph.value(*id).name == *input);
        let (Some(i), Some(j)) = (i, outputs.iter().position(|name| name == output)) else {
            return fail("the model has no such input or output");
        };
        let (x, y) = (graph.ty(graph.inputs[i]), graph.ty(graph.outputs[j]));
        if x != y || x.const_shape().is_none() || x.dtype.bits() < 8 {
            return fail(&format!(
                "the input is {x}, the output {y}: they must be the same, of known extents, a byte or more an element"
            ));
        }
        if pairs.iter().any(|p| p.0 == i || p.1 == j) {
            return fail("each input and each output can be named once");
        }
        pairs.push((i, j));
    }
    Ok(pairs)
}

fn wanted(debugging: &Debugging, pass: &str) -> bool {
    debugging.dump_after.iter().any(|d| d == pass || d == "all")
}

/// Prints what a pass made, if that was asked for.
fn show(debugging: &Debugging, pass: &Pass, state: &State, before: Option<&str>, model: &Path) -> Done<()> {
    let last = debugging.stop_after.as_deref() == Some(pass.phase);
    if !wanted(debugging, pass.name) && !last {
        return Ok(());
    }
    let body = match state {
        State::Graph(g) => text::print(g),
        State::Plan(p) => plan_text::plan(p),
        State::Lowered(l) => {
            format!("; {} bytes live at the busiest step; the functions are printed after `place`\n", l.live_bytes())
        }
        State::Nothing => String::new(),
    };
    let body = if before == Some(body.as_str()) { "; (unchanged)\n".to_string() } else { body };
    print_all(&format!("; {} after {}\n{body}", model.display(), pass.name))
}

/// Writes to stdout; a reader that has gone away (`| head`) is no error.
pub fn print_all(text: &str) -> Done<()> {
    match std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes()) {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Err(Fault::Stop),
        Err(e) => Err(Fault::model("file", format!("stdout: {e}"))),
        Ok(()) => Ok(()),
    }
}

/// A graph that a pass has broken is our fault, whatever the model was.
fn check(pass: &str, graph: &Graph) -> Done<()> {
    verify::verify(graph).map_err(|problems| {
        let first: Vec<String> = problems.iter().take(5).cloned().collect();
        Fault::Internal(format!("after pass {pass} the graph is wrong:\n{}", first.join("\n")))
    })
}

/// All extents must be known, all element types must have code: what remains open is listed with the flag that closes it.
pub fn compilable(graph: &Graph) -> Done<()> {
    let mut list = Vec::new();
    for id in &graph.inputs {
        let value = graph.value(*id);
        if value.ty.bound_shape(&graph.bounds).is_none() {
            list.push(open_input(&value.name, &value.ty));
        }
    }
    if list.is_empty() {
        open_nodes(graph, &graph.bounds, &mut list);
        list.truncate(20);
    }
    if list.is_empty() { Ok(()) } else { Err(Fault::Model(list)) }
}

fn open_input(name: &str, ty: &onnxc_ir::TensorType) -> Diagnostic {
    let mut symbols = Vec::new();
    ty.shape.iter().for_each(|d| d.symbols(&mut symbols));
    let named: Vec<String> = symbols.iter().filter(|s| !s.starts_with('?')).map(|s| format!("--dim {s}=N")).collect();
    let dims: Vec<String> = ty.shape.iter().map(|d| d.as_const().map_or("N".to_string(), |n| n.to_string())).collect();
    let shape = format!("--shape {name}={}", dims.join(","));
    let help =
        if named.len() == symbols.len() { format!("pass {}, or {shape}", named.join(" ")) } else { format!("pass {shape}") };
    Diagnostic::new("import::dynamic", format!("input {name}: {ty} has dimensions without a value")).help(help)
}

/// Nodes with results of unknown size, in bodies too.
fn open_nodes(graph: &Graph, bounds: &DimBounds, list: &mut Vec<Diagnostic>) {
    for node in &graph.nodes {
        list.extend(open_node(graph, bounds, node));
        node.attrs.0.values().for_each(|attr| {
            if let Attr::Graph(body) = attr {
                open_nodes(body, bounds, list);
            }
        });
    }
}

fn open_node(graph: &Graph, bounds: &DimBounds, node: &onnxc_ir::Node) -> Option<Diagnostic> {
    let open = |id: &&ValueId| graph.ty(**id).bound_shape(bounds).is_none();
    let id = node.outputs.iter().find(open)?;
    // Only where the open shape begins: nodes behind it would repeat the message.
    if node.inputs.iter().flatten().any(|i| graph.ty(*i).bound_shape(bounds).is_none()) {
        return None;
    }
    let mut d = Diagnostic::new(
        "import::data-dependent",
        format!(
            "{}: the shape of its result ({}) depends on values that are only known at run time; this is not supported",
            node.op.name,
            graph.ty(*id)
        ),
    );
    if matches!(node.op.name, "loop" | "if") {
        d = d.help(format!("state its largest shape: --bound {}=DIMS", graph.value(*id).name));
    }
    d.node = Some(node.origins.join(", "));
    d.op = Some(node.op.name.to_string());
    Some(d)
}
