//! Functions of the model: calls are expanded where they stand.

use std::collections::BTreeMap;
use std::rc::Rc;

use onnx_protobuf::{FunctionProto, GraphProto, NodeProto};
use onnxc_ir::list::Item;
use rustc_hash::FxHashMap;

use crate::import::{FunctionKey, Importer};
use crate::items::binding;
use crate::node::{Fault, Given, Results, coded, fault, named};
use crate::order;
use crate::report::Problem;
use crate::scope::{Env, Opsets, Scope, domain};

const CODE: &str = "import::function";

/// Functions that call each other in a chain longer than this are refused.
const MAX_CALLS: usize = 64;

/// Numbers of nodes that functions expand to; `None` while one is being counted.
struct Sizes<'a, 'm> {
    functions: &'a BTreeMap<FunctionKey<'m>, &'m FunctionProto>,
    known: BTreeMap<FunctionKey<'m>, Option<usize>>,
}

/// Refuses models whose functions call themselves or expand to more than `limit` nodes, before anything is expanded.
pub fn check_sizes<'m>(
    functions: &BTreeMap<FunctionKey<'m>, &'m FunctionProto>,
    graph: &'m GraphProto,
    limit: usize,
) -> Result<(), Box<Problem>> {
    let mut sizes = Sizes { functions, known: BTreeMap::new() };
    let total = sizes.nodes(&graph.node, 0)?;
    if total > limit {
        let reason = format!("the model is too large: it expands to {total} nodes, the limit is {limit}");
        return Err(Box::new(Problem::model("import::limit", reason)));
    }
    Ok(())
}

impl<'m> Sizes<'_, 'm> {
    fn nodes(&mut self, nodes: &'m [NodeProto], depth: usize) -> Result<usize, Box<Problem>> {
        let mut total = 0usize;
        for node in nodes {
            let key: FunctionKey = (domain(&node.domain), &node.op_type, &node.overload);
            let mut own = self.function(key, depth)?;
            for body in node.attribute.iter().filter_map(|a| a.g.as_ref()) {
                own = own.saturating_add(self.nodes(&body.node, depth)?);
            }
            total = total.saturating_add(own);
        }
        Ok(total)
    }

    fn function(&mut self, key: FunctionKey<'m>, depth: usize) -> Result<usize, Box<Problem>> {
        let Some(function) = self.functions.get(&key).copied() else { return Ok(1) };
        match self.known.get(&key) {
            Some(Some(n)) => return Ok(*n),
            Some(None) => {
                let reason = format!("function {}.{} calls itself: recursion cannot be expanded", function.domain, function.name);
                return Err(Box::new(Problem::model(CODE, reason)));
            }
            None => {}
        }
        if depth > MAX_CALLS {
            let reason = format!("functions call each other deeper than {MAX_CALLS} levels");
            return Err(Box::new(Problem::model(CODE, reason)));
        }
        self.known.insert(key, None);
        let n = self.nodes(&function.node, depth + 1)?;
        self.known.insert(key, Some(n));
        Ok(n)
    }
}

impl<'m> Importer<'m> {
    /// Expands a call.
    pub fn call(
        &mut self,
        node: &'m NodeProto,
        function: &'m FunctionProto,
        inputs: &[Option<Item>],
        given: &Given<'m>,
    ) -> Results {
        for (what, n, most) in
            [("inputs", named(&node.input), function.input.len()), ("outputs", named(&node.output), function.output.len())]
        {
            if n > most {
                return fault(CODE, format!("the node has {n} {what}, the function has {most}"));
            }
        }
        let attrs = Some(Rc::new(environment(function, given)?));
        let opsets: Opsets = function.opset_import.iter().map(|o| (domain(&o.domain).to_string(), o.version)).collect();
        let mut names = FxHashMap::default();
        for (i, name) in function.input.iter().enumerate() {
            names.insert(name.as_str(), binding(inputs.get(i).cloned().flatten()));
        }
        let (frame, path) = (self.scope().frame, format!("{}/", self.origin(node)));
        self.enter().map_err(coded(CODE))?;
        self.scopes.push(Scope {
            frame,
            outer: None,
            names,
            opsets: Rc::new(opsets),
            attrs,
            path,
            declared: FxHashMap::default(),
        });
        let outputs: Vec<&str> = function.output.iter().take(named(&node.output)).map(String::as_str).collect();
        let inputs: order::Given = function.input.iter().map(|i| (i.as_str(), "input of the function")).collect();
        let built = self.ordered(&function.node, &inputs, &outputs);
        let results: Option<Vec<Option<Item>>> = outputs.iter().map(|name| self.item(name)).collect();
        self.scopes.pop();
        if !built {
            // The problems inside do not say which call led to them.
            return fault(CODE, format!("the body of function {} is broken: see the problems above", function.name));
        }
        Ok(results)
    }

    /// May one more scope be opened?
    pub fn enter(&self) -> Result<(), onnxc_ir::op::OpError> {
        let limit = self.options.limits.depth;
        if self.scopes.len() > limit {
            return Err(onnxc_ir::op::OpError::new(format!("functions and bodies are nested deeper than {limit} levels")));
        }
        Ok(())
    }
}

/// The function's attributes as the call and the defaults give them. References to those that nobody gives are left out.
fn environment<'m>(function: &'m FunctionProto, given: &Given<'m>) -> Result<Env<'m>, Fault> {
    let mut env: Env = function.attribute_proto.iter().map(|a| (a.name.as_str(), a)).collect();
    for (name, (value, _)) in given {
        if !env.contains_key(name) && !function.attribute.iter().any(|a| a == name) {
            return fault("import::attribute", format!("the function has no attribute called {name:?}"));
        }
        env.insert(name, value);
    }
    Ok(env)
}
