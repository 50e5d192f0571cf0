//! Shapes that a model declares for its values. They are hints, often stale, and only asked for where nothing else says how large a value is
//! ([`onnxc_ir::op::ImportCx::declared`]); what relies on them is checked at run time.

use std::collections::BTreeSet;

use onnx_protobuf::{AttributeProto, GraphProto, NodeProto};
use onnxc_ir::op::{Lower, OpDef, OpSet};
use rustc_hash::FxHashMap;

use crate::import::Importer;
use crate::scope::domain;
use crate::types;

/// Elementwise operators by domain and ONNX name.
pub fn elementwise(ops: OpSet) -> FxHashMap<(&'static str, &'static str), &'static OpDef> {
    let all = ops.0.iter().filter(|op| matches!(op.lower, Lower::Elementwise(_)));
    all.flat_map(|op| op.onnx.iter().map(|form| ((form.domain, form.name), *op))).collect()
}

impl<'m> Importer<'m> {
    /// Shapes that a graph declares, and those of operands of elementwise nodes that must have the shape of the result.
    pub fn declared(&self, proto: &'m GraphProto) -> FxHashMap<&'m str, Vec<u64>> {
        let infos = proto.value_info.iter().chain(&proto.output);
        let shapes = infos.filter_map(|info| Some((info.name.as_str(), types::fixed(info, &self.bound)?)));
        let mut declared: FxHashMap<&str, Vec<u64>> = shapes.collect();
        let scalars = self.scalars(proto);
        for node in proto.node.iter().rev() {
            let ([from, ..], [to, ..]) = (&node.input[..], &node.output[..]) else { continue };
            let Some(shape) = declared.get(to.as_str()).cloned() else { continue };
            let Some(op) = self.elementwise(node) else { continue };
            // CastLike takes only a type from its second operand.
            if op.name == "cast" {
                declared.entry(from).or_insert(shape);
                continue;
            }
            // Next to scalars, an operand has the shape of the result. One element comes from operands of one element, and a vector nearly always
            // from vectors of its length.
            let others: Vec<&str> = node.input.iter().map(String::as_str).filter(|i| !scalars.contains(i)).collect();
            if others.len() == 1 || shape.len() == 1 || shape.iter().all(|n| *n == 1) {
                others.into_iter().for_each(|from| _ = declared.entry(from).or_insert(shape.clone()));
            }
        }
        declared
    }

    fn elementwise(&self, node: &NodeProto) -> Option<&'static OpDef> {
        self.elementwise.get(&(domain(&node.domain), node.op_type.as_str())).copied()
    }

    /// Names of a graph's values that are scalars for sure.
    fn scalars(&self, proto: &'m GraphProto) -> BTreeSet<&'m str> {
        let inputs = proto.input.iter().filter(|i| types::fixed(i, &self.bound).is_some_and(|s| s.is_empty()));
        let weights = proto.initializer.iter().filter(|t| t.dims.is_empty()).map(|t| t.name.as_str());
        let mut scalars: BTreeSet<&str> = inputs.map(|i| i.name.as_str()).chain(weights).collect();
        for node in &proto.node {
            let Some(to) = node.output.first() else { continue };
            let value = |a: &AttributeProto| match a.name.as_str() {
                "value" => a.t.as_ref().is_some_and(|t| t.dims.is_empty()),
                name => matches!(name, "value_int" | "value_float"),
            };
            let constant = node.op_type == "Constant" && node.attribute.iter().any(value);
            let kept = || self.elementwise(node).is_some() && node.input.iter().all(|i| scalars.contains(i.as_str()));
            if constant || kept() {
                scalars.insert(to);
            }
        }
        scalars
    }
}
