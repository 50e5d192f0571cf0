//! Scales and zero points as rules see them.

use onnxc_egraph::{Id, Match, RuleCx};
use onnxc_ir::{DType, Tensor};

/// One scale and zero point for a whole tensor.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Params {
    pub scale: f32,
    pub zero: i64,
    /// The integers' type.
    pub dtype: DType,
}

impl Params {
    /// Do products take such integers? Bytes, and words with sign.
    pub fn multiplied(&self) -> bool {
        self.dtype.bits() == 8 || self.dtype == DType::I16
    }

    /// How far values are from zero, in steps.
    pub fn reach(&self) -> i64 {
        // Any zero point of a byte.
        if self.dtype.bits() == 8 { 255 } else { 32768 + self.zero.abs() }
    }
}

/// A dequantisation with one scale and zero point, both constants.
#[derive(Clone, Debug)]
pub(crate) struct Dequantized {
    /// The integers.
    pub x: Id,
    pub scale: Id,
    pub zero: Option<Id>,
    pub params: Params,
}

/// Scales outside of this range could make subnormal numbers, which not every target computes with.
const SCALES: std::ops::RangeInclusive<f32> = 1e-30..=1e30;

/// True for scales that rules accept.
pub(crate) fn sane(scale: f32) -> bool {
    SCALES.contains(&scale)
}

fn parameters(cx: &RuleCx, m: &Match, dtype: DType) -> Option<Params> {
    let scale = cx.constant(m.input(1)?).filter(|s| s.len() == 1 && s.dtype() == DType::F32)?.to_vec::<f32>()[0];
    let zero = match m.input(2) {
        Some(zero) => *cx.constant(zero).filter(|z| z.len() == 1)?.to_i64s()?.first()?,
        None => 0,
    };
    let plain = m.attrs.int("block_size").unwrap_or(0) == 0;
    (sane(scale) && plain && dtype.is_int()).then_some(Params { scale, zero, dtype })
}

/// The dequantisation to f32 in a class, if it has one scale for all.
pub(crate) fn dequantized(cx: &RuleCx, id: Id) -> Option<Dequantized> {
    cx.find(id, "dequantize_linear").into_iter().find_map(|m| {
        let x = m.input(0)?;
        let (from, to) = (cx.ty(x).dtype, cx.ty(m.id).dtype);
        let params = parameters(cx, &m, from).filter(|_| to == DType::F32 && from.bits() <= 16)?;
        Some(Dequantized { x, scale: m.input(1)?, zero: m.input(2), params })
    })
}

/// The parameters of a `quantize_linear` of f32 with one scale and zero point, both constants.
pub(crate) fn quantizes(cx: &RuleCx, m: &Match) -> Option<Params> {
    let (from, to) = (cx.ty(m.input(0)?).dtype, cx.ty(m.id).dtype);
    parameters(cx, m, to).filter(|_| from == DType::F32 && to.bits() <= 16)
}

/// The operand that is the zero point of a `quantize_linear`, made where it is absent.
pub(crate) fn zero_operand(cx: &mut RuleCx, m: &Match, params: Params) -> Option<Id> {
    match m.input(2) {
        Some(zero) => Some(zero),
        None => integer(params.zero, params.dtype).map(|zero| cx.add_constant(zero)),
    }
}

/// A constant of one element.
pub(crate) fn integer(value: i64, dtype: DType) -> Option<Tensor> {
    Some(match dtype {
        DType::U8 => Tensor::scalar(u8::try_from(value).ok()?),
        DType::I8 => Tensor::scalar(i8::try_from(value).ok()?),
        DType::U16 => Tensor::scalar(u16::try_from(value).ok()?),
        DType::I16 => Tensor::scalar(i16::try_from(value).ok()?),
        _ => return None,
    })
}

/// True when a rule has put `op` in the place of the matched node already: rules run until nothing changes, and looking at weights takes long.
pub(crate) fn done(cx: &RuleCx, m: &Match, op: &str) -> bool {
    !cx.find(m.id, op).is_empty()
}

/// The values of integers of 8 bits, or of 16 with sign; `None` for other types.
pub(crate) fn values(t: &Tensor) -> Option<Vec<i16>> {
    match t.dtype() {
        DType::U8 => Some(t.bytes().iter().map(|b| i16::from(*b)).collect()),
        DType::I8 => Some(t.bytes().iter().map(|b| i16::from(*b as i8)).collect()),
        DType::I16 => Some(t.to_vec()),
        _ => None,
    }
}
