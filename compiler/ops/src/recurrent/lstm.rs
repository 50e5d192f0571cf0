//! `lstm`: see the module for operands and results.

use onnxc_ir::Attr;
use onnxc_ir::op::{Import, Lower, NEWEST, OpDef, Sample, Tolerance};

use super::cell::Kind;
use super::{eval, infer, lower, samples};

/// `lstm`
pub(crate) static LSTM: OpDef = OpDef {
    name: "lstm",
    onnx: &[Import { domain: "", name: "LSTM", opsets: (7, NEWEST), build: |cx| super::import(cx, Kind::Lstm) }],
    infer: |cx| infer(cx, Kind::Lstm),
    infer_dims: None,
    eval: |cx| eval::eval(cx, Kind::Lstm),
    lower: Lower::OpenNest(|cx| lower::lower(cx, Kind::Lstm)),
    tolerance: Tolerance::SUMS,
    samples: all,
};

fn all() -> Vec<Sample> {
    let mut list = samples::samples(Kind::Lstm);
    for mut sample in samples::samples(Kind::Lstm).into_iter().skip(1).take(2) {
        sample.inputs.resize_with(7, || None);
        sample.inputs.push(Some(samples::peepholes(&sample)));
        sample.attrs = sample.attrs.with("clip", Attr::Float(1.5)).with("input_forget", Attr::Int(1));
        list.push(sample);
    }
    samples::variants(list, Kind::Lstm)
}
