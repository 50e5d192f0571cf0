//! One node to one function.

use onnxc_ir::graph::Node;
use onnxc_ir::lir::{BufKind, Expr, Func, Stmt};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{Lower, View, ViewFn};
use onnxc_ir::scalar::BinOp;
use onnxc_ir::{Attrs, DType, Dim, DimBindings, Tensor, TensorType, ValueId};

use super::caller::renumber;
use super::storage::{Level, Region, Storage, constants_of};
use super::{Draft, PlanError, Planner, regions_of};

/// Why a view of open extents is none.
const DEPENDS_ON_SIZES: &str = "moves elements to places that depend on sizes that come with the call";
/// What to do about sizes that come with the call, where they are in the way.
const ONE_VALUE: &str = "give the dimension one value, or a list of values to choose from: --dim N=1,2,4";

/// For every operand and dimension: its extent is 1, or that of the result.
fn broadcast_is_certain(cx: &LowerCx) -> bool {
    let out = cx.outputs[0].view.dims();
    cx.inputs.iter().flatten().all(|a| {
        let lead = out.len() - a.view.shape.len();
        a.view.dims().iter().zip(&out[lead..]).all(|(n, m)| n.is_one() || n == m)
    })
}

/// The view of a node's result, unless it has not the extents that the result has: then it does not know what to do with open ones.
fn checked(
    view: ViewFn,
    node: &Node,
    from: &View,
    ty: &TensorType,
    (level, out): (&Level, ValueId),
    constants: &[Option<Tensor>],
) -> Option<View> {
    view(&node.attrs, from, &level.extents(out), constants).filter(|v| (from.is_fixed() && v.is_fixed()) || v.dims() == ty.shape)
}

/// Lowers a node whose results have storage.
pub(super) fn call(planner: &mut Planner, level: &Level, node: &Node) -> Result<Draft, PlanError> {
    let operand = |id: &Option<ValueId>| {
        id.map(|id| {
            let storage = level.storage(id).expect("internal: operand without storage");
            (level.graph.ty(id).dtype, storage.view.clone(), level.graph.constant(id).cloned())
        })
    };
    let inputs: Vec<_> = node.inputs.iter().map(operand).collect();
    let result = |id: &ValueId| {
        let storage = level.storage(*id).expect("internal: result without storage");
        (level.graph.ty(*id).dtype, storage.view.clone())
    };
    let outputs: Vec<_> = node.outputs.iter().map(result).collect();
    let name = step_name(planner, node.op.name);
    let error = |reason: String, help| PlanError { origins: node.origins.clone(), op: node.op.name.to_string(), reason, help };
    let mut cx = LowerCx::new(&name, &node.attrs, &inputs, &outputs, planner.target, planner.sizes);
    let region = |id: ValueId| level.storage(id).map(|s| s.region);
    for (i, id) in node.inputs.iter().enumerate() {
        cx.halos[i] = id.and_then(|id| level.storage(id)).and_then(|s| s.halo.clone()).unwrap_or_default();
        cx.in_place[i] = id.is_some_and(|id| region(id) == region(node.outputs[0]));
    }
    let open = cx.inputs.iter().flatten().chain(&cx.outputs).any(|a| !a.view.is_fixed());
    match node.op.lower {
        Lower::Nest(_) if open => {
            return Err(error("has no code yet for sizes that come with the call".into(), Some(ONE_VALUE.into())));
        }
        Lower::Elementwise(_) if !broadcast_is_certain(&cx) => {
            let said = "the sizes of its operands come with the call, and it is not certain which of them are 1";
            return Err(error(said.into(), Some(ONE_VALUE.into())));
        }
        Lower::Elementwise(program) => {
            let dtypes: Vec<DType> = inputs.iter().flatten().map(|(t, ..)| *t).collect();
            let program = program(&node.attrs, &dtypes).map_err(|e| error(e.reason, e.help))?;
            let (out, args) = (cx.output(0), cx.inputs.iter().flatten().cloned().collect::<Vec<_>>());
            cx.map(&program, &out, &args);
        }
        Lower::Nest(lower) | Lower::OpenNest(lower) => lower(&mut cx).map_err(|e| error(e.reason, e.help))?,
        Lower::ViewOrNest(view, lower) => {
            if copy_through_view(&mut cx, level, node, view).is_none() {
                lower(&mut cx).map_err(|e| error(e.reason, e.help))?;
            }
        }
        Lower::View(view) => {
            copy_through_view(&mut cx, level, node, view).ok_or_else(|| error(DEPENDS_ON_SIZES.into(), Some(ONE_VALUE.into())))?
        }
        Lower::None => return Err(error("has no code generation".into(), Some("remove the node from the model".into()))),
    }
    let func = cx.finish();
    let regions = operand_regions(planner, level, node, &func);
    let outputs: Vec<Region> = node.outputs.iter().map(|id| level.storage(*id).expect("internal: has storage").region).collect();
    let regions = regions_of(planner, &func, &regions, &outputs);
    Ok(Draft::Call { func, regions, origins: node.origins.clone(), op: node.op.name.to_string() })
}

/// A view whose results must be written elsewhere (an output, a part of a concatenation): a strided copy of the viewed elements.
fn copy_through_view(cx: &mut LowerCx, level: &Level, node: &Node, view: ViewFn) -> Option<()> {
    for (n, out) in node.outputs.iter().enumerate() {
        let constants = view_constants(level, node, n);
        let ty = level.graph.ty(*out);
        let mut source = cx.input(0);
        match checked(view, node, &source.view, ty, (level, *out), &constants) {
            Some(viewed) => source.view = viewed,
            None => {
                // The operand's strides do not allow the view: copy it row-major first.
                let dense = View::contiguous(&source.view.shape).with_open(source.view.open.clone());
                let Some(viewed) = checked(view, node, &dense, ty, (level, *out), &constants) else {
                    keeps_order(view, level, node, *out).then_some(())?;
                    renumber(cx, &source, &cx.output(n));
                    continue;
                };
                let buf = cx.scratch(source.dtype, dense.shape.iter().product(), false);
                let target = Arg { buf, view: dense, ..source.clone() };
                cx.copy(&source, &target);
                source = Arg { view: viewed, ..target };
            }
        }
        let out = cx.output(n);
        cx.copy(&source, &out);
    }
    Some(())
}

/// Constant operands; views with several results (split) get the number of the result as one more.
fn view_constants(level: &Level, node: &Node, result: usize) -> Vec<Option<Tensor>> {
    let mut constants = constants_of(level.graph, node);
    if node.outputs.len() > 1 {
        constants.push(Some(Tensor::scalar(result as i64)));
    }
    constants
}

impl Planner<'_> {
    /// A view node: its result shares the operand's memory when the strides allow it.
    pub(super) fn view(
        &mut self,
        level: &mut Level,
        node: &Node,
        view: ViewFn,
        drafts: &mut Vec<Draft>,
    ) -> Result<(), PlanError> {
        let x = node.inputs[0].expect("internal: a view has an operand");
        for (n, out) in node.outputs.iter().enumerate() {
            let ty = level.graph.ty(*out).clone();
            let constants = view_constants(level, node, n);
            let storage = level.storage(x).expect("internal: operand has storage").clone();
            let (region, viewed) = match checked(view, node, &storage.view, &ty, (level, *out), &constants) {
                Some(viewed) => (storage.region, viewed),
                None => {
                    let dense = View::contiguous(&storage.view.shape).with_open(storage.view.open.clone());
                    match checked(view, node, &dense, &ty, (level, *out), &constants) {
                        Some(viewed) => (self.dense_copy(level, x, drafts).region, viewed),
                        None if keeps_order(view, level, node, *out) => {
                            let target = self.dense(level, *out);
                            drafts.push(moved(self, level, (x, &target), "renumber", renumber));
                            self.time += 1;
                            (target.region, target.view)
                        }
                        None => {
                            return Err(PlanError {
                                origins: node.origins.clone(),
                                op: node.op.name.to_string(),
                                reason: DEPENDS_ON_SIZES.to_string(),
                                help: Some(ONE_VALUE.to_string()),
                            });
                        }
                    }
                }
            };
            self.touch(region);
            level.set(*out, Storage { region, view: viewed, halo: None });
        }
        Ok(())
    }

    /// A row-major copy of a value, in a new buffer.
    pub(super) fn dense_copy(&mut self, level: &mut Level, id: ValueId, drafts: &mut Vec<Draft>) -> Storage {
        let target = self.dense(level, id);
        drafts.push(copy(self, level, id, &target));
        self.time += 1;
        target
    }

    /// A new buffer that has room for a value.
    fn dense(&mut self, level: &Level, id: ValueId) -> Storage {
        let ty = level.graph.ty(id);
        let shape = ty.bound_shape(self.bounds).expect("internal: planning with unknown extents");
        let view = View::contiguous(&shape).with_open(ty.open());
        Storage { region: self.buffer_for(&view, &[], ty.dtype.bytes()), view, halo: None }
    }
}

/// Does a view only give other coordinates to the elements of its operand, in row-major order? As many they must be at all sizes, or at some of them,
/// and then those of the call are looked at ([`same_count`]); the order is looked at for the largest, or the smallest.
fn keeps_order(view: ViewFn, level: &Level, node: &Node, out: ValueId) -> bool {
    let (x, constants) = (operand(node), constants_of(level.graph, node));
    let at = |sizes: DimBindings| {
        let shape = |id| level.graph.ty(id).shape.iter().map(|d| d.bind(&sizes).as_const()).collect::<Option<Vec<u64>>>();
        let (Some(from), Some(to)) = (shape(x), shape(out)) else { return false };
        from.iter().product::<u64>() == to.iter().product()
            && view(&node.attrs, &View::contiguous(&from), &View::contiguous(&to).extents(), &constants)
                .is_some_and(|v| v.is_contiguous() && v.offset == 0)
    };
    let bounds = || level.bounds.iter().map(|(name, range)| (name.clone(), *range));
    let at_largest = || at(bounds().map(|(name, range)| (name, range.1)).collect());
    if count(level, x) == count(level, out) {
        return at_largest();
    }
    may_disagree(level, node, out) && (at_largest() || at(bounds().map(|(name, range)| (name, range.0.max(1))).collect()))
}

fn operand(node: &Node) -> ValueId {
    node.inputs[0].expect("internal: a view has an operand")
}

fn count(level: &Level, id: ValueId) -> Dim {
    level.graph.ty(id).shape.iter().fold(Dim::Const(1), |n, d| n.mul(d))
}

/// Has a reshape as many elements as its operand at some sizes only, as far as one can see?
fn may_disagree(level: &Level, node: &Node, out: ValueId) -> bool {
    node.op.name == "reshape" && count(level, operand(node)) != count(level, out)
}

/// Steps that end the inference when a reshape has not as many elements as its operand, unless it always has.
pub(super) fn same_count(planner: &mut Planner, level: &Level, node: &Node, view: ViewFn, drafts: &mut Vec<Draft>) {
    let [out] = node.outputs[..] else { return };
    if !may_disagree(level, node, out) || !keeps_order(view, level, node, out) {
        return;
    }
    let shape: Vec<u64> = level.extents(operand(node)).iter().map(|n| n.bound).collect();
    let dense = View::contiguous(&shape).with_open(level.graph.ty(operand(node)).open());
    if checked(view, node, &dense, level.graph.ty(out), (level, out), &constants_of(level.graph, node)).is_some() {
        return;
    }
    let (name, attrs, flag) = (step_name(planner, "agree"), Attrs::default(), View::contiguous(&[]));
    let mut cx = LowerCx::new(&name, &attrs, &[], &[(DType::Bool, flag)], planner.target, planner.sizes);
    let (have, want) = (cx.size(&count(level, operand(node))), cx.size(&count(level, out)));
    let flag = cx.output(0);
    cx.store(&flag, &[], Expr::bin(BinOp::Eq, have, want));
    let (func, region) = (cx.finish(), planner.buffer(1));
    let regions = regions_of(planner, &func, &[], &[region]);
    drafts.push(Draft::Call { func, regions, origins: node.origins.clone(), op: "agree".to_string() });
    planner.time += 1;
    planner.touch(region);
    drafts.push(Draft::Require { cond: (region, 0) });
}

/// A step that copies a value to other storage.
pub(super) fn copy(planner: &mut Planner, level: &Level, id: ValueId, to: &Storage) -> Draft {
    moved(planner, level, (id, to), "copy", |cx, source, target| cx.copy(source, target))
}

/// A step whose code brings a value to other storage.
pub(super) fn moved(
    planner: &mut Planner,
    level: &Level,
    (id, to): (ValueId, &Storage),
    op: &str,
    code: impl FnOnce(&mut LowerCx, &Arg, &Arg),
) -> Draft {
    let from = level.storage(id).expect("internal: copying a value without storage").clone();
    let value = level.graph.value(id);
    let (name, attrs) = (step_name(planner, op), Attrs::default());
    let inputs = [Some((value.ty.dtype, from.view, value.constant.clone()))];
    let mut cx = LowerCx::new(&name, &attrs, &inputs, &[(value.ty.dtype, to.view.clone())], planner.target, planner.sizes);
    let (source, target) = (cx.input(0), cx.output(0));
    code(&mut cx, &source, &target);
    let func = cx.finish();
    let region = resolve(planner, level, from.region, &func, 0);
    let regions = regions_of(planner, &func, &[Some(region)], &[to.region]);
    Draft::Call { func, regions, origins: vec![value.name.clone()], op: op.to_string() }
}

fn operand_regions(planner: &mut Planner, level: &Level, node: &Node, func: &Func) -> Vec<Option<Region>> {
    let region = |(i, id): (usize, &Option<ValueId>)| {
        id.map(|id| {
            let region = level.storage(id).expect("internal: operand has storage").region;
            resolve(planner, level, region, func, i)
        })
    };
    node.inputs.iter().enumerate().map(region).collect()
}

/// A constant goes into the weight blob when the function really reads it (packed weights leave the original behind).
pub(super) fn resolve(planner: &mut Planner, level: &Level, region: Region, func: &Func, input: usize) -> Region {
    let Region::Constant(id) = region else { return region };
    let read = func.bufs.iter().enumerate().any(|(b, buf)| buf.kind == BufKind::Input(input) && reads(&func.body, b as u32));
    if !read {
        return region;
    }
    let tensor = level.graph.constant(id).expect("internal: a constant region names a constant");
    Region::Weights(planner.weights.add(tensor.unpacked().into()))
}

/// Does some statement load from buffer `b` or hand it to a kernel?
fn reads(body: &[Stmt], b: u32) -> bool {
    let in_expr = |e: &Expr| expr_reads(e, b);
    body.iter().any(|stmt| match stmt {
        Stmt::For { lo, hi, body, .. } => in_expr(lo) || in_expr(hi) || reads(body, b),
        Stmt::Set(_, e) => in_expr(e),
        Stmt::Store(_, i, v) => in_expr(i) || in_expr(v),
        Stmt::If(c, x, y) => in_expr(c) || reads(x, b) || reads(y, b),
        Stmt::While(c, x) => in_expr(c) || reads(x, b),
        Stmt::Call(_, ptrs, ints) => ptrs.iter().any(|(p, i)| p.0 == b || in_expr(i)) || ints.iter().any(in_expr),
    })
}

fn expr_reads(e: &Expr, b: u32) -> bool {
    match e {
        Expr::Int(_) | Expr::Const(..) | Expr::Var(_) => false,
        Expr::Load(buf, i) => buf.0 == b || expr_reads(i, b),
        Expr::Un(_, x) | Expr::Cast(_, x) => expr_reads(x, b),
        Expr::Bin(_, x, y) => expr_reads(x, b) || expr_reads(y, b),
        Expr::Fma(x, y, z) | Expr::Select(x, y, z) => expr_reads(x, b) || expr_reads(y, b) || expr_reads(z, b),
    }
}

pub(super) fn step_name(planner: &Planner, op: &str) -> String {
    format!("s{}_{op}", planner.time)
}
