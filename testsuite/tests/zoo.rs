//! All zoo models at three levels of x86-64, and small and large ones on the foreign targets, against ONNX Runtime.

use onnxc_testsuite::{data, target, zoo};

/// One test for each model, so that they run beside each other and fail by name.
macro_rules! models {
    ($($id:ident on $targets:expr;)*) => {
        pub const IDS: &[&str] = &[$(stringify!($id)),*];
        $(#[test] fn $id() { super::on(stringify!($id), $targets); })*
    };
}

mod native {
    const LEVELS: &[&str] = &["x86-64-v4", "x86-64-v3", "x86-64"];

    models! {
        silero_vad on LEVELS;
        silero_vad_if on LEVELS;
        ppocr4_det on LEVELS;
        ppocr4_rec on LEVELS;
        ppocr2_cls on LEVELS;
        magika on LEVELS;
        opennsfw on LEVELS;
        basic_pitch on LEVELS;
        minilm_l3 on LEVELS;
        layout_cdla on LEVELS;
        orientation on LEVELS;
        ddddocr_det on LEVELS;
        ddddocr_rec_int8 on LEVELS;
        dtln_1 on LEVELS;
        dtln_2 on LEVELS;
        oww_embedding on LEVELS;
        oww_melspec on LEVELS;
        oww_hey_jarvis on LEVELS;
    }
}

/// The fast ones everywhere; the others once on each instruction set, to keep the emulators' time bounded.
mod foreign {
    const EVERY: &[&str] = &["aarch64", "riscv64-v128", "riscv64-v256", "riscv64"];
    const ONCE: &[&str] = &["aarch64", "riscv64-v128"];

    models! {
        silero_vad on EVERY;
        silero_vad_if on ONCE;
        ppocr2_cls on EVERY;
        magika on EVERY;
        opennsfw on ONCE;
        basic_pitch on ONCE;
        minilm_l3 on ONCE;
        orientation on EVERY;
        ddddocr_rec_int8 on ONCE;
        dtln_1 on EVERY;
        dtln_2 on EVERY;
        oww_embedding on EVERY;
        oww_melspec on EVERY;
        oww_hey_jarvis on EVERY;
    }
}

#[track_caller]
fn on(id: &str, targets: &[&str]) {
    let model = data::zoo_model(id);
    for t in targets.iter().map(|t| target::by_name(t)) {
        if t.can_run() {
            zoo::check(&model, t);
        } else {
            println!("{id}: this machine cannot run {}", t.name);
        }
    }
}

#[test]
fn the_list_is_that_of_the_manifest() {
    let zoo = data::zoo();
    let ids: Vec<&str> = zoo.iter().map(|m| m.id.as_str()).collect();
    assert_eq!(ids, native::IDS);
    assert!(foreign::IDS.len() >= 8 && foreign::IDS.iter().all(|id| ids.contains(id)));
}
