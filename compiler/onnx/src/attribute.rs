//! AttributeProto to attribute; bodies are built by the caller.

use onnx_protobuf::{AttributeProto, attribute_proto::AttributeType};
use onnxc_ir::{Attr, DType};

use crate::tensor::Source;
use crate::types;

/// The kinds of value that the attribute holds, from its fields. Zero numbers and empty lists do not show.
fn held(a: &AttributeProto) -> Vec<AttributeType> {
    let fields = [
        (a.f != 0.0, AttributeType::FLOAT),
        (a.i != 0, AttributeType::INT),
        (!a.s.is_empty(), AttributeType::STRING),
        (a.t.is_some(), AttributeType::TENSOR),
        (a.g.is_some(), AttributeType::GRAPH),
        (a.sparse_tensor.is_some(), AttributeType::SPARSE_TENSOR),
        (a.tp.is_some(), AttributeType::TYPE_PROTO),
        (!a.floats.is_empty(), AttributeType::FLOATS),
        (!a.ints.is_empty(), AttributeType::INTS),
        (!a.strings.is_empty(), AttributeType::STRINGS),
        (!a.tensors.is_empty(), AttributeType::TENSORS),
        (!a.graphs.is_empty(), AttributeType::GRAPHS),
    ];
    fields.into_iter().filter(|(set, _)| *set).map(|(_, kind)| kind).collect()
}

/// The attribute's kind: its tag, which must agree with its fields. Files of the first ONNX versions have no tags: the fields tell.
pub fn kind(proto: &AttributeProto) -> Result<AttributeType, String> {
    let name = &proto.name;
    let tag = proto.type_.enum_value().map_err(|n| format!("attribute {name}: type {n} is unknown"))?;
    let held = held(proto);
    match (tag, &held[..]) {
        (AttributeType::UNDEFINED, [one]) => Ok(*one),
        (AttributeType::UNDEFINED, _) => Err(format!("attribute {name} does not say its type")),
        (tag, all) => match all.iter().find(|k| **k != tag) {
            Some(other) => Err(format!("attribute {name} says {tag:?}, but holds {other:?}")),
            None => Ok(tag),
        },
    }
}

/// The attribute's value. The error says what is wrong with it.
pub fn convert(proto: &AttributeProto, kind: AttributeType, source: &Source) -> Result<Attr, String> {
    let name = &proto.name;
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| format!("attribute {name} is not UTF-8"));
    let wrong = |e: String| format!("attribute {name}: {e}");
    let absent = || format!("attribute {name} has no value");
    Ok(match kind {
        AttributeType::FLOAT => Attr::Float(proto.f),
        AttributeType::INT => Attr::Int(proto.i),
        AttributeType::STRING => Attr::Str(text(&proto.s)?),
        AttributeType::TENSOR => Attr::Tensor(source.tensor(proto.t.as_ref().ok_or_else(absent)?).map_err(wrong)?),
        AttributeType::SPARSE_TENSOR => {
            Attr::Tensor(source.sparse(proto.sparse_tensor.as_ref().ok_or_else(absent)?).map_err(wrong)?)
        }
        AttributeType::FLOATS => Attr::Floats(proto.floats.clone()),
        AttributeType::INTS => Attr::Ints(proto.ints.clone()),
        AttributeType::STRINGS => Attr::Strs(proto.strings.iter().map(|s| text(s)).collect::<Result<_, _>>()?),
        // Whether it is a sequence or an optional, values say themselves.
        AttributeType::TYPE_PROTO => {
            let value = proto.tp.as_ref().and_then(|t| t.value.as_ref()).ok_or_else(absent)?;
            let (tensor, ..) = types::held(value).map_err(|e| format!("attribute {name} {e}"))?;
            let unknown = || format!("attribute {name}: element type {} is unknown", tensor.elem_type);
            Attr::Type(DType::from_onnx(tensor.elem_type).ok_or_else(unknown)?)
        }
        other => return Err(format!("attribute {name}: {other:?} is not supported")),
    })
}
