//! A walk over the protobuf wire format before any parser sees it.
//!
//! It refuses what would hurt a recursive parser or be read as something else (groups, nesting, lengths past the end, wire types that
//! do not fit the field, text that is not UTF-8) and copies everything except the `raw_data` of
//! tensors, which is replaced by its offset and length in the file: weights are then read in place. Spec: the protobuf encoding guide.

use std::ops::Range;

/// Why the bytes are no protobuf message of an ONNX model.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A number or field goes past the end.
    #[error("the file is truncated or corrupt: a field at byte {at} goes past the end of its message")]
    Truncated {
        /// Offset in the file.
        at: usize,
    },
    /// A wire type that ONNX does not use.
    #[error(
        "this is not an ONNX model, or it is corrupt: wire type {wire} at byte {at} (ONNX uses neither groups nor reserved wire types); is it a protobuf file?"
    )]
    WireType {
        /// Offset in the file.
        at: usize,
        /// The wire type.
        wire: u8,
    },
    /// A field whose wire type does not fit its content in ONNX; or field number 0.
    #[error("this is not an ONNX model, or it is corrupt: field number {field} at byte {at} has the wrong wire type")]
    Field {
        /// Offset in the file.
        at: usize,
        /// Field number.
        field: u32,
    },
    /// Text that is not UTF-8.
    #[error("the file is corrupt: the text at byte {at} is not UTF-8")]
    Utf8 {
        /// Offset in the file.
        at: usize,
    },
    /// A list of numbers that stops inside one.
    #[error("tensor {tensor:?}: its packed values at byte {at} stop inside a number")]
    Packed {
        /// Offset in the file.
        at: usize,
        /// Name of the tensor; empty where it has none.
        tensor: String,
    },
    /// Messages inside messages, deeper than the limit.
    #[error("messages are nested deeper than {limit} levels at byte {at}")]
    Depth {
        /// Offset in the file.
        at: usize,
        /// The limit.
        limit: usize,
    },
}

/// The messages of `onnx.proto` that a model can hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    Function,
    Training,
    Opset,
    ValueInfo,
    Type,
    TensorType,
    ElementType,
    Map,
    Shape,
    Dimension,
    Entry,
    Annotation,
    Segment,
}

/// What a field holds, and so which wire types it may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Holds {
    Number,
    /// Numbers one by one, or packed.
    Numbers,
    Float,
    Floats,
    Doubles,
    Text,
    Blob,
    /// `raw_data`, which stays in the file.
    Weights,
    Message(Kind),
}

use Holds::{Blob, Doubles, Float, Floats, Message, Number, Numbers, Text, Weights};

impl Kind {
    /// What a field holds; `None` for fields that are newer than this file, which pass unread.
    fn field(self, field: u32) -> Option<Holds> {
        Some(match (self, field) {
            (Kind::Model, 7) | (Kind::Training, 1 | 2) | (Kind::Attribute, 6 | 11) => Message(Kind::Graph),
            (Kind::Model, 25) => Message(Kind::Function),
            (Kind::Model, 20) => Message(Kind::Training),
            (Kind::Model, 8) | (Kind::Function, 9) => Message(Kind::Opset),
            (Kind::Model, 14) | (Kind::Training, 3 | 4) | (Kind::Graph | Kind::Tensor, 16) => Message(Kind::Entry),
            (Kind::Node, 9) | (Kind::ValueInfo, 4) | (Kind::Function, 14) | (Kind::Tensor, 13) => Message(Kind::Entry),
            (Kind::Annotation, 2) => Message(Kind::Entry),
            (Kind::Graph, 1) | (Kind::Function, 7) => Message(Kind::Node),
            (Kind::Graph, 5) | (Kind::Attribute, 5 | 10) | (Kind::Sparse, 1 | 2) => Message(Kind::Tensor),
            (Kind::Graph, 15) | (Kind::Attribute, 22 | 23) => Message(Kind::Sparse),
            (Kind::Graph, 11..=13) | (Kind::Function, 12) => Message(Kind::ValueInfo),
            (Kind::Graph, 14) => Message(Kind::Annotation),
            (Kind::Node, 5) | (Kind::Function, 11) => Message(Kind::Attribute),
            (Kind::ValueInfo, 2) | (Kind::Attribute, 14 | 15) | (Kind::ElementType, 1) | (Kind::Map, 2) => Message(Kind::Type),
            (Kind::Type, 1 | 8) => Message(Kind::TensorType),
            (Kind::Type, 4 | 9) => Message(Kind::ElementType),
            (Kind::Type, 5) => Message(Kind::Map),
            (Kind::TensorType, 2) => Message(Kind::Shape),
            (Kind::Shape, 1) => Message(Kind::Dimension),
            (Kind::Tensor, 3) => Message(Kind::Segment),
            (Kind::Model, 1 | 5) | (Kind::Opset, 2) | (Kind::Segment, 1 | 2) | (Kind::Attribute, 3 | 20) => Number,
            (Kind::Tensor, 2 | 14) | (Kind::TensorType | Kind::Map | Kind::Dimension, 1) => Number,
            (Kind::Tensor, 1 | 5 | 7 | 11) | (Kind::Attribute, 8) | (Kind::Sparse, 3) => Numbers,
            (Kind::Attribute, 2) => Float,
            (Kind::Attribute, 7) | (Kind::Tensor, 4) => Floats,
            (Kind::Tensor, 10) => Doubles,
            (Kind::Tensor, 9) => Weights,
            (Kind::Tensor, 6) | (Kind::Attribute, 4 | 9) => Blob,
            (Kind::Model, 2 | 3 | 4 | 6) | (Kind::Graph, 2 | 10) | (Kind::Node, 1..=4 | 6..=8) => Text,
            (Kind::Attribute, 1 | 13 | 21) | (Kind::ValueInfo, 1 | 3) | (Kind::Entry, 1 | 2) => Text,
            (Kind::Tensor, 8 | 12) | (Kind::Dimension, 2 | 3) | (Kind::Type, 6) | (Kind::Opset, 1) => Text,
            (Kind::Function, 1 | 4..=6 | 8 | 10 | 13) | (Kind::Annotation, 1) => Text,
            _ => return None,
        })
    }
}

impl Holds {
    /// May a field of this content have wire type `wire`?
    fn allows(self, wire: u8) -> bool {
        match self {
            Number => wire == 0,
            Numbers => wire == 0 || wire == 2,
            Float => wire == 5,
            Floats => wire == 5 || wire == 2,
            Doubles => wire == 1 || wire == 2,
            Text | Blob | Weights | Message(_) => wire == 2,
        }
    }

    /// Size of one packed number, where it is fixed.
    fn packed(self) -> usize {
        match self {
            Floats => 4,
            Doubles => 8,
            _ => 1,
        }
    }
}

/// A copy of the model without weights: every `raw_data` holds offset and length of the real bytes, as two little-endian u64.
pub fn skeleton(file: &[u8], max_depth: usize) -> Result<Vec<u8>, WireError> {
    let mut out = Vec::new();
    Walk { file, max_depth }.message(Kind::Model, 0..file.len(), 0, &mut out)?;
    Ok(out)
}

/// Offset and length that [`skeleton`] left in a `raw_data`.
pub fn raw_range(marker: &[u8]) -> Option<Range<usize>> {
    let word = |i: usize| Some(u64::from_le_bytes(marker.get(i..i + 8)?.try_into().ok()?) as usize);
    let (at, len) = (word(0)?, word(8)?);
    (marker.len() == 16).then_some(at..at.checked_add(len)?)
}

struct Walk<'a> {
    file: &'a [u8],
    max_depth: usize,
}

impl Walk<'_> {
    fn message(&self, kind: Kind, range: Range<usize>, depth: usize, out: &mut Vec<u8>) -> Result<(), WireError> {
        if depth > self.max_depth {
            return Err(WireError::Depth { at: range.start, limit: self.max_depth });
        }
        let mut at = range.start;
        while at < range.end {
            let start = at;
            let key = self.varint(&mut at, range.end)?;
            let (field, wire) = (u32::try_from(key >> 3).unwrap_or(0), (key & 7) as u8);
            let length = match wire {
                0 => {
                    self.varint(&mut at, range.end)?;
                    Some(0)
                }
                1 => Some(8),
                5 => Some(4),
                2 => usize::try_from(self.varint(&mut at, range.end)?).ok(),
                wire => return Err(WireError::WireType { at: start, wire }),
            };
            let end = length.and_then(|n| at.checked_add(n)).filter(|e| *e <= range.end);
            let payload = at..end.ok_or(WireError::Truncated { at: start })?;
            at = payload.end;
            let holds = kind.field(field);
            if field == 0 || holds.is_some_and(|h| !h.allows(wire)) {
                return Err(WireError::Field { at: start, field });
            }
            match holds {
                Some(Message(child)) => {
                    let mut inner = Vec::new();
                    self.message(child, payload, depth + 1, &mut inner)?;
                    put_varint(out, key);
                    put_varint(out, inner.len() as u64);
                    out.extend(inner);
                }
                Some(Weights) => {
                    put_varint(out, key);
                    put_varint(out, 16);
                    out.extend((payload.start as u64).to_le_bytes());
                    out.extend((payload.len() as u64).to_le_bytes());
                }
                other => {
                    let text = &self.file[payload.clone()];
                    if other == Some(Text) && std::str::from_utf8(text).is_err() {
                        return Err(WireError::Utf8 { at: start });
                    }
                    if wire == 2 && !text.len().is_multiple_of(other.map_or(1, Holds::packed)) {
                        return Err(WireError::Packed { at: start, tensor: self.tensor_name(range) });
                    }
                    out.extend_from_slice(&self.file[start..at]);
                }
            }
        }
        Ok(())
    }

    /// The name of the tensor message in `range`, for an error message; empty if it cannot be read.
    fn tensor_name(&self, range: Range<usize>) -> String {
        let mut at = range.start;
        while at < range.end {
            let Ok(key) = self.varint(&mut at, range.end) else { break };
            let skip = match key & 7 {
                0 => self.varint(&mut at, range.end).map(|_| 0),
                1 => Ok(8),
                5 => Ok(4),
                _ => self.varint(&mut at, range.end),
            };
            let end = skip.ok().and_then(|n| at.checked_add(usize::try_from(n).ok()?)).filter(|e| *e <= range.end);
            let Some(end) = end else { break };
            if key >> 3 == 8 {
                return String::from_utf8_lossy(&self.file[at..end]).into_owned();
            }
            at = end;
        }
        String::new()
    }

    fn varint(&self, at: &mut usize, end: usize) -> Result<u64, WireError> {
        let start = *at;
        let mut value = 0u64;
        for shift in (0..70).step_by(7) {
            if *at >= end {
                break;
            }
            let byte = self.file[*at];
            *at += 1;
            if shift < 64 {
                value |= u64::from(byte & 127) << shift;
            }
            if byte & 128 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Truncated { at: start })
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 128 {
        out.push(value as u8 | 128);
        value >>= 7;
    }
    out.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_data_is_replaced_by_its_place() {
        // Model{graph: Graph{initializer: Tensor{raw_data: 1 2 3}}}
        let file = [0x3a, 7, 0x2a, 5, 0x4a, 3, 1, 2, 3];
        let bones = skeleton(&file, 10).expect("well formed");
        assert_eq!(raw_range(&bones[bones.len() - 16..]), Some(6..9));
    }

    #[test]
    fn groups_depth_and_truncation_are_refused() {
        assert_eq!(skeleton(&[0x0b], 10), Err(WireError::WireType { at: 0, wire: 3 }));
        assert_eq!(skeleton(&[0x3a, 7], 10), Err(WireError::Truncated { at: 0 }));
        assert_eq!(skeleton(&[0x3a, 2, 0x0a, 0], 1), Err(WireError::Depth { at: 4, limit: 1 }));
        assert_eq!(skeleton(&[0x38, 7], 10), Err(WireError::Field { at: 0, field: 7 }));
    }
}
