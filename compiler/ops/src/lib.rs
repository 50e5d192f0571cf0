//! Every operator of onnxc: one file each, or one file per tight family.

mod arg_extreme;
mod at_run_time;
mod attention;
mod bit_cast;
mod col2im;
mod common;
mod composed;
mod concat;
mod control;
mod conv;
mod conv_transpose;
mod deform_conv;
mod det;
mod elementwise;
mod grid_sample;
mod hardmax;
mod linear_attention;
mod matmul;
mod max_roi_pool;
mod ml;
mod movement;
mod ngrams;
mod non_max_suppression;
mod normalization;
mod pad;
mod pairwise_coupling;
mod pool;
mod quantized;
pub mod recurrent;
mod reduce;
mod resize;
mod roi_align;
pub mod row_chain;
pub mod schedule;
mod sequences;
mod shape;
mod sort_rows;
mod top_k;
mod tree_sums;
mod view;

use onnxc_ir::op::OpDef;

pub use conv::winograd;
pub use quantized::{dequantization, quantization};
pub use sequences::LISTS;

/// Every operator, sorted by name.
pub static ALL: &[&OpDef] = &[
    &elementwise::ABS,
    &elementwise::ACOS,
    &elementwise::ACOSH,
    &elementwise::ADD,
    &elementwise::AND,
    &arg_extreme::ARG_MAX,
    &arg_extreme::ARG_MIN,
    &elementwise::ASIN,
    &elementwise::ASINH,
    &elementwise::ATAN,
    &elementwise::ATANH,
    &attention::ATTENTION,
    &pool::AVERAGE_POOL,
    &normalization::BATCH_NORMALIZATION,
    &bit_cast::BIT_CAST,
    &elementwise::BIT_SHIFT,
    &elementwise::BITWISE_AND,
    &elementwise::BITWISE_NOT,
    &elementwise::BITWISE_OR,
    &elementwise::BITWISE_XOR,
    &elementwise::CAST,
    &elementwise::CEIL,
    &elementwise::CELU,
    &elementwise::CLIP,
    &col2im::COL2IM,
    &concat::CONCAT,
    &shape::CONSTANT_OF_SHAPE,
    &conv::CONV,
    &quantized::CONV_INTEGER,
    &conv_transpose::CONV_TRANSPOSE,
    &elementwise::COS,
    &elementwise::COSH,
    &movement::CUMPROD,
    &movement::CUMSUM,
    &deform_conv::DEFORM_COLUMNS,
    &movement::DEPTH_TO_SPACE,
    &quantized::DEQUANTIZE_LINEAR,
    &det::DET,
    &elementwise::DIV,
    &recurrent::DYNAMIC_QUANTIZE_LSTM,
    &quantized::DYNAMIC_QUANTIZE_LINEAR,
    &elementwise::ELU,
    &elementwise::EQUAL,
    &elementwise::ERF,
    &elementwise::EXP,
    &view::EXPAND,
    &shape::EYE_LIKE,
    &view::FLATTEN,
    &elementwise::FLOOR,
    &movement::GATHER,
    &movement::GATHER_ELEMENTS,
    &movement::GATHER_ND,
    &elementwise::GELU,
    &matmul::GEMM,
    &pool::GLOBAL_LP_POOL,
    &elementwise::GREATER,
    &elementwise::GREATER_OR_EQUAL,
    &grid_sample::GRID_SAMPLE,
    &normalization::GROUP_NORMALIZATION,
    &recurrent::GRU,
    &elementwise::HARD_SIGMOID,
    &elementwise::HARD_SWISH,
    &hardmax::HARDMAX,
    &view::IDENTITY,
    &control::IF,
    &normalization::INSTANCE_NORMALIZATION,
    &elementwise::IS_INF,
    &elementwise::IS_NAN,
    &ml::LABEL_ENCODER,
    &normalization::LAYER_NORMALIZATION,
    &elementwise::LEAKY_RELU,
    &elementwise::LESS,
    &elementwise::LESS_OR_EQUAL,
    &linear_attention::LINEAR_ATTENTION,
    &elementwise::LOG,
    &normalization::LOG_SOFTMAX,
    &quantized::LOOKUP,
    &control::LOOP,
    &normalization::LP_NORMALIZATION,
    &pool::LP_POOL,
    &normalization::LRN,
    &recurrent::LSTM,
    &elementwise::MAP,
    &matmul::MATMUL,
    &quantized::MATMUL_INTEGER,
    &elementwise::MAX,
    &pool::MAX_POOL,
    &max_roi_pool::MAX_ROI_POOL,
    &elementwise::MEAN,
    &normalization::MEAN_VARIANCE_NORMALIZATION,
    &elementwise::MIN,
    &elementwise::MISH,
    &elementwise::MOD,
    &elementwise::MUL,
    &elementwise::NEG,
    &non_max_suppression::NON_MAX_SUPPRESSION,
    &ngrams::NGRAMS,
    &movement::NON_ZERO,
    &elementwise::NOT,
    &movement::ONE_HOT,
    &elementwise::OR,
    &pad::PAD,
    &pairwise_coupling::PAIRWISE_COUPLING,
    &elementwise::POW,
    &movement::PREFIX,
    &elementwise::PRELU,
    &shape::RANGE,
    &quantized::QLINEAR_CONV,
    &quantized::QLINEAR_MATMUL,
    &quantized::QUANTIZE_LINEAR,
    &elementwise::RECIPROCAL,
    &reduce::REDUCE_L1,
    &reduce::REDUCE_L2,
    &reduce::REDUCE_LOG_SUM,
    &reduce::REDUCE_LOG_SUM_EXP,
    &reduce::REDUCE_MAX,
    &reduce::REDUCE_MEAN,
    &reduce::REDUCE_MIN,
    &reduce::REDUCE_PROD,
    &reduce::REDUCE_SUM,
    &reduce::REDUCE_SUM_SQUARE,
    &elementwise::RELU,
    &control::REQUIRE,
    &view::RESHAPE,
    &resize::RESIZE,
    &movement::REVERSE_SEQUENCE,
    &normalization::RMS_NORMALIZATION,
    &recurrent::RNN,
    &roi_align::ROI_ALIGN,
    &elementwise::ROUND,
    &row_chain::ROW_CHAIN,
    &movement::SCATTER_ELEMENTS,
    &movement::SCATTER_ND,
    &elementwise::SELU,
    &shape::SHAPE,
    &elementwise::SHRINK,
    &elementwise::SIGMOID,
    &elementwise::SIGN,
    &elementwise::SIN,
    &elementwise::SINH,
    &shape::SIZE,
    &shape::SIZES,
    &view::SLICE,
    &normalization::SOFTMAX,
    &elementwise::SOFTPLUS,
    &elementwise::SOFTSIGN,
    &sort_rows::SORT_ROWS,
    &movement::SPACE_TO_DEPTH,
    &view::SPLIT,
    &elementwise::SQRT,
    &view::SQUEEZE,
    &elementwise::SUB,
    &elementwise::SUM,
    &elementwise::SWISH,
    &elementwise::TAN,
    &elementwise::TANH,
    &elementwise::THRESHOLDED_RELU,
    &movement::TILE,
    &top_k::TOP_K,
    &view::TRANSPOSE,
    &ml::TREE_ENSEMBLE,
    &tree_sums::TREE_SUMS,
    &movement::TRILU,
    &view::UNSQUEEZE,
    &elementwise::WHERE,
    &elementwise::XOR,
];
