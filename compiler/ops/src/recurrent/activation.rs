//! Activations of recurrent cells: ONNX names with their two parameters.

use onnxc_ir::lir::Expr;
use onnxc_ir::op::{OpError, OpResult};
use onnxc_ir::scalar::{BinOp, UnOp};

use crate::common::nest::select;

/// One activation; parameters as ONNX gives them.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) enum Activation {
    Relu,
    Tanh,
    Sigmoid,
    Affine(f32, f32),
    LeakyRelu(f32),
    ThresholdedRelu(f32),
    ScaledTanh(f32, f32),
    HardSigmoid(f32, f32),
    Elu(f32),
    Softsign,
    Softplus,
}

impl Activation {
    /// The activation called `name` (any case) with the parameters given, if any.
    pub fn parse(name: &str, alpha: Option<f32>, beta: Option<f32>) -> OpResult<Activation> {
        let a = |default: f32| alpha.unwrap_or(default);
        let b = |default: f32| beta.unwrap_or(default);
        Ok(match name.to_ascii_lowercase().as_str() {
            "relu" => Activation::Relu,
            "tanh" => Activation::Tanh,
            "sigmoid" => Activation::Sigmoid,
            "affine" => Activation::Affine(a(1.0), b(0.0)),
            "leakyrelu" => Activation::LeakyRelu(a(0.01)),
            "thresholdedrelu" => Activation::ThresholdedRelu(a(1.0)),
            "scaledtanh" => Activation::ScaledTanh(a(1.0), b(1.0)),
            "hardsigmoid" => Activation::HardSigmoid(a(0.2), b(0.5)),
            "elu" => Activation::Elu(a(1.0)),
            "softsign" => Activation::Softsign,
            "softplus" => Activation::Softplus,
            _ => {
                return Err(OpError::new(format!("activation {name:?} is not supported")).help(
                    "use Relu, Tanh, Sigmoid, Affine, LeakyRelu, ThresholdedRelu, ScaledTanh, HardSigmoid, Elu, Softsign or Softplus",
                ));
            }
        })
    }

    /// The number of parameters that `activation_alpha` and `activation_beta` hold for it.
    pub fn parameters(self) -> (bool, bool) {
        match self {
            Activation::Relu | Activation::Tanh | Activation::Sigmoid | Activation::Softsign | Activation::Softplus => {
                (false, false)
            }
            Activation::LeakyRelu(_) | Activation::ThresholdedRelu(_) | Activation::Elu(_) => (true, false),
            Activation::Affine(..) | Activation::ScaledTanh(..) | Activation::HardSigmoid(..) => (true, true),
        }
    }

    /// Reference value.
    pub fn value(self, x: f64) -> f64 {
        match self {
            Activation::Relu => x.max(0.0),
            Activation::Tanh => x.tanh(),
            Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
            Activation::Affine(a, b) => f64::from(a) * x + f64::from(b),
            Activation::LeakyRelu(a) => x.max(0.0) + f64::from(a) * x.min(0.0),
            Activation::ThresholdedRelu(a) => {
                if x > f64::from(a) {
                    x
                } else {
                    0.0
                }
            }
            Activation::ScaledTanh(a, b) => f64::from(a) * (f64::from(b) * x).tanh(),
            Activation::HardSigmoid(a, b) => (f64::from(a) * x + f64::from(b)).clamp(0.0, 1.0),
            Activation::Elu(a) => {
                if x >= 0.0 {
                    x
                } else {
                    f64::from(a) * (x.exp() - 1.0)
                }
            }
            Activation::Softsign => x / (1.0 + x.abs()),
            Activation::Softplus => x.max(0.0) + (-x.abs()).exp().ln_1p(),
        }
    }

    /// Code for an f32 variable.
    pub fn expr(self, x: Expr) -> Expr {
        let f = Expr::f32;
        let bin = Expr::bin;
        match self {
            Activation::Relu => bin(BinOp::Max, x, f(0.0)),
            Activation::Tanh => Expr::un(UnOp::Tanh, x),
            Activation::Sigmoid => Expr::un(UnOp::Sigmoid, x),
            Activation::Affine(a, b) => bin(BinOp::Add, bin(BinOp::Mul, f(a), x), f(b)),
            Activation::LeakyRelu(a) => {
                let below = bin(BinOp::Mul, f(a), bin(BinOp::Min, x.clone(), f(0.0)));
                bin(BinOp::Add, bin(BinOp::Max, x, f(0.0)), below)
            }
            Activation::ThresholdedRelu(a) => select(bin(BinOp::Gt, x.clone(), f(a)), x, f(0.0)),
            Activation::ScaledTanh(a, b) => bin(BinOp::Mul, f(a), Expr::un(UnOp::Tanh, bin(BinOp::Mul, f(b), x))),
            Activation::HardSigmoid(a, b) => {
                let line = bin(BinOp::Add, bin(BinOp::Mul, f(a), x), f(b));
                bin(BinOp::Min, bin(BinOp::Max, line, f(0.0)), f(1.0))
            }
            Activation::Elu(a) => {
                // The exponential of what is below zero only: above it could overflow.
                let low = Expr::un(UnOp::Exp, bin(BinOp::Min, x.clone(), f(0.0)));
                let below = bin(BinOp::Mul, f(a), bin(BinOp::Sub, low, f(1.0)));
                select(bin(BinOp::Ge, x.clone(), f(0.0)), x, below)
            }
            Activation::Softsign => bin(BinOp::Div, x.clone(), bin(BinOp::Add, f(1.0), Expr::un(UnOp::Abs, x))),
            Activation::Softplus => {
                let small = Expr::un(UnOp::Exp, Expr::un(UnOp::Neg, Expr::un(UnOp::Abs, x.clone())));
                let log = Expr::un(UnOp::Log, bin(BinOp::Add, f(1.0), small));
                bin(BinOp::Add, bin(BinOp::Max, x, f(0.0)), log)
            }
        }
    }
}
