//! Lines that are fetched ahead: nothing is written, and memory that is not there is none that is missed.

mod support;

use onnxc_ir::kernel::{FetchKernel, Kernel};
use onnxc_targets::compile_kernel;
use support::{Arg, Case, machines};

#[test]
fn what_is_not_there_is_not_missed() {
    for machine in machines() {
        let image: Vec<u8> = (0..4096u32).map(|i| (i % 251) as u8).collect();
        let cases = [[(1, 64), (1, 64)], [(8, 1 << 30), (6, 256)], [(3, -(1 << 40)), (2, 1 << 20)]].map(|nest| {
            let code = compile_kernel(&Kernel::Fetch(FetchKernel { nest }), &machine.target);
            let code = support::bytes(code.unwrap_or_else(|e| panic!("{}: {e}", machine.name)), &machine.target);
            Case { name: format!("{nest:?}"), code, image: image.clone(), args: vec![Arg::Ptr(0)], patches: Vec::new() }
        });
        for got in machine.run(cases.into()) {
            assert!(got == image, "{}: memory has changed", machine.name);
        }
    }
}
