//! AttributeProto to attribute; bodies are built by the caller.

use onnx_protobuf::{AttributeProto, attribute_proto::AttributeType};
use onnxc_ir::Attr;

use crate::tensor::Source;

/// The attribute, or `None` for bodies (graphs), which need a scope. The error says what is wrong.
pub fn convert(proto: &AttributeProto, source: &Source) -> Result<Option<Attr>, String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| format!("attribute {} is not UTF-8", proto.name));
    let kind = proto.type_.enum_value().map_err(|n| format!("attribute {}: type {n} is unknown", proto.name))?;
    let wrong = |e: String| format!("attribute {}: {e}", proto.name);
    Ok(Some(match kind {
        AttributeType::FLOAT => Attr::Float(proto.f),
        AttributeType::INT => Attr::Int(proto.i),
        // Strings that are no text stay usable as tensors of strings do: escaped.
        AttributeType::STRING => Attr::Str(text(&proto.s)?),
        AttributeType::TENSOR if proto.t.is_some() => Attr::Tensor(source.tensor(&proto.t).map_err(wrong)?),
        AttributeType::SPARSE_TENSOR if proto.sparse_tensor.is_some() => {
            Attr::Tensor(source.sparse(&proto.sparse_tensor).map_err(wrong)?)
        }
        AttributeType::FLOATS => Attr::Floats(proto.floats.clone()),
        AttributeType::INTS => Attr::Ints(proto.ints.clone()),
        AttributeType::STRINGS => Attr::Strs(proto.strings.iter().map(|s| text(s)).collect::<Result<_, _>>()?),
        AttributeType::GRAPH if proto.g.is_some() => return Ok(None),
        AttributeType::UNDEFINED => return Err(format!("attribute {} has no type", proto.name)),
        other => return Err(format!("attribute {}: {other:?} is not supported or has no value", proto.name)),
    }))
}
