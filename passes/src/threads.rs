//! Layers that several threads do not finish sooner stay on one.
//!
//! What   a loop whose rounds are tasks becomes a serial one: in a layer that is predicted to take no less time on several threads; in all layers where the
//!        model as a whole is.
//! When   last, over the plan, when everything else is settled.
//! Why    threads meet behind each such loop, and what one core has written others get slower than from caches of their own: small layers lose more by that
//!        than they gain.
//! Class  exact.
//! Misses layers are judged one at a time, each as if those before it were divided in another way than itself.

use onnxc_ir::lir::{Func, LoopKind, Stmt};
use onnxc_ir::plan::{Place, Plan, Step};
use onnxc_ir::target::TargetDesc;
use onnxc_ir::workload::Work;
use onnxc_ir::workload::latency::Terms;

/// A model has to take less than this part of what one thread takes: the model of latencies is not more exact than that, and threads are not for nothing.
const WORTH_IT: f64 = 0.875;

/// Decides about every layer of a plan.
pub fn run(plan: &mut Plan, target: &TargetDesc) {
    if target.max_threads < 2 {
        return;
    }
    let (sizes, around) = (Work::sizes(plan), plan.touched_bytes());
    let (mut all, mut one) = (0.0, 0.0);
    each(&mut plan.steps, &mut |func, places| {
        let work = Work::of(func, &sizes);
        let terms = Terms::of(target, &work, &work.traffic(func, places), around, target.lanes <= 1);
        let seconds = |threads: f64, team: f64| Terms { threads, team, ..terms.clone() }.latency(&target.machine).seconds;
        let (divided, whole) = (seconds(terms.threads, terms.team), seconds(1.0, terms.team));
        if divided >= whole {
            serial(func);
        }
        all += divided.min(whole);
        one += seconds(1.0, 1.0);
    });
    if all > WORTH_IT * one {
        each(&mut plan.steps, &mut |func, _| serial(func));
    }
}

/// Calls `f` on all functions, those of branches and bodies too.
fn each(steps: &mut [Step], f: &mut impl FnMut(&mut Func, &[Place])) {
    for step in steps {
        match step {
            Step::Call { func, places, .. } => f(func, places),
            Step::If { then, otherwise, .. } => {
                each(then, f);
                each(otherwise, f);
            }
            Step::Loop { body, .. } => each(body, f),
            _ => {}
        }
    }
}

/// Loops at the top of the function keep their order.
fn serial(func: &mut Func) {
    for stmt in &mut func.body {
        if let Stmt::For { kind: kind @ LoopKind::Parallel, .. } = stmt {
            *kind = LoopKind::Serial;
        }
    }
}
