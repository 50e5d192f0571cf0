//! Pools over windows. Global average and maximum pools are reductions.

mod average_pool;
mod common;
mod global_lp_pool;
mod lower;
mod lp_pool;
mod max_pool;
mod open;

pub(crate) use average_pool::AVERAGE_POOL;
pub(crate) use global_lp_pool::GLOBAL_LP_POOL;
pub(crate) use lp_pool::LP_POOL;
pub(crate) use max_pool::MAX_POOL;
