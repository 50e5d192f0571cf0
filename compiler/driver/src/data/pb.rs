//! `TensorProto`, `SequenceProto` and `OptionalProto` files (`.pb`), as the ONNX backend tests use them.

use onnxc_ir::tensor::{Bytes, element_count};
use onnxc_ir::{DType, Tensor};

enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// One field of a message: number, value, what follows.
fn field(bytes: &[u8]) -> Result<(u64, Field<'_>, &[u8]), String> {
    let (key, rest) = varint(bytes)?;
    let fixed = |n: usize| -> Result<(Field<'_>, &[u8]), String> {
        let (head, tail) = rest.split_at_checked(n).ok_or("truncated")?;
        Ok((Field::Bytes(head), tail))
    };
    let (value, rest) = match key & 7 {
        0 => {
            let (n, rest) = varint(rest)?;
            (Field::Number(n), rest)
        }
        1 => fixed(8)?,
        5 => fixed(4)?,
        2 => {
            let (n, rest) = varint(rest)?;
            let n = usize::try_from(n).map_err(|_| "truncated")?;
            let (head, tail) = rest.split_at_checked(n).ok_or("truncated")?;
            (Field::Bytes(head), tail)
        }
        other => return Err(format!("wire type {other} is not supported")),
    };
    Ok((key >> 3, value, rest))
}

fn varint(bytes: &[u8]) -> Result<(u64, &[u8]), String> {
    let mut value = 0u64;
    for (i, b) in bytes.iter().enumerate().take(10) {
        value |= u64::from(b & 0x7f) << (7 * i).min(63);
        if b & 0x80 == 0 {
            return Ok((value, &bytes[i + 1..]));
        }
    }
    Err("truncated".into())
}

/// Packed or single numbers.
fn numbers(value: &Field, out: &mut Vec<u64>) -> Result<(), String> {
    match value {
        Field::Number(n) => out.push(*n),
        Field::Bytes(bytes) => {
            let mut rest: &[u8] = bytes;
            while !rest.is_empty() {
                let (n, after) = varint(rest)?;
                out.push(n);
                rest = after;
            }
        }
    }
    Ok(())
}

/// Parses a serialized `TensorProto`: its name and the tensor. External data is refused.
pub fn parse(bytes: &[u8]) -> Result<(String, Tensor), String> {
    let (mut shape, mut code, mut name) = (Vec::new(), 0, String::new());
    let (mut raw, mut fixed, mut ints, mut strings) = (None, Vec::new(), Vec::new(), Vec::new());
    let mut rest = bytes;
    while !rest.is_empty() {
        let (number, value, after) = field(rest)?;
        rest = after;
        match (number, &value) {
            (1, v) => numbers(v, &mut shape)?,
            (2, Field::Number(n)) => code = *n as i32,
            // float_data and double_data are little-endian already, packed or one by one.
            (4 | 10, Field::Bytes(b)) => fixed.extend_from_slice(b),
            (5 | 7 | 11, v) => numbers(v, &mut ints)?,
            (6, Field::Bytes(b)) => strings.push(b.to_vec()),
            (8, Field::Bytes(b)) => name = String::from_utf8_lossy(b).into_owned(),
            (9, Field::Bytes(b)) => raw = Some(b.to_vec()),
            (13 | 14, _) => return Err("external data is not supported here".into()),
            _ => {}
        }
    }
    let dtype = DType::from_onnx(code).ok_or_else(|| format!("element type {code} is not supported"))?;
    let wrong = || "the size of the data does not fit the shape".to_string();
    if dtype == DType::Str {
        return Ok((name, Tensor::from_strings(&shape, strings).ok_or_else(wrong)?));
    }
    let count = element_count(&shape).ok_or_else(wrong)?;
    let data = match raw {
        Some(raw) => raw,
        None if !fixed.is_empty() => fixed,
        // Elements of packed types come several to a number, others one by one, their low bytes valid.
        None if dtype.bits() < 8 => ints.iter().map(|n| *n as u8).take(dtype.bytes_for(count).unwrap_or(0) as usize).collect(),
        None => ints.iter().flat_map(|n| n.to_le_bytes().into_iter().take(dtype.bytes() as usize)).collect(),
    };
    Ok((name, Tensor::from_bytes(dtype, shape, Bytes::new(data)).ok_or_else(wrong)?))
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Held {
    /// A tensor.
    Tensor(Tensor),
    /// A sequence of tensors.
    List(Vec<Tensor>),
    /// An optional without a value.
    Nothing,
}

/// Parses a tensor, a `SequenceProto`, or an `OptionalProto` of either.
pub fn parse_held(bytes: &[u8], sequence: bool, optional: bool) -> Result<Held, String> {
    let fields = |mut rest: &[u8], wanted: u64| -> Result<Vec<Vec<u8>>, String> {
        let mut found = Vec::new();
        while !rest.is_empty() {
            let (number, value, after) = field(rest)?;
            rest = after;
            match value {
                Field::Bytes(b) if number == wanted => found.push(b.to_vec()),
                _ => {}
            }
        }
        Ok(found)
    };
    let mut bytes = bytes.to_vec();
    if optional {
        // tensor_value, sequence_value
        match fields(&bytes, if sequence { 5 } else { 3 })?.pop() {
            Some(inner) => bytes = inner,
            None => return Ok(Held::Nothing),
        }
    }
    if sequence {
        let all = fields(&bytes, 3)?;
        return Ok(Held::List(all.iter().map(|t| Ok(parse(t)?.1)).collect::<Result<_, String>>()?));
    }
    Ok(Held::Tensor(parse(&bytes)?.1))
}

/// Serializes tensors as what they are together.
pub fn encode_held(name: &str, tensors: &[Tensor], sequence: bool, optional: bool) -> Vec<u8> {
    let inner = if sequence {
        // elem_type TENSOR, then the tensors.
        let mut out = named(if optional { "" } else { name }, 1);
        tensors.iter().for_each(|t| put_bytes(&mut out, 3, &encode("", t)));
        Some(out)
    } else {
        tensors.first().map(|t| encode(if optional { "" } else { name }, t))
    };
    let Some(inner) = inner.as_ref().filter(|_| optional) else { return inner.unwrap_or_default() };
    // elem_type TENSOR or SEQUENCE, then tensor_value or sequence_value.
    let (kind, number) = if sequence { (3, 5) } else { (1, 3) };
    let mut out = named(name, kind);
    put_bytes(&mut out, number, inner);
    out
}

/// Name and `elem_type`, with which both messages begin.
fn named(name: &str, kind: u64) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 1, name.as_bytes());
    put_varint(&mut out, 2 << 3);
    put_varint(&mut out, kind);
    out
}

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend(bytes);
}

/// Serializes a tensor.
pub fn encode(name: &str, tensor: &Tensor) -> Vec<u8> {
    let mut out = Vec::new();
    for d in tensor.shape() {
        put_varint(&mut out, 1 << 3);
        put_varint(&mut out, *d);
    }
    put_varint(&mut out, 2 << 3);
    put_varint(&mut out, tensor.dtype().onnx_code() as u64);
    for s in tensor.strings().unwrap_or_default() {
        put_bytes(&mut out, 6, s);
    }
    put_bytes(&mut out, 8, name.as_bytes());
    if tensor.strings().is_none() {
        put_bytes(&mut out, 9, tensor.bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        for t in [
            Tensor::from_vec(&[2, 2], vec![1f32, -2.0, f32::NAN, 0.0]),
            Tensor::scalar(-5i64),
            Tensor::from_vec::<u8>(&[0], vec![]),
            Tensor::from_strings(&[2], vec![b"a".to_vec(), b"".to_vec()]).unwrap(),
        ] {
            assert_eq!(parse(&encode("n", &t)).unwrap(), ("n".to_string(), t));
        }
    }

    #[test]
    fn sequences_and_optionals_round_trip() {
        let (a, b) = (Tensor::scalar(1f32), Tensor::from_vec(&[2], vec![2f32, 3.0]));
        let list = [a.clone(), b];
        for optional in [false, true] {
            assert_eq!(parse_held(&encode_held("n", &list, true, optional), true, optional), Ok(Held::List(list.to_vec())));
            assert_eq!(parse_held(&encode_held("n", &[], true, optional), true, optional), Ok(Held::List(vec![])));
            assert_eq!(parse_held(&encode_held("n", &list[..1], false, optional), false, optional), Ok(Held::Tensor(a.clone())));
        }
        assert_eq!(parse_held(&named("n", 1), false, true), Ok(Held::Nothing));
        assert!(parse_held(&encode_held("n", &list, true, false)[..9], true, false).is_err());
    }

    #[test]
    fn typed_fields_are_read() {
        // dims 2, type int32 (6), int32_data packed [3, -1].
        let bytes = [0x08, 2, 0x10, 6, 0x2a, 11, 3, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert_eq!(parse(&bytes).unwrap().1, Tensor::from_vec(&[2], vec![3i32, -1]));
        assert!(parse(&bytes[..8]).is_err());
    }
}
