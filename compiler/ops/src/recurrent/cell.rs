//! What the attributes say about a recurrent layer.

use onnxc_ir::op::{OpError, OpResult};
use onnxc_ir::{Attr, Attrs};

use super::activation::Activation;

/// Which layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Lstm,
    Gru,
    Rnn,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Lstm => "lstm",
            Kind::Gru => "gru",
            Kind::Rnn => "rnn",
        }
    }

    /// Gates: LSTM input, output, forget, cell; GRU update, reset, hidden.
    pub fn gates(self) -> usize {
        match self {
            Kind::Lstm => 4,
            Kind::Gru => 3,
            Kind::Rnn => 1,
        }
    }

    pub fn results(self) -> usize {
        if self == Kind::Lstm { 3 } else { 2 }
    }

    fn defaults(self) -> &'static [&'static str] {
        match self {
            Kind::Lstm => &["Sigmoid", "Tanh", "Tanh"],
            Kind::Gru => &["Sigmoid", "Tanh"],
            Kind::Rnn => &["Tanh"],
        }
    }
}

/// One direction: its order of time and its activations (f, g, h as far as the kind has them).
#[derive(Clone, Debug)]
pub(super) struct Direction {
    pub reverse: bool,
    pub activations: Vec<Activation>,
}

/// The whole layer.
#[derive(Clone, Debug)]
pub(super) struct Cell {
    pub kind: Kind,
    pub hidden: u64,
    pub directions: Vec<Direction>,
    /// Sums before activations are kept within plus and minus this.
    pub clip: Option<f32>,
    /// LSTM: the forget gate is one minus the input gate.
    pub input_forget: bool,
    /// GRU: the reset gate multiplies the product with r instead of the state.
    pub linear_before_reset: bool,
}

impl Cell {
    pub fn of(kind: Kind, attrs: &Attrs, hidden: u64) -> OpResult<Cell> {
        if let Some(given) = attrs.int("hidden_size")
            && given != hidden as i64
        {
            return Err(OpError::new(format!("hidden_size is {given}, r has room for {hidden}")));
        }
        let reverse: &[bool] = match attrs.str("direction").unwrap_or("forward") {
            "forward" => &[false],
            "reverse" => &[true],
            "bidirectional" => &[false, true],
            other => {
                return Err(OpError::new(format!("direction {other:?} is unknown")).help("forward, reverse or bidirectional"));
            }
        };
        let per = kind.defaults().len();
        let names: Vec<String> = match attrs.0.get("activations") {
            Some(Attr::Strs(names)) => names.clone(),
            _ => (0..reverse.len()).flat_map(|_| kind.defaults()).map(ToString::to_string).collect(),
        };
        if names.len() != per * reverse.len() {
            return Err(OpError::new(format!("{} activations are given, {} are needed", names.len(), per * reverse.len())));
        }
        let list = |name: &str| attrs.floats(name).unwrap_or_default().to_vec().into_iter();
        let (mut alphas, mut betas) = (list("activation_alpha"), list("activation_beta"));
        let mut activations = Vec::new();
        for name in &names {
            // Only activations that have parameters take one from the lists.
            let (a, b) = Activation::parse(name, None, None)?.parameters();
            let (a, b) = (a.then(|| alphas.next()).flatten(), b.then(|| betas.next()).flatten());
            activations.push(Activation::parse(name, a, b)?);
        }
        let direction = |(reverse, a): (&bool, &[Activation])| Direction { reverse: *reverse, activations: a.to_vec() };
        Ok(Cell {
            kind,
            hidden,
            directions: reverse.iter().zip(activations.chunks(per)).map(direction).collect(),
            clip: attrs.float("clip").filter(|c| *c > 0.0),
            input_forget: attrs.int("input_forget").unwrap_or(0) != 0,
            linear_before_reset: attrs.int("linear_before_reset").unwrap_or(0) != 0,
        })
    }
}
