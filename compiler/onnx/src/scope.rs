//! Names and the graphs that they lead to.
//!
//! A *frame* is a graph under construction: the model, or a body of `If`, `Loop`, `Scan`. A *scope* is a set of names: the model's, a
//! body's, a function's. A function has a scope of its own that sees nothing outside, but builds into its caller's frame. A name that
//! a body finds outside becomes an input of the body's graph (a *capture*), or a copy where it is a constant.

use std::collections::BTreeMap;
use std::rc::Rc;

use onnx_protobuf::{AttributeProto, SparseTensorProto, TensorProto};
use onnxc_ir::ValueId;
use onnxc_ir::list::List;
use rustc_hash::FxHashMap;

use crate::builder::Builder;
use crate::import::Importer;
use crate::report::Problem;

/// Versions of operator sets by domain; ai.onnx is the empty name.
pub type Opsets = BTreeMap<String, i64>;

/// Attributes of a function call, by the function's names for them.
pub type Env<'m> = BTreeMap<&'m str, &'m AttributeProto>;

/// `ai.onnx` has two names.
pub fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

/// What a name stands for.
#[derive(Clone)]
pub enum Binding<'m> {
    /// A value of the scope's frame.
    Value(ValueId),
    /// Something that could not be built, or an operand that a call leaves out and that is therefore not there.
    Failed,
    /// An operand of a function that the call leaves out, or an empty optional.
    Absent,
    /// A sequence of values of the scope's frame.
    List(Rc<List>),
    /// An initialiser that nobody has used so far.
    Dense(&'m TensorProto),
    /// A sparse one.
    Sparse(&'m SparseTensorProto),
}

/// A set of names.
pub struct Scope<'m> {
    /// Where its values are.
    pub frame: usize,
    /// The scope around it, if it sees that.
    pub outer: Option<usize>,
    pub names: FxHashMap<&'m str, Binding<'m>>,
    pub opsets: Rc<Opsets>,
    /// Attributes that nodes may refer to; `None` outside of functions.
    pub attrs: Option<Rc<Env<'m>>>,
    /// Put before names of nodes and values.
    pub path: String,
    /// Shapes that the graph declares for its values, where all extents are known.
    pub declared: FxHashMap<&'m str, Vec<u64>>,
}

/// A graph under construction.
pub struct Frame<'m> {
    pub builder: Builder<'m>,
    /// Outer values (of the frame below) and the inputs that stand for them, in order of first use.
    pub captures: Vec<(ValueId, ValueId)>,
    /// The same for quick finding, and copies of outer constants.
    inside: FxHashMap<ValueId, ValueId>,
    /// Outer lists and what they are inside, by the address of the outer one.
    lists: FxHashMap<*const List, (Rc<List>, Rc<List>)>,
}

impl<'m> Frame<'m> {
    /// An empty graph.
    pub fn new(builder: Builder<'m>) -> Frame<'m> {
        Frame { builder, captures: Vec::new(), inside: FxHashMap::default(), lists: FxHashMap::default() }
    }
}

impl<'m> Importer<'m> {
    /// The innermost scope.
    pub fn scope(&mut self) -> &mut Scope<'m> {
        self.scopes.last_mut().expect("internal: a scope is open")
    }

    /// The graph that the innermost scope builds.
    pub fn builder(&mut self) -> &mut Builder<'m> {
        let frame = self.scope().frame;
        &mut self.frames[frame].builder
    }

    /// What a name means in the innermost scope; `None` if nothing.
    pub fn lookup(&mut self, name: &str) -> Option<Binding<'m>> {
        self.lookup_in(self.scopes.len() - 1, name)
    }

    fn lookup_in(&mut self, scope: usize, name: &str) -> Option<Binding<'m>> {
        // The key must live as long as the model: it is taken from the scope that has the name.
        if let Some((key, binding)) = self.scopes[scope].names.get_key_value(name) {
            let (key, binding) = (*key, binding.clone());
            let loaded = match binding {
                Binding::Dense(proto) => self.source.tensor(proto),
                Binding::Sparse(proto) => self.source.sparse(proto),
                other => return Some(other),
            };
            let binding = self.load(scope, key, loaded);
            self.scopes[scope].names.insert(key, binding.clone());
            return Some(binding);
        }
        let outer = self.scopes[scope].outer?;
        let found = self.lookup_in(outer, name)?;
        let (here, there) = (self.scopes[scope].frame, self.scopes[outer].frame);
        Some(match found {
            Binding::Value(id) if here != there => Binding::Value(self.capture(here, there, id)),
            Binding::List(list) if here != there => Binding::List(self.capture_list(here, there, list)),
            other => other,
        })
    }

    fn load(&mut self, scope: usize, name: &str, loaded: Result<onnxc_ir::Tensor, String>) -> Binding<'m> {
        match loaded {
            Ok(tensor) => {
                let frame = self.scopes[scope].frame;
                Binding::Value(self.frames[frame].builder.graph.add_const(name, tensor))
            }
            Err(reason) => {
                self.problem(Problem::model("import::tensor", format!("initialiser {name:?}: {reason}")));
                Binding::Failed
            }
        }
    }

    /// Makes the values of a list known in a body.
    fn capture_list(&mut self, here: usize, there: usize, outer: Rc<List>) -> Rc<List> {
        if let Some((_, inner)) = self.frames[here].lists.get(&Rc::as_ptr(&outer)) {
            return inner.clone();
        }
        let elements = outer.elements.iter().map(|e| e.map(|id| self.capture(here, there, id))).collect();
        let inner = Rc::new(List { dtype: outer.dtype, elements });
        self.frames[here].lists.insert(Rc::as_ptr(&outer), (outer, inner.clone()));
        inner
    }

    /// Makes a value of frame `there` known in frame `here`, a body directly inside.
    fn capture(&mut self, here: usize, there: usize, outer: ValueId) -> ValueId {
        if let Some(id) = self.frames[here].inside.get(&outer) {
            return *id;
        }
        let value = self.frames[there].builder.graph.value(outer).clone();
        let dims = self.frames[there].builder.dims.get(&outer).cloned();
        let frame = &mut self.frames[here];
        let is_constant = value.constant.is_some();
        let id = frame.builder.graph.add_value(&value.name, value.ty, value.constant);
        if !is_constant {
            frame.captures.push((outer, id));
        }
        if let Some(dims) = dims {
            frame.builder.dims.insert(id, dims);
        }
        frame.inside.insert(outer, id);
        id
    }
}
