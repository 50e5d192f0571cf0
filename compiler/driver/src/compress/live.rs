//! What of the arena is in use while each step of a plan runs, as far as the places that steps name tell.

use std::collections::HashMap;

use onnxc_ir::plan::{Place, Plan};
use onnxc_ir::workload::Work;

use crate::profile;

/// A tensor at a place: its bytes, the first step that writes it and the last one that uses it.
struct Held {
    bytes: u64,
    first: usize,
    last: usize,
}

/// Bytes that are in use at each step, in the order of [`profile::layers`]. A place holds what was written there from then on until its last reader; a step
/// that writes all of it begins another tensor.
pub fn bytes(plan: &Plan) -> Vec<u64> {
    let sizes = Work::sizes(plan);
    let (mut open, mut done, mut steps): (HashMap<u64, Held>, Vec<Held>, usize) = (HashMap::new(), Vec::new(), 0);
    profile::visit(&plan.steps, &mut |func, places, _, _| {
        let work = Work::of(func, &sizes);
        for (touched, place) in work.bufs.iter().zip(places) {
            let Place::Arena(at) = place else { continue };
            let bytes = touched.read.max(touched.written);
            if touched.read == 0 {
                done.extend(open.insert(*at, Held { bytes, first: steps, last: steps }));
                continue;
            }
            let held = open.entry(*at).or_insert(Held { bytes, first: steps, last: steps });
            (held.bytes, held.last) = (held.bytes.max(bytes), steps);
        }
        steps += 1;
    });
    done.extend(open.into_values());
    (0..steps).map(|n| done.iter().filter(|h| h.first <= n && n <= h.last).map(|h| h.bytes).sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Freedom;
    use onnxc_ir::op::OpSet;

    #[test]
    fn a_tensor_is_live_from_its_writer_to_its_last_reader() {
        let text = "graph @f(%x: f32[1,8,8,8]) {
  %a = softmax %x {axis = -1} : f32[1,8,8,8] @\"a\"
  %b = softmax %a {axis = -1} : f32[1,8,8,8] @\"b\"
  %c = softmax %b {axis = -1} : f32[1,8,8,8] @\"c\"
  %d = add %a, %c : f32[1,8,8,8] @\"d\"
  return %d
}";
        let graph = onnxc_ir::parse::parse(text, OpSet(onnxc_ops::ALL), &|_| None).unwrap_or_else(|e| panic!("{e}"));
        let target = onnxc_targets::describe("x86_64-unknown-linux-gnu", "x86-64-v3", 1).unwrap_or_else(|e| panic!("{e}"));
        let (_, plan) = crate::pipeline::plan_of(&graph, &target, &Freedom::default()).expect("a plan");
        let all = bytes(&plan);
        // %a stays until the sum: two tensors while %b is made, %b and %c beside it for the next step, %a and %c for the last one.
        let tensor = 8 * 8 * 8 * 4;
        assert_eq!(all.len(), 4, "{all:?}");
        assert_eq!((all[0], all[1]), (tensor, 2 * tensor), "{all:?}");
        assert!(all[2] >= 2 * tensor && all[2] <= 3 * tensor && all[3] <= 2 * tensor, "{all:?}");
    }
}
