//! NumPy arrays: `.npy` (versions 1 to 3) and the entries of `.npz`, read into tensors and written from them.

use onnxc_ir::tensor::Bytes;
use onnxc_ir::{DType, Tensor};

const MAGIC: &[u8] = b"\x93NUMPY";

/// NumPy's name of each element type that it has. Big-endian files are read too.
const TYPES: &[(&str, DType)] = &[
    ("f4", DType::F32),
    ("f8", DType::F64),
    ("f2", DType::F16),
    ("i1", DType::I8),
    ("i2", DType::I16),
    ("i4", DType::I32),
    ("i8", DType::I64),
    ("u1", DType::U8),
    ("u2", DType::U16),
    ("u4", DType::U32),
    ("u8", DType::U64),
    ("b1", DType::Bool),
];

/// Parses the bytes of an array file.
pub fn parse(bytes: &[u8]) -> Result<Tensor, String> {
    let rest = bytes.strip_prefix(MAGIC).ok_or("not an .npy file")?;
    let (version, rest) = rest.split_at_checked(2).ok_or("truncated")?;
    let (length, rest) = rest.split_at_checked(if version[0] == 1 { 2 } else { 4 }).ok_or("truncated")?;
    let length = length.iter().rev().fold(0usize, |n, b| n << 8 | usize::from(*b));
    let (header, data) = rest.split_at_checked(length).ok_or("truncated")?;
    let header = std::str::from_utf8(header).map_err(|_| "the header is no text")?;
    let value = |key: &str| header.split_once(&format!("'{key}':")).map(|(_, v)| v.trim_start());
    let descr = value("descr").and_then(|v| v.split('\'').nth(1)).ok_or("no element type")?;
    let (order, kind) = descr.split_at_checked(1).ok_or("no element type")?;
    let dtype = TYPES.iter().find(|t| t.0 == kind).ok_or_else(|| format!("element type {descr} is not supported"))?.1;
    let shape = value("shape").and_then(|v| v.strip_prefix('(')?.split_once(')')).ok_or("no shape")?.0;
    let shape = shape.split(',').map(str::trim).filter(|d| !d.is_empty()).map(str::parse).collect::<Result<Vec<u64>, _>>();
    let shape = shape.map_err(|e| format!("shape: {e}"))?;
    let by_columns = value("fortran_order").is_some_and(|v| v.starts_with("True"));
    let size = dtype.bytes() as usize;
    let mut data = data.to_vec();
    if order == ">" {
        data.chunks_exact_mut(size).for_each(<[u8]>::reverse);
    }
    let stored: Vec<u64> = if by_columns { shape.iter().rev().copied().collect() } else { shape.clone() };
    let tensor = Tensor::from_bytes(dtype, stored, Bytes::new(data)).ok_or("the size of the data does not fit the shape")?;
    if by_columns { Ok(reverse_dimensions(&tensor, &shape)) } else { Ok(tensor) }
}

/// The tensor with its dimensions in the opposite order.
fn reverse_dimensions(stored: &Tensor, shape: &[u64]) -> Tensor {
    let size = stored.dtype().bytes() as usize;
    let mut out = Vec::with_capacity(stored.bytes().len());
    for n in 0..stored.len() as u64 {
        let (mut left, mut coordinate) = (n, vec![0; shape.len()]);
        for d in (0..shape.len()).rev() {
            coordinate[d] = left % shape[d];
            left /= shape[d];
        }
        let at = (0..shape.len()).rev().fold(0, |at, d| at * shape[d] + coordinate[d]) as usize;
        out.extend(&stored.bytes()[at * size..(at + 1) * size]);
    }
    Tensor::from_bytes(stored.dtype(), shape.to_vec(), Bytes::new(out)).expect("internal: same elements")
}

/// The bytes of an array file, as NumPy writes them.
pub fn encode(tensor: &Tensor) -> Result<Vec<u8>, String> {
    let kind = TYPES.iter().find(|t| t.1 == tensor.dtype());
    let kind = kind.ok_or_else(|| format!("NumPy has no element type {}", tensor.dtype()))?.0;
    let order = if tensor.dtype().bytes() == 1 { '|' } else { '<' };
    let dims: String = tensor.shape().iter().map(|d| format!("{d}, ")).collect();
    let shape = if tensor.shape().len() == 1 { dims.trim_end() } else { dims.trim_end_matches(", ") };
    let mut header = format!("{{'descr': '{order}{kind}', 'fortran_order': False, 'shape': ({shape}), }}");
    let padded = (MAGIC.len() + 4 + header.len() + 1).next_multiple_of(64);
    header.extend(std::iter::repeat_n(' ', padded - MAGIC.len() - 4 - header.len() - 1));
    header.push('\n');
    let mut out = MAGIC.to_vec();
    out.extend([1, 0]);
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.as_bytes());
    out.extend(tensor.bytes());
    Ok(out)
}

/// The arrays of an `.npz` file by name.
pub fn parse_npz(bytes: &[u8]) -> Result<Vec<(String, Tensor)>, String> {
    let mut archive = zip::ZipArchive::new(std::io::Cursor::new(bytes)).map_err(|e| e.to_string())?;
    let mut arrays = Vec::new();
    for i in 0..archive.len() {
        let mut file = archive.by_index(i).map_err(|e| e.to_string())?;
        let name = file.name().strip_suffix(".npy").unwrap_or(file.name()).to_string();
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut file, &mut bytes).map_err(|e| format!("{name}: {e}"))?;
        let tensor = parse(&bytes).map_err(|e| format!("{name}: {e}"))?;
        arrays.push((name, tensor));
    }
    Ok(arrays)
}

/// An `.npz` file of these arrays, uncompressed; the same arrays give the same bytes.
pub fn encode_npz(arrays: &[(String, Tensor)]) -> Result<Vec<u8>, String> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default()
        .compression_method(zip::CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default());
    for (name, tensor) in arrays {
        writer.start_file(format!("{name}.npy"), options).map_err(|e| e.to_string())?;
        std::io::Write::write_all(&mut writer, &encode(tensor)?).map_err(|e| e.to_string())?;
    }
    Ok(writer.finish().map_err(|e| e.to_string())?.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let arrays = [
            ("a".to_string(), Tensor::from_vec(&[2, 3], vec![0f32, 1.0, 2.0, 3.0, 4.0, 5.0])),
            ("b/c".to_string(), Tensor::scalar(7i64)),
            ("d".to_string(), Tensor::from_vec(&[1], vec![true])),
            ("e".to_string(), Tensor::from_vec::<u8>(&[0, 4], vec![])),
        ];
        for (_, t) in &arrays {
            assert_eq!(parse(&encode(t).unwrap()).unwrap(), *t);
        }
        let bytes = encode_npz(&arrays).unwrap();
        assert_eq!(bytes, encode_npz(&arrays).unwrap());
        assert_eq!(parse_npz(&bytes).unwrap(), arrays);
    }

    #[test]
    fn other_orders_are_understood() {
        let header = "{'descr': '>i2', 'fortran_order': True, 'shape': (2, 3), }";
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        for column in [[0u8, 0, 0, 3], [0, 1, 0, 4], [0, 2, 0, 5]] {
            bytes.extend(column);
        }
        assert_eq!(parse(&bytes).unwrap(), Tensor::from_vec(&[2, 3], vec![0i16, 1, 2, 3, 4, 5]));
    }

    #[test]
    fn damage_is_an_error() {
        let good = encode(&Tensor::from_vec(&[2], vec![1f32, 2.0])).unwrap();
        for n in [0, 3, 7, 9, 40, good.len() - 1] {
            assert!(parse(&good[..n]).is_err(), "{n}");
        }
    }
}
