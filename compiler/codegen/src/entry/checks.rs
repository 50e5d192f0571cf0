//! What the entry does before the first step: the caller's pointers and sizes are checked, and the context and the table of sizes filled.

use cranelift_codegen::ir::condcodes::IntCC;
use cranelift_codegen::ir::{AbiParam, Block, InstBuilder, MemFlagsData, StackSlotData, StackSlotKind, Value, types};
use cranelift_frontend::FunctionBuilder;
use onnxc_ir::plan::Place;
use onnxc_ir::{Dim, DimBindings};
use onnxc_runtime::abi;

use super::{CALL_ARENA, CALL_INPUTS, CALL_OUTPUTS, DATA_CPU_OK, Entry};
use crate::dispatch::{CALL_COUNTS, CALL_DIMS, Symbols};
use crate::error::Result;
use crate::generate::{CTX_ARENA, CTX_INPUTS, CTX_OUTPUTS, CTX_WEIGHTS, Helpers};
use crate::machine::{import, import_data, signature};

/// A buffer of the caller.
struct Range {
    pointer: Value,
    /// Size, if it is not 0.
    bytes: Option<Value>,
    /// The output whose buffer it may be.
    twin: Option<Value>,
}

impl Entry<'_, '_> {
    /// All checks, and the context filled.
    pub(super) fn check(&mut self) -> Result<()> {
        let (plan, dims) = (self.model.plan, self.model.dims);
        let call = self.call;
        self.require_pointer(call);
        check_cpu(&mut self.b, self.helpers, self.fail);
        let (inputs, outputs) = (self.load(call, CALL_INPUTS), self.load(call, CALL_OUTPUTS));
        let symbols = Symbols { dims, values: if dims.is_empty() { call } else { self.load(call, CALL_DIMS) }, counts: &[] };
        let mut ranges: Vec<Range> = Vec::new();
        for (array, bytes) in [(outputs, self.layout.output_bytes.clone()), (inputs, self.layout.input_bytes.clone())] {
            if bytes.is_empty() {
                continue;
            }
            self.require_pointer(array);
            for (i, bytes) in bytes.into_iter().enumerate() {
                let pointer = self.load(array, i as i32 * 8);
                if bytes != Dim::Const(0) {
                    self.require_pointer(pointer);
                }
                let bytes = if bytes == Dim::Const(0) { None } else { Some(symbols.compute(&mut self.b, &bytes)?) };
                ranges.push(Range { pointer, bytes, twin: None });
            }
        }
        let arena = self.load(call, CALL_ARENA);
        if self.layout.arena_bytes > 0 {
            self.require_pointer(arena);
            self.require_aligned(arena);
        }
        // Written ranges first: outputs and the arena; then what is only read.
        let (rooms, arena_bytes) = symbols.rooms(&mut self.b, plan, self.layout)?;
        let bytes = (self.layout.arena_bytes > 0).then_some(arena_bytes);
        ranges.insert(self.layout.output_bytes.len(), Range { pointer: arena, bytes, twin: None });
        let writable = self.layout.output_bytes.len() + 1;
        for (i, j) in &self.aliases {
            ranges[writable + *i as usize].twin = Some(ranges[*j as usize].pointer);
        }
        self.check_overlap(&ranges, writable);
        let weights = self.weights(plan.weights_bytes);
        // The workers' parts come first.
        let shared = self.b.ins().iadd_imm_s(arena, (self.layout.arena_bytes - self.layout.arena_shared) as i64);
        if !self.model.counts.is_empty() {
            let counts = self.load(call, CALL_COUNTS);
            self.require_pointer(counts);
            // Those of which this plan knows nothing.
            let zero = self.b.ins().iconst(types::I64, 0);
            (0..self.model.counts.len())
                .for_each(|i| _ = self.b.ins().store(MemFlagsData::trusted(), zero, counts, i as i32 * 8));
        }
        // Counts are 0 until they are known.
        let unknown: DimBindings = plan.counts.iter().map(|c| (c.name.clone(), 0)).collect();
        if let Some((Place::Arena(at), sizes)) = &plan.sizes {
            for (i, dim) in sizes.iter().enumerate() {
                let size = symbols.compute(&mut self.b, &dim.bind(&unknown))?;
                let to = self.b.ins().iadd_imm_s(shared, (*at + 8 * i as u64) as i64);
                self.b.ins().store(MemFlagsData::trusted(), size, to, 0);
            }
            for (i, offset) in rooms.into_iter().enumerate() {
                let to = self.b.ins().iadd_imm_s(shared, (*at + 8 * (sizes.len() + i) as u64) as i64);
                self.b.ins().store(MemFlagsData::trusted(), offset, to, 0);
            }
        }
        for (value, offset) in [(shared, CTX_ARENA), (weights, CTX_WEIGHTS), (inputs, CTX_INPUTS), (outputs, CTX_OUTPUTS)] {
            self.b.ins().stack_store(types::I64, value, self.ctx, offset);
        }
        Ok(())
    }

    /// Each of the first `writable` ranges against all ranges behind it, by a loop over a table of starts and ends on the stack.
    fn check_overlap(&mut self, ranges: &[Range], writable: usize) {
        let ranges_kept: Vec<(&Range, Value, bool)> =
            ranges.iter().enumerate().filter_map(|(i, r)| r.bytes.map(|bytes| (r, bytes, i < writable))).collect();
        let writable = ranges_kept.iter().filter(|r| r.2).count();
        if writable == 0 || ranges_kept.len() < 2 {
            return;
        }
        let n = ranges_kept.len();
        let slot = self.b.create_sized_stack_slot(StackSlotData::new(StackSlotKind::ExplicitSlot, n as u32 * 16, 4));
        for (i, (Range { pointer, twin, .. }, bytes, _)) in ranges_kept.iter().enumerate() {
            let mut end = self.b.ins().iadd(*pointer, *bytes);
            if let Some(twin) = twin {
                // What is the output's buffer is looked at as such; as an input it is empty.
                let same = self.b.ins().icmp(IntCC::Equal, *pointer, *twin);
                end = self.b.ins().select(same, *pointer, end);
            }
            self.b.ins().stack_store(types::I64, *pointer, slot, i as i32 * 16);
            self.b.ins().stack_store(types::I64, end, slot, i as i32 * 16 + 8);
        }
        let b = &mut self.b;
        let table = b.ins().stack_addr(types::I64, slot, 0);
        let stop_outer = b.ins().iadd_imm_s(table, writable as i64 * 16);
        let stop = b.ins().iadd_imm_s(table, n as i64 * 16);
        let (outer, inner, next, done) = (b.create_block(), b.create_block(), b.create_block(), b.create_block());
        let x = b.append_block_param(outer, types::I64);
        let y = b.append_block_param(inner, types::I64);
        b.ins().jump(outer, &[table.into()]);
        b.switch_to_block(outer);
        let after = b.ins().iadd_imm_s(x, 16);
        let any = b.ins().icmp(IntCC::UnsignedLessThan, after, stop);
        b.ins().brif(any, inner, &[after.into()], done, &[]);
        b.switch_to_block(inner);
        let flags = MemFlagsData::trusted();
        let (x0, x1) = (b.ins().load(types::I64, flags, x, 0), b.ins().load(types::I64, flags, x, 8));
        let (y0, y1) = (b.ins().load(types::I64, flags, y, 0), b.ins().load(types::I64, flags, y, 8));
        let (p, q) = (b.ins().icmp(IntCC::UnsignedLessThan, x0, y1), b.ins().icmp(IntCC::UnsignedLessThan, y0, x1));
        let both = b.ins().band(p, q);
        self.require_not(both, abi::ONNXC_OVERLAP);
        let b = &mut self.b;
        let y_next = b.ins().iadd_imm_s(y, 16);
        let more = b.ins().icmp(IntCC::UnsignedLessThan, y_next, stop);
        b.ins().brif(more, inner, &[y_next.into()], next, &[]);
        b.seal_block(inner);
        b.switch_to_block(next);
        b.seal_block(next);
        let more = b.ins().icmp(IntCC::UnsignedLessThan, after, stop_outer);
        b.ins().brif(more, outer, &[after.into()], done, &[]);
        b.seal_block(outer);
        b.switch_to_block(done);
        b.seal_block(done);
    }
}

/// Asks the CPU once per process, and jumps to `fail` with a status if it lacks something; later calls find the answer in a byte. Threads that race
/// write the same value.
pub(crate) fn check_cpu(b: &mut FunctionBuilder, helpers: Helpers, fail: Block) {
    let Some(check) = helpers.cpu_check else { return };
    let data = import_data(b.func, DATA_CPU_OK);
    let at = b.ins().symbol_value(types::I64, data);
    let known = b.ins().load(types::I8, MemFlagsData::trusted(), at, 0);
    let (ask, good, done) = (b.create_block(), b.create_block(), b.create_block());
    b.ins().brif(known, done, &[], ask, &[]);
    b.switch_to_block(ask);
    b.seal_block(ask);
    let mut sig = signature(0, 0);
    sig.returns.push(AbiParam::new(types::I32));
    let check = import(b.func, check, sig);
    let answer = b.ins().call(check, &[]);
    let answer = b.inst_results(answer)[0];
    let bad = b.ins().icmp_imm_u(IntCC::Equal, answer, 0);
    let status = b.ins().iconst(types::I32, i64::from(abi::ONNXC_CPU));
    b.ins().brif(bad, fail, &[status.into()], good, &[]);
    b.switch_to_block(good);
    b.seal_block(good);
    let one = b.ins().iconst(types::I8, 1);
    b.ins().store(MemFlagsData::trusted(), one, at, 0);
    b.ins().jump(done, &[]);
    b.switch_to_block(done);
    b.seal_block(done);
}
