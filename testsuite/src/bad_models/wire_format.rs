//! Bytes that are no protobuf, or no ONNX, or stop too early.

use super::Case;
use super::build::{Graph, good_model, model, node, tag};
use crate::wire::Msg;

pub(super) fn cases() -> Vec<Case> {
    let good = good_model();
    let part = |n: usize, of: usize| good[..good.len() * n / of].to_vec();
    let mut cases = vec![
        Case::new("empty-file", &["empty|no graph"], vec![]),
        Case::new("one-byte", &["truncated"], vec![0x08]),
        Case::new("web-page", &["not an onnx|protobuf|wire"], b"<!DOCTYPE html><html><body>404</body></html>".as_slice()),
        Case::new("zero-bytes", &["field number 0|not an onnx|protobuf|wire"], vec![0; 64]),
        Case::new("noise", &["not an onnx|protobuf|wire|truncated|group"], noise(4096)),
        Case::new("truncated-in-opset-import", &["truncated"], good[..5].to_vec()),
        Case::new("truncated-in-graph", &["truncated"], part(1, 2)),
        Case::new("truncated-in-last-field", &["truncated"], good[..good.len() - 1].to_vec()),
        Case::new("length-beyond-end", &["truncated"], Msg::new().int(1, 8).bytes_claiming(7, 1 << 20, b"abc").0),
        Case::new("length-near-2-to-64", &["truncated|length"], Msg::new().int(1, 8).bytes_claiming(7, u64::MAX - 2, b"abc").0),
        Case::new("varint-without-end", &["varint|truncated"], Msg::new().raw_after_tag(1, 0, &[0xff; 16]).0),
        Case::new("group", &["group"], Msg(good.clone()).tag(7, 3).tag(7, 4).0),
        Case::new("group-never-opened", &["group"], Msg(good.clone()).tag(30, 4).0),
        Case::new("groups-100000-deep", &["group"], (0..100_000).fold(Msg(good.clone()), |m, _| m.tag(100, 3)).0),
        Case::new("reserved-wire-type", &["wire type"], Msg(good.clone()).tag(30, 6).0),
        Case::new("graph-as-number", &["wire type|graph"], Msg::new().int(1, 8).int(7, 5).0),
        Case::new("op-type-as-fixed64", &["wire type"], op_type_as_fixed64()),
        Case::new("name-not-utf8", &["utf-8"], Graph::of([node("Relu", &["x"], &["y"]).bytes(3, [0xff, 0xfe])]).model()),
        Case::new("graphs-20000-deep", &["deep|nest"], graphs_deep(20_000)),
        Case::new("types-20000-deep", &["deep|nest"], types_deep(20_000)),
    ];
    let mut flipped = good.clone();
    // The length of the graph's own field: its tag is the first byte 0x3a after the opset import.
    let at = flipped.iter().position(|b| *b == 0x3a).expect("field 7") + 1;
    flipped[at] ^= 0x08;
    cases.push(Case::new("one-bit-of-a-length", &["truncated|wire|protobuf|field|group|varint"], flipped));
    cases
}

/// The same pseudo-random bytes on every machine.
fn noise(n: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_4f6c_dd1du64;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..n).map(next).collect()
}

fn op_type_as_fixed64() -> Vec<u8> {
    let spoiled = Msg::new().bytes(1, "x").bytes(2, "y").raw_after_tag(4, 1, b"Relu\0\0\0\0");
    Graph::of([spoiled]).model()
}

/// `If` in `If` in `If`...: a recursive reader runs out of stack.
fn graphs_deep(depth: usize) -> Vec<u8> {
    // Built from the inside out; each level is prepended so that the cost stays linear in the final size.
    let mut reversed: Vec<u8> = Vec::new();
    let prepend = |reversed: &mut Vec<u8>, m: Msg| reversed.extend(m.0.iter().rev());
    for _ in 0..depth {
        let attribute_end = Msg::new().int(20, tag::GRAPH);
        let inner = reversed.len() as u64;
        let mut attribute = attribute_end.0;
        attribute.extend(Msg::new().bytes_claiming(6, inner, []).0);
        prepend(&mut reversed, Msg(attribute));
        let attribute_length = reversed.len() as u64;
        prepend(&mut reversed, Msg::new().bytes(4, "If").bytes_claiming(5, attribute_length, []));
        let node_length = reversed.len() as u64;
        prepend(&mut reversed, Msg::new().bytes_claiming(1, node_length, []));
    }
    reversed.reverse();
    model(&Msg(reversed)).0
}

/// Sequence of sequence of...: the type of an input.
fn types_deep(depth: usize) -> Vec<u8> {
    let mut reversed: Vec<u8> = Vec::new();
    for _ in 0..depth {
        // TypeProto.sequence_type = 4, TypeProto.Sequence.elem_type = 1.
        for field in [1, 4] {
            let m = Msg::new().bytes_claiming(field, reversed.len() as u64, []);
            reversed.extend(m.0.iter().rev());
        }
    }
    reversed.reverse();
    let input = Msg::new().bytes(1, "x").bytes(2, reversed);
    Graph::of([node("Relu", &["x"], &["y"])]).inputs([input]).model()
}
