//! Microkernels as data: what lowering asks for and targets know how to emit.

use crate::dtype::DType;
use crate::scalar::ScalarProgram;

/// A microkernel with everything that is constant in it. Equal kernels share code.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Kernel {
    /// A matmul or direct convolution tile.
    Tile(TileKernel),
    /// Rows of depthwise convolution outputs.
    Depthwise(DepthwiseKernel),
    /// Lines of the caches that will soon be needed.
    Fetch(FetchKernel),
    /// Bytes read from a table.
    Lookup(LookupKernel),
}

/// `y[i] = table[x[i]]`, of bytes, for targets with `byte_lookups` ([`crate::target::TargetDesc`]).
///
/// Arguments: pointers `x, table, y`. The table has 256 bytes. y may be x.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct LookupKernel {
    /// How many bytes, a multiple of [`LOOKUP_BYTES`].
    pub bytes: u32,
    /// x has i8, of which the least reads the first entry; otherwise u8.
    pub signed: bool,
}

/// Bytes that are looked up at once.
pub const LOOKUP_BYTES: u64 = 64;

/// Brings lines of 64 bytes near the core, those at all sums of steps of a nest, for what reads or writes them soon.
///
/// Argument: a pointer. The memory is not read, and need not be there.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct FetchKernel {
    /// (count, step in bytes): loops, the inner one second.
    pub nest: [(u32, i64); 2],
}

/// `C[mr, nr] = epilogue(init + sum over steps of A[mr, k] * B[k, nr])`.
///
/// Arguments: pointers `a, b, c`, then `bias` (nr values) if `bias`, then one pointer per epilogue operand, then one where lines are fetched if
/// `ahead` is not 0, then that of the table if B is numbers, then that of the list if `list`, or where differences are kept if `less`; no integers, unless `open_k` or `list`.
/// A is read by broadcast: row i at `a + i*a_row`. The k loop is a nest: `nest` lists (count, byte step of a) from the outermost to the
/// innermost; the innermost step is one k (of bytes four, of words two). B is packed: for each innermost step `nr` elements (of bytes `nr` groups of 4,
/// of words of 2), contiguous in loop order, 64-byte aligned. C rows are `c_row` bytes apart, its elements are neighbours; only the first `cols`
/// columns are written (masked tail), and the columns of epilogue operands and bias beyond `cols` are never read.
///
/// B may be coded while A is f32: signed bytes (`b_dtype` i8, a byte for each element, packed like floats), or numbers of four bits (u4) of elements of a
/// table of 16 signed bytes, whose pointer follows that of `ahead`. Eight steps of the innermost loop share words of 32 bits then, one for each column, with
/// the first step in the lowest bits; a loop whose count is no multiple of eight ends in words that are filled in part. The kernel makes floats of them as
/// it loads them.
///
/// With a `list` the steps of k are some of those of the nest: each has an i32 in the list, the byte offset from `a`, and the integer says how many there
/// are. What the others would multiply is not in B.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TileKernel {
    /// f32 * f32 -> f32 (B may be coded), or u8 * s8, s8 * s8, s16 * s16, s16 * s8 -> i32: types of A and B. The last one is there where it is faster than that
    /// of bytes ([`crate::target::TargetDesc::words_beat_bytes`]).
    pub a_dtype: DType,
    /// Type of B.
    pub b_dtype: DType,
    /// Steps whose products add up within 16 bits, since B has short weights ([`crate::target::SHORT_SUM`]) and A is u8: of each run of the innermost loop
    /// that has several rounds, or of a list, the first so many, the next ones, and so on. 0: those of one step do not.
    pub short: u32,
    /// Rows of the tile.
    pub mr: u32,
    /// Columns of the packed panel (a multiple of the target's f32 lanes).
    pub nr: u32,
    /// Columns written; `nr - lanes < cols <= nr` is usual, any `1..=nr` is allowed.
    pub cols: u32,
    /// Bytes between rows of A.
    pub a_row: i64,
    /// (count, byte step of a), outermost first.
    pub nest: Vec<(u32, i64)>,
    /// The innermost loop runs as often as an integer argument behind the pointers says, and its count in `nest` is only a bound.
    pub open_k: bool,
    /// A list says where in A each step is; `nest` is the one that they are from.
    pub list: bool,
    /// Bytes between rows of C.
    pub c_row: i64,
    /// Element type of C after the epilogue.
    pub c_dtype: DType,
    /// Starts from the values in C (f32, i32) instead of zero or bias.
    pub accumulate: bool,
    /// A vector of nr initial values follows as pointer 3 (f32 or i32 as the accumulator).
    pub bias: bool,
    /// Program over: argument 0 = accumulator (f32 or i32), argument 1.. = operands. Identity when only `a0`.
    pub epilogue: ScalarProgram,
    /// How each operand (argument 1..) is read.
    pub operands: Vec<EpilogueOperand>,
    /// Places of B that the steps take turns at, if the tile has one row and many steps. 1: the steps go in order, and what follows in B is brought near before.
    pub streams: u32,
    /// Lines of 64 bytes from the last pointer on that are brought near during the k loop, for tiles to come: a part of the next panel of B. The memory
    /// is not read, and need not be there. With a list so many for each four of its steps.
    pub ahead: u32,
    /// What is taken from B before it is multiplied, of f32 that is neither coded nor of a list.
    pub less: Option<Less>,
}

/// What a kernel takes from each element of B. The difference is kept at the pointer behind that of `ahead`, packed as B is, for tiles that multiply by it too.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Less {
    /// The element so many bytes further in B.
    Apart(i64),
    /// The element in whose place the difference is kept.
    Kept,
}

/// Steps of k whose numbers share a word.
pub const NUMBERS: u64 = 8;

/// Elements of k that one step multiplies for an A of this type, which B packs together: 4 bytes, 2 words, a float.
pub fn k_group(a: DType) -> u64 {
    4 / a.bytes()
}

impl TileKernel {
    /// Is what the tile multiplies integers?
    pub fn is_integer(&self) -> bool {
        self.a_dtype != DType::F32
    }

    /// Elements of k that one step multiplies: four bytes, two words, one float.
    pub fn group(&self) -> u64 {
        k_group(self.a_dtype)
    }

    /// Is B kept in a narrower form than it is multiplied in?
    pub fn is_coded(&self) -> bool {
        !self.is_integer() && self.b_dtype != DType::F32
    }

    /// What is known of the weights, in the names of kernels: nothing, or how many steps add up within 16 bits.
    pub fn short_name(&self) -> String {
        match self.short {
            0 => String::new(),
            1 => "_short".to_string(),
            steps => format!("_short{steps}"),
        }
    }

    /// Does B have numbers of elements of a table?
    pub fn has_table(&self) -> bool {
        self.b_dtype == DType::U4
    }

    /// Bytes of B in so many steps of the innermost loop that follow each other.
    pub fn b_bytes(&self, steps: u64) -> u64 {
        let (steps, each) = match (self.is_coded(), self.has_table()) {
            (true, true) => (steps.div_ceil(NUMBERS), 4),
            (true, false) => (steps, 1),
            _ => (steps, self.group() * self.b_dtype.bytes()),
        };
        steps.saturating_mul(each * u64::from(self.nr))
    }
}

/// How an epilogue operand is indexed.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct EpilogueOperand {
    /// Element type in memory.
    pub dtype: DType,
    /// Bytes between rows of the tile (0: the same for all rows).
    pub row: i64,
    /// True: one element per column; false: one element for the whole row.
    pub per_column: bool,
    /// What is known of its elements.
    pub values: Values,
}

/// What is known of the elements of an operand.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Values {
    /// Nothing.
    Any,
    /// They are numbers, and not infinite.
    Finite,
    /// Also, of a magnitude below 2 to this power.
    Small(u8),
    /// Also, times any sum that the kernel's accumulators can have, they are of a magnitude below 2 to this power: scales of requantisation.
    Scale(u8),
}

/// Powers of two that limits of operands are rounded up to: kernels that differ in them only would be two.
const LIMITS: [u8; 3] = [8, 16, 22];

impl Values {
    /// The power of two that a magnitude is below, if it is small.
    pub fn power(largest: f64) -> Option<u8> {
        LIMITS.into_iter().find(|power| largest < f64::from(1u32 << power))
    }

    /// The limit of the magnitude of elements, if there is one.
    pub fn limit(self) -> Option<f64> {
        match self {
            Values::Small(power) => Some(f64::from(1u32 << power)),
            _ => None,
        }
    }

    /// The limit of the magnitude of elements times sums, if there is one.
    pub fn scaled_limit(self) -> Option<f64> {
        match self {
            Values::Scale(power) => Some(f64::from(1u32 << power)),
            _ => None,
        }
    }
}

/// Rows of depthwise convolution, NHWC: for `ow` in 0..n: `y[ow, c] = epilogue(bias[c] + sum over taps of x[tap + ow*x_step, c] * w[tap, c])`
/// for channels `0..channels`, and the same in all rows. A few channels go through all of them before the next ones: what neighbouring rows share of x is
/// near then.
///
/// Arguments: pointers `x, w, y`, `bias` if `bias`, epilogue operands; integers: `n` outputs of a row if `outputs` does not say. `x` already points at tap
/// 0 of output 0. Weights are `[taps][w_step]` with channels neighbouring, of the accumulators' type, and so is the bias: f32 for an x of f32, i32 for bytes.
///
/// With `columns` instead of `w_step` taps are those of columns of rows of u8, `taps[row * columns + column]`, and weights are i8, packed for
/// dot products: `[group][column][four rows][channel of the group][row]`, groups of as many channels as the target says ([`crate::target::TargetDesc`]), the
/// last one filled up, rows that are not there 0. With `words` they are i16 instead, `[group][column][two rows][channel of the group][row]`. With `below` they are
/// there a second time behind those of the group, each row one place further down: for outputs of two neighbouring rows, which read the same columns of four rows.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DepthwiseKernel {
    /// Element type of x: f32, u8 or i8.
    pub x_dtype: DType,
    /// Element type of y after the epilogue.
    pub y_dtype: DType,
    /// Channels handled by one call.
    pub channels: u32,
    /// Outputs of a row where all calls have as many; 0 where they come with the call.
    pub outputs: u32,
    /// The rows; one where `outputs` is 0.
    pub rows: OutputRows,
    /// Byte offset in x of each tap.
    pub taps: Vec<i64>,
    /// Outputs of a row with taps that they leave out, since x ends before or begins behind them. None where `outputs` is 0 or `columns` is not.
    pub outside: Vec<(u32, u32)>,
    /// Bytes between the x of neighbouring outputs.
    pub x_step: i64,
    /// Bytes between neighbouring outputs.
    pub y_step: i64,
    /// Bytes between taps in w; 0: they all have the same weights.
    pub w_step: i64,
    /// Columns of taps when weights are packed for dot products over rows; 0 when they are not.
    pub columns: u32,
    /// Weights of columns are there for two rows of outputs.
    pub below: bool,
    /// Weights of columns are words, of two rows together.
    pub words: bool,
    /// Whole groups of columns have weights, bias and operands per column in the order of [`paired_channel`].
    pub paired: bool,
    /// Bias of `channels` values.
    pub bias: bool,
    /// As in [`TileKernel`]; operand `row` is the byte step per output.
    pub epilogue: ScalarProgram,
    /// Operands of the epilogue.
    pub operands: Vec<EpilogueOperand>,
}

/// Channels of a group that can be in the order of pairs.
pub const PAIRED: u32 = 64;

/// The channel of a group of [`PAIRED`] in lane `place % 16` of vector `place / 16`: pairing bytes of rows, then words, within 128 bits each leaves them there,
/// and packs that make bytes of the four vectors bring them back.
pub fn paired_channel(place: usize) -> usize {
    let (vector, lane) = (place / 16, place % 16);
    16 * (lane / 4) + 4 * vector + lane % 4
}

/// Rows of a column that one operand of a dot product has, of words or of bytes.
pub fn rows_of_operand(words: bool) -> usize {
    if words { 2 } else { 4 }
}

/// Rows of outputs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct OutputRows {
    /// How many.
    pub count: u32,
    /// Bytes between them in x.
    pub x: i64,
    /// In y.
    pub y: i64,
    /// In each operand of the epilogue.
    pub operands: Vec<i64>,
}
