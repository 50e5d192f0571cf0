//! What links take by themselves and as a chain, by the model of latencies.
//!
//! A node is lowered alone and its work counted (`onnxc_ir::workload`), so that a chain pays for what it does more than its links do by themselves: rows
//! that are copied, tiles of fewer rows, weights that are read again in each step. What it saves is memory: values between links are written to and read
//! from the level of the caches that has room for its rows, not for the whole value.

use std::collections::BTreeMap;

use onnxc_ir::Graph;
use onnxc_ir::graph::Node;
use onnxc_ir::plan::Step;
use onnxc_ir::target::TargetDesc;
use onnxc_ir::workload::{Work, latency};
use onnxc_ops::schedule::Choice;

use crate::layer::{FEED, Layer};
use crate::layout::{self, Order};
use crate::plan;

/// Prices of the nodes of a graph, and of nodes that could take their places. Equal ones are priced once.
pub(super) struct Prices<'g> {
    graph: &'g Graph,
    target: &'g TargetDesc,
    orders: Vec<Order>,
    /// Bytes that an inference touches, at least.
    around: u64,
    known: BTreeMap<String, Option<f64>>,
}

/// Values between links, all together.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Between {
    /// Bytes that are written and read.
    pub moved: u64,
    /// Bytes that are held at a time.
    pub held: u64,
    /// Bands of all images, which threads compute; 0 of a node that is no chain.
    pub tasks: u64,
}

impl<'g> Prices<'g> {
    pub fn new(graph: &'g Graph, target: &'g TargetDesc) -> Prices<'g> {
        let around = graph.values.iter().filter_map(|v| v.constant.as_ref()).map(|t| t.bytes().len() as u64).sum();
        Prices { graph, target, orders: layout::choose(graph), around, known: BTreeMap::new() }
    }

    /// Seconds of a node of values of the graph; `None` if it has no code.
    pub fn of(&mut self, node: &Node, between: Between) -> Option<f64> {
        let layer = Layer::new(self.graph, node, &self.orders);
        let signature = layer.signature();
        if let Some(known) = self.known.get(&signature) {
            return *known;
        }
        let price = self.price(&layer, between);
        self.known.insert(signature, price);
        price
    }

    fn price(&self, layer: &Layer, between: Between) -> Option<f64> {
        let plan = plan::plan(&layer.alone(&Choice::of(&layer.node().attrs)), self.target).ok()?;
        let own =
            |step: &&Step| matches!(step, Step::Call { origins, op, .. } if *op == layer.node().op.name && origins[..] != [FEED]);
        let Step::Call { func, places, .. } = plan.steps.iter().find(own)? else { return None };
        let work = Work::of(func, &[]);
        let alone = latency::predict(self.target, &work, &work.traffic(func, places), self.around, self.target.lanes <= 1);
        let m = &self.target.machine;
        let cycles = m.ghz * 1e9;
        let threads = u64::from(self.target.max_threads.max(1));
        let counted = work.tasks.max(1);
        let tasks = if between.tasks > 0 { between.tasks } else { counted };
        // Bands are few: threads that have one less wait for the others.
        let share = tasks.div_ceil(threads) as f64 / tasks as f64;
        let waiting = alone.compute * (share * threads.min(counted) as f64 - 1.0);
        let moving = m.spilling(between.moved as f64 * share, between.held);
        Some(alone.seconds + waiting + m.seen(moving, alone.compute * cycles) / cycles)
    }
}
