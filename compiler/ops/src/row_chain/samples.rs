//! Samples: blocks as networks for small machines have them, of sizes that no tile and no step divides.

use onnxc_ir::graph::Node;
use onnxc_ir::op::{InferCx, OpDef, Sample, SampleInput};
use onnxc_ir::scalar::{BinOp, ScalarProgram};
use onnxc_ir::scalar_eval::Scalar;
use onnxc_ir::{Attr, Attrs, DType, Graph, Tensor, TensorType, ValueId};

use super::BODY;
use crate::common::elements::from_scalars;
use crate::common::sample::{add_relu, data_in, lists};
use crate::conv::CONV;
use crate::quantized::{CONV_INTEGER, QLINEAR_CONV};

/// A chain under construction: its body and the operands.
struct Block {
    body: Graph,
    operands: Vec<Option<SampleInput>>,
    image: ValueId,
}

impl Block {
    fn new(dtype: DType, image: &[u64]) -> Block {
        let (mut body, ty) = (Graph::new("body"), TensorType::fixed(dtype, image));
        let image = body.add_input("x", ty.clone());
        let (low, high) = match dtype {
            DType::U8 => (0.0, 255.0),
            DType::I8 => (-128.0, 127.0),
            _ => (-1.0, 1.0),
        };
        Block { body, operands: vec![Some(SampleInput::Data(ty, low, high))], image }
    }

    fn operand(&mut self, operand: SampleInput) -> Option<ValueId> {
        let ty = match &operand {
            SampleInput::Data(ty, ..) => ty.clone(),
            SampleInput::Const(t) => TensorType::fixed(t.dtype(), t.shape()),
        };
        let name = format!("operand{}", self.operands.len());
        self.operands.push(Some(operand));
        Some(self.body.add_input(&name, ty))
    }

    fn link(mut self, op: &'static OpDef, attrs: Attrs, mut inputs: Vec<Option<ValueId>>) -> Block {
        inputs[0] = Some(self.image);
        let types: Vec<_> = inputs.iter().map(|i| i.map(|id| self.body.ty(id).clone())).collect();
        let none = vec![None; inputs.len()];
        let dims = vec![None; inputs.len()];
        let cx = InferCx { attrs: &attrs, inputs: &types, constants: &none, dims: &dims, n_outputs: 1 };
        let ty = (op.infer)(&cx).expect("internal: a sample's link has a type").remove(0);
        let name = format!("y{}", self.body.nodes.len());
        self.image = self.body.add_value(&name, ty, None);
        let origins = vec![name];
        self.body.nodes.push(Node { op, inputs, outputs: vec![self.image], attrs, origins });
        self
    }

    fn channels(&self) -> u64 {
        self.body.ty(self.image).shape[1].as_const().expect("internal: a sample has known extents")
    }

    /// A convolution of floats by one kernel for each channel, or by dense ones.
    fn conv(mut self, filters: Option<u64>, taps: u64, stride: i64, pads: [i64; 4]) -> Block {
        let channels = self.channels();
        let (m, per_group) = filters.map_or((channels, 1), |m| (m, channels));
        let w = self.operand(weights(&[m, per_group, taps, taps]));
        let b = self.operand(weights(&[m]));
        let attrs = lists(&[("pads", &pads), ("strides", &[stride, stride])]);
        let attrs = attrs.with("group", Attr::Int(if filters.is_none() { channels as i64 } else { 1 }));
        self.link(&CONV, attrs, vec![None, w, b])
    }

    fn point(self, filters: u64) -> Block {
        self.conv(Some(filters), 1, 1, [0; 4])
    }

    /// The last convolution with `max(a0 + a1, 0)` behind it, for an operand of this shape.
    fn add_relu(mut self, shape: &[u64]) -> Block {
        let operand = self.operand(data_in(DType::F32, shape, -1.0, 1.0).expect("internal: data"));
        let node = self.body.nodes.last_mut().expect("internal: a link");
        node.inputs.push(operand);
        let attrs = std::mem::take(&mut node.attrs);
        node.attrs = attrs.with("epilogue", add_relu());
        self
    }

    /// A quantised convolution from one zero point to another.
    fn quantized(mut self, filters: Option<u64>, taps: u64, stride: i64, pads: [i64; 4], (from, to): (i64, i64)) -> Block {
        let (channels, dtype) = (self.channels(), self.body.ty(self.image).dtype);
        let (m, per_group) = filters.map_or((channels, 1), |m| (m, channels));
        let mut constant = |t: Tensor| self.operand(SampleInput::Const(t));
        let zero = |v: i64| from_scalars(dtype, &[], [Scalar::Int(v.into())]).expect("internal: a zero point");
        let n = m * per_group * taps * taps;
        let values = (0..n).map(|i| ((i * 37 % 255) as i64 - 127) as i8).collect();
        let bias = (0..m).map(|i| 40 * i as i32 - 300).collect();
        let inputs = vec![
            None,
            constant(Tensor::scalar(0.02f32)),
            constant(zero(from)),
            constant(Tensor::from_vec::<i8>(&[m, per_group, taps, taps], values)),
            constant(Tensor::scalar(0.01f32)),
            constant(Tensor::scalar(0i8)),
            constant(Tensor::scalar(0.02f32 * (per_group * taps * taps) as f32 / 4.0)),
            constant(zero(to)),
            constant(Tensor::from_vec::<i32>(&[m], bias)),
        ];
        let attrs = lists(&[("pads", &pads), ("strides", &[stride, stride])]);
        let attrs = attrs.with("group", Attr::Int(if filters.is_none() { channels as i64 } else { 1 }));
        self.link(&QLINEAR_CONV, attrs, inputs)
    }

    fn sample(mut self) -> Sample {
        self.body.outputs = vec![self.image];
        Sample { attrs: Attrs::default().with(BODY, Attr::Graph(Box::new(self.body))), inputs: self.operands, n_outputs: 1 }
    }
}

/// So small that results are of the order of one.
fn weights(shape: &[u64]) -> SampleInput {
    let n: u64 = shape.iter().product();
    let per_filter = (n / shape[0]).max(1) as f32;
    SampleInput::Const(Tensor::from_vec(
        shape,
        (0..n).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0 / per_filter.sqrt()).collect(),
    ))
}

/// `u8(a0 >> 6)`, an epilogue of sums.
fn shifted() -> Attr {
    let mut p = ScalarProgram::default();
    let sum = p.arg(0, DType::I32);
    let (zero, most, six) = (p.int(0, DType::I32), p.int(255, DType::I32), p.int(6, DType::I32));
    let sum = p.bin(BinOp::Shr, sum, six);
    let sum = p.bin(BinOp::Max, sum, zero);
    let sum = p.bin(BinOp::Min, sum, most);
    p.cast(sum, DType::U8);
    Attr::Program(p)
}

pub(super) fn samples() -> Vec<Sample> {
    let f32s = |shape: &[u64]| Block::new(DType::F32, shape);
    let bytes = |shape: &[u64]| Block::new(DType::U8, shape);
    let mut sums = bytes(&[1, 8, 53, 6]);
    let w = sums
        .operand(SampleInput::Const(Tensor::from_vec::<i8>(&[20, 8, 1, 1], (0..160).map(|i| (i * 7 % 61) as i8 - 30).collect())));
    let sums = sums.link(&CONV_INTEGER, Attrs::default().with("epilogue", shifted()), vec![None, w, None, None]);
    vec![
        // Expand, depthwise, project: one step, and several with a rest.
        f32s(&[1, 7, 13, 11]).point(20).conv(None, 3, 1, [1; 4]).point(7).add_relu(&[1, 7, 13, 11]).sample(),
        f32s(&[1, 7, 61, 9]).point(20).conv(None, 3, 1, [1; 4]).point(7).add_relu(&[1, 7, 61, 9]).sample(),
        f32s(&[1, 5, 103, 14]).point(33).conv(None, 3, 2, [1; 4]).point(18).sample(),
        f32s(&[1, 5, 102, 15]).point(16).conv(None, 5, 2, [1, 1, 2, 2]).sample(),
        f32s(&[1, 4, 70, 5]).point(35).conv(None, 5, 1, [2; 4]).add_relu(&[70, 5]).point(3).add_relu(&[3, 1, 5]).sample(),
        // The depthwise convolution comes first, several images, and operands that differ by image and not by row.
        f32s(&[2, 18, 57, 9]).conv(None, 5, 1, [2; 4]).point(40).add_relu(&[2, 40, 1, 9]).sample(),
        f32s(&[3, 6, 50, 7]).point(17).conv(None, 3, 1, [1; 4]).point(6).add_relu(&[3, 6, 50, 7]).sample(),
        // A dense convolution in front, and several windows behind each other.
        f32s(&[1, 3, 131, 22]).conv(Some(16), 3, 2, [1; 4]).conv(None, 3, 1, [1; 4]).point(8).sample(),
        f32s(&[1, 6, 83, 10]).conv(None, 3, 1, [1; 4]).point(12).conv(None, 3, 2, [1; 4]).point(31).sample(),
        f32s(&[1, 6, 90, 8]).conv(None, 3, 1, [0; 4]).point(12).conv(None, 5, 1, [2, 0, 2, 4]).conv(None, 3, 1, [1; 4]).sample(),
        // Bytes: padding of zeros and of other zero points.
        bytes(&[1, 8, 61, 9]).quantized(Some(20), 1, 1, [0; 4], (120, 0)).quantized(None, 3, 1, [1; 4], (0, 100)).sample(),
        bytes(&[1, 8, 99, 9])
            .quantized(Some(36), 1, 1, [0; 4], (120, 0))
            .quantized(None, 3, 2, [1; 4], (0, 7))
            .quantized(Some(12), 1, 1, [0; 4], (7, 130))
            .sample(),
        bytes(&[2, 6, 58, 7]).quantized(Some(18), 1, 1, [0; 4], (3, 99)).quantized(None, 5, 1, [2; 4], (99, 5)).sample(),
        Block::new(DType::I8, &[1, 12, 60, 7])
            .quantized(None, 3, 1, [1; 4], (-5, 9))
            .quantized(Some(17), 1, 1, [0; 4], (9, -20))
            .sample(),
        sums.quantized(None, 3, 1, [1; 4], (0, 128)).sample(),
    ]
}
