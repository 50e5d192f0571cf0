//! The interface between kernels and instruction sets.
//!
//! A kernel asks for vector registers ([`V`]) and pointer registers ([`P`]), and overwrites them in place. When registers run out the
//! kernel gets [`Error::Registers`]: nothing is ever spilled behind its back. Lanes are 32 bits wide: f32, i32, or a mask of all ones or
//! zeros. Narrow memory types are widened by loads and narrowed by stores.

use onnxc_ir::DType;
use onnxc_ir::scalar::BinOp;

use crate::error::Error;

/// A vector register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct V(pub u16);

/// A pointer or counter register.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct P(pub u16);

/// What the lanes of a register hold.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Ty {
    F32,
    I32,
    Mask,
}

/// An operand: a register or a constant in all lanes (its 32 bits).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Opd {
    Reg(V),
    Const(u32),
}

/// A place in memory: register plus bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mem {
    pub base: P,
    pub disp: i64,
}

/// Which lanes a memory access touches. Others read as zero and are not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lanes {
    All,
    /// The first n, `1 <= n < lanes`.
    First(u32),
    /// As many as `set_tail` said.
    Tail,
}

/// How numbers become bytes.
#[derive(Clone, Debug)]
pub(crate) struct Bytes {
    /// u8 or i8, in which they saturate.
    pub dtype: DType,
    /// What is added before.
    pub moved: i32,
    /// What each byte becomes in the end.
    pub table: Option<[u8; 256]>,
}

/// Where the channels of a group of columns are in its vectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Order {
    /// Lane l of vector v has channel `v * lanes + l`.
    Natural,
    /// That of [`onnxc_ir::kernel::paired_channel`].
    Paired,
}

/// A table of 16 signed bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Table {
    /// In a register, in a form of the emitter.
    Register(V),
    /// In memory.
    Memory(P),
}

/// A table of 256 bytes.
pub(crate) struct ByteTable {
    /// What of it, or for it, is in registers, in a form of the emitter.
    pub registers: Vec<V>,
    /// Where it is in memory.
    pub memory: P,
    /// The least signed byte reads the first entry, not zero.
    pub signed: bool,
    /// How many times 64 bytes are best looked up at once.
    pub at_once: usize,
}

/// Operations with one operand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum VUn {
    /// f32 or i32.
    Neg,
    /// f32 or i32.
    Abs,
    /// f32.
    Sqrt,
    /// f32 from 1 to 2^126, within 1 ulp, where [`Emitter::estimates`] says so.
    RecipNear,
    /// f32, also the following.
    Floor,
    Ceil,
    Trunc,
    /// Ties to even.
    Round,
    /// All bits, i32 and masks.
    Not,
    /// f32 to i32, toward zero, saturating, NaN gives 0.
    ToInt,
    /// f32 of a magnitude below 2^22 to i32, to nearest, ties to even; NaN gives 0.
    ToNearest,
    /// The same of what is no NaN.
    NumberToNearest,
    /// i32 to f32.
    ToFloat,
}

/// A structure that is open: a counted loop, a while loop or a branch.
pub(crate) struct Open(pub usize);

/// What a dot product multiplies: groups of four bytes of A by signed bytes of B, or two words by two.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Dot {
    /// A has unsigned bytes.
    Unsigned,
    /// A has signed bytes.
    Signed,
    /// A has unsigned bytes, B short weights ([`onnxc_ir::target::SHORT_SUM`]), on a target with tiles for these.
    Short,
    /// A and B have signed words, two to a group; sums wrap.
    Words,
    /// The same with bytes of B, which become words as they are loaded.
    Widened,
}

/// An instruction set. See the module.
pub(crate) trait Emitter {
    /// 32-bit lanes of a register.
    fn lanes(&self) -> u32;
    /// True when `Lanes::Tail` can be used for this memory type.
    fn masks(&self, memory: DType) -> bool;
    /// True when this memory type can be loaded and stored.
    fn memory(&self, dtype: DType) -> bool;
    /// True when `gather` and `scatter` know this memory type.
    fn strides(&self, dtype: DType) -> bool;
    /// True when they take `Lanes::Tail` for it.
    fn masks_strided(&self, memory: DType) -> bool;
    /// A free register.
    fn alloc(&mut self, ty: Ty) -> Result<V, Error>;
    /// Gives a register back.
    fn free(&mut self, v: V);
    /// How many registers `alloc` can still give.
    fn available(&self) -> usize;

    /// Pointer argument `n` of the function, which the kernel may advance.
    fn arg(&mut self, n: usize) -> Result<P, Error>;
    /// The same in a register of its own, where code that follows needs the argument again.
    fn own_arg(&mut self, n: usize) -> Result<P, Error> {
        let given = self.arg(n)?;
        self.copy_ptr(given)
    }
    /// A 64-bit value from memory.
    fn load_ptr(&mut self, at: Mem) -> Result<P, Error>;
    /// Another register with `base` and the i32 at a place added to it.
    fn displaced(&mut self, base: P, by: Mem) -> Result<P, Error>;
    /// Another register with the same value.
    fn copy_ptr(&mut self, p: P) -> Result<P, Error>;
    /// Gives a pointer register back.
    fn free_ptr(&mut self, p: P);
    /// `p += bytes`.
    fn advance(&mut self, p: P, bytes: i64) -> Result<(), Error>;

    /// Opens a loop of exactly `n >= 1` rounds.
    fn repeat(&mut self, n: u64) -> Result<Open, Error>;
    /// Opens `while count >= k { ...; count -= k }`.
    fn while_at_least(&mut self, count: P, k: u32) -> Result<Open, Error>;
    /// Opens `if count >= 1 { ... }`.
    fn if_some(&mut self, count: P) -> Result<Open, Error>;
    /// Opens `if some lane of the mask is set { ... }`.
    fn if_any(&mut self, mask: V) -> Result<Open, Error>;
    /// Closes the innermost open structure.
    fn end(&mut self, open: Open) -> Result<(), Error>;
    /// `Lanes::Tail` means the first `count` lanes from here on, `1 <= count < lanes`.
    fn set_tail(&mut self, count: P) -> Result<(), Error>;

    /// Loads neighbours, widened to 32 bits; bool bytes become masks.
    fn load(&mut self, d: V, dtype: DType, at: Mem, lanes: Lanes) -> Result<(), Error>;
    /// Loads neighbouring signed bytes as f32, in the first `n` lanes at least. A byte of each lane can be read.
    fn load_numbers(&mut self, d: V, at: Mem, n: u32) -> Result<(), Error>;
    /// The 16 signed bytes from a pointer on, for `look_up`. The pointer is the emitter's from then on.
    fn load_table(&mut self, from: P) -> Result<Table, Error>;
    /// Makes a table of 256 bytes ready, where vectors of bytes can be looked up; `signed`: the least signed byte reads the first entry.
    fn load_byte_table(&mut self, _: P, _signed: bool) -> Result<ByteTable, Error> {
        Err(Error::Unsupported("tables of bytes".to_string()))
    }
    /// 64 bytes read from it for each place to write to and to read from, no more than are best at once.
    fn look_up_bytes(&mut self, _: &[(Mem, Mem)], _: &ByteTable) -> Result<(), Error> {
        Err(Error::Unsupported("tables of bytes".to_string()))
    }
    /// Neighbouring elements of the table as f32: in each lane the one whose number is in the four bits from bit `4 * nibble` on of its word in memory.
    fn look_up(&mut self, d: V, table: Table, at: Mem, nibble: u32) -> Result<(), Error>;
    /// Loads one element into all lanes.
    fn splat(&mut self, d: V, dtype: DType, at: Mem) -> Result<(), Error>;
    /// Stores neighbours. Integers must be in the range of `dtype`.
    fn store(&mut self, v: V, dtype: DType, at: Mem, lanes: Lanes) -> Result<(), Error>;
    /// True when `store_bytes` can be used.
    fn packs(&self) -> bool {
        false
    }
    /// True when it takes tables.
    fn looks_up(&self) -> bool {
        false
    }
    /// Stores up to four vectors of i32 below 2^22 as bytes, each at its place. Changes the registers.
    fn store_bytes(&mut self, v: &[V], at: &[(Mem, Lanes)], bytes: &Bytes, order: Order) -> Result<(), Error> {
        let _ = (v, at, bytes, order);
        Err(Error::Unsupported("packs of vectors".to_string()))
    }
    /// Loads elements `stride` bytes apart, widened like `load`.
    fn gather(&mut self, d: V, dtype: DType, at: Mem, stride: i64, lanes: Lanes) -> Result<(), Error>;
    /// Stores elements `stride` bytes apart.
    fn scatter(&mut self, v: V, dtype: DType, at: Mem, stride: i64, lanes: Lanes) -> Result<(), Error>;
    /// Brings a line to the first cache, or only to the second one if it is for `later`, where that is worth an instruction.
    fn prefetch(&mut self, at: Mem, later: bool) -> Result<(), Error>;

    /// `d = s`.
    fn copy(&mut self, ty: Ty, d: V, s: Opd) -> Result<(), Error>;
    /// True where a reciprocal is refined from an estimate faster than it is divided.
    fn estimates(&self) -> bool {
        false
    }
    /// True when `fma` rounds once.
    fn fuses(&self) -> bool;
    /// `d = a*b + c`, rounded once where the machine can. `d` may be any of the operands.
    fn fma(&mut self, d: V, a: Opd, b: Opd, c: Opd) -> Result<(), Error>;
    /// `d += a*b` in the first `n` lanes at least; others may become anything. Half vectors are cheaper on machines that work in halves.
    fn fma_first(&mut self, d: V, a: V, b: V, n: u32) -> Result<(), Error> {
        let _ = n;
        self.fma(d, Opd::Reg(a), Opd::Reg(b), Opd::Reg(d))
    }
    /// The same with one f32 of memory in all lanes of `a`, if that is one instruction; else nothing happens and the answer is false.
    fn fma_splat(&mut self, d: V, a: Mem, b: V, n: u32) -> Result<bool, Error> {
        let _ = (d, a, b, n);
        Ok(false)
    }
    /// `d = op(a, b)`; `d` may be an operand. Shifts take constant counts. f32: + - * / min max; i32: + - * min max and or xor shl shr;
    /// masks: and or xor. Min and max of f32 propagate NaN.
    fn bin(&mut self, op: BinOp, ty: Ty, d: V, a: Opd, b: Opd) -> Result<(), Error>;
    /// True where `lesser` is one instruction.
    fn has_lesser(&self) -> bool {
        false
    }
    /// f32: what is nearer to zero of `a` and `b`, with the sign of `a`; `b` is no NaN, and of an `a` that is one anything may come.
    fn lesser(&mut self, d: V, a: V, b: Opd) -> Result<(), Error> {
        let _ = (d, a, b);
        Err(Error::Unsupported("the lesser of two magnitudes".to_string()))
    }
    /// Comparison of two values of type `ty`; false with NaN except `Ne`.
    fn cmp(&mut self, op: BinOp, ty: Ty, d: V, a: Opd, b: Opd) -> Result<(), Error>;
    /// One operand of type `ty`.
    fn un(&mut self, op: VUn, ty: Ty, d: V, a: V) -> Result<(), Error>;
    /// `d = if mask { a } else { b }`.
    fn select(&mut self, ty: Ty, d: V, mask: V, a: Opd, b: Opd) -> Result<(), Error>;
    /// `d[i] = a[(i + k) % lanes]` for a power of two `k < lanes`.
    fn rotate(&mut self, ty: Ty, d: V, a: V, k: u32) -> Result<(), Error>;
    /// Units of 1, 2 or 4 lanes of `a` and `b` in turn, from both operands' low halves or `high` ones: units of less than 128 bits within each 128 bits;
    /// of units of 128 bits those with even numbers, first all of `a`, or `high` those with odd numbers. `d` may be `a`.
    fn interleave(&mut self, ty: Ty, d: V, a: V, b: V, unit: u32, high: bool) -> Result<(), Error>;
    /// True when a register of the types of 32 bits may have another one later: bits that are seen as another type stay where they are.
    fn any_type(&self) -> bool {
        false
    }
    /// Bits of `d` reinterpreted from one type to another into `d`'s type.
    fn bitcast(&mut self, d: V, to: Ty, a: V, from: Ty) -> Result<(), Error>;
    /// Sets the lanes of `d` that are not in `lanes` to a constant.
    fn fill_inactive(&mut self, ty: Ty, d: V, lanes: Lanes, bits: u32) -> Result<(), Error>;

    /// Channels that `load_columns` takes at once; 0 where the machine has nothing for it.
    fn columns(&self) -> u32 {
        0
    }
    /// Bytes of up to four rows beside each other, as operands of `dot`: lane l of operand q of `d` has those of channel `q * lanes + l`, one of each row, and in the
    /// place of missing rows anything. Where an operand of bytes has several parts they are words, of two rows in each operand, of as many rows as
    /// there are. So many `channels` are read, a multiple of 4, and the others are anything.
    fn load_columns(&mut self, d: &[V], rows: &[Mem], channels: u32, order: Order) -> Result<(), Error> {
        let _ = (d, rows, channels, order);
        Err(Error::Unsupported("columns of bytes".to_string()))
    }
    /// Keeps in a register what `load_columns` and `store_bytes` arrange lanes by, if that leaves `others`.
    fn hold_order(&mut self, others: usize) -> Result<(), Error> {
        let _ = others;
        Ok(())
    }
    /// Gives that register back.
    fn drop_order(&mut self) {}
    /// Registers that one operand of `dot` takes.
    fn dot_parts(&self, of: Dot) -> usize;
    /// Registers that `dot` needs for itself.
    fn dot_temps(&self, of: Dot) -> usize;
    /// Loads groups of B, one per lane, prepared for `dot`.
    fn dot_load_b(&mut self, d: &[V], at: Mem, of: Dot) -> Result<(), Error>;
    /// Loads one group of A into all lanes, prepared for `dot`.
    fn dot_splat_a(&mut self, d: &[V], at: Mem, of: Dot) -> Result<(), Error>;
    /// `d` = words, each the sum of two neighbouring products of bytes of `a`, unsigned, by those of `b`, signed; `d` may be `a`. Where the target has tiles
    /// that add up several steps in 16 bits, also the following.
    fn dot_words(&mut self, d: V, a: V, b: V) -> Result<(), Error> {
        let _ = (d, a, b);
        Err(Error::Unsupported("sums of 16 bits".to_string()))
    }
    /// `d += a`, words.
    fn add_words(&mut self, d: V, a: V) -> Result<(), Error> {
        let _ = (d, a);
        Err(Error::Unsupported("sums of 16 bits".to_string()))
    }
    /// `acc += sum of the two words` of `words`, for each lane. Changes `words`.
    fn add_pairs(&mut self, acc: V, words: V) -> Result<(), Error> {
        let _ = (acc, words);
        Err(Error::Unsupported("sums of 16 bits".to_string()))
    }
    /// `acc += sum of the products` of a group, exactly, for each lane.
    fn dot(&mut self, acc: V, a: &[V], b: &[V], of: Dot) -> Result<(), Error>;
    /// The same with the groups of B at a place.
    fn dot_memory(&mut self, acc: V, a: &[V], at: Mem, of: Dot) -> Result<(), Error> {
        let b = (0..a.len()).map(|_| self.alloc(Ty::I32)).collect::<Result<Vec<_>, _>>()?;
        self.dot_load_b(&b, at, of)?;
        self.dot(acc, a, &b, of)?;
        b.into_iter().for_each(|v| self.free(v));
        Ok(())
    }
}

/// Allocates, or gives the error to the caller after returning nothing.
pub(crate) fn alloc_many(e: &mut dyn Emitter, ty: Ty, n: usize) -> Result<Vec<V>, Error> {
    (0..n).map(|_| e.alloc(ty)).collect()
}
