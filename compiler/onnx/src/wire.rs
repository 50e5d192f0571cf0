//! A walk over the protobuf wire format before any parser sees it.
//!
//! It refuses what would hurt a recursive parser (groups, nesting, lengths past the end) and copies everything except the `raw_data` of
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
    #[error("the file is corrupt: wire type {wire} at byte {at} (groups are not part of ONNX)")]
    WireType {
        /// Offset in the file.
        at: usize,
        /// The wire type.
        wire: u8,
    },
    /// A field that must be a message or bytes is a number.
    #[error("the file is corrupt: field {field} at byte {at} has the wrong wire type")]
    Field {
        /// Offset in the file.
        at: usize,
        /// Field number.
        field: u32,
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

/// Kinds of messages on the way to a tensor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Sparse,
    Function,
    Training,
    /// Any other message: copied as it is, checked only for its own fields' extents.
    Other,
}

impl Kind {
    /// The kind of a message field, if we follow it.
    fn child(self, field: u32) -> Option<Kind> {
        Some(match (self, field) {
            (Kind::Model, 7) => Kind::Graph,
            (Kind::Model, 25) => Kind::Function,
            (Kind::Model, 20) => Kind::Training,
            (Kind::Training, 1 | 2) => Kind::Graph,
            (Kind::Graph, 1) | (Kind::Function, 7) => Kind::Node,
            (Kind::Graph, 5) | (Kind::Attribute, 5 | 10) | (Kind::Sparse, 1 | 2) => Kind::Tensor,
            (Kind::Graph, 15) | (Kind::Attribute, 22 | 23) => Kind::Sparse,
            (Kind::Graph, 11 | 12 | 13) | (Kind::Attribute, 14 | 15) => Kind::Other,
            (Kind::Node, 5) | (Kind::Function, 11) => Kind::Attribute,
            (Kind::Attribute, 6 | 11) => Kind::Graph,
            _ => return None,
        })
    }
}

/// TensorProto.raw_data.
const RAW_DATA: u32 = 9;

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
            let (field, wire) = ((key >> 3) as u32, (key & 7) as u8);
            let length = match wire {
                0 => {
                    self.varint(&mut at, range.end)?;
                    None
                }
                1 => Some(8),
                5 => Some(4),
                2 => Some(self.varint(&mut at, range.end)? as usize),
                wire => return Err(WireError::WireType { at: start, wire }),
            };
            let payload = at..length
                .map_or(Some(at), |n| at.checked_add(n))
                .filter(|e| *e <= range.end)
                .ok_or(WireError::Truncated { at: start })?;
            at = payload.end;
            let child = kind.child(field);
            if (child.is_some() || kind == Kind::Tensor && field == RAW_DATA) && wire != 2 {
                return Err(WireError::Field { at: start, field });
            }
            match child {
                Some(child) => {
                    let mut inner = Vec::new();
                    self.message(child, payload, depth + 1, &mut inner)?;
                    put_varint(out, key);
                    put_varint(out, inner.len() as u64);
                    out.extend(inner);
                }
                None if kind == Kind::Tensor && field == RAW_DATA => {
                    put_varint(out, key);
                    put_varint(out, 16);
                    out.extend((payload.start as u64).to_le_bytes());
                    out.extend((payload.len() as u64).to_le_bytes());
                }
                None => out.extend_from_slice(&self.file[start..at]),
            }
        }
        Ok(())
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
