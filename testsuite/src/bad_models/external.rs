//! Weights that should be in another file and are not, or not where a model may look.

use super::build::{FLOAT, Graph, node, tensor};
use super::{Case, File};
use crate::wire::Msg;

/// `y = Add(x, w)`, `w` of 24 bytes in an external file described by these entries.
fn external(entries: &[(&str, &str)]) -> Vec<u8> {
    let w =
        entries.iter().fold(tensor("w", FLOAT, &[2, 3]).int(14, 1), |m, (k, v)| m.msg(13, &Msg::new().bytes(1, k).bytes(2, v)));
    Graph::of([node("Add", &["x", "w"], &["y"])]).weights([w]).model()
}

pub(super) fn cases() -> Vec<Case> {
    let data = |n: usize| File::Data(vec![0; n]);
    const OUTSIDE: &str = "outside|escape|absolute|leaves";
    vec![
        Case::new("external-parent-folder", &["../secret.bin", OUTSIDE], external(&[("location", "../secret.bin")]))
            .with("../secret.bin", data(24)),
        Case::new("external-hidden-parent", &["secret.bin", OUTSIDE], external(&[("location", "a/../../secret.bin")]))
            .with("../secret.bin", data(24)),
        Case::new("external-absolute", &["/etc/passwd", OUTSIDE], external(&[("location", "/etc/passwd"), ("length", "24")])),
        Case::new("external-symlink-out", &["link.bin", OUTSIDE], external(&[("location", "link.bin")]))
            .with("../secret.bin", data(24))
            .with("link.bin", File::Link("../secret.bin")),
        Case::new("external-missing-file", &["nowhere.bin", "w"], external(&[("location", "nowhere.bin")])),
        Case::new("external-folder", &["\".\"|'.'|`.`|folder|directory|regular"], external(&[("location", ".")])),
        Case::new("external-without-location", &["location"], external(&[("offset", "0")])),
        Case::new("external-location-with-nul", &["w"], external(&[("location", "a\0b")])),
        Case::new("external-offset-beyond-end", &["w.bin"], external(&[("location", "w.bin"), ("offset", "4096")]))
            .with("w.bin", data(24)),
        Case::new(
            "external-length-beyond-end",
            &["w.bin"],
            external(&[("location", "w.bin"), ("offset", "8"), ("length", "24")]),
        )
        .with("w.bin", data(24)),
        Case::new(
            "external-sum-overflows",
            &["w"],
            external(&[("location", "w.bin"), ("offset", "18446744073709551615"), ("length", "24")]),
        )
        .with("w.bin", data(24)),
        Case::new("external-length-of-other-tensor", &["w", "20"], external(&[("location", "w.bin"), ("length", "20")]))
            .with("w.bin", data(24)),
        Case::new("external-file-short", &["w.bin"], external(&[("location", "w.bin")])).with("w.bin", data(10)),
        Case::new("external-offset-negative", &["offset"], external(&[("location", "w.bin"), ("offset", "-8")]))
            .with("w.bin", data(64)),
        Case::new("external-offset-no-number", &["offset"], external(&[("location", "w.bin"), ("offset", "many")]))
            .with("w.bin", data(64)),
    ]
}
