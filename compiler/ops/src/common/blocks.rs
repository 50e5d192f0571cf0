//! Blocks of rows of a product: how high they are, and which thread has which.

use onnxc_ir::lir::{Expr, LoopKind, Stmt};
use onnxc_ir::lower::LowerCx;
use onnxc_ir::scalar::BinOp;

use super::tile::{Point, Product};

/// What is done with a block of rows: where it is, and its rows.
pub(super) type BlockCall<'f> = &'f mut dyn FnMut(&mut LowerCx, &Point, u32);

/// Block `n` of rows of this height.
fn block_at(p: &Product, at: &Point, n: &Expr, height: u64) -> Point {
    let at = at.rows(&n.clone().times(height as i64), p);
    Point { ahead: at.ahead.later(n, at.ahead.each), ..at }
}

/// Block `n` of a loop over all blocks, the last of which has `rest` rows if that is not 0.
pub(super) fn one_block(cx: &mut LowerCx, p: &Product, (height, rest): (u64, u64), at: &Point, n: &Expr, call: BlockCall) {
    let at = block_at(p, at, n, height);
    if rest == 0 {
        return call(cx, &at, height as u32);
    }
    let [last, others] = [rest, height].map(|rows| cx.block(|cx| call(cx, &at, rows as u32)));
    cx.push(Stmt::If(Expr::bin(BinOp::Eq, n.clone(), Expr::Int((p.rows.bound / height) as i64)), last, others));
}

/// Calls `call` for all blocks of rows of this height.
pub(super) fn row_blocks(cx: &mut LowerCx, p: &Product, height: u64, at: &Point, call: BlockCall) {
    let only_rows = p.outer.iter().all(|o| o.n.is_one()) && p.rows.bound > height;
    if only_rows && cx.at_top_level() && cx.target.max_threads > 1 {
        let height = shared(p.rows.bound, height, u64::from(cx.target.max_threads));
        let heights = (height, p.rows.bound % height);
        return cx.for_(LoopKind::Parallel, p.rows.bound.div_ceil(height), |cx, n| one_block(cx, p, heights, at, &n, call));
    }
    let (full, rest) = (p.rows.bound / height, p.rows.bound % height);
    let kind = if only_rows && full > 1 && cx.at_top_level() { LoopKind::Parallel } else { LoopKind::Serial };
    cx.for_(kind, full, |cx, n| call(cx, &block_at(p, at, &n, height), height as u32));
    if rest > 0 {
        call(cx, &block_at(p, at, &Expr::Int(full as i64), height), rest as u32);
    }
}

/// Blocks of rows for each thread from which on one more or less does not matter.
const BLOCKS_OF_THREAD: u64 = 8;

/// Rows of a block with which the thread that has most of them has least: of three blocks one of two threads has two. Smaller blocks are tried than `height`
/// as long as there are few.
fn shared(rows: u64, height: u64, threads: u64) -> u64 {
    let blocks = rows.div_ceil(height);
    if blocks >= BLOCKS_OF_THREAD * threads {
        return height;
    }
    let most = |height: &u64| {
        let blocks = rows.div_ceil(*height);
        let part = |thread: u64| {
            let [from, to] = [thread, thread + 1].map(|t| blocks * t / threads);
            (to * height).min(rows) - from * height + (to - from)
        };
        (0..threads).map(part).max()
    };
    (blocks..blocks + threads).map(|n| rows.div_ceil(n)).min_by_key(most).unwrap_or(height)
}

/// Rows of a block: 20 rows are 10 + 10, not 14 + 6.
pub(super) fn balanced(p: &Product) -> u64 {
    p.rows.bound.div_ceil(p.rows.bound.div_ceil(u64::from(p.mr)))
}

/// Parts of the rows that are tasks of their own where groups of panels alone leave threads idle: of three groups one of two threads has two.
pub(super) fn parts_of_rows(cx: &LowerCx, p: &Product, groups: u64, height: u64) -> u64 {
    let threads = u64::from(cx.target.max_threads.max(1));
    let only_rows = p.outer.iter().all(|o| o.n.is_one()) && cx.at_top_level();
    let idle = |parts: u64| {
        let tasks = groups * parts;
        (tasks.next_multiple_of(threads) - tasks) as f64 / tasks as f64
    };
    let most = if only_rows && idle(1) > IDLE { threads.min(p.rows.bound.div_ceil(height)) } else { 1 };
    (1..=most).find(|parts| idle(*parts) <= IDLE).unwrap_or(1)
}

/// The part of all threads' time that may be idle at the end of a layer: less than another division of the work costs.
const IDLE: f64 = 0.05;

/// The blocks of part `n` of so many parts of the rows.
pub(super) fn blocks_of_part(
    cx: &mut LowerCx,
    p: &Product,
    height: u64,
    start: &Point,
    (n, parts): (&Expr, u64),
    call: BlockCall,
) {
    let (blocks, rest) = (p.rows.bound.div_ceil(height), p.rows.bound % height);
    let each = blocks.div_ceil(parts) as i64;
    let lo = Expr::Var(cx.let_(n.clone().times(each)));
    let hi = Expr::bin(BinOp::Min, lo.clone().add(Expr::Int(each)), Expr::Int(blocks as i64));
    cx.for_range(LoopKind::Serial, lo, hi, 1, |cx, n| one_block(cx, p, (height, rest), start, &n, call));
}

#[cfg(test)]
mod tests {
    use super::shared;

    #[test]
    fn threads_get_rows_alike() {
        // 10 blocks of 13 rows: 65 and 63. 197 rows: 7 blocks of 14, and 7 with the last row.
        assert_eq!((shared(128, 13, 2), shared(197, 14, 2)), (13, 14));
        // Of three blocks one thread would have two.
        assert_eq!((shared(40, 14, 2), shared(42, 14, 3)), (10, 14));
        // Of many blocks one more does not matter.
        assert_eq!(shared(14 * 33, 14, 2), 14);
    }
}
