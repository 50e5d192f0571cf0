//! The emitter that makes Cranelift IR: 128-bit vectors, or one lane where the machine has no vectors.
//!
//! Registers are variables of the function builder, so loops and branches need nothing special; Cranelift allocates machine registers.

mod arithmetic;
mod coded;
mod constants;
mod dots;
mod memory;

use cranelift_codegen::ir::condcodes::{FloatCC, IntCC};
use cranelift_codegen::ir::{AbiParam, Block, ConstantData, Function, InstBuilder, MemFlagsData, Type, Value, types};
use cranelift_codegen::isa::CallConv;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use onnxc_ir::DType;
use onnxc_ir::scalar::BinOp;
use target_lexicon::Architecture;

use crate::cpu::{Isa, Target};
use crate::emitter::{Bytes, Dot, Emitter, Lanes, Mem, Opd, Open, Order, P, Table, Ty, V, VUn};
use crate::error::Error;

/// See the module.
pub(crate) struct Clif<'a> {
    b: FunctionBuilder<'a>,
    isa: cranelift_codegen::isa::OwnedTargetIsa,
    vector: bool,
    has_fma: bool,
    has_round: bool,
    /// fmin and fmax are single instructions that propagate NaN.
    has_minmax: bool,
    /// Each byte of a dot product has a register of its own.
    dots_by_bytes: bool,
    params: Vec<Value>,
    vecs: Vec<(Variable, Ty)>,
    in_use: usize,
    ptrs: Vec<Variable>,
    open: Vec<Structure>,
    /// Those of this block.
    constants: Vec<(Type, Vec<u8>, Value)>,
}

/// What `end` closes.
enum Structure {
    Repeat { header: Block, counter: Variable },
    While { header: Block, exit: Block, count: P, k: u32 },
    If { exit: Block },
}

/// Vector registers that kernels may count on; more would be spilled by Cranelift.
const REGISTERS: usize = 30;
const REGISTERS_X86: usize = 15;

impl<'a> Clif<'a> {
    /// A function with `n_args` i64 parameters.
    pub(crate) fn new(
        target: &Target,
        function: &'a mut Function,
        context: &'a mut FunctionBuilderContext,
        n_args: usize,
    ) -> Clif<'a> {
        function.signature.call_conv = CallConv::SystemV;
        for _ in 0..n_args {
            function.signature.params.push(AbiParam::new(types::I64));
        }
        let mut b = FunctionBuilder::new(function, context);
        let entry = b.create_block();
        b.append_block_params_for_function_params(entry);
        b.switch_to_block(entry);
        b.seal_block(entry);
        let params = b.block_params(entry).to_vec();
        Clif {
            b,
            isa: target.isa.clone(),
            vector: target.vectors != Isa::Scalar,
            has_fma: target.has_fma(),
            has_round: target.has_round(),
            has_minmax: matches!(target.isa.triple().architecture, Architecture::Aarch64(_)),
            dots_by_bytes: target.dots_by_bytes(),
            params,
            vecs: Vec::new(),
            in_use: 0,
            ptrs: Vec::new(),
            open: Vec::new(),
            constants: Vec::new(),
        }
    }

    /// Returns from the function and completes it.
    pub(crate) fn finish(mut self) {
        self.b.ins().return_(&[]);
        self.b.finalize(self.isa.frontend_config());
    }

    fn x86(&self) -> bool {
        self.isa.triple().architecture == Architecture::X86_64
    }

    fn ty(&self, ty: Ty) -> Type {
        match (ty, self.vector) {
            (Ty::F32, true) => types::F32X4,
            (_, true) => types::I32X4,
            (Ty::F32, false) => types::F32,
            (_, false) => types::I32,
        }
    }

    fn new_ptr(&mut self, value: Value) -> P {
        let var = self.b.declare_var(types::I64);
        self.b.def_var(var, value);
        self.ptrs.push(var);
        P((self.ptrs.len() - 1) as u16)
    }

    fn ptr(&mut self, p: P) -> Value {
        self.b.use_var(self.ptrs[p.0 as usize])
    }

    /// Value of a register as `ty`.
    fn get(&mut self, v: V, ty: Ty) -> Value {
        let (var, own) = self.vecs[v.0 as usize];
        let value = self.b.use_var(var);
        self.cast(value, own, ty)
    }

    fn set(&mut self, v: V, value: Value, ty: Ty) {
        let (var, own) = self.vecs[v.0 as usize];
        let value = self.cast(value, ty, own);
        self.b.def_var(var, value);
    }

    fn cast(&mut self, value: Value, from: Ty, to: Ty) -> Value {
        let (from, to) = (self.ty(from), self.ty(to));
        if from == to { value } else { self.b.ins().bitcast(to, flags_le(), value) }
    }

    /// Goes on in another block.
    fn switch_to(&mut self, block: Block) {
        self.constants.clear();
        self.b.switch_to_block(block);
    }

    fn opd(&mut self, o: Opd, ty: Ty) -> Value {
        match o {
            Opd::Reg(v) => self.get(v, ty),
            Opd::Const(bits) => self.constant(ty, bits),
        }
    }

    /// Address and offset of a place; offsets beyond 32 bits are added first.
    fn at(&mut self, at: Mem) -> (Value, i32) {
        let base = self.ptr(at.base);
        match i32::try_from(at.disp) {
            Ok(disp) if disp < i32::MAX - 64 => (base, disp),
            _ => {
                let disp = self.b.ins().iconst(types::I64, at.disp);
                (self.b.ins().iadd(base, disp), 0)
            }
        }
    }

    fn n_lanes(&self, lanes: Lanes) -> u32 {
        match lanes {
            Lanes::First(n) => n,
            Lanes::All | Lanes::Tail => self.lanes(),
        }
    }

    /// `x != 0` as a mask of the vector or scalar type.
    fn nonzero(&mut self, x: Value) -> Value {
        let zero = self.constant(Ty::I32, 0);
        self.icmp(IntCC::NotEqual, x, zero)
    }

    fn icmp(&mut self, cc: IntCC, a: Value, b: Value) -> Value {
        let m = self.b.ins().icmp(cc, a, b);
        if self.vector { m } else { self.b.ins().bmask(types::I32, m) }
    }

    fn fcmp(&mut self, cc: FloatCC, a: Value, b: Value) -> Value {
        let m = self.b.ins().fcmp(cc, a, b);
        if self.vector { m } else { self.b.ins().bmask(types::I32, m) }
    }

    /// `mask ? a : b` on values of `ty`.
    fn choose(&mut self, ty: Ty, mask: Value, a: Value, b: Value) -> Value {
        if self.vector {
            let mask = self.cast(mask, Ty::Mask, ty);
            self.b.ins().bitselect(mask, a, b)
        } else {
            self.b.ins().select(mask, a, b)
        }
    }
}

/// Kernels are given valid addresses; elements are aligned to their own size only.
fn flags() -> MemFlagsData {
    MemFlagsData::new().with_notrap()
}

fn flags_le() -> MemFlagsData {
    MemFlagsData::new().with_endianness(cranelift_codegen::ir::Endianness::Little)
}

impl Emitter for Clif<'_> {
    fn lanes(&self) -> u32 {
        if self.vector { 4 } else { 1 }
    }

    fn masks(&self, _: DType) -> bool {
        false
    }

    fn memory(&self, dtype: DType) -> bool {
        use DType::*;
        matches!(dtype, F32 | I32 | U32 | U8 | I8 | U16 | I16 | Bool)
    }

    fn strides(&self, dtype: DType) -> bool {
        self.memory(dtype)
    }

    fn masks_strided(&self, _: DType) -> bool {
        false
    }

    fn alloc(&mut self, ty: Ty) -> Result<V, Error> {
        let var = self.b.declare_var(self.ty(ty));
        self.vecs.push((var, ty));
        self.in_use += 1;
        Ok(V((self.vecs.len() - 1) as u16))
    }

    fn free(&mut self, _: V) {
        self.in_use -= 1;
    }

    fn available(&self) -> usize {
        if self.x86() { REGISTERS_X86 } else { REGISTERS }.saturating_sub(self.in_use)
    }

    fn arg(&mut self, n: usize) -> Result<P, Error> {
        let value = self.params[n];
        Ok(self.new_ptr(value))
    }

    fn load_ptr(&mut self, at: Mem) -> Result<P, Error> {
        let (base, disp) = self.at(at);
        let value = self.b.ins().load(types::I64, flags(), base, disp);
        Ok(self.new_ptr(value))
    }

    fn displaced(&mut self, base: P, by: Mem) -> Result<P, Error> {
        let (at, disp) = self.at(by);
        let by = self.b.ins().sload32(flags(), at, disp);
        let base = self.ptr(base);
        let value = self.b.ins().iadd(base, by);
        Ok(self.new_ptr(value))
    }

    fn copy_ptr(&mut self, p: P) -> Result<P, Error> {
        let value = self.ptr(p);
        Ok(self.new_ptr(value))
    }

    fn free_ptr(&mut self, _: P) {}

    fn advance(&mut self, p: P, bytes: i64) -> Result<(), Error> {
        if bytes != 0 {
            let value = self.ptr(p);
            let step = self.b.ins().iconst(types::I64, bytes);
            let value = self.b.ins().iadd(value, step);
            self.b.def_var(self.ptrs[p.0 as usize], value);
        }
        Ok(())
    }

    fn repeat(&mut self, n: u64) -> Result<Open, Error> {
        let counter = self.b.declare_var(types::I64);
        let start = self.b.ins().iconst(types::I64, n as i64);
        self.b.def_var(counter, start);
        let header = self.b.create_block();
        self.b.ins().jump(header, &[]);
        self.switch_to(header);
        self.open.push(Structure::Repeat { header, counter });
        Ok(Open(self.open.len()))
    }

    fn while_at_least(&mut self, count: P, k: u32) -> Result<Open, Error> {
        let (header, exit) = (self.b.create_block(), self.b.create_block());
        let value = self.ptr(count);
        let k_value = self.b.ins().iconst(types::I64, i64::from(k));
        let go = self.b.ins().icmp(IntCC::SignedGreaterThanOrEqual, value, k_value);
        self.b.ins().brif(go, header, &[], exit, &[]);
        self.switch_to(header);
        self.open.push(Structure::While { header, exit, count, k });
        Ok(Open(self.open.len()))
    }

    fn if_some(&mut self, count: P) -> Result<Open, Error> {
        let (body, exit) = (self.b.create_block(), self.b.create_block());
        let value = self.ptr(count);
        let zero = self.b.ins().iconst(types::I64, 0);
        let go = self.b.ins().icmp(IntCC::SignedGreaterThan, value, zero);
        self.b.ins().brif(go, body, &[], exit, &[]);
        self.b.seal_block(body);
        self.switch_to(body);
        self.open.push(Structure::If { exit });
        Ok(Open(self.open.len()))
    }

    fn if_any(&mut self, mask: V) -> Result<Open, Error> {
        let (body, exit) = (self.b.create_block(), self.b.create_block());
        let mask = self.get(mask, Ty::Mask);
        let any = if self.vector { self.b.ins().vany_true(mask) } else { mask };
        self.b.ins().brif(any, body, &[], exit, &[]);
        self.b.seal_block(body);
        self.switch_to(body);
        self.open.push(Structure::If { exit });
        Ok(Open(self.open.len()))
    }

    fn end(&mut self, open: Open) -> Result<(), Error> {
        assert_eq!(open.0, self.open.len(), "internal: targets: structures close in order");
        let exit = match self.open.pop().expect("internal: targets: nothing is open") {
            Structure::Repeat { header, counter } => {
                let value = self.b.use_var(counter);
                let minus = self.b.ins().iconst(types::I64, -1);
                let value = self.b.ins().iadd(value, minus);
                self.b.def_var(counter, value);
                let exit = self.b.create_block();
                self.b.ins().brif(value, header, &[], exit, &[]);
                self.b.seal_block(header);
                exit
            }
            Structure::While { header, exit, count, k } => {
                self.advance(count, -i64::from(k))?;
                let value = self.ptr(count);
                let k_value = self.b.ins().iconst(types::I64, i64::from(k));
                let go = self.b.ins().icmp(IntCC::SignedGreaterThanOrEqual, value, k_value);
                self.b.ins().brif(go, header, &[], exit, &[]);
                self.b.seal_block(header);
                exit
            }
            Structure::If { exit } => {
                self.b.ins().jump(exit, &[]);
                exit
            }
        };
        self.b.seal_block(exit);
        self.switch_to(exit);
        Ok(())
    }

    fn set_tail(&mut self, _: P) -> Result<(), Error> {
        Err(Error::Internal("128-bit code has no masks".to_string()))
    }

    fn load(&mut self, d: V, dtype: DType, at: Mem, lanes: Lanes) -> Result<(), Error> {
        self.emit_load(d, dtype, at, lanes)
    }

    fn load_numbers(&mut self, d: V, at: Mem, _: u32) -> Result<(), Error> {
        self.emit_load_numbers(d, at)
    }

    fn load_table(&mut self, from: P) -> Result<Table, Error> {
        self.emit_load_table(from)
    }

    fn look_up(&mut self, d: V, table: Table, at: Mem, nibble: u32) -> Result<(), Error> {
        self.emit_look_up(d, table, at, nibble)
    }

    fn splat(&mut self, d: V, dtype: DType, at: Mem) -> Result<(), Error> {
        self.emit_splat(d, dtype, at)
    }

    fn store(&mut self, v: V, dtype: DType, at: Mem, lanes: Lanes) -> Result<(), Error> {
        self.emit_store(v, dtype, at, lanes)
    }

    fn packs(&self) -> bool {
        self.vector
    }

    fn store_bytes(&mut self, v: &[V], at: &[(Mem, Lanes)], bytes: &Bytes, order: Order) -> Result<(), Error> {
        debug_assert_eq!(order, Order::Natural, "internal: targets: columns of other machines");
        self.emit_store_bytes(v, at, bytes);
        Ok(())
    }

    fn gather(&mut self, d: V, dtype: DType, at: Mem, stride: i64, lanes: Lanes) -> Result<(), Error> {
        self.emit_gather(d, dtype, at, stride, lanes)
    }

    fn scatter(&mut self, v: V, dtype: DType, at: Mem, stride: i64, lanes: Lanes) -> Result<(), Error> {
        self.emit_scatter(v, dtype, at, stride, lanes)
    }

    fn prefetch(&mut self, _: Mem, _: bool) -> Result<(), Error> {
        Ok(())
    }

    fn copy(&mut self, ty: Ty, d: V, s: Opd) -> Result<(), Error> {
        let value = self.opd(s, ty);
        self.set(d, value, ty);
        Ok(())
    }

    fn fuses(&self) -> bool {
        self.has_fma
    }

    fn fma(&mut self, d: V, a: Opd, b: Opd, c: Opd) -> Result<(), Error> {
        let (a, b, c) = (self.opd(a, Ty::F32), self.opd(b, Ty::F32), self.opd(c, Ty::F32));
        let value = self.mul_add(a, b, c);
        self.set(d, value, Ty::F32);
        Ok(())
    }

    fn bin(&mut self, op: BinOp, ty: Ty, d: V, a: Opd, b: Opd) -> Result<(), Error> {
        if let (BinOp::Shl | BinOp::Shr, Opd::Const(n)) = (op, b) {
            let x = self.opd(a, ty);
            let n = i64::from(n & 31);
            let value = if op == BinOp::Shl { self.b.ins().ishl_imm_s(x, n) } else { self.b.ins().sshr_imm_s(x, n) };
            self.set(d, value, ty);
            return Ok(());
        }
        let plain = |o: Opd| matches!(o, Opd::Const(bits) if !f32::from_bits(bits).is_nan());
        // A constant that is no NaN goes second: NaN comes from the first then.
        let (a, b) = if matches!(op, BinOp::Min | BinOp::Max) && plain(a) { (b, a) } else { (a, b) };
        let second_is_plain = plain(b);
        let (x, y) = (self.opd(a, ty), self.opd(b, ty));
        let value = match (op, ty) {
            (BinOp::Add, Ty::F32) => self.b.ins().fadd(x, y),
            (BinOp::Sub, Ty::F32) => self.b.ins().fsub(x, y),
            (BinOp::Mul, Ty::F32) => self.b.ins().fmul(x, y),
            (BinOp::Div, Ty::F32) => self.b.ins().fdiv(x, y),
            (BinOp::Min | BinOp::Max, Ty::F32) if second_is_plain && !self.has_minmax => {
                let cc = if op == BinOp::Max { FloatCC::LessThan } else { FloatCC::GreaterThan };
                let other = self.fcmp(cc, x, y);
                self.choose(Ty::F32, other, y, x)
            }
            (BinOp::Min, Ty::F32) => self.b.ins().fmin(x, y),
            (BinOp::Max, Ty::F32) => self.b.ins().fmax(x, y),
            (BinOp::Add, _) => self.b.ins().iadd(x, y),
            (BinOp::Sub, _) => self.b.ins().isub(x, y),
            (BinOp::Mul, _) => self.b.ins().imul(x, y),
            (BinOp::Min, _) if self.vector && !self.x86() => self.b.ins().smin(x, y),
            (BinOp::Max, _) if self.vector && !self.x86() => self.b.ins().smax(x, y),
            (BinOp::Min | BinOp::Max, _) => {
                let cc = if op == BinOp::Max { IntCC::SignedGreaterThan } else { IntCC::SignedLessThan };
                let first = self.icmp(cc, x, y);
                self.choose(Ty::I32, first, x, y)
            }
            (BinOp::And, _) => self.b.ins().band(x, y),
            (BinOp::Or, _) => self.b.ins().bor(x, y),
            (BinOp::Xor, _) => self.b.ins().bxor(x, y),
            _ => return Err(Error::Unsupported(format!("{op:?} on vectors of {ty:?}"))),
        };
        self.set(d, value, ty);
        Ok(())
    }

    fn cmp(&mut self, op: BinOp, ty: Ty, d: V, a: Opd, b: Opd) -> Result<(), Error> {
        let (x, y) = (self.opd(a, ty), self.opd(b, ty));
        let value = if ty == Ty::F32 {
            let cc = match op {
                BinOp::Eq => FloatCC::Equal,
                BinOp::Ne => FloatCC::NotEqual,
                BinOp::Lt => FloatCC::LessThan,
                BinOp::Le => FloatCC::LessThanOrEqual,
                BinOp::Gt => FloatCC::GreaterThan,
                _ => FloatCC::GreaterThanOrEqual,
            };
            self.fcmp(cc, x, y)
        } else {
            let cc = match op {
                BinOp::Eq => IntCC::Equal,
                BinOp::Ne => IntCC::NotEqual,
                BinOp::Lt => IntCC::SignedLessThan,
                BinOp::Le => IntCC::SignedLessThanOrEqual,
                BinOp::Gt => IntCC::SignedGreaterThan,
                _ => IntCC::SignedGreaterThanOrEqual,
            };
            self.icmp(cc, x, y)
        };
        self.set(d, value, Ty::Mask);
        Ok(())
    }

    fn un(&mut self, op: VUn, ty: Ty, d: V, a: V) -> Result<(), Error> {
        let x = self.get(a, ty);
        let (value, ty) = match (op, ty) {
            (VUn::Neg, Ty::F32) => (self.b.ins().fneg(x), Ty::F32),
            (VUn::Neg, _) => (self.b.ins().ineg(x), ty),
            (VUn::Abs, Ty::F32) => (self.b.ins().fabs(x), Ty::F32),
            (VUn::Abs, _) => (self.b.ins().iabs(x), ty),
            (VUn::RecipNear, _) => {
                let one = self.opd(Opd::Const(1f32.to_bits()), Ty::F32);
                (self.b.ins().fdiv(one, x), Ty::F32)
            }
            (VUn::Sqrt, _) => (self.b.ins().sqrt(x), Ty::F32),
            (VUn::Floor | VUn::Ceil | VUn::Trunc | VUn::Round, _) if !self.has_round => (self.round_by_hand(op, x), Ty::F32),
            (VUn::Floor, _) => (self.b.ins().floor(x), Ty::F32),
            (VUn::Ceil, _) => (self.b.ins().ceil(x), Ty::F32),
            (VUn::Trunc, _) => (self.b.ins().trunc(x), Ty::F32),
            (VUn::Round, _) => (self.b.ins().nearest(x), Ty::F32),
            (VUn::Not, _) => (self.b.ins().bnot(x), ty),
            (VUn::ToInt, _) => (self.b.ins().fcvt_to_sint_sat(if self.vector { types::I32X4 } else { types::I32 }, x), Ty::I32),
            (VUn::ToNearest | VUn::NumberToNearest, _) => (self.nearest_int_of(x, op == VUn::NumberToNearest), Ty::I32),
            (VUn::ToFloat, _) => (self.b.ins().fcvt_from_sint(if self.vector { types::F32X4 } else { types::F32 }, x), Ty::F32),
        };
        self.set(d, value, ty);
        Ok(())
    }

    fn select(&mut self, ty: Ty, d: V, mask: V, a: Opd, b: Opd) -> Result<(), Error> {
        let (m, x, y) = (self.get(mask, Ty::Mask), self.opd(a, ty), self.opd(b, ty));
        let value = self.choose(ty, m, x, y);
        self.set(d, value, ty);
        Ok(())
    }

    fn rotate(&mut self, ty: Ty, d: V, a: V, k: u32) -> Result<(), Error> {
        let x = self.get(a, ty);
        let value = if self.vector {
            let x = self.b.ins().bitcast(types::I8X16, flags_le(), x);
            let bytes: [u8; 16] = std::array::from_fn(|i| ((i + 4 * k as usize) % 16) as u8);
            let mask = self.b.func.dfg.immediates.push(ConstantData::from(&bytes[..]));
            let x = self.b.ins().shuffle(x, x, mask);
            let ty = self.ty(ty);
            self.b.ins().bitcast(ty, flags_le(), x)
        } else {
            x
        };
        self.set(d, value, ty);
        Ok(())
    }

    fn interleave(&mut self, ty: Ty, d: V, a: V, b: V, unit: u32, high: bool) -> Result<(), Error> {
        if !self.vector || unit > 2 {
            return Err(Error::Internal("interleaving with one lane".to_string()));
        }
        let value = self.interleaved(ty, a, b, unit as usize, high);
        self.set(d, value, ty);
        Ok(())
    }

    fn bitcast(&mut self, d: V, to: Ty, a: V, from: Ty) -> Result<(), Error> {
        let value = self.get(a, from);
        let value = self.cast(value, from, to);
        self.set(d, value, to);
        Ok(())
    }

    fn fill_inactive(&mut self, ty: Ty, d: V, lanes: Lanes, bits: u32) -> Result<(), Error> {
        let n = self.n_lanes(lanes);
        if n == self.lanes() {
            return Ok(());
        }
        let words: Vec<u8> = (0..4).flat_map(|i| if i < n { u32::MAX } else { 0 }.to_le_bytes()).collect();
        let handle = self.b.func.dfg.constants.insert(ConstantData::from(&words[..]));
        let mask = self.b.ins().vconst(types::I32X4, handle);
        let (x, fill) = (self.get(d, ty), self.constant(ty, bits));
        let value = self.choose(ty, mask, x, fill);
        self.set(d, value, ty);
        Ok(())
    }

    fn dot_parts(&self, of: Dot) -> usize {
        match (self.dots_by_bytes, of) {
            (true, Dot::Words) => 2,
            (true, _) => 4,
            (false, _) => 1,
        }
    }

    fn dot_temps(&self, _: Dot) -> usize {
        4
    }

    fn dot_load_b(&mut self, d: &[V], at: Mem, of: Dot) -> Result<(), Error> {
        self.emit_dot_load_b(d, at, of)
    }

    fn dot_splat_a(&mut self, d: &[V], at: Mem, of: Dot) -> Result<(), Error> {
        self.emit_dot_splat_a(d, at, of)
    }

    fn dot(&mut self, acc: V, a: &[V], b: &[V], of: Dot) -> Result<(), Error> {
        self.emit_dot(acc, a, b, of);
        Ok(())
    }
}
