//! What cores take for the steps of kernels and loops, by instruction set: the constants of `onnxc_ir::workload::latency`.
//!
//! Those of AVX-512 are fitted to the layers of all networks on a Zen 4 core (one unit; 4909 layers of two runs), on a Sapphire Rapids core (two; with zeros in weights too, 4462 layers)
//! and on a Zen 5 core (two; with zeros too, 6819 layers of two runs), those of AVX2 on Zen 3 cores (the geometric mean of two fits, to 4685 layers and to 3220, on machines that others use too; `vector_op`, `depthwise` and `levels` are the second's, `fma`, `list` and `visible` between it and the fit before, since these of the first were not kept), by `testsuite/src/bin/fit_latency.rs`, each constant to all layers together, but for two constants of AVX2: the words of depthwise kernels are solved for layers of two shapes, and `dot` is what the median of 85 layers of ResNet-50 and VGG-16 with zeros forced on them takes (`testsuite/sparse_bench.py prune`), since dense layers multiply words there. The rates of the caches
//! are what is left of them in a layer, not what a loop that only reads would get. The other descriptions follow by the width of vectors and by the numbers of units that such cores have in common (Fog,
//! "Instruction tables", 2022; Arm, "Cortex-A76 software optimization guide", 2018): they rank, and their times are rough.

use onnxc_ir::target::{Level, Machine};

use crate::cpu::Isa;
use crate::cpu::cores::Core;

/// A core that multiplies and adds two vectors of 512 bits in a cycle.
const AVX512_TWICE: Machine = Machine {
    ghz: 3.0,
    fma: 0.49,
    dot: 0.44,
    word_dot: 0.44,
    splat: 0.044,
    panel: 0.036,
    inner: 0.5,
    call: 4.5,
    result: 0.18,
    epilogue: 0.45,
    vector_op: 0.9,
    vector_move: 0.08,
    scattered: 0.55,
    plain: 0.87,
    enter: 3.0,
    step: 280.0,
    cold_step: 260.0,
    visible: 0.287,
    // Broadcasts are loads, of which there are as many as multiplications: tall tiles, which read B less often, are the better ones. Chosen by whole
    // networks with several values beside each other.
    tile: (0.08, 1.0),
    list: (0.48, 0.0),
    transform: (32.0, 2.7),
    depthwise: [0.97, 2.17, 0.6],
    levels: [level(32 << 10, 64.0, 12.0), level(1 << 20, 52.0, 21.7), level(16 << 20, 5.7, 3.9), level(128 << 20, 5.1, 6.0)],
    ..BASE
};

/// The same with faster clocks and caches, whose offset lists cost more. `lone` is from 39 layers of ResNet-50 with panels of 16 and of 32 filters. Tall tiles of one vector are slower here: a convolution of 508 rows takes an eighth more.
const ZEN5: Machine = Machine {
    ghz: 4.5,
    dot: 0.449,
    word_dot: 0.449,
    lone: 0.07,
    splat: 0.054,
    panel: 0.035,
    inner: 0.342,
    call: 1.95,
    result: 0.074,
    epilogue: 0.288,
    vector_op: 0.495,
    vector_move: 0.096,
    scattered: 0.748,
    plain: 0.586,
    enter: 8.84,
    step: 192.0,
    barrier: 2000.0,
    exchange: 20.0,
    cold_step: 796.0,
    visible: 0.306,
    tile: (0.4, 1.0),
    list: (1.57, 0.0),
    transform: (32.0, 3.2),
    depthwise: [0.733, 0.764, 0.54],
    levels: [level(48 << 10, 64.0, 38.9), level(1 << 20, 40.1, 31.9), level(16 << 20, 19.0, 5.1), level(128 << 20, 7.1, 3.6)],
    ..AVX512_TWICE
};

/// What descriptions have that do not say otherwise: of a core with one vector of 512 bits in a cycle, by an older fit.
const BASE: Machine = Machine {
    ghz: 3.7,
    fma: 0.93,
    lone: 0.0,
    dot: 0.9,
    short_dot: 0.9,
    word_dot: 0.9,
    short_sum: 0.0,
    splat: 0.2,
    panel: 0.05,
    decode: [2.5, 2.5],
    tile: (0.5, 1.0),
    byte_tile: (0.5, 1.0),
    list: (0.3, 0.0),
    inner: 1.0,
    call: 10.0,
    result: 0.5,
    epilogue: 0.64,
    depthwise: [1.22, 1.65, 1.3],
    transform: (60.0, 5.0),
    vector_op: 0.64,
    vector_move: 0.3,
    scattered: 0.31,
    plain: 0.68,
    enter: 6.2,
    step: 1080.0,
    cold_step: 400.0,
    barrier: 4000.0,
    exchange: 7.0,
    levels: [level(32 << 10, 64.0, 40.0), level(1 << 20, 30.0, 20.0), level(16 << 20, 5.0, 5.0), level(128 << 20, 4.0, 4.0)],
    visible: 0.4,
};

/// A core that multiplies and adds one vector of 512 bits in a cycle.
const AVX512: Machine = Machine {
    splat: 0.073,
    inner: 0.56,
    call: 4.9,
    result: 0.22,
    epilogue: 0.453,
    depthwise: [0.93, 1.444, 1.157],
    transform: (20.0, 2.5),
    vector_op: 0.646,
    vector_move: 0.382,
    scattered: 1.07,
    plain: 0.832,
    enter: 9.4,
    step: 264.0,
    levels: [level(32 << 10, 64.0, 43.2), level(1 << 20, 33.3, 21.4), level(16 << 20, 11.2, 5.66), level(128 << 20, 6.86, 5.15)],
    visible: 0.338,
    ..BASE
};

/// A core of two vectors of 256 bits in a cycle.
const AVX2: Machine = Machine {
    fma: 0.53,
    dot: 1.9,
    short_dot: 0.68,
    word_dot: 0.7,
    short_sum: 0.384,
    // In registers six rows of two vectors are as fast as four of three. With one vector in a row each product waits for a load: a tenth to a fifth
    // slower, of floats and of bytes, in most layers of MobileNetV2 and ResNet-50 with images of 7 and 14 pixels a side on a Zen 3 core.
    tile: (0.75, 1.5),
    byte_tile: (0.75, 1.0),
    splat: 0.214,
    panel: 0.054,
    decode: [1.0, 2.5],
    // Addresses and spreads take the slots of loads, of which there are fewer than multiplications in wide tiles only.
    list: (0.294, 0.2),
    inner: 0.564,
    call: 3.08,
    result: 0.226,
    epilogue: 0.581,
    depthwise: [0.967, 1.63, 1.45],
    vector_op: 0.51,
    vector_move: 0.574,
    scattered: 1.08,
    plain: 1.32,
    enter: 4.94,
    step: 374.0,
    cold_step: 1330.0,
    levels: [level(32 << 10, 64.0, 29.9), level(256 << 10, 62.4, 21.3), level(6 << 20, 9.88, 3.15), level(128 << 20, 4.5, 2.7)],
    visible: 0.5,
    ..BASE
};

/// A core of two vectors of 128 bits in a cycle.
const NARROW: Machine = Machine {
    ghz: 2.5,
    fma: 1.0,
    dot: 1.0,
    short_dot: 1.0,
    // Two multiplications that widen, an addition of neighbours, one to the sums.
    word_dot: 2.0,
    short_sum: 0.0,
    tile: (0.5, 2.0),
    byte_tile: (0.5, 2.0),
    splat: 0.0,
    panel: 0.0,
    decode: [1.0, 2.5],
    list: (0.5, 0.2),
    call: 30.0,
    result: 1.5,
    depthwise: [0.6, 1.65, 3.0],
    vector_op: 0.5,
    epilogue: 0.5,
    levels: [level(32 << 10, 32.0, 20.0), level(256 << 10, 16.0, 10.0), level(4 << 20, 4.0, 4.0), level(128 << 20, 3.0, 3.0)],
    visible: 0.2,
    ..BASE
};

/// The same with the vectors of RISC-V, where a dot product is four multiplications.
const RISCV: Machine = Machine { dot: 4.0, word_dot: 2.0, ..NARROW };

/// A core without vectors, one operation in a cycle.
const SCALAR: Machine = Machine {
    ghz: 1.5,
    fma: 1.0,
    dot: 8.0,
    word_dot: 4.0,
    splat: 0.5,
    panel: 0.5,
    decode: [1.0, 3.0],
    tile: (0.5, 2.0),
    byte_tile: (0.5, 2.0),
    depthwise: [2.0, 2.0, 2.0],
    epilogue: 1.0,
    vector_op: 1.0,
    vector_move: 1.0,
    plain: 2.0,
    levels: [level(32 << 10, 8.0, 8.0), level(128 << 10, 8.0, 8.0), level(2 << 20, 4.0, 2.0), level(128 << 20, 2.0, 2.0)],
    ..BASE
};

const fn level(bytes: u64, read: f64, spilled: f64) -> Level {
    Level { bytes, read, spilled }
}

/// The description of a core with these instructions; `riscv`: with RISC-V's vectors.
pub(crate) fn of(vectors: Isa, core: Core, riscv: bool) -> Machine {
    match vectors {
        Isa::Avx512 { vnni, .. } => {
            let core = match core {
                Core::Usual => AVX512,
                Core::Twice => AVX512_TWICE,
                Core::Zen5 => ZEN5,
            };
            // Bytes take three instructions for one that is not there, words two.
            if vnni { core } else { Machine { dot: core.dot * 10.0 / 3.0, word_dot: core.dot * 2.0, ..core } }
        }
        Isa::Avx2 => AVX2,
        Isa::Clif128 if riscv => RISCV,
        Isa::Clif128 => NARROW,
        Isa::Scalar => SCALAR,
    }
}
