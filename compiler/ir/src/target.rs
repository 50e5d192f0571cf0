//! What the middle of the compiler may know of a target: numbers, no names.

/// Description of the machine that code is made for; filled by `onnxc-targets`.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetDesc {
    /// Target triple.
    pub triple: String,
    /// CPU name and features as the user gave them.
    pub cpu: String,
    /// f32 lanes of a vector register (1: no vectors).
    pub lanes: u32,
    /// Tiles for f32 matmul and convolution, best first: (mr, nr).
    pub f32_tiles: Vec<(u32, u32)>,
    /// Tiles for int8.
    pub i8_tiles: Vec<(u32, u32)>,
    /// u8*s8 (true) or s8*s8 (false) is what the int8 kernels multiply.
    pub i8_unsigned_a: bool,
    /// Channels that depthwise kernels take at once by dot products over the rows of a column; 0 where there is no such code.
    pub depthwise_columns: u32,
    /// True when kernels can bring memory near before it is needed.
    pub prefetches: bool,
    /// Bytes of the first and second level data caches.
    pub l1_bytes: u64,
    /// Second level.
    pub l2_bytes: u64,
    /// Threads that the artefact may use (`--max-threads`).
    pub max_threads: u32,
}
