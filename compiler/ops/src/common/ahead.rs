//! Panels of weights that are fetched before their time.

use onnxc_ir::kernel::k_group;
use onnxc_ir::lir::Expr;
use onnxc_ir::target::TargetDesc;

use super::blocks::balanced;
use super::tile::Product;

/// What each call of a kernel fetches of the next panel, for calls that all go over the same panel: memory brings it while one panel is multiplied by many
/// rows, not while the first rows wait for it.
#[derive(Clone, Default)]
pub(super) struct Ahead {
    /// Lines of each call, of each four steps where there is a list; 0 when nothing is fetched.
    pub lines: u32,
    /// Elements of the panel that the calls before this one fetch.
    pub at: Option<Expr>,
    /// What a round of each of the outer loops adds to that.
    pub rounds: Vec<i64>,
    /// Elements of the lines of one call.
    pub each: i64,
}

/// Panels below this size come near by themselves.
const SMALL_PANEL: u64 = 16 << 10;

/// Bytes of a line of the caches.
const LINE: u64 = 64;

impl Ahead {
    /// What is to be fetched when these loops and those over rows are inside the one over panels.
    pub fn new(target: &TargetDesc, p: &Product, loops: Vec<u64>) -> Ahead {
        let blocks = p.rows.bound.div_ceil(balanced(p));
        let calls = blocks * loops.iter().product::<u64>();
        // A list has panels of different lengths; what is fetched goes by the steps that a call does.
        let steps = p.list.as_ref().map(|list| list.steps_of(1));
        let group = k_group(p.a.1);
        let all = || p.b_bytes(p.nest.iter().map(|(n, _)| n).product::<u64>());
        let panel = steps.map_or_else(all, |n| p.b_bytes(n * group));
        let four = p.b_bytes(4 * group);
        let moves = loops.iter().zip(&p.outer).any(|(n, o)| *n > 1 && o.b != 0);
        // Less than a line for four steps is not worth its instruction.
        let thin = steps.is_some() && four < LINE * calls;
        if !target.prefetches || calls < 2 || moves || panel < SMALL_PANEL || thin {
            return Ahead::default();
        }
        let lines = panel.div_ceil(LINE * calls);
        let each = (lines * LINE / p.b_element()) as i64;
        let inside = |d: usize| loops[d + 1..].iter().product::<u64>() * blocks;
        let rounds = (0..loops.len()).map(|d| each * inside(d) as i64).collect();
        let lines = if steps.is_some() { four.div_ceil(LINE * calls) } else { lines };
        Ahead { lines: lines as u32, at: Some(Expr::Int(0)), rounds, each }
    }

    /// After `i` times so many elements more.
    pub fn later(&self, i: &Expr, elements: i64) -> Ahead {
        let at = self.at.as_ref().map(|at| at.clone().add(i.clone().times(elements)));
        Ahead { at, ..self.clone() }
    }
}
