//! `TensorProto` files of the ONNX backend tests, and the few facts of a model that runners need: its inputs' names.

use crate::tensor::{Tensor, code, elem_bits};
use crate::wire::{self, Msg, Value};
use std::{fs, io, path::Path};

/// Reads a `.pb` file that holds one `TensorProto`; the error names the file.
pub fn read(path: &Path) -> io::Result<Tensor> {
    let named = |e| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", path.display()));
    parse(&fs::read(path)?).map_err(named)
}

/// Parses a serialized `TensorProto`: `raw_data` or the typed fields; strings and external data are refused.
pub fn parse(bytes: &[u8]) -> Result<Tensor, String> {
    let mut t = Tensor { elem_type: 0, dims: vec![], bytes: vec![] };
    let (mut raw, mut ints, mut fixed) = (None, Vec::new(), Vec::new());
    for (field, value) in wire::fields(bytes)? {
        match (field, value) {
            (1, v) => t.dims.extend(wire::integers(v)?.into_iter().map(|d| d as usize)),
            (2, Value::Varint(v)) => t.elem_type = v as i32,
            // float_data and double_data are packed fixed-width numbers: already the bytes wanted.
            (4 | 10, Value::Bytes(b)) => fixed.extend_from_slice(b),
            (4, Value::Fixed32(v)) => fixed.extend(v.to_le_bytes()),
            (10, Value::Fixed64(v)) => fixed.extend(v.to_le_bytes()),
            (5 | 7 | 11, v) => ints.extend(wire::integers(v)?),
            (6, _) => return Err("string tensor".into()),
            (9, Value::Bytes(b)) => raw = Some(b.to_vec()),
            (13, _) => return Err("external data".into()),
            _ => {}
        }
    }
    let bits = elem_bits(t.elem_type).ok_or_else(|| format!("element type {}", t.elem_type))?;
    let width = bits.div_ceil(8).min(8);
    t.bytes = raw.unwrap_or_else(|| {
        if fixed.is_empty() { ints.iter().flat_map(|v| v.to_le_bytes()[..width].to_vec()).collect() } else { fixed }
    });
    if Some(t.bytes.len()) != t.expected_bytes() {
        return Err(format!("{} bytes for element type {} and dims {:?}", t.bytes.len(), t.elem_type, t.dims));
    }
    Ok(t)
}

/// Serializes a tensor with `raw_data`.
pub fn encode(t: &Tensor, name: &str) -> Vec<u8> {
    assert_ne!(t.elem_type, code::STRING, "string tensors have no raw form");
    let m = t.dims.iter().fold(Msg::new(), |m, d| m.int(1, *d as i64));
    m.int(2, t.elem_type.into()).bytes(8, name).bytes(9, &t.bytes).0
}

/// Writes a tensor as a `.pb` file.
pub fn write(path: &Path, t: &Tensor, name: &str) -> io::Result<()> {
    fs::write(path, encode(t, name))
}

/// Names of the graph inputs of a serialized model that are not initialisers, in graph order.
pub fn model_inputs(model: &[u8]) -> Result<Vec<String>, String> {
    let graph = bytes_of(model, 7)?.pop().ok_or("the model has no graph")?;
    let name = |message, field| -> Result<String, String> {
        Ok(bytes_of(message, field)?.pop().map(|n| String::from_utf8_lossy(n).into_owned()).unwrap_or_default())
    };
    let mut initialisers = Vec::new();
    for tensor in bytes_of(graph, 5)? {
        initialisers.push(name(tensor, 8)?);
    }
    for sparse in bytes_of(graph, 15)? {
        for values in bytes_of(sparse, 1)? {
            initialisers.push(name(values, 8)?);
        }
    }
    let mut inputs = Vec::new();
    for input in bytes_of(graph, 11)? {
        inputs.push(name(input, 1)?);
    }
    inputs.retain(|n| !initialisers.contains(n));
    Ok(inputs)
}

fn bytes_of(message: &[u8], field: u32) -> Result<Vec<&[u8]>, String> {
    let only = |(f, v)| match v {
        Value::Bytes(b) if f == field => Some(b),
        _ => None,
    };
    Ok(wire::fields(message)?.into_iter().filter_map(only).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_typed_fields() {
        let t = Tensor::f32(&[2], &[1.0, -2.5]);
        assert_eq!(parse(&encode(&t, "x")).unwrap(), t);
        let typed = Msg::new().int(1, 2).int(2, 7).int(7, -1).int(7, 5);
        assert_eq!(parse(&typed.0).unwrap(), Tensor::i64(&[2], &[-1, 5]));
        let bools = Msg::new().bytes(1, [3]).int(2, 9).bytes(5, [1, 0, 1]);
        assert_eq!(parse(&bools.0).unwrap().bytes, [1, 0, 1]);
        assert!(parse(&Msg::new().int(1, 3).int(2, 1).bytes(9, [0; 4]).0).is_err());
    }

    #[test]
    fn initialisers_are_not_inputs() {
        let tensor = Msg::new().bytes(8, "w");
        let graph = Msg::new().msg(5, &tensor).msg(11, &Msg::new().bytes(1, "w")).msg(11, &Msg::new().bytes(1, "x"));
        assert_eq!(model_inputs(&Msg::new().msg(7, &graph).0).unwrap(), ["x"]);
    }
}
