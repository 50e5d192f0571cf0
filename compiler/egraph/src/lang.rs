//! The e-node and the context that its ids point into.

use std::collections::BTreeMap;

use egg::{Id, Language};
use onnxc_ir::op::{OpDef, OpSet};
use onnxc_ir::{Attr, Attrs, Tensor};

/// An e-node. Operators, attributes and constants are small ids into a [`Tables`]; order and hash never depend on addresses.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ENode {
    /// Graph input n.
    Input(u32),
    /// Constant n of the tables.
    Const(u32),
    /// An absent optional operand.
    Absent,
    /// An operator applied to children.
    Op {
        /// Index into the operator set.
        op: u16,
        /// Index into the attribute table.
        attrs: u32,
        /// Number of results; with more than one, users go through [`ENode::Proj`].
        results: u8,
        /// Operands.
        children: Box<[Id]>,
    },
    /// Result n of an operator with several.
    Proj(u8, [Id; 1]),
    /// Part n of a value, of which lossy forms of its readers need no more ([`crate::lossy`]). Nothing else reads it, and no rule matches it.
    Part(u32, [Id; 1]),
}

/// What [`ENode`]s have in common when they can match: the operator, or the kind of leaf.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Head {
    /// An operator by its index.
    Op(u16),
    /// A projection by its number.
    Proj(u8),
    /// A part by its number.
    Part(u32),
    /// Any input, constant or absent operand.
    Leaf,
}

impl Language for ENode {
    type Discriminant = Head;

    fn discriminant(&self) -> Head {
        match self {
            ENode::Op { op, .. } => Head::Op(*op),
            ENode::Proj(n, _) => Head::Proj(*n),
            ENode::Part(n, _) => Head::Part(*n),
            ENode::Input(_) | ENode::Const(_) | ENode::Absent => Head::Leaf,
        }
    }

    fn matches(&self, other: &ENode) -> bool {
        match (self, other) {
            (ENode::Op { op: a, attrs: x, children: c, .. }, ENode::Op { op: b, attrs: y, children: d, .. }) => {
                a == b && x == y && c.len() == d.len()
            }
            (ENode::Proj(a, _), ENode::Proj(b, _)) => a == b,
            (ENode::Part(a, _), ENode::Part(b, _)) => a == b,
            _ => self == other,
        }
    }

    fn children(&self) -> &[Id] {
        match self {
            ENode::Op { children, .. } => children,
            ENode::Proj(_, child) | ENode::Part(_, child) => child,
            _ => &[],
        }
    }

    fn children_mut(&mut self) -> &mut [Id] {
        match self {
            ENode::Op { children, .. } => children,
            ENode::Proj(_, child) | ENode::Part(_, child) => child,
            _ => &mut [],
        }
    }
}

/// Interned attributes and constants.
#[derive(Debug)]
pub struct Tables {
    ops: OpSet,
    attrs: Vec<Attrs>,
    attrs_by_key: BTreeMap<String, u32>,
    consts: Vec<Tensor>,
    consts_by_hash: BTreeMap<u64, Vec<u32>>,
}

impl Tables {
    /// Empty tables over an operator set.
    pub fn new(ops: OpSet) -> Tables {
        Tables { ops, attrs: Vec::new(), attrs_by_key: BTreeMap::new(), consts: Vec::new(), consts_by_hash: BTreeMap::new() }
    }

    /// The operator with this index.
    pub fn op(&self, index: u16) -> &'static OpDef {
        self.ops.0[index as usize]
    }

    /// All operator indices.
    pub fn indices(&self) -> std::ops::Range<u16> {
        0..self.ops.0.len() as u16
    }

    /// The index of the operator called `name`.
    pub fn op_index(&self, name: &str) -> Option<u16> {
        self.ops.0.iter().position(|op| op.name == name).map(|i| i as u16)
    }

    /// The attributes with this id.
    pub fn attrs(&self, id: u32) -> &Attrs {
        &self.attrs[id as usize]
    }

    /// The constant with this id.
    pub fn constant(&self, id: u32) -> &Tensor {
        &self.consts[id as usize]
    }

    /// Interns attributes. Those that hold a body are never shared.
    pub fn intern_attrs(&mut self, attrs: Attrs) -> u32 {
        let fresh = self.attrs.len() as u32;
        if let Some(key) = attrs_key(&attrs) {
            if let Some(id) = self.attrs_by_key.get(&key) {
                return *id;
            }
            self.attrs_by_key.insert(key, fresh);
        }
        self.attrs.push(attrs);
        fresh
    }

    /// Interns a constant by content.
    pub fn intern_const(&mut self, tensor: Tensor) -> u32 {
        let ids = self.consts_by_hash.entry(tensor.key()).or_default();
        if let Some(id) = ids.iter().find(|id| self.consts[**id as usize] == tensor) {
            return *id;
        }
        let fresh = self.consts.len() as u32;
        ids.push(fresh);
        self.consts.push(tensor);
        fresh
    }
}

/// A text that two attribute sets share exactly when they are equal; `None` when a body is among them.
fn attrs_key(attrs: &Attrs) -> Option<String> {
    let mut key = String::new();
    for (name, attr) in &attrs.0 {
        key.push_str(name);
        key.push('=');
        match attr {
            Attr::Graph(_) => return None,
            Attr::Tensor(t) => key.push_str(&format!("{}{:?}{:016x}", t.dtype(), t.shape(), t.fingerprint())),
            Attr::Float(x) => key.push_str(&format!("f{:08x}", x.to_bits())),
            Attr::Floats(v) => v.iter().for_each(|x| key.push_str(&format!("f{:08x},", x.to_bits()))),
            other => key.push_str(&format!("{other:?}")),
        }
        key.push(';');
    }
    Some(key)
}
