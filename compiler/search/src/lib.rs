//! Compression and compilation as one search: calibration inputs and a budget go in, a [`Recipe`] comes out.
//!
//! - [`samples`]: calibration inputs, some to compute with, some held out to measure with.
//! - [`generated`]: inputs where there are none.
//! - [`taps`]: what values are inside of a model that runs as compiled code; from them ranges, and in [`moments`] what layers are fitted to.
//! - [`metric`]: how far answers are from the dense model's; [`labels`]: how right they are; `margins`: what is expected beyond what is counted.
//! - [`outputs`]: which outputs are compared, and what the first of them decides.
//! - [`recipe`]: what every layer becomes, as text, and the weights beside it.
//! - [`candidate`]: what a layer can become, a file for each kind.
//! - `equalised`: channels of like ranges, where values become integers.
//! - `effect`: what a layer's errors of any size do to the answers, from two that were measured.
//! - [`streams`]: channels that several layers read; [`reordered`]: filters in the order in which panels can leave out most.
//! - [`assemble`]: the model that a choice makes, repaired layer after layer; [`walk`]: how it is run so that each part runs once.
//! - [`price`]: what each candidate takes on the target, [`coded`]: its bytes where weights are stored coded.
//! - [`choose`]: the model as an e-graph with all candidates, and what is extracted from it within a limit of error; [`budget`]: and within limits of time, memory and size.
//! - [`search`]: the loop around all of this, `isotonic`: what of its models was luck; in `contract` what a choice is known to lose, and the model that is handed out.
//! - [`baseline`]: models without a choice; [`ablate`]: what parts of the method are good for; [`explain`]: what is told of it all.
//! - [`work`]: results that are kept for the next search.
//!
//! How a graph becomes code or a price is the caller's business ([`Backend`]): the crate knows no command line and no target by name.

pub mod ablate;
pub mod assemble;
pub mod baseline;
pub mod budget;
pub mod candidate;
pub mod choose;
pub mod coded;
mod contract;
mod effect;
mod equalised;
pub mod explain;
mod extremes;
mod front;
pub mod generated;
mod isotonic;
pub mod labels;
mod margins;
pub mod metric;
pub mod moments;
pub mod outputs;
pub mod price;
pub mod recipe;
pub mod reordered;
pub mod samples;
pub mod search;
pub mod streams;
pub mod taps;
pub mod walk;
pub mod work;

use onnxc_codegen::JitModel;
use onnxc_ir::Graph;
use serde::{Deserialize, Serialize};

pub use recipe::Recipe;
pub use samples::Samples;

/// What goes wrong in a search.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The model or the data is at fault: what is wrong, and the remedy.
    #[error("{0}")]
    Input(String),
    /// No candidate keeps the budget: the nearest points that there are.
    #[error("{0}")]
    Budget(String),
    /// Our fault.
    #[error("internal: search: {0}")]
    Internal(String),
}

/// Result of a search's parts.
pub type Result<T> = std::result::Result<T, Error>;

/// A step of a plan.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// The ONNX nodes that it does the work of.
    pub origins: Vec<String>,
    /// Predicted seconds.
    pub seconds: f64,
    /// Estimated joules.
    pub joules: f64,
    /// Bytes of the arena that are in use while it runs.
    pub live_bytes: u64,
}

/// What the target makes of a graph.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    /// The steps of its plan.
    pub steps: Vec<Step>,
    /// All of it.
    pub taken: Taken,
}

/// What an inference takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Taken {
    /// Predicted seconds.
    pub seconds: f64,
    /// Estimated joules.
    pub joules: f64,
    /// Bytes of weights as they are stored: packed, and coded where they are to be.
    pub weight_bytes: u64,
    /// Bytes of the arena.
    pub arena_bytes: u64,
    /// Multiplications of the layers that have weights, of a search as the layers are, whatever algorithm computes them.
    pub macs: u64,
}

/// The compiler around the search.
pub trait Backend: Sync {
    /// Code of a canonical graph for this machine.
    fn runner(&self, graph: &Graph) -> Result<JitModel>;
    /// What the graph takes on the target.
    fn cost(&self, graph: &Graph) -> Result<Cost>;
    /// Seconds of one inference on this machine, if it is the target.
    fn measure(&self, _graph: &Graph, _input: &[&[u8]]) -> Result<Option<f64>> {
        Ok(None)
    }
    /// What prices depend on: target, CPU, and what may be done for speed.
    fn name(&self) -> String;
    /// The target, for people.
    fn target(&self) -> String;
    /// Where results are kept.
    fn store(&self) -> &dyn work::Store {
        &work::Nowhere
    }
    /// Tells the user what is being done.
    fn say(&self, _what: &str) {}
    /// Tells the user how many of some things that take about as long as each other are done.
    fn count(&self, _what: &str, _done: usize, _of: usize) {}
}
