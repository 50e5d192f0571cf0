//! A segment of a function as Cranelift IR: statements, expressions, addresses.
//!
//! Addresses are what matters in scalar code. Each index is taken apart ([`crate::affine`]); before a loop starts, the parts of all addresses
//! inside it that do not change in it are summed into pointers, so that an access inside costs at most one multiply-add, and constants
//! become displacements.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{InstBuilder, MemFlagsData, StackSlot, StackSlotData, StackSlotKind, Value, types};
use cranelift_frontend::{FunctionBuilder, Variable};
use onnxc_ir::DType;
use onnxc_ir::lir::{BufId, Expr, Func, Stmt, Var};
use onnxc_ir::plan::Place;
use onnxc_ir::scalar::BinOp;
use onnxc_targets::{Slot, SlotValue};

use crate::affine::Affine;
use crate::error::{Error, Result};
use crate::scalar::{self, Caps, clif_type};
use crate::segment::{trip_count, visit, walk};

/// What an address starts from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Root {
    /// No pointer: a plain number.
    Number,
    /// Shared arena.
    Arena,
    /// The shared arena, behind the offset that an element of the table of sizes holds.
    Room(u32),
    /// The scratch of this worker.
    Scratch,
    /// Weight blob.
    Weights,
    /// Caller's input.
    Input(u32),
    /// Caller's output.
    Output(u32),
}

impl Root {
    /// Region and byte offset of a place.
    pub fn of(place: Place) -> (Root, i64) {
        match place {
            Place::Arena(at) => (Root::Arena, at as i64),
            Place::Room { slot, byte } => (Root::Room(slot), byte as i64),
            Place::WorkerScratch(at) => (Root::Scratch, at as i64),
            Place::Weights(at) => (Root::Weights, at as i64),
            Place::Input(n) => (Root::Input(n), 0),
            Place::Output(n) => (Root::Output(n), 0),
        }
    }
}

/// Makes calls out of kernels and vector loops; implemented by the plan's generator and by tests.
pub(crate) trait Calls {
    /// Emits a call of a microkernel.
    fn kernel(&mut self, b: &mut FunctionBuilder, kernel: &onnxc_ir::kernel::Kernel, args: &[Value]) -> Result<()>;
    /// The vector form of a loop, if there is one.
    fn vector(&mut self, stmt: &Stmt) -> Option<VectorCall>;
    /// Emits a call of a vector loop with the address of its argument block.
    fn call_vector(&mut self, b: &mut FunctionBuilder, call: &VectorCall, block: Value) -> Result<()>;
}

/// A vector loop to call.
pub(crate) struct VectorCall {
    /// Which function.
    pub code: u32,
    /// What its argument block holds.
    pub slots: Vec<Slot>,
}

/// An address that has been computed: its root, the linear terms in it, the value.
struct Known {
    root: Root,
    terms: Vec<(Expr, i64)>,
    value: Value,
}

/// Code generation of one segment.
pub(crate) struct Lowering<'a, 'f> {
    b: &'a mut FunctionBuilder<'f>,
    func: &'a Func,
    places: &'a [Place],
    caps: Caps,
    calls: &'a mut dyn Calls,
    vars: Vec<Option<Variable>>,
    /// Variables whose value cannot change where it is known: assigned by one statement only.
    single: Vec<bool>,
    defined: Vec<bool>,
    roots: Vec<(Root, Value)>,
    scopes: Vec<Vec<Known>>,
    /// Stack memory for the argument blocks of vector loops, one at a time.
    block: StackSlot,
}

impl<'a, 'f> Lowering<'a, 'f> {
    /// Starts a segment in the builder's current block. `roots` are the base pointers, `block_bytes` the largest argument block of a vector
    /// loop in it.
    pub fn new(
        b: &'a mut FunctionBuilder<'f>,
        func: &'a Func,
        places: &'a [Place],
        caps: Caps,
        calls: &'a mut dyn Calls,
        roots: Vec<(Root, Value)>,
        block_bytes: u32,
    ) -> Lowering<'a, 'f> {
        let n = func.vars.len();
        let mut assignments = vec![0u32; n];
        walk(&func.body, &mut |_| (), &mut |v| assignments[v.0 as usize] += 1);
        let block = b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, block_bytes, 4));
        let single = assignments.iter().map(|n| *n == 1).collect();
        Lowering {
            b,
            func,
            places,
            caps,
            calls,
            vars: vec![None; n],
            single,
            defined: vec![false; n],
            roots,
            scopes: vec![vec![]],
            block,
        }
    }

    /// The builder.
    pub fn builder(&mut self) -> &mut FunctionBuilder<'f> {
        self.b
    }

    /// Assigns a variable.
    pub fn define(&mut self, var: Var, value: Value) -> Result<()> {
        let variable = self.variable(var)?;
        self.b.def_var(variable, value);
        self.defined[var.0 as usize] = true;
        Ok(())
    }

    /// The value of a variable.
    pub fn value(&mut self, var: Var) -> Result<Value> {
        let variable = self.variable(var)?;
        Ok(self.b.use_var(variable))
    }

    fn variable(&mut self, var: Var) -> Result<Variable> {
        let ty = clif_type(self.func.vars[var.0 as usize])?;
        let b = &mut self.b;
        Ok(*self.vars[var.0 as usize].get_or_insert_with(|| b.declare_var(ty)))
    }

    /// Statements in order.
    pub fn block(&mut self, stmts: &[Stmt]) -> Result<()> {
        stmts.iter().try_for_each(|s| self.stmt(s))
    }

    fn scoped(&mut self, stmts: &[Stmt]) -> Result<()> {
        self.scopes.push(vec![]);
        let result = self.block(stmts);
        self.scopes.pop();
        result
    }

    fn stmt(&mut self, stmt: &Stmt) -> Result<()> {
        match stmt {
            Stmt::For { .. } => match self.calls.vector(stmt) {
                Some(call) => self.vector(stmt, &call),
                None => self.serial(stmt),
            },
            Stmt::Set(v, e) => {
                let value = self.expr(e)?;
                self.define(*v, value)
            }
            Stmt::Store(buf, index, e) => {
                let value = self.expr(e)?;
                let (pointer, offset) = self.address(*buf, index)?;
                self.b.ins().store(MemFlagsData::trusted(), value, pointer, offset);
                Ok(())
            }
            Stmt::If(cond, then, otherwise) => self.branch(cond, then, otherwise),
            Stmt::While(cond, body) => self.while_loop(cond, body),
            Stmt::Call(kernel, pointers, ints) => {
                let mut args = Vec::with_capacity(pointers.len() + ints.len());
                for (buf, index) in pointers {
                    args.push(self.pointer(*buf, index)?);
                }
                for e in ints {
                    args.push(self.expr(e)?);
                }
                self.calls.kernel(self.b, kernel, &args)
            }
        }
    }

    fn branch(&mut self, cond: &Expr, then: &[Stmt], otherwise: &[Stmt]) -> Result<()> {
        let cond = self.expr(cond)?;
        let (yes, no, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().brif(cond, yes, &[], no, &[]);
        for (block, stmts) in [(yes, then), (no, otherwise)] {
            self.b.switch_to_block(block);
            self.b.seal_block(block);
            self.scoped(stmts)?;
            self.b.ins().jump(done, &[]);
        }
        self.b.switch_to_block(done);
        self.b.seal_block(done);
        Ok(())
    }

    fn while_loop(&mut self, cond: &Expr, body: &[Stmt]) -> Result<()> {
        self.hoist(body)?;
        let (head, inside, done) = (self.b.create_block(), self.b.create_block(), self.b.create_block());
        self.b.ins().jump(head, &[]);
        self.b.switch_to_block(head);
        self.scopes.push(vec![]);
        let cond = self.expr(cond)?;
        self.scopes.pop();
        self.b.ins().brif(cond, inside, &[], done, &[]);
        self.b.switch_to_block(inside);
        self.b.seal_block(inside);
        self.scoped(body)?;
        self.b.ins().jump(head, &[]);
        self.b.seal_block(head);
        self.b.switch_to_block(done);
        self.b.seal_block(done);
        Ok(())
    }

    /// A counted loop in order. With constant bounds the test is at the end.
    fn serial(&mut self, stmt: &Stmt) -> Result<()> {
        let Stmt::For { var, lo, hi, step, body, .. } = stmt else { return Err(Error::Plan("not a loop".into())) };
        let known = match (lo, hi) {
            (Expr::Int(lo), Expr::Int(hi)) => Some(trip_count(*lo, *hi, *step)),
            _ => None,
        };
        if known == Some(0) {
            return Ok(());
        }
        let (first, bound) = (self.expr(lo)?, self.expr(hi)?);
        self.counted(*var, first, bound, *step, known.is_some(), body)
    }

    /// `for var in first..bound step step`; `runs` promises at least one iteration.
    pub fn counted(&mut self, var: Var, first: Value, bound: Value, step: i64, runs: bool, body: &[Stmt]) -> Result<()> {
        self.hoist(body)?;
        let (inside, done) = (self.b.create_block(), self.b.create_block());
        self.define(var, first)?;
        if runs {
            self.b.ins().jump(inside, &[]);
        } else {
            let some = self.b.ins().icmp(IntCC::SignedLessThan, first, bound);
            self.b.ins().brif(some, inside, &[], done, &[]);
        }
        self.b.switch_to_block(inside);
        // The loop's own variable is fixed inside an iteration, whichever loops share it.
        self.scoped(body)?;
        let at = self.value(var)?;
        let next = self.b.ins().iadd_imm_s(at, step);
        self.define(var, next)?;
        let more = self.b.ins().icmp(IntCC::SignedLessThan, next, bound);
        self.b.ins().brif(more, inside, &[], done, &[]);
        self.b.seal_block(inside);
        self.b.seal_block(done);
        self.b.switch_to_block(done);
        self.defined[var.0 as usize] = false;
        Ok(())
    }

    /// The vector form of a loop, if there is one.
    pub fn vector_form(&mut self, stmt: &Stmt) -> Option<VectorCall> {
        self.calls.vector(stmt)
    }

    fn vector(&mut self, stmt: &Stmt, call: &VectorCall) -> Result<()> {
        let Stmt::For { var, lo, hi, step, .. } = stmt else { return Err(Error::Plan("not a loop".into())) };
        if let (Expr::Int(lo), Expr::Int(hi)) = (lo, hi) {
            let trips = trip_count(*lo, *hi, *step);
            if trips == 0 {
                return Ok(());
            }
            let (first, trips) = (self.b.ins().iconst(types::I64, *lo), self.b.ins().iconst(types::I64, trips as i64));
            return self.call_vector(*var, first, call, trips);
        }
        let (first, bound) = (self.expr(lo)?, self.expr(hi)?);
        self.vector_range(*var, first, bound, *step, call)
    }

    /// A vector loop over `var` in `first..bound step step`.
    pub fn vector_range(&mut self, var: Var, first: Value, bound: Value, step: i64, call: &VectorCall) -> Result<()> {
        // Operands may only be read when the loop runs at all.
        let distance = self.b.ins().isub(bound, first);
        let (run, done) = (self.b.create_block(), self.b.create_block());
        let some = self.b.ins().icmp_imm_s(IntCC::SignedGreaterThan, distance, 0);
        self.b.ins().brif(some, run, &[], done, &[]);
        self.b.switch_to_block(run);
        self.b.seal_block(run);
        let trips = if step == 1 {
            distance
        } else {
            let up = self.b.ins().iadd_imm_s(distance, step - 1);
            let step = self.b.ins().iconst(types::I64, step);
            self.b.ins().udiv(up, step)
        };
        self.call_vector(var, first, call, trips)?;
        self.b.ins().jump(done, &[]);
        self.b.switch_to_block(done);
        self.b.seal_block(done);
        Ok(())
    }

    /// Fills the argument block of a vector loop, calls it, and reads the results.
    fn call_vector(&mut self, var: Var, first: Value, call: &VectorCall, trips: Value) -> Result<()> {
        self.define(var, first)?;
        self.scopes.push(vec![]);
        let mut values = Vec::with_capacity(call.slots.len());
        for slot in &call.slots {
            values.push(match &slot.value {
                SlotValue::Trips => trips,
                SlotValue::Count(e) | SlotValue::Scalar(_, e) => self.expr(e)?,
                SlotValue::Pointer(buf, index) => self.pointer(*buf, index)?,
                SlotValue::Result(var, _) => self.value(*var)?,
            });
        }
        for (slot, value) in call.slots.iter().zip(values) {
            self.b.ins().stack_store(types::I64, value, self.block, slot.offset as i32);
        }
        let block = self.b.ins().stack_addr(types::I64, self.block, 0);
        self.calls.call_vector(self.b, call, block)?;
        for slot in &call.slots {
            if let SlotValue::Result(var, dtype) = &slot.value {
                let value = self.b.ins().stack_load(types::I64, clif_type(*dtype)?, self.block, slot.offset as i32);
                self.define(*var, value)?;
            }
        }
        self.scopes.pop();
        self.defined[var.0 as usize] = false;
        Ok(())
    }

    // --- expressions -------------------------------------------------------------------------------------------------------------

    /// Evaluates an expression here.
    pub fn expr(&mut self, e: &Expr) -> Result<Value> {
        match e {
            Expr::Int(k) => Ok(self.b.ins().iconst(types::I64, *k)),
            Expr::Const(t, bits) => scalar::constant(self.b, *t, *bits),
            Expr::Var(v) => self.value(*v),
            Expr::Load(buf, index) => {
                let ty = clif_type(self.func.bufs[buf.0 as usize].dtype)?;
                let (pointer, offset) = self.address(*buf, index)?;
                Ok(self.b.ins().load(ty, MemFlagsData::trusted(), pointer, offset))
            }
            Expr::Un(op, a) => {
                let value = self.expr(a)?;
                scalar::un(self.b, self.caps, *op, self.func.dtype(a), value)
            }
            Expr::Bin(op, a, c) => {
                let dtype = self.func.dtype(a);
                if dtype == DType::I64 && matches!(op, BinOp::Add | BinOp::Sub | BinOp::Mul) {
                    let form = Affine::of(e, 1);
                    if !matches!(&form.terms[..], [(atom, 1)] if atom == e) {
                        let sum = self.sum(Root::Number, &form.terms)?;
                        return Ok(self.offset(sum, form.constant));
                    }
                }
                let (x, y) = (self.expr(a)?, self.expr(c)?);
                scalar::bin(self.b, self.caps, *op, dtype, x, y)
            }
            Expr::Fma(x, y, z) => {
                let dtype = self.func.dtype(x);
                let (x, y, z) = (self.expr(x)?, self.expr(y)?, self.expr(z)?);
                scalar::fma(self.b, self.caps, dtype, x, y, z)
            }
            Expr::Select(c, x, y) => {
                let (c, x, y) = (self.expr(c)?, self.expr(x)?, self.expr(y)?);
                Ok(self.b.ins().select(c, x, y))
            }
            Expr::Cast(t, a) => {
                let value = self.expr(a)?;
                scalar::cast(self.b, self.func.dtype(a), *t, value)
            }
        }
    }

    // --- addresses ---------------------------------------------------------------------------------------------------------------

    /// Pointer to an element, as a base and a displacement.
    fn address(&mut self, buf: BufId, index: &Expr) -> Result<(Value, i32)> {
        let (root, form) = self.form(buf, index)?;
        let base = self.sum(root, &form.terms)?;
        match i32::try_from(form.constant) {
            Ok(offset) => Ok((base, offset)),
            Err(_) => Ok((self.offset(base, form.constant), 0)),
        }
    }

    /// Pointer to an element.
    pub fn pointer(&mut self, buf: BufId, index: &Expr) -> Result<Value> {
        let (root, form) = self.form(buf, index)?;
        let base = self.sum(root, &form.terms)?;
        Ok(self.offset(base, form.constant))
    }

    fn form(&self, buf: BufId, index: &Expr) -> Result<(Root, Affine)> {
        let place = self.places.get(buf.0 as usize).ok_or_else(|| Error::Plan(format!("buffer {} has no place", buf.0)))?;
        let (root, start) = Root::of(*place);
        let mut form = Affine::of(index, self.func.bufs[buf.0 as usize].dtype.bytes() as i64);
        form.constant = form.constant.wrapping_add(start);
        Ok((root, form))
    }

    fn offset(&mut self, value: Value, by: i64) -> Value {
        if by == 0 { value } else { self.b.ins().iadd_imm_s(value, by) }
    }

    /// True when the expression has one value as long as the current scope lasts.
    fn is_fixed(&self, e: &Expr) -> bool {
        let mut fixed = true;
        visit(e, &mut |e| {
            fixed &= match e {
                Expr::Var(v) => self.single[v.0 as usize] && self.defined[v.0 as usize],
                Expr::Load(..) => false,
                _ => true,
            }
        });
        fixed
    }

    /// Root plus terms, built from the largest part that is known already; remembered if fixed.
    fn sum(&mut self, root: Root, terms: &[(Expr, i64)]) -> Result<Value> {
        let best = self.scopes.iter().flatten().filter(|k| k.root == root && k.terms.iter().all(|t| terms.contains(t)));
        let best = best.max_by_key(|k| k.terms.len());
        let (mut have, mut value) = match best {
            Some(known) => (known.terms.clone(), Some(known.value)),
            None => (vec![], None),
        };
        if have.is_empty() && root != Root::Number {
            let found = self.roots.iter().find(|(r, _)| *r == root).map(|(_, v)| *v);
            value = Some(found.ok_or_else(|| Error::Plan(format!("region {root:?} has no base")))?);
        }
        // Fixed terms first, so that what is remembered is as large as it can be.
        let missing = |fixed: bool, this: &Self, have: &[(Expr, i64)]| -> Vec<(Expr, i64)> {
            terms.iter().filter(|t| !have.contains(t) && this.is_fixed(&t.0) == fixed).cloned().collect()
        };
        let fixed = missing(true, self, &have);
        let remember = !fixed.is_empty();
        for (atom, k) in fixed {
            value = Some(self.plus(value, &atom, k)?);
            have.push((atom, k));
        }
        if let (true, Some(value)) = (remember, value) {
            let scope = self.scopes.last_mut().expect("internal: no scope");
            scope.push(Known { root, terms: have.clone(), value });
        }
        for (atom, k) in missing(false, self, &have) {
            value = Some(self.plus(value, &atom, k)?);
        }
        Ok(match value {
            Some(value) => value,
            None => self.b.ins().iconst(types::I64, 0),
        })
    }

    fn plus(&mut self, sum: Option<Value>, atom: &Expr, k: i64) -> Result<Value> {
        let value = self.expr(atom)?;
        let scaled = match k {
            1 => value,
            k if k > 0 && (k as u64).is_power_of_two() => self.b.ins().ishl_imm_u(value, i64::from(k.trailing_zeros())),
            k => self.b.ins().imul_imm_s(value, k),
        };
        Ok(match sum {
            Some(sum) => self.b.ins().iadd(sum, scaled),
            None => scaled,
        })
    }

    /// Before a loop: computes the parts of the addresses inside it that are fixed already.
    fn hoist(&mut self, body: &[Stmt]) -> Result<()> {
        let mut found: Vec<(BufId, Expr)> = Vec::new();
        collect(body, &mut found);
        for (buf, index) in found {
            let (root, form) = self.form(buf, &index)?;
            let fixed: Vec<(Expr, i64)> = form.terms.into_iter().filter(|(atom, _)| self.is_fixed(atom)).collect();
            if !fixed.is_empty() {
                self.sum(root, &fixed)?;
            }
        }
        Ok(())
    }
}

/// All buffer accesses of a block that scalar code makes.
fn collect(block: &[Stmt], found: &mut Vec<(BufId, Expr)>) {
    let mut pointers: Vec<(BufId, Expr)> = Vec::new();
    walk(
        block,
        &mut |e| {
            visit(e, &mut |e| {
                if let Expr::Load(buf, index) = e {
                    pointers.push((*buf, (**index).clone()));
                }
            });
        },
        &mut |_| (),
    );
    stores(block, &mut pointers);
    for access in pointers {
        if !found.contains(&access) {
            found.push(access);
        }
    }
}

fn stores(block: &[Stmt], found: &mut Vec<(BufId, Expr)>) {
    for stmt in block {
        match stmt {
            Stmt::Store(buf, index, _) => found.push((*buf, index.clone())),
            Stmt::Call(_, pointers, _) => found.extend(pointers.iter().cloned()),
            Stmt::For { body, .. } | Stmt::While(_, body) => stores(body, found),
            Stmt::If(_, a, b) => {
                stores(a, found);
                stores(b, found);
            }
            Stmt::Set(..) => {}
        }
    }
}
