//! Inputs and outputs of the model. One that is a sequence becomes as many tensors of the graph, `NAME_0`, `NAME_1`, ...; an optional is what it
//! holds, or nothing.

use std::collections::BTreeSet;

use onnx_protobuf::{GraphProto, ValueInfoProto};
use onnxc_ir::list::Item;
use onnxc_ir::{Dim, DimBindings, TensorType, ValueId};

use crate::import::{Importer, initialised};
use crate::items::{Form, binding, flatten};
use crate::report::Problem;
use crate::scope::Binding;
use crate::types::{self, Declared};

/// An input or output of the model, and what it is in the graph.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// ONNX name.
    pub name: String,
    /// Its type is a sequence.
    pub sequence: bool,
    /// Its type is an optional.
    pub optional: bool,
    /// Its tensors by their place among the graph's inputs or outputs: one, or those of the sequence, or none where an optional is not given. A
    /// tensor of a sequence that became a constant has no place.
    pub tensors: Vec<Option<usize>>,
}

impl Port {
    /// A tensor.
    pub fn tensor(name: &str, place: usize) -> Port {
        Port { name: name.to_string(), sequence: false, optional: false, tensors: vec![Some(place)] }
    }
}

/// The name of a tensor of a sequence.
pub fn element(name: &str, i: usize) -> String {
    format!("{name}_{i}")
}

/// Inputs as the file declares them, initialisers left out. What tensors they are is not known yet.
pub fn declared_inputs(proto: &GraphProto) -> Vec<Port> {
    let initialised = initialised(proto);
    let port = |info: &ValueInfoProto| {
        let (sequence, optional) = types::declared(info).ok().flatten().map_or((false, false), |d| (d.sequence, d.optional));
        Port { name: info.name.clone(), sequence, optional, tensors: Vec::new() }
    };
    let inputs = proto.input.iter().filter(|i| !i.name.is_empty() && !initialised.contains(i.name.as_str()));
    inputs.map(port).collect()
}

impl<'m> Importer<'m> {
    /// Makes the inputs that are not initialisers.
    pub fn inputs(&mut self, proto: &'m GraphProto) {
        let initialised = initialised(proto);
        let mut bound: DimBindings = self.options.dims.clone();
        if let Err(reason) = types::bind_shapes(&proto.input, self.options, &mut bound) {
            self.problem(Problem::model("import::option", reason));
        }
        self.bound = bound;
        for info in proto.input.iter().filter(|i| !i.name.is_empty() && !initialised.contains(i.name.as_str())) {
            let binding = self.input(info).unwrap_or_else(|problem| {
                self.problem(*problem);
                Binding::Failed
            });
            self.scope().names.insert(&info.name, binding);
        }
    }

    fn input(&mut self, info: &'m ValueInfoProto) -> Result<Binding<'m>, Box<Problem>> {
        let wrong = |reason: String| Box::new(Problem::model("import::input", format!("input {:?}: {reason}", info.name)));
        let declared = types::declared(info).map_err(wrong)?.ok_or_else(|| wrong("it has no type".into()))?;
        let (name, sequence, optional) = (info.name.clone(), declared.sequence, declared.optional);
        let mut port = Port { name, sequence, optional, tensors: Vec::new() };
        if optional && self.options.absent.contains(&info.name) {
            self.ports.0.push(port);
            return Ok(Binding::Absent);
        }
        if !sequence {
            let id = self.tensor_input(&mut port, &info.name, &declared).map_err(wrong)?;
            self.ports.0.push(port);
            return Ok(Binding::Value(id));
        }
        let Some(length) = self.options.lengths.get(&info.name).copied() else {
            let problem = wrong("it is a sequence, and its length is not known".into());
            return Err(Box::new(problem.help(format!("give its length: --length {}=N", info.name))));
        };
        self.fits(length).map_err(|e| wrong(e.reason))?;
        let mut elements = Vec::new();
        for i in 0..length as usize {
            let name = element(&info.name, i);
            let own = declared.element(&name, &self.bound);
            elements.push(Some(self.tensor_input(&mut port, &name, &own).map_err(|e| wrong(format!("element {i}: {e}")))?));
        }
        self.ports.0.push(port);
        let list: Item = self.list(declared.dtype, elements).map_err(|e| wrong(e.reason))?;
        Ok(binding(Some(list)))
    }

    /// A tensor among the graph's inputs, or the constant that is given for it.
    fn tensor_input(&mut self, port: &mut Port, name: &str, declared: &Declared) -> Result<ValueId, String> {
        let constant = self.options.consts.get(name);
        let mut declared = declared.clone();
        if let (None, Some(tensor)) = (&declared.shape, constant) {
            declared.shape = Some(tensor.shape().iter().copied().map(Dim::Const).collect());
        }
        let ty = types::input_type(name, &declared, self.options, &self.bound)?;
        let Some(tensor) = constant else {
            port.tensors.push(Some(self.builder().graph.inputs.len()));
            return Ok(self.builder().graph.add_input(name, ty));
        };
        let given = TensorType::fixed(tensor.dtype(), tensor.shape());
        if onnxc_ir::interp::accepts(&ty, &given) {
            port.tensors.push(None);
            Ok(self.builder().graph.add_const(name, tensor.clone()))
        } else {
            Err(format!("the constant given for it is {given}, its type is {ty}"))
        }
    }

    /// Names of options must be the model's.
    pub fn check_options(&mut self, proto: &GraphProto) {
        let mut names: BTreeSet<String> = proto.input.iter().map(|i| i.name.clone()).collect();
        let (mut symbols, mut sequences, mut optionals) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        for info in &proto.input {
            let Ok(Some(declared)) = types::declared(info) else { continue };
            declared.shape.iter().flatten().for_each(|d| d.symbols(&mut symbols));
            if declared.optional {
                optionals.insert(info.name.clone());
            }
            if declared.sequence {
                sequences.insert(info.name.clone());
                names.remove(&info.name);
            }
        }
        for name in &sequences {
            // A length beyond the limit is refused with the input itself.
            let length = self.options.lengths.get(name).copied().unwrap_or(0).min(self.options.limits.sequence as u64);
            for own in (0..length as usize).map(|i| element(name, i)) {
                if !names.insert(own.clone()) {
                    let reason = format!("an element of input {name:?} would be called {own:?}, like another input");
                    self.problem(Problem::model("import::input", reason).help("rename one of them in the model"));
                }
            }
        }
        let options = self.options;
        let named: Vec<&String> = options.shapes.keys().chain(options.consts.keys()).collect();
        self.known_names(named, &names, "input", "its inputs");
        self.known_names(options.lengths.keys().collect(), &sequences, "sequence among the inputs", "there are");
        self.known_names(options.absent.iter().collect(), &optionals, "optional among the inputs", "there are");
        for name in self.options.dims.keys() {
            if symbols.iter().all(|s| **s != **name) {
                let problem = Problem::model("import::option", format!("no input has a dimension called {name:?}"));
                let known = if symbols.is_empty() { "all are fixed".to_string() } else { symbols.join(", ") };
                self.report.add(problem.help(format!("its named dimensions: {known}")));
            }
        }
    }

    fn known_names(&mut self, given: Vec<&String>, names: &BTreeSet<String>, what: &str, all: &str) {
        for name in given.into_iter().filter(|n| !names.contains(*n)) {
            let known = names.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() { "none".to_string() } else { known };
            let problem = Problem::model("import::option", format!("the model has no {what} called {name:?}"));
            self.report.add(problem.help(format!("{all}: {known}")));
        }
    }

    /// Makes the outputs.
    pub fn outputs(&mut self, proto: &'m GraphProto) {
        if proto.output.is_empty() {
            self.problem(Problem::model("import::structure", "the graph has no output"));
            return;
        }
        for info in &proto.output {
            let Some(item) = self.item(&info.name) else { continue };
            if let Err(reason) = self.output(info, item) {
                self.problem(Problem::model("import::output", format!("output {:?}: {reason}", info.name)));
            }
        }
        if self.report.is_empty() && self.builder().graph.outputs.is_empty() {
            let help = "name an output that holds a tensor";
            self.problem(Problem::model("import::output", "all outputs are empty sequences").help(help));
        }
    }

    /// Declared element types and ranks must be right; declared extents are often stale and only a hint.
    fn output(&mut self, info: &ValueInfoProto, item: Option<Item>) -> Result<(), String> {
        let form = Form::of(&item);
        let declared = types::declared(info)?;
        let dtype = match &item {
            Some(Item::Tensor(id)) => self.builder().graph.ty(*id).dtype,
            Some(Item::List(list)) => list.dtype,
            None => return Err("it is an empty optional: there is nothing to hand back".into()),
        };
        if let Some(d) = &declared {
            if d.sequence != matches!(form, Form::List(..)) {
                return Err(format!("is declared {}, but is computed as {form}", d.kind()));
            }
            if d.dtype != dtype {
                return Err(format!("is declared {}, but is computed as {dtype}", d.dtype));
            }
        }
        let (sequence, optional) = (matches!(form, Form::List(..)), declared.is_some_and(|d| d.optional));
        let ids = flatten(&[item]).map_err(|e| e.reason)?;
        let first = self.builder().graph.outputs.len();
        let tensors = (first..first + ids.len()).map(Some).collect();
        for (i, id) in ids.into_iter().enumerate() {
            let name = if sequence { element(&info.name, i) } else { info.name.clone() };
            let id = self.named_output(id, &name);
            self.builder().graph.outputs.push(id);
        }
        self.ports.1.push(Port { name: info.name.clone(), sequence, optional, tensors });
        Ok(())
    }

    /// The value under the name of the graph output. What is an input, a constant or another output already is copied where the
    /// operators have a copy, so that outputs have names of their own.
    fn named_output(&mut self, id: ValueId, name: &str) -> ValueId {
        let ops = self.ops;
        let builder = self.builder();
        let graph = &mut builder.graph;
        if graph.value(id).name == name && !graph.outputs.contains(&id) {
            return id;
        }
        let plain = graph.constant(id).is_none() && !graph.inputs.contains(&id) && !graph.outputs.contains(&id);
        if plain {
            graph.values[id.0 as usize].name = name.to_string();
            return id;
        }
        let Some(copy) = ops.get("identity") else { return id };
        let ty = graph.ty(id).clone();
        let result = graph.add_value(name, ty, None);
        graph.nodes.push(onnxc_ir::Node {
            op: copy,
            inputs: vec![Some(id)],
            outputs: vec![result],
            attrs: Default::default(),
            origins: vec![name.to_string()],
        });
        result
    }
}
