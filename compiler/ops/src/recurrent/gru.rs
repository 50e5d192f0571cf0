//! `gru`: see the module for operands and results.

use onnxc_ir::Attr;
use onnxc_ir::op::{Import, Lower, NEWEST, OpDef, Sample, Tolerance};

use super::cell::Kind;
use super::{eval, infer, lower, samples};

/// `gru`
pub(crate) static GRU: OpDef = OpDef {
    name: "gru",
    onnx: &[Import { domain: "", name: "GRU", opsets: (7, NEWEST), build: |cx| super::import(cx, Kind::Gru) }],
    infer: |cx| infer(cx, Kind::Gru),
    infer_dims: None,
    eval: |cx| eval::eval(cx, Kind::Gru),
    lower: Lower::OpenNest(|cx| lower::lower(cx, Kind::Gru)),
    tolerance: Tolerance::SUMS,
    samples: all,
};

fn all() -> Vec<Sample> {
    let mut list = samples::samples(Kind::Gru);
    for mut sample in samples::samples(Kind::Gru) {
        sample.attrs = sample.attrs.with("linear_before_reset", Attr::Int(1));
        list.push(sample);
    }
    samples::variants(list, Kind::Gru)
}
