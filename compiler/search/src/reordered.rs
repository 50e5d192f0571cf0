//! Filters in the order in which panels of them can leave out most.
//!
//! The filters of a panel share the positions that they leave out. Which filters stand together is free wherever nobody but layers and elementwise work reads them
//! ([`reorder`]): those that need the same positions become neighbours ([`compress::order()`]), before anything else of the search. All that
//! comes then is of a model that computes the same, so that candidates, prices and recipes know nothing of it but the orders that stand in front of a recipe.

use onnxc_ir::{Graph, Tensor};
use onnxc_passes::compress::weighted::{self, Weighted};
use onnxc_passes::compress::{self, Shape, reorder};
use rayon::prelude::*;

use crate::moments::{Kept, Source};
use crate::recipe::Order;
use crate::{Backend, Result, Samples, work};

/// Inputs of a filter from which on there are positions to leave out.
const LEAST: usize = 8;

/// Filters that are in another order.
#[derive(Clone, PartialEq, Debug)]
pub struct Reordered {
    /// What a recipe says of it.
    pub order: Order,
    /// The names of the layers whose filters or inputs are moved.
    pub touched: Vec<String>,
    /// Filter `filters[i]` becomes filter i.
    filters: Vec<u32>,
}

impl Reordered {
    /// The array beside a recipe.
    pub fn filters(&self) -> Tensor {
        Tensor::from_vec(&[self.filters.len() as u64], self.filters.iter().map(|f| *f as i32).collect())
    }
}

/// Orders of filters by the names of their layers, for panels of `group` filters of which each leaves out `unit` channels at a time.
///
/// # Errors
/// When the model does not run on the samples.
pub fn orders(
    backend: &dyn Backend,
    graph: &Graph,
    samples: &Samples,
    (group, unit): (usize, usize),
    known: &str,
) -> Result<Vec<(String, Vec<u32>)>> {
    work::remember(backend.store(), &work::key("orders", &[known]), || {
        let all: Vec<Weighted> = weighted::layers(graph).into_iter().filter(|l| l.rows > 0).collect();
        let movable = reorder::movable(graph, &all).into_iter().map(|n| &all[n]);
        let layers: Vec<&Weighted> = movable.filter(|l| l.n > group && l.k() >= LEAST).collect();
        backend.say(&format!("calibration: the order of filters of {} layers", layers.len()));
        // What is known of the model by its key is of filters in their new order.
        let (kept, known) = (Kept::default(), work::key("orders of", &[known]));
        let source = Source { backend, dense: graph, all: &all, layers: &layers, kept: &kept, known: &known };
        let moments = source.moments(samples)?;
        let order = |(layer, (fit, _)): (&&Weighted, &crate::moments::Both)| {
            let shape = Shape { group, unit, channels: layer.channels, taps: layer.taps, whole_channels: false };
            (layer.name.clone(), compress::order(&layer.matrix(graph), fit, &shape))
        };
        let mut orders: Vec<(String, Vec<u32>)> = layers.par_iter().zip(&moments).map(order).collect();
        orders.retain(|(_, order)| !order.is_sorted());
        Ok(orders)
    })
}

/// The graph with filters in these orders, and what recipes say of them. Orders that do not fit are left out.
pub fn apply(graph: &Graph, orders: Vec<(String, Vec<u32>)>) -> (Graph, Vec<Reordered>) {
    let (mut out, mut all) = (graph.clone(), Vec::new());
    for (layer, filters) in orders {
        let Some((moved, touched)) = reorder::reorder(&out, &layer, &filters) else { continue };
        let array = format!("order_{:04}", all.len());
        all.push(Reordered { order: Order { layer, array }, touched, filters });
        out = moved;
    }
    (out, all)
}
