//! `rnn`: see the module for operands and results.

use onnxc_ir::Attr;
use onnxc_ir::op::{Import, Lower, NEWEST, OpDef, Sample, Tolerance};

use super::cell::Kind;
use super::{eval, infer, lower, samples};

/// `rnn`
pub(crate) static RNN: OpDef = OpDef {
    name: "rnn",
    onnx: &[Import { domain: "", name: "RNN", opsets: (7, NEWEST), build: |cx| super::import(cx, Kind::Rnn) }],
    infer: |cx| infer(cx, Kind::Rnn),
    infer_dims: None,
    eval: |cx| eval::eval(cx, Kind::Rnn),
    lower: Lower::OpenNest(|cx| lower::lower(cx, Kind::Rnn)),
    tolerance: Tolerance::SUMS,
    samples: all,
};

fn all() -> Vec<Sample> {
    let mut list = samples::variants(samples::samples(Kind::Rnn), Kind::Rnn);
    for name in
        ["Relu", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu", "Softsign", "Softplus", "Sigmoid"]
    {
        let mut sample = samples::samples(Kind::Rnn).swap_remove(0);
        sample.attrs = sample.attrs.with("activations", Attr::Strs(vec![name.to_string()]));
        list.push(sample);
    }
    list
}
