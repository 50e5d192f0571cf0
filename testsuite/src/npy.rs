//! NumPy `.npy` files, versions 1 to 3, little-endian and row-major.

use crate::tensor::{Tensor, code};
use std::{fs, io, path::Path};

const TYPES: &[(&str, i32)] = &[
    ("<f4", code::F32),
    ("|u1", code::U8),
    ("|i1", code::I8),
    ("<u2", code::U16),
    ("<i2", code::I16),
    ("<i4", code::I32),
    ("<i8", code::I64),
    ("|b1", code::BOOL),
    ("<f2", code::F16),
    ("<f8", code::F64),
    ("<u4", code::U32),
    ("<u8", code::U64),
    ("<c8", code::C64),
    ("<c16", code::C128),
];

fn bad(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// Reads one array; the error names the file.
pub fn read(path: &Path) -> io::Result<Tensor> {
    parse(&fs::read(path)?).map_err(|e| bad(format!("{}: {e}", path.display())))
}

/// Parses the bytes of an `.npy` file.
pub fn parse(bytes: &[u8]) -> io::Result<Tensor> {
    let rest = bytes.strip_prefix(b"\x93NUMPY").ok_or_else(|| bad("not an npy file"))?;
    let (version, rest) = rest.split_at_checked(2).ok_or_else(|| bad("truncated"))?;
    let length_bytes = if version[0] == 1 { 2 } else { 4 };
    let (length, rest) = rest.split_at_checked(length_bytes).ok_or_else(|| bad("truncated"))?;
    let length = length.iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b));
    let (header, data) = rest.split_at_checked(length).ok_or_else(|| bad("truncated"))?;
    let header = std::str::from_utf8(header).map_err(|_| bad("header is not text"))?;
    let value = |key: &str| header.split_once(&format!("'{key}':")).map(|(_, v)| v.trim_start());
    let quoted = |v: &str| v.split('\'').nth(1).map(str::to_owned);
    let descr = value("descr").and_then(quoted).ok_or_else(|| bad("no descr"))?;
    if !value("fortran_order").ok_or_else(|| bad("no fortran_order"))?.starts_with("False") {
        return Err(bad("column-major array"));
    }
    let shape = value("shape").and_then(|v| v.strip_prefix('(')?.split_once(')')).ok_or_else(|| bad("no shape"))?.0;
    let dims = shape.split(',').map(str::trim).filter(|d| !d.is_empty()).map(str::parse).collect::<Result<Vec<usize>, _>>();
    let elem_type = TYPES.iter().find(|t| t.0 == descr).ok_or_else(|| bad(format!("type {descr}")))?.1;
    let t = Tensor { elem_type, dims: dims.map_err(|e| bad(e.to_string()))?, bytes: data.to_vec() };
    if Some(data.len()) != t.expected_bytes() {
        return Err(bad(format!("{} bytes for {descr} {:?}", data.len(), t.dims)));
    }
    Ok(t)
}

/// The bytes of an `.npy` file (version 1, header padded to 64 bytes as NumPy does).
pub fn encode(t: &Tensor) -> io::Result<Vec<u8>> {
    let descr = TYPES.iter().find(|x| x.1 == t.elem_type).ok_or_else(|| bad(format!("npy has no type {}", t.elem_type)))?.0;
    let dims: String = t.dims.iter().map(|d| format!("{d}, ")).collect();
    let shape = if t.dims.len() == 1 { dims.trim_end() } else { dims.trim_end_matches(", ") };
    let mut header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': ({shape}), }}");
    let padded = (10 + header.len() + 1).next_multiple_of(64);
    header.extend(std::iter::repeat_n(' ', padded - 10 - header.len() - 1));
    header.push('\n');
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.as_bytes());
    out.extend(&t.bytes);
    Ok(out)
}

/// Writes one array.
pub fn write(path: &Path, t: &Tensor) -> io::Result<()> {
    fs::write(path, encode(t)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip() {
        for t in [
            Tensor::f32(&[2, 3], &[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]),
            Tensor::i64(&[], &[7]),
            Tensor::i64(&[1], &[7]),
            Tensor::f32(&[0, 4], &[]),
        ] {
            let bytes = encode(&t).unwrap();
            assert_eq!((bytes.len() - t.bytes.len()) % 64, 0);
            assert_eq!(parse(&bytes).unwrap(), t);
        }
    }

    #[test]
    fn wrong_length_is_an_error() {
        let mut bytes = encode(&Tensor::f32(&[2], &[1.0, 2.0])).unwrap();
        bytes.pop();
        assert!(parse(&bytes).unwrap_err().to_string().contains("7 bytes"));
    }
}
