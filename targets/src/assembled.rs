//! The emitter that assembles AVX-512 and AVX2+FMA code for x86-64 with iced-x86.
//!
//! A function is a SystemV leaf: it uses registers that belong to it, saves up to six others in the red zone, and never moves `rsp`. Its constants
//! are where `r15` points (`constants.rs`). `r11` and `k1` are scratch inside one operation; `k2` holds the tail mask, `k3` the mask of a
//! constant number of lanes.

mod coded;
mod columns;
mod constants;
mod dots;
pub(crate) mod entry;
mod lookup;
mod memory;
mod operations;
mod packs;
mod strided;
mod widths;

use iced_x86::code_asm::*;
use onnxc_ir::DType;
use onnxc_ir::scalar::BinOp;

pub use self::constants::{Assembled, Pool};
use self::constants::{Constants, HOME};
use self::memory::any_ymm;
pub(crate) use self::widths::{op_imm, op2, op3};
use crate::cpu::Isa;
use crate::emitter::{ByteTable, Bytes, Dot, Emitter, Lanes, Mem, Opd, Open, Order, P, Table, Ty, V, VUn};
use crate::error::Error;

/// See the module.
pub(crate) struct Asm {
    a: CodeAssembler,
    zmm: bool,
    vnni: bool,
    vbmi: bool,
    free_vecs: Vec<u8>,
    free_gprs: Vec<u8>,
    n_args: usize,
    saved: usize,
    consts: Constants,
    open: Vec<Structure>,
    /// Instruction count at the last label: an instruction carries one label only.
    labelled_at: Option<usize>,
    /// The mask register whose value `k1` holds as well.
    k1_holds: Option<V>,
    /// The lane count whose mask `k3` holds.
    k3_holds: Option<u32>,
    /// AVX2: the register with the tail mask.
    tail: Option<V>,
    /// AVX-512: the register with the permutation of columns and packs.
    transposition: Option<V>,
}

/// What `end` closes.
enum Structure {
    Repeat { top: CodeLabel, counter: P },
    While { top: CodeLabel, exit: CodeLabel, count: P, k: u32 },
    If { exit: CodeLabel },
}

const GPRS: [AsmRegister64; 16] = [rax, rcx, rdx, rbx, rsp, rbp, rsi, rdi, r8, r9, r10, r11, r12, r13, r14, r15];
const GPRS_32: [AsmRegister32; 16] = [eax, ecx, edx, ebx, esp, ebp, esi, edi, r8d, r9d, r10d, r11d, r12d, r13d, r14d, r15d];
/// Argument registers of SystemV as indices into `GPRS`.
const ARGS: [u8; 6] = [7, 6, 2, 1, 8, 9];
/// Registers that belong to the caller, in the order in which they are saved: rbx, rbp, r12, r13, r14.
const CALLEE_SAVED: [u8; 5] = [3, 5, 12, 13, 14];

const ZMM: [AsmRegisterZmm; 32] = [
    zmm0, zmm1, zmm2, zmm3, zmm4, zmm5, zmm6, zmm7, zmm8, zmm9, zmm10, zmm11, zmm12, zmm13, zmm14, zmm15, zmm16, zmm17, zmm18,
    zmm19, zmm20, zmm21, zmm22, zmm23, zmm24, zmm25, zmm26, zmm27, zmm28, zmm29, zmm30, zmm31,
];
const YMM: [AsmRegisterYmm; 16] =
    [ymm0, ymm1, ymm2, ymm3, ymm4, ymm5, ymm6, ymm7, ymm8, ymm9, ymm10, ymm11, ymm12, ymm13, ymm14, ymm15];
const XMM: [AsmRegisterXmm; 16] =
    [xmm0, xmm1, xmm2, xmm3, xmm4, xmm5, xmm6, xmm7, xmm8, xmm9, xmm10, xmm11, xmm12, xmm13, xmm14, xmm15];

fn z(v: V) -> AsmRegisterZmm {
    ZMM[v.0 as usize]
}

fn y(v: V) -> AsmRegisterYmm {
    YMM[v.0 as usize]
}

fn x(v: V) -> AsmRegisterXmm {
    XMM[v.0 as usize]
}

fn gpr(p: P) -> AsmRegister64 {
    GPRS[p.0 as usize]
}

fn gpr32(p: P) -> AsmRegister32 {
    GPRS_32[p.0 as usize]
}

impl Asm {
    /// A function with `n_args` integer arguments that may also use `saved <= 5` registers of its caller.
    pub(crate) fn new(isa: Isa, n_args: usize, saved: usize) -> Result<Asm, Error> {
        let (zmm, vnni, vbmi) = match isa {
            Isa::Avx512 { vnni, vbmi } => (true, vnni, vbmi),
            _ => (false, false, false),
        };
        let mut a = CodeAssembler::new(64)?;
        // Only EVEX reaches all 32 registers.
        a.set_prefer_vex(!zmm);
        for (i, r) in CALLEE_SAVED[..saved].iter().enumerate() {
            a.mov(qword_ptr(rsp - 8 * (i as i32 + 1)), GPRS[*r as usize])?;
        }
        let mut free_gprs: Vec<u8> = CALLEE_SAVED[..saved].iter().rev().copied().collect();
        free_gprs.extend(ARGS[n_args.min(6)..].iter().rev());
        free_gprs.extend([10, 0]);
        let free_vecs = (0..if zmm { 32 } else { 16 }).rev().collect();
        Ok(Asm {
            a,
            zmm,
            vnni,
            vbmi,
            free_vecs,
            free_gprs,
            n_args,
            saved,
            consts: Constants::default(),
            open: Vec::new(),
            labelled_at: None,
            k1_holds: None,
            k3_holds: None,
            tail: None,
            transposition: None,
        })
    }

    /// Returns from the function and assembles.
    pub(crate) fn finish(mut self) -> Result<Assembled, Error> {
        for (i, r) in CALLEE_SAVED[..self.saved].iter().enumerate() {
            self.a.mov(GPRS[*r as usize], qword_ptr(rsp - 8 * (i as i32 + 1)))?;
        }
        if !self.consts.is_empty() {
            self.a.mov(r15, qword_ptr(rsp - HOME))?;
        }
        self.a.vzeroupper()?;
        self.a.ret()?;
        Ok(Assembled { body: self.a.assemble(0)?, constants: self.consts.finish() })
    }

    /// The place of a constant.
    fn data(&mut self, bytes: Vec<u8>) -> AsmMemoryOperand {
        r15 + self.consts.at(bytes)
    }

    /// The place of a constant: one element for AVX-512, which broadcasts, a whole vector for AVX2.
    fn constant(&mut self, bits: u32) -> AsmMemoryOperand {
        let bytes = bits.to_le_bytes();
        self.data(if self.zmm { bytes.to_vec() } else { bytes.repeat(8) })
    }

    fn label(&mut self, mut label: CodeLabel) -> Result<(), Error> {
        if self.labelled_at == Some(self.a.instructions().len()) {
            self.a.nop()?;
        }
        self.a.set_label(&mut label)?;
        self.labelled_at = Some(self.a.instructions().len());
        self.forget_masks();
        Ok(())
    }

    fn forget_masks(&mut self) {
        self.k1_holds = None;
        self.k3_holds = None;
    }

    /// Says that register `d` is about to change.
    fn writes(&mut self, d: V) {
        if self.k1_holds == Some(d) {
            self.k1_holds = None;
        }
    }

    fn alloc_gpr(&mut self) -> Result<P, Error> {
        self.free_gprs.pop().map(|r| P(r.into())).ok_or(Error::Registers("pointers"))
    }

    fn at(&self, at: Mem) -> Result<AsmMemoryOperand, Error> {
        let disp = i32::try_from(at.disp).map_err(|_| Error::Unsupported("a distance of 2 GiB inside a tile".to_string()))?;
        Ok(gpr(at.base) + disp)
    }

    /// `o` in a register: itself, or `d` if that is not `busy`, or a new one, which the caller frees.
    fn in_register(&mut self, o: Opd, d: V, busy: &[Opd]) -> Result<(V, Option<V>), Error> {
        match o {
            Opd::Reg(v) => Ok((v, None)),
            Opd::Const(_) if !busy.contains(&Opd::Reg(d)) => {
                self.copy(Ty::I32, d, o)?;
                Ok((d, None))
            }
            Opd::Const(_) => {
                let t = self.alloc(Ty::I32)?;
                self.copy(Ty::I32, t, o)?;
                Ok((t, Some(t)))
            }
        }
    }
}

impl Emitter for Asm {
    fn lanes(&self) -> u32 {
        if self.zmm { 16 } else { 8 }
    }

    fn masks(&self, memory: DType) -> bool {
        self.zmm || memory.bytes() == 4
    }

    fn memory(&self, dtype: DType) -> bool {
        use DType::*;
        matches!(dtype, F32 | I32 | U32 | U8 | I8 | U16 | I16 | Bool | F16)
    }

    fn strides(&self, dtype: DType) -> bool {
        self.memory(dtype) && dtype != DType::F16
    }

    fn masks_strided(&self, memory: DType) -> bool {
        self.zmm && memory.bytes() == 4
    }

    fn alloc(&mut self, _: Ty) -> Result<V, Error> {
        let v = self.free_vecs.pop().map(|r| V(r.into())).ok_or(Error::Registers("vectors"))?;
        self.writes(v);
        Ok(v)
    }

    fn free(&mut self, v: V) {
        self.writes(v);
        debug_assert!(!self.free_vecs.contains(&(v.0 as u8)), "internal: targets: register freed twice");
        self.free_vecs.push(v.0 as u8);
    }

    fn available(&self) -> usize {
        self.free_vecs.len()
    }

    fn arg(&mut self, n: usize) -> Result<P, Error> {
        assert!(n < self.n_args, "internal: targets: argument {n} does not exist");
        match ARGS.get(n) {
            Some(r) => Ok(P((*r).into())),
            None => {
                let p = self.alloc_gpr()?;
                self.a.mov(gpr(p), qword_ptr(rsp + 8 * (n as i32 - 5)))?;
                Ok(p)
            }
        }
    }

    fn own_arg(&mut self, n: usize) -> Result<P, Error> {
        let given = self.arg(n)?;
        // Those that come in memory stay there.
        if n < ARGS.len() { self.copy_ptr(given) } else { Ok(given) }
    }

    fn load_ptr(&mut self, at: Mem) -> Result<P, Error> {
        let from = self.at(at)?;
        let p = self.alloc_gpr()?;
        self.a.mov(gpr(p), qword_ptr(from))?;
        Ok(p)
    }

    fn displaced(&mut self, base: P, by: Mem) -> Result<P, Error> {
        let by = self.at(by)?;
        let p = self.alloc_gpr()?;
        self.a.movsxd(gpr(p), dword_ptr(by))?;
        self.a.add(gpr(p), gpr(base))?;
        Ok(p)
    }

    fn copy_ptr(&mut self, p: P) -> Result<P, Error> {
        let d = self.alloc_gpr()?;
        self.a.mov(gpr(d), gpr(p))?;
        Ok(d)
    }

    fn free_ptr(&mut self, p: P) {
        self.free_gprs.push(p.0 as u8);
    }

    fn advance(&mut self, p: P, bytes: i64) -> Result<(), Error> {
        match i32::try_from(bytes) {
            Ok(0) => {}
            Ok(bytes) => self.a.add(gpr(p), bytes)?,
            Err(_) => {
                self.a.mov(r11, bytes)?;
                self.a.add(gpr(p), r11)?;
            }
        }
        Ok(())
    }

    fn repeat(&mut self, n: u64) -> Result<Open, Error> {
        let n = u32::try_from(n).map_err(|_| Error::Unsupported("a loop of 2^32 rounds inside a tile".to_string()))?;
        let counter = self.alloc_gpr()?;
        self.a.mov(gpr32(counter), n)?;
        let top = self.a.create_label();
        self.label(top)?;
        self.open.push(Structure::Repeat { top, counter });
        Ok(Open(self.open.len()))
    }

    fn while_at_least(&mut self, count: P, k: u32) -> Result<Open, Error> {
        let (top, exit) = (self.a.create_label(), self.a.create_label());
        self.a.cmp(gpr(count), k as i32)?;
        self.a.jl(exit)?;
        self.label(top)?;
        self.open.push(Structure::While { top, exit, count, k });
        Ok(Open(self.open.len()))
    }

    fn if_some(&mut self, count: P) -> Result<Open, Error> {
        let exit = self.a.create_label();
        self.a.test(gpr(count), gpr(count))?;
        self.a.jle(exit)?;
        self.forget_masks();
        self.open.push(Structure::If { exit });
        Ok(Open(self.open.len()))
    }

    fn if_any(&mut self, mask: V) -> Result<Open, Error> {
        let exit = self.a.create_label();
        if !self.zmm {
            self.a.vmovmskps(r11d, y(mask))?;
            self.a.test(r11d, r11d)?;
        } else {
            if self.k1_holds != Some(mask) {
                self.a.vpmovd2m(k1, z(mask))?;
                self.k1_holds = Some(mask);
            }
            self.a.kortestw(k1, k1)?;
        }
        self.a.jz(exit)?;
        self.open.push(Structure::If { exit });
        Ok(Open(self.open.len()))
    }

    fn end(&mut self, open: Open) -> Result<(), Error> {
        assert_eq!(open.0, self.open.len(), "internal: targets: structures close in order");
        match self.open.pop().expect("internal: targets: nothing is open") {
            Structure::Repeat { top, counter } => {
                self.a.dec(gpr32(counter))?;
                self.a.jnz(top)?;
                self.free_ptr(counter);
            }
            Structure::While { top, exit, count, k } => {
                self.a.sub(gpr(count), k as i32)?;
                self.a.cmp(gpr(count), k as i32)?;
                self.a.jge(top)?;
                self.label(exit)?;
            }
            Structure::If { exit } => self.label(exit)?,
        }
        Ok(())
    }

    fn set_tail(&mut self, count: P) -> Result<(), Error> {
        self.emit_set_tail(count)
    }

    fn load(&mut self, d: V, dtype: DType, at: Mem, lanes: Lanes) -> Result<(), Error> {
        self.emit_load(d, dtype, at, lanes)
    }

    fn load_numbers(&mut self, d: V, at: Mem, n: u32) -> Result<(), Error> {
        self.emit_load_numbers(d, at, n)
    }

    fn load_table(&mut self, from: P) -> Result<Table, Error> {
        self.emit_load_table(from)
    }

    fn load_byte_table(&mut self, from: P, signed: bool) -> Result<ByteTable, Error> {
        self.emit_load_byte_table(from, signed)
    }

    fn look_up_bytes(&mut self, at: &[(Mem, Mem)], table: &ByteTable) -> Result<(), Error> {
        self.emit_look_up_bytes(at, table)
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
        true
    }

    fn looks_up(&self) -> bool {
        self.vbmi
    }

    fn store_bytes(&mut self, v: &[V], at: &[(Mem, Lanes)], bytes: &Bytes, order: Order) -> Result<(), Error> {
        self.emit_store_bytes(v, at, bytes, order)
    }

    fn gather(&mut self, d: V, dtype: DType, at: Mem, stride: i64, lanes: Lanes) -> Result<(), Error> {
        self.emit_gather(d, dtype, at, stride, lanes)
    }

    fn scatter(&mut self, v: V, dtype: DType, at: Mem, stride: i64, lanes: Lanes) -> Result<(), Error> {
        self.emit_scatter(v, dtype, at, stride, lanes)
    }

    fn prefetch(&mut self, at: Mem, later: bool) -> Result<(), Error> {
        let at = byte_ptr(self.at(at)?);
        Ok(if later { self.a.prefetcht1(at) } else { self.a.prefetcht0(at) }?)
    }

    fn copy(&mut self, _: Ty, d: V, s: Opd) -> Result<(), Error> {
        self.emit_copy(d, s)
    }

    fn estimates(&self) -> bool {
        self.zmm
    }

    fn fuses(&self) -> bool {
        true
    }

    fn has_lesser(&self) -> bool {
        self.zmm
    }

    fn lesser(&mut self, d: V, a: V, b: Opd) -> Result<(), Error> {
        self.emit_lesser(d, a, b)
    }

    fn fma(&mut self, d: V, a: Opd, b: Opd, c: Opd) -> Result<(), Error> {
        self.emit_fma(d, a, b, c)
    }

    fn fma_first(&mut self, d: V, a: V, b: V, n: u32) -> Result<(), Error> {
        if !self.zmm || n > 8 {
            return self.fma(d, Opd::Reg(a), Opd::Reg(b), Opd::Reg(d));
        }
        self.writes(d);
        Ok(self.a.vfmadd231ps(any_ymm(d), any_ymm(a), any_ymm(b))?)
    }

    fn fma_splat(&mut self, d: V, a: Mem, b: V, n: u32) -> Result<bool, Error> {
        if !self.zmm {
            return Ok(false);
        }
        let at = dword_bcst(self.at(a)?);
        self.writes(d);
        match n {
            0..=8 => self.a.vfmadd231ps(any_ymm(d), any_ymm(b), at)?,
            _ => self.a.vfmadd231ps(z(d), z(b), at)?,
        }
        Ok(true)
    }

    fn bin(&mut self, op: BinOp, ty: Ty, d: V, a: Opd, b: Opd) -> Result<(), Error> {
        self.emit_bin(op, ty, d, a, b)
    }

    fn cmp(&mut self, op: BinOp, ty: Ty, d: V, a: Opd, b: Opd) -> Result<(), Error> {
        self.emit_cmp(op, ty, d, a, b)
    }

    fn un(&mut self, op: VUn, ty: Ty, d: V, a: V) -> Result<(), Error> {
        self.emit_un(op, ty, d, a)
    }

    fn select(&mut self, _: Ty, d: V, mask: V, a: Opd, b: Opd) -> Result<(), Error> {
        self.emit_select(d, mask, a, b)
    }

    fn rotate(&mut self, _: Ty, d: V, a: V, k: u32) -> Result<(), Error> {
        self.writes(d);
        if self.zmm {
            self.a.valignd(z(d), z(a), z(a), k as i32)?;
            return Ok(());
        }
        let index = (0..8u32).flat_map(|i| ((i + k) % 8).to_le_bytes()).collect();
        let label = self.data(index);
        let t = self.alloc(Ty::I32)?;
        self.a.vmovups(y(t), ymmword_ptr(label))?;
        self.a.vpermd(y(d), y(t), y(a))?;
        self.free(t);
        Ok(())
    }

    fn interleave(&mut self, _: Ty, d: V, a: V, b: V, unit: u32, high: bool) -> Result<(), Error> {
        self.emit_interleave(d, a, b, unit, high)
    }

    fn hold_order(&mut self, others: usize) -> Result<(), Error> {
        self.emit_hold_order(others)
    }

    fn drop_order(&mut self) {
        self.transposition.take().into_iter().for_each(|v| self.free(v));
    }

    fn any_type(&self) -> bool {
        true
    }

    fn bitcast(&mut self, d: V, to: Ty, a: V, _: Ty) -> Result<(), Error> {
        self.copy(to, d, Opd::Reg(a))
    }

    fn fill_inactive(&mut self, _: Ty, d: V, lanes: Lanes, bits: u32) -> Result<(), Error> {
        self.emit_fill(d, lanes, bits)
    }

    fn columns(&self) -> u32 {
        match (self.zmm, self.vnni) {
            (true, true) => 64,
            (true, false) => 0,
            (false, _) => 8,
        }
    }

    fn load_columns(&mut self, d: &[V], rows: &[Mem], channels: u32, order: Order) -> Result<(), Error> {
        self.emit_load_columns(d, rows, channels, order)
    }

    fn dot_parts(&self, of: Dot) -> usize {
        if self.whole_dot(of) { 1 } else { 2 }
    }

    fn dot_temps(&self, of: Dot) -> usize {
        if self.vnni && of != Dot::Signed { 0 } else { 1 }
    }

    fn dot_words(&mut self, d: V, a: V, b: V) -> Result<(), Error> {
        // Short weights: nothing saturates.
        Ok(self.a.vpmaddubsw(y(d), y(a), y(b))?)
    }

    fn add_words(&mut self, d: V, a: V) -> Result<(), Error> {
        Ok(self.a.vpaddw(y(d), y(d), y(a))?)
    }

    fn add_pairs(&mut self, acc: V, words: V) -> Result<(), Error> {
        op3!(self, vpmaddwd, words, words, Opd::Const(0x0001_0001));
        op3!(self, vpaddd, acc, acc, Opd::Reg(words));
        Ok(())
    }

    fn dot_load_b(&mut self, d: &[V], at: Mem, of: Dot) -> Result<(), Error> {
        self.emit_dot_load_b(d, at, of)
    }

    fn dot_splat_a(&mut self, d: &[V], at: Mem, of: Dot) -> Result<(), Error> {
        self.emit_dot_splat_a(d, at, of)
    }

    fn dot_memory(&mut self, acc: V, a: &[V], at: Mem, of: Dot) -> Result<(), Error> {
        self.emit_dot_memory(acc, a, at, of)
    }

    fn dot(&mut self, acc: V, a: &[V], b: &[V], of: Dot) -> Result<(), Error> {
        self.emit_dot(acc, a, b, of)
    }
}
