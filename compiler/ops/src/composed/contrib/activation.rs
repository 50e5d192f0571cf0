//! Operators with an activation behind them, named by an attribute: `FusedConv`, `FusedGemm`.

use onnxc_ir::op::{Import, ImportCx, OpError, OpResult};
use onnxc_ir::{Attr, Attrs, ValueId};

use super::import;
use crate::common::elements::from_f64s;
use crate::common::import::attrs_without;

/// `FusedGemm`.
pub(crate) const FUSED_GEMM: Import = import("FusedGemm", |cx| {
    let names = ["activation_alpha", "activation_beta", "activation_gamma"];
    let params: Vec<Option<f32>> = names.iter().map(|n| cx.attrs().float(n)).collect();
    let activation = cx.attrs().str("activation").unwrap_or_default().to_string();
    let attrs = attrs_without(cx, &["activation", names[0], names[1], names[2]]);
    let inputs = cx.inputs().to_vec();
    let y = cx.node("gemm", &inputs, attrs)?[0];
    Ok(vec![activate(cx, y, &activation, &params)?])
});

/// `activation(y)`; parameters that are not given are those of the ONNX operator of this name.
pub(crate) fn activate(cx: &mut dyn ImportCx, y: ValueId, activation: &str, params: &[Option<f32>]) -> OpResult<ValueId> {
    let param = |i: usize, default: f32| params.get(i).copied().flatten().unwrap_or(default);
    let alpha = |default: f32| Attrs::default().with("alpha", Attr::Float(param(0, default)));
    let (op, attrs) = match activation {
        "" => return Ok(y),
        "Relu" => ("relu", Attrs::default()),
        "Sigmoid" => ("sigmoid", Attrs::default()),
        "Tanh" => ("tanh", Attrs::default()),
        "Softplus" => ("softplus", Attrs::default()),
        "Softsign" => ("softsign", Attrs::default()),
        "Elu" => ("elu", alpha(1.0)),
        "ThresholdedRelu" => ("thresholded_relu", alpha(1.0)),
        "LeakyRelu" => ("leaky_relu", alpha(0.01)),
        "HardSigmoid" => ("hard_sigmoid", alpha(0.2).with("beta", Attr::Float(param(1, 0.5)))),
        "Clip" => {
            let dtype = cx.graph().ty(y).dtype;
            let mut bound = |value: f32| Ok(cx.constant(from_f64s(dtype, &[], [f64::from(value)])?));
            let (low, high) = (bound(param(0, f32::MIN))?, bound(param(1, f32::MAX))?);
            return cx.node1("clip", &[y, low, high], Attrs::default());
        }
        other => {
            return Err(OpError::new(format!("activation {other:?} is not supported"))
                .help("export the model without fused activations, for instance at a lower optimisation level of ONNX Runtime"));
        }
    };
    cx.node1(op, &[y], attrs)
}
