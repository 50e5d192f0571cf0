//! What the middle of the compiler may know of a target: numbers, no names.

/// Description of the machine that code is made for; filled by `onnxc-targets`.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct TargetDesc {
    /// Target triple.
    pub triple: String,
    /// CPU name and features as the user gave them.
    pub cpu: String,
    /// f32 lanes of a vector register (1: no vectors).
    pub lanes: u32,
    /// Tiles for f32 matmul and convolution, best first: (mr, nr).
    pub f32_tiles: Vec<(u32, u32)>,
    /// Those of them that leave a register for a table.
    pub table_tiles: Vec<(u32, u32)>,
    /// Tiles for int8.
    pub i8_tiles: Vec<(u32, u32)>,
    /// Tiles for int8 with short weights ([`SHORT_SUM`]), by the number of steps of k that they add up in 16 bits; none where these are
    /// not faster.
    pub short_tiles: Vec<(u32, Vec<(u32, u32)>)>,
    /// Tiles for words, 16-bit integers.
    pub word_tiles: Vec<(u32, u32)>,
    /// u8*s8 (true) or s8*s8 (false) is what the int8 kernels multiply.
    pub i8_unsigned_a: bool,
    /// Channels that depthwise kernels take at once by dot products over the rows of a column; 0 where there is no such code.
    pub depthwise_columns: u32,
    /// These multiply words, not bytes.
    pub depthwise_words: bool,
    /// True when epilogues look up bytes in tables ([`crate::byte_table`]).
    pub byte_tables: bool,
    /// Operations on vectors that take as long as the kernel that looks up [`crate::kernel::LOOKUP_BYTES`] bytes in a table of 256; 0 where there is none.
    pub byte_lookups: u32,
    /// True when kernels take sums of integers as the bits of floats ([`crate::float_sums`]): a fused operation must be faster than a conversion and a product,
    /// and there must be a register for its third operand.
    pub float_sums: bool,
    /// True when kernels can bring memory near before it is needed.
    pub prefetches: bool,
    /// Places of B that tiles of one row read in turn. 1: all in order, and what follows is brought near before if kernels can do that.
    pub row_streams: u32,
    /// Bytes of the first and second level data caches.
    pub l1_bytes: u64,
    /// Second level.
    pub l2_bytes: u64,
    /// What a core takes for a step of each kind.
    pub machine: Machine,
    /// Threads that the artefact may use (`--max-threads`).
    pub max_threads: u32,
}

/// What short weights whose products are added in 16 bits add up to at most, those of different signs aside: their products with unsigned bytes then fit,
/// `255 * 128 < 2^15`, so that instructions which saturate there are exact (`vpmaddubsw`; Intel, "Lower Numerical Precision Deep Learning Inference and
/// Training", 2018, where all weights are of 7 bits for that). These are two neighbouring ones of a step of k, or of several steps that go together.
pub const SHORT_SUM: i32 = 128;

/// Channels of which one product of bytes adds two and two: a step of k has four.
pub const PAIR: usize = 2;

/// What weights add up to in size, those of different signs aside.
pub fn sum_size(weights: impl IntoIterator<Item = i32>) -> i32 {
    let (up, down) = weights.into_iter().fold((0, 0), |(up, down), w| (up + w.max(0), down + w.min(0)));
    up.max(-down)
}

/// What a tile multiplies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Factors {
    /// f32.
    Floats,
    /// Bytes.
    Bytes,
    /// Unsigned bytes with short weights; products of so many steps add up within 16 bits.
    ShortBytes(u32),
    /// Signed words.
    Words,
}

impl TargetDesc {
    /// Vectors of sums that the largest tile keeps in registers.
    pub fn accumulators(&self) -> u32 {
        self.f32_tiles.iter().map(|(mr, nr)| mr * nr / self.lanes.max(1)).max().unwrap_or(0)
    }

    /// The tiles for these, best first.
    pub fn tiles(&self, factors: Factors) -> &[(u32, u32)] {
        match factors {
            Factors::Floats => &self.f32_tiles,
            Factors::Bytes => &self.i8_tiles,
            Factors::ShortBytes(steps) => self.short_tiles.iter().find(|t| t.0 == steps).map_or(&[], |t| &t.1),
            Factors::Words => &self.word_tiles,
        }
    }

    /// Are products of 16-bit integers faster than those of floats?
    pub fn fast_words(&self) -> bool {
        self.machine.word_dot < 2.0 * self.machine.fma
    }

    /// Are they faster than those of bytes that are not short?
    pub fn words_beat_bytes(&self) -> bool {
        2.0 * self.machine.word_dot < self.machine.dot
    }

    /// The most steps of short weights that tiles add up in 16 bits; 0 where there are no such tiles.
    pub fn short_steps(&self) -> u32 {
        self.short_tiles.iter().map(|t| t.0).max().unwrap_or(0)
    }
}

/// A level of memory.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Level {
    /// Bytes that it holds.
    pub bytes: u64,
    /// Bytes in a cycle that a core reads where as many are read again and again.
    pub read: f64,
    /// Bytes in a cycle of what is written and read again while other data passes.
    pub spilled: f64,
}

/// What a core takes for what kernels and loops are made of, in cycles: the constants of the latency model (`workload::latency`). Vectors have the lanes of
/// the target.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Machine {
    /// Cycles in a nanosecond.
    pub ghz: f64,
    /// A vector of f32 multiplied and added, in a tile.
    pub fma: f64,
    /// A vector of dot products of 8-bit integers, in a tile.
    pub dot: f64,
    /// The same with short weights, within 16 bits.
    pub short_dot: f64,
    /// A vector of dot products of 16-bit integers, in a tile.
    pub word_dot: f64,
    /// A vector of sums within 16 bits that is added to those of 32 bits.
    pub short_sum: f64,
    /// Such a vector of a tile that has no other one in a row, beside that: each waits for an element of A of its own.
    pub lone: f64,
    /// An element of A that a tile spreads over a vector, beside its multiplications.
    pub splat: f64,
    /// A vector of B that a tile loads.
    pub panel: f64,
    /// Such a vector becomes floats as it is loaded: from bytes, from numbers of a table's elements.
    pub decode: [f64; 2],
    /// What the choice of a tile of floats counts for a row and for a vector of B, in multiplications of a vector: what they take in a step of k, and their
    /// part of what is read again for other tiles.
    pub tile: (f64, f64),
    /// The same for tiles of bytes.
    pub byte_tile: (f64, f64),
    /// A step of a list beside its multiplications, and each element of A that it spreads.
    pub list: (f64, f64),
    /// The innermost loop of a tile begins.
    pub inner: f64,
    /// A kernel is called.
    pub call: f64,
    /// A vector of results that a tile begins and stores.
    pub result: f64,
    /// An instruction of an epilogue on a vector.
    pub epilogue: f64,
    /// A vector multiplied and added by a depthwise kernel: f32, bytes, dot products of columns.
    pub depthwise: [f64; 3],
    /// The transform of a tile of Winograd's algorithm begins; a vector that it loads or stores.
    pub transform: (f64, f64),
    /// An operation on a vector in a vector loop.
    pub vector_op: f64,
    /// A vector that such a loop loads or stores.
    pub vector_move: f64,
    /// An element that such a loop loads or stores by itself.
    pub scattered: f64,
    /// An operation, load or store of a loop without vectors.
    pub plain: f64,
    /// A loop begins.
    pub enter: f64,
    /// A step of the plan begins.
    pub step: f64,
    /// The same when an inference touches more than the second cache holds.
    pub cold_step: f64,
    /// All threads meet.
    pub barrier: f64,
    /// Bytes a cycle that a core gets of what another one has written.
    pub exchange: f64,
    /// First, second and last cache, memory.
    pub levels: [Level; 4],
    /// The part of moving memory that is seen although computation has the time to hide it.
    pub visible: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_short_weights_fit_in_words() {
        let (most, sum) = (i32::from(i16::MAX), 255 * SHORT_SUM);
        assert!(sum <= most && 255 * (SHORT_SUM + 1) > most);
        let sizes = [[3, 4], [-3, -4], [-3, 4], [0, 0]].map(sum_size);
        assert_eq!((sizes, sum_size([1, -5, 2, -6, 127])), ([7, 7, 4, 0], 130));
    }
}
