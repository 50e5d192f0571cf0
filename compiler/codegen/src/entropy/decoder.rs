//! The decoder in generated code: `NAME_unpack`, which goes over the runs, and the functions below it for a lane and for a stream.
//!
//! All work is done in the caller's memory and on the stack, where the table of a stream is. Nothing is known of the weights but their size, so that the same
//! code serves every model; targets differ in what Cranelift makes of it.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{
    Block, Function, InstBuilder, MemFlagsData, Signature, StackSlotData, StackSlotKind, Type, Value, types,
};
use cranelift_codegen::isa::TargetIsa;
use cranelift_frontend::{FunctionBuilder, FunctionBuilderContext, Variable};
use onnxc_runtime::abi;

use super::rans::{LOW, SCALE, SCALE_BITS, STATES};
use super::{KIND_FILL, KIND_RANS};
use crate::entry::{ARENA_ALIGN, DATA_WEIGHTS, check_cpu, run_signature};
use crate::generate::{Helpers, Options, start};
use crate::machine::{Code, FuncIx, Unit, import, import_data, signature};

/// Bytes of an entry of the decoder's table: symbol in 8 bits, its frequency in 12, the distance from the first entry of the symbol in 12.
const ENTRY: u32 = 4;
const FREQUENCY_SHIFT: i64 = 8;
const DISTANCE_SHIFT: i64 = 20;

/// The exported function for weights of so many bytes; `add` takes the functions that it calls, and gives them numbers.
pub(crate) fn unpack(
    bytes: u64,
    helpers: Helpers,
    options: &Options,
    isa: &dyn TargetIsa,
    add: &mut dyn FnMut(Unit) -> FuncIx,
) -> Unit {
    let lane = (bytes > 0).then(|| {
        let stream = add(unit(options, "unpack_stream", isa, signature(4, 1), |e, p| e.stream(p)));
        add(unit(options, "unpack_lane", isa, signature(3, 1), |e, p| e.lane(p, stream)))
    });
    let unit = unit(options, "unpack", isa, run_signature(), |e, p| e.unpack(p[0], bytes, lane, helpers));
    Unit { export: true, ..unit }
}

/// A function whose body is what `body` makes of its parameters.
fn unit(
    options: &Options,
    name: &str,
    isa: &dyn TargetIsa,
    signature: Signature,
    body: impl FnOnce(&mut Emit, &[Value]),
) -> Unit {
    let mut function = Function::new();
    function.signature = signature;
    let answer = function.signature.returns[0].value_type;
    let mut context = FunctionBuilderContext::new();
    let mut b = FunctionBuilder::new(&mut function, &mut context);
    let params = start(&mut b);
    let fail = b.create_block();
    b.append_block_param(fail, answer);
    let mut e = Emit { b, fail, answer };
    body(&mut e, &params);
    e.enter(fail);
    let value = e.b.block_params(fail)[0];
    e.b.ins().return_(&[value]);
    e.b.finalize(isa.frontend_config());
    Unit { name: format!("{}_{name}", options.name), export: false, code: Code::Clif(Box::new(function)) }
}

/// The function that is being built.
struct Emit<'f> {
    b: FunctionBuilder<'f>,
    /// Returns its parameter.
    fail: Block,
    /// The type of what the function returns.
    answer: Type,
}

/// What the functions are made of.
impl Emit<'_> {
    fn variable(&mut self, value: Value) -> Variable {
        let variable = self.b.declare_var(types::I64);
        self.b.def_var(variable, value);
        variable
    }

    /// Adds a constant to a variable.
    fn advance(&mut self, variable: Variable, by: i64) {
        let value = self.b.use_var(variable);
        let value = self.b.ins().iadd_imm_s(value, by);
        self.b.def_var(variable, value);
    }

    /// Adds a value to a variable.
    fn advance_by(&mut self, variable: Variable, by: Value) {
        let value = self.b.use_var(variable);
        let value = self.b.ins().iadd(value, by);
        self.b.def_var(variable, value);
    }

    /// An unsigned number of 8, 16 or 32 bits.
    fn load(&mut self, ty: Type, at: Value, offset: i32) -> Value {
        let value = self.b.ins().load(ty, MemFlagsData::trusted(), at, offset);
        self.b.ins().uextend(types::I64, value)
    }

    fn load_at(&mut self, ty: Type, at: Variable, offset: i32) -> Value {
        let at = self.b.use_var(at);
        self.load(ty, at, offset)
    }

    fn enter(&mut self, block: Block) {
        self.b.switch_to_block(block);
        self.b.seal_block(block);
    }

    /// `while condition { body }`, with the condition at the end too, so that an iteration jumps once.
    fn repeat(&mut self, condition: impl Fn(&mut Self) -> Value, body: impl FnOnce(&mut Self)) {
        let (inside, done) = (self.b.create_block(), self.b.create_block());
        let go = condition(self);
        self.b.ins().brif(go, inside, &[], done, &[]);
        self.b.switch_to_block(inside);
        body(self);
        let go = condition(self);
        self.b.ins().brif(go, inside, &[], done, &[]);
        self.b.seal_block(inside);
        self.enter(done);
    }

    /// `if condition { body }`.
    fn when(&mut self, condition: Value, body: impl FnOnce(&mut Self)) {
        let (inside, done) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(condition, inside, &[], done, &[]);
        self.enter(inside);
        body(self);
        self.b.ins().jump(done, &[]);
        self.enter(done);
    }

    /// Ends the function with this value if `condition` is true.
    fn leave_if(&mut self, condition: Value, value: i64) {
        let value = self.b.ins().iconst(self.answer, value);
        let go_on = self.b.create_block();
        self.b.ins().brif(condition, self.fail, &[value.into()], go_on, &[]);
        self.enter(go_on);
    }

    /// Is a variable below a value?
    fn below(&mut self, x: Variable, end: Value) -> Value {
        let x = self.b.use_var(x);
        self.b.ins().icmp(IntCC::UnsignedLessThan, x, end)
    }

    /// The next multiple of 4.
    fn aligned(&mut self, at: Value) -> Value {
        let at = self.b.ins().iadd_imm_s(at, 3);
        self.b.ins().band_imm_s(at, -4)
    }
}

/// The weights and their lanes.
impl Emit<'_> {
    /// `i32 unpack(weights)`: looks at what it is given, then decodes all runs.
    fn unpack(&mut self, weights: Value, bytes: u64, lane: Option<FuncIx>, helpers: Helpers) {
        if let Some(lane) = lane {
            let null = self.b.ins().icmp_imm_u(IntCC::Equal, weights, 0);
            self.leave_if(null, i64::from(abi::ONNXC_NULL));
            let low = self.b.ins().band_imm_u(weights, ARENA_ALIGN as i64 - 1);
            self.leave_if(low, i64::from(abi::ONNXC_MISALIGNED));
            check_cpu(&mut self.b, helpers, self.fail);
            self.runs(weights, bytes, lane);
        }
        let ok = self.b.ins().iconst(self.answer, i64::from(abi::ONNXC_OK));
        self.b.ins().return_(&[ok]);
    }

    fn runs(&mut self, weights: Value, bytes: u64, lane: FuncIx) {
        let data = import_data(self.b.func, DATA_WEIGHTS);
        let coded = self.b.ins().symbol_value(types::I64, data);
        let (at, to) = (self.variable(coded), self.variable(weights));
        let end = self.b.ins().iadd_imm_s(weights, bytes as i64);
        let lane = import(self.b.func, lane, signature(3, 1));
        self.repeat(
            |e| e.below(to, end),
            |e| {
                let (size, period) = (e.load_at(types::I32, at, 0), e.load_at(types::I32, at, 4));
                e.advance(at, 8);
                let first = e.b.use_var(to);
                let (next, last) = (e.variable(first), e.b.ins().iadd(first, period));
                e.repeat(
                    |e| e.below(next, last),
                    |e| {
                        let (from, first) = (e.b.use_var(at), e.b.use_var(next));
                        let call = e.b.ins().call(lane, &[from, first, period]);
                        let behind = e.b.inst_results(call)[0];
                        let damaged = e.b.ins().icmp_imm_u(IntCC::Equal, behind, 0);
                        e.leave_if(damaged, i64::from(abi::ONNXC_DATA));
                        e.b.def_var(at, behind);
                        e.advance(next, 1);
                    },
                );
                e.advance_by(to, size);
            },
        );
    }

    /// `lane(at, to, stride)`: decodes a lane; answers what is behind it, or 0 if it is damaged.
    fn lane(&mut self, p: &[Value], stream: FuncIx) {
        let [at, to, stride] = [p[0], p[1], p[2]];
        let (count, kind) = (self.load(types::I32, at, 0), self.load(types::I32, at, 4));
        let (at, fill) = (self.b.ins().iadd_imm_s(at, 8), self.b.ins().ushr_imm_u(kind, 8));
        let kind = self.b.ins().band_imm_u(kind, 255);
        let coded = self.b.ins().icmp_imm_u(IntCC::Equal, kind, i64::from(KIND_RANS));
        self.instead_if(coded, |e| {
            let stream = import(e.b.func, stream, signature(4, 1));
            let call = e.b.ins().call(stream, &[at, to, count, stride]);
            e.b.inst_results(call)[0]
        });
        let filled = self.b.ins().icmp_imm_u(IntCC::Equal, kind, i64::from(KIND_FILL));
        self.instead_if(filled, |e| {
            let eight = e.b.ins().imul_imm_u(fill, 0x0101_0101_0101_0101);
            e.spread((to, count, stride), |_, _, _| eight);
            at
        });
        self.spread((to, count, stride), |e, ty, done| {
            let from = e.b.ins().iadd(at, done);
            let value = e.b.ins().load(ty, MemFlagsData::trusted(), from, 0);
            if ty == types::I64 { value } else { e.b.ins().uextend(types::I64, value) }
        });
        let behind = self.b.ins().iadd(at, count);
        let behind = self.aligned(behind);
        self.b.ins().return_(&[behind]);
    }

    /// Ends the function with what `body` makes if `condition` is true.
    fn instead_if(&mut self, condition: Value, body: impl FnOnce(&mut Self) -> Value) {
        let (inside, go_on) = (self.b.create_block(), self.b.create_block());
        self.b.ins().brif(condition, inside, &[], go_on, &[]);
        self.enter(inside);
        let answer = body(self);
        self.b.ins().return_(&[answer]);
        self.enter(go_on);
    }

    /// Writes `count` bytes, `stride` apart: `bytes` gives the next eight of them, or the next one, behind so many.
    fn spread(&mut self, (to, count, stride): (Value, Value, Value), bytes: impl Fn(&mut Self, Type, Value) -> Value) {
        let dense = self.b.ins().icmp_imm_u(IntCC::Equal, stride, 1);
        let (eights, none) = (self.b.ins().band_imm_s(count, -8), self.b.ins().iconst(types::I64, 0));
        let dense = self.b.ins().select(dense, eights, none);
        let (place, done) = (self.variable(to), self.variable(none));
        let flags = MemFlagsData::trusted();
        self.repeat(
            |e| e.below(done, dense),
            |e| {
                let (at, n) = (e.b.use_var(place), e.b.use_var(done));
                let value = bytes(e, types::I64, n);
                // Weights are aligned, but a run need not begin at a multiple of eight.
                e.b.ins().store(flags, value, at, 0);
                e.advance(place, 8);
                e.advance(done, 8);
            },
        );
        self.repeat(
            |e| e.below(done, count),
            |e| {
                let (at, n) = (e.b.use_var(place), e.b.use_var(done));
                let value = bytes(e, types::I8, n);
                e.b.ins().istore8(flags, value, at, 0);
                e.advance_by(place, stride);
                e.advance(done, 1);
            },
        );
    }
}

/// A stream of the range coder.
impl Emit<'_> {
    /// `stream(at, to, count, stride)`: decodes table and stream; answers what is behind them, or 0 if the states do not end where they began.
    fn stream(&mut self, p: &[Value]) {
        let [at, to, count, stride] = [p[0], p[1], p[2], p[3]];
        let slot = self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, SCALE * ENTRY, 4));
        let table = self.b.ins().stack_addr(types::I64, slot, 0);
        let (at, to, left) = (self.variable(at), self.variable(to), self.variable(count));
        self.table(at, table);
        let mut states = Vec::new();
        for i in 0..STATES {
            let state = self.load_at(types::I32, at, 4 * i as i32);
            states.push(self.variable(state));
        }
        self.advance(at, 4 * STATES as i64);
        self.repeat(
            |e| {
                let left = e.b.use_var(left);
                e.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThanOrEqual, left, STATES as i64)
            },
            |e| {
                states.iter().for_each(|x| e.symbol(*x, table, to, stride));
                states.iter().for_each(|x| e.refill(*x, at));
                e.advance(left, -(STATES as i64));
            },
        );
        for (i, x) in states.iter().enumerate().take(STATES - 1) {
            let rest = self.b.use_var(left);
            let one_more = self.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, rest, i as i64);
            self.when(one_more, |e| {
                e.symbol(*x, table, to, stride);
                e.refill(*x, at);
            });
        }
        for x in states {
            let x = self.b.use_var(x);
            let damaged = self.b.ins().icmp_imm_u(IntCC::NotEqual, x, i64::from(LOW));
            self.leave_if(damaged, 0);
        }
        let behind = self.b.use_var(at);
        let behind = self.aligned(behind);
        self.b.ins().return_(&[behind]);
    }

    /// Reads frequencies and makes of them a table of all values that the low bits of a state may have.
    fn table(&mut self, at: Variable, table: Value) {
        let none = self.b.ins().iconst(types::I64, 0);
        let end = self.b.ins().iadd_imm_s(table, i64::from(SCALE * ENTRY));
        let (next, symbol) = (self.variable(table), self.variable(none));
        self.repeat(
            |e| e.below(next, end),
            |e| {
                let first = e.load_at(types::I8, at, 0);
                e.advance(at, 1);
                let frequency = e.variable(first);
                let absent = e.b.ins().icmp_imm_u(IntCC::Equal, first, 0);
                e.when(absent, |e| {
                    let more = e.load_at(types::I8, at, 0);
                    e.advance(at, 1);
                    e.advance_by(symbol, more);
                });
                let large = e.b.ins().icmp_imm_u(IntCC::UnsignedGreaterThan, first, 127);
                e.when(large, |e| {
                    let (high, low) = (e.b.ins().band_imm_u(first, 127), e.load_at(types::I8, at, 0));
                    let high = e.b.ins().ishl_imm_u(high, 8);
                    let both = e.b.ins().bor(high, low);
                    e.b.def_var(frequency, both);
                    e.advance(at, 1);
                });
                e.entries(next, symbol, frequency, end);
                e.advance(symbol, 1);
            },
        );
        let behind = self.b.use_var(at);
        let behind = self.aligned(behind);
        self.b.def_var(at, behind);
    }

    /// The entries of one symbol; none behind `end`, whatever the frequency is.
    fn entries(&mut self, next: Variable, symbol: Variable, frequency: Variable, end: Value) {
        let (from, symbol, frequency) = (self.b.use_var(next), self.b.use_var(symbol), self.b.use_var(frequency));
        let shifted = self.b.ins().ishl_imm_u(frequency, FREQUENCY_SHIFT);
        let entry = self.b.ins().bor(shifted, symbol);
        let entry = self.variable(entry);
        let bytes = self.b.ins().imul_imm_u(frequency, i64::from(ENTRY));
        let behind = self.b.ins().iadd(from, bytes);
        let behind = self.b.ins().umin(behind, end);
        self.repeat(
            |e| e.below(next, behind),
            |e| {
                let (place, value) = (e.b.use_var(next), e.b.use_var(entry));
                e.b.ins().istore32(MemFlagsData::trusted(), value, place, 0);
                e.advance(next, i64::from(ENTRY));
                e.advance(entry, 1 << DISTANCE_SHIFT);
            },
        );
    }

    /// Takes a symbol out of a state and writes it.
    fn symbol(&mut self, state: Variable, table: Value, to: Variable, stride: Value) {
        let (x, place) = (self.b.use_var(state), self.b.use_var(to));
        let slot = self.b.ins().band_imm_u(x, i64::from(SCALE) - 1);
        let slot = self.b.ins().ishl_imm_u(slot, i64::from(ENTRY.ilog2()));
        let at = self.b.ins().iadd(table, slot);
        let entry = self.load(types::I32, at, 0);
        self.b.ins().istore8(MemFlagsData::trusted(), entry, place, 0);
        self.advance_by(to, stride);
        let frequency = self.b.ins().ushr_imm_u(entry, FREQUENCY_SHIFT);
        let frequency = self.b.ins().band_imm_u(frequency, i64::from(SCALE) - 1);
        let distance = self.b.ins().ushr_imm_u(entry, DISTANCE_SHIFT);
        let x = self.b.ins().ushr_imm_u(x, i64::from(SCALE_BITS));
        let x = self.b.ins().imul(x, frequency);
        let x = self.b.ins().iadd(x, distance);
        self.b.def_var(state, x);
    }

    /// Gives a state that has become small the next word. The word is read in any case: a jump would be a guess.
    fn refill(&mut self, state: Variable, at: Variable) {
        let (x, word) = (self.b.use_var(state), self.load_at(types::I16, at, 0));
        let more = self.b.ins().ishl_imm_u(x, 16);
        let more = self.b.ins().bor(more, word);
        let small = self.b.ins().icmp_imm_u(IntCC::UnsignedLessThan, x, i64::from(LOW));
        let x = self.b.ins().select(small, more, x);
        self.b.def_var(state, x);
        let read = self.b.ins().uextend(types::I64, small);
        let read = self.b.ins().ishl_imm_u(read, 1);
        self.advance_by(at, read);
    }
}
