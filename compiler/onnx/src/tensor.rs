//! TensorProto to tensor, for every element type and every way of storing it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use memmap2::{Mmap, UncheckedAdvice};
use onnx_protobuf::{SparseTensorProto, TensorProto, tensor_proto::DataLocation};
use onnxc_ir::tensor::{Bytes, Memory, element_count};
use onnxc_ir::{DType, Tensor, TensorType};

use crate::options::Limits;
use crate::wire;

/// Bytes that a tensor can point into.
pub type Owner = Arc<dyn Memory>;

/// Where a model's bytes come from.
pub struct Source<'a> {
    /// The model file.
    pub file: Owner,
    /// Its folder, in which external data must lie; `None` for a model from memory.
    pub folder: Option<&'a Path>,
    /// Limits.
    pub limits: &'a Limits,
    /// External files that are mapped already.
    maps: RefCell<BTreeMap<PathBuf, Owner>>,
}

/// Sparse tensors that spread out to more bytes are refused: unlike dense ones, they do not take their size in the file.
const MAX_SPREAD: u64 = 1 << 30;

impl<'a> Source<'a> {
    /// Nothing read yet.
    pub fn new(file: Owner, folder: Option<&'a Path>, limits: &'a Limits) -> Source<'a> {
        Source { file, folder, limits, maps: RefCell::default() }
    }

    /// The tensor of a proto; the error says what is wrong with it.
    pub fn tensor(&self, proto: &TensorProto) -> Result<Tensor, String> {
        let dtype = DType::from_onnx(proto.data_type).ok_or_else(|| format!("element type {} is unknown", proto.data_type))?;
        let shape: Vec<u64> = proto
            .dims
            .iter()
            .map(|d| u64::try_from(*d))
            .collect::<Result<_, _>>()
            .map_err(|_| format!("a dimension is negative: {:?}", proto.dims))?;
        let count =
            element_count(&shape).ok_or_else(|| format!("the shape {shape:?} is too large: its number of elements overflows"))?;
        let fits = TensorType::fixed(dtype, &shape).least_bytes().is_some_and(|b| b <= self.limits.tensor_bytes);
        let bytes = dtype.bytes_for(count).filter(|_| fits);
        let bytes =
            bytes.ok_or_else(|| format!("the shape {shape:?} is too large: the limit is {} bytes", self.limits.tensor_bytes))?;
        if proto.data_location.enum_value() == Ok(DataLocation::EXTERNAL) {
            let data = self.external(proto, bytes)?;
            check_bools(dtype, data.as_slice())?;
            return Tensor::from_bytes(dtype, shape, data).ok_or_else(|| "external data has the wrong size".to_string());
        }
        if dtype == DType::Str {
            return Tensor::from_strings(&shape, proto.string_data.clone())
                .ok_or_else(|| format!("{} strings for {count} elements", proto.string_data.len()));
        }
        if !proto.raw_data.is_empty() {
            let range = wire::raw_range(&proto.raw_data).ok_or("internal: raw data without a place")?;
            let len = range.len();
            let data = Bytes::shared(self.file.clone(), range).ok_or("internal: raw data outside the file")?;
            check_bools(dtype, data.as_slice())?;
            return Tensor::from_bytes(dtype, shape, data)
                .ok_or_else(|| format!("raw_data has {len} bytes, the shape needs {bytes}"));
        }
        let data = typed_bytes(proto, dtype, count)?;
        check_bools(dtype, &data)?;
        let got = data.len();
        Tensor::from_bytes(dtype, shape, Bytes::new(data))
            .ok_or_else(|| format!("the values take {got} bytes, the shape needs {bytes}"))
    }

    /// A sparse tensor, spread out.
    pub fn sparse(&self, proto: &SparseTensorProto) -> Result<Tensor, String> {
        let values = self.tensor(&proto.values)?;
        let indices = self.tensor(&proto.indices)?;
        let shape: Vec<u64> =
            proto.dims.iter().map(|d| u64::try_from(*d)).collect::<Result<_, _>>().map_err(|_| "a dimension is negative")?;
        let total = element_count(&shape)
            .and_then(|n| values.dtype().bytes_for(n))
            .filter(|b| *b <= MAX_SPREAD.min(self.limits.tensor_bytes));
        let total = total.ok_or("the dense size is too large")?;
        if values.dtype().bits() % 8 != 0 || values.dtype() == DType::Str {
            return Err("sparse tensors of this element type are not supported".into());
        }
        let at = indices.to_i64s().filter(|_| indices.dtype() == DType::I64).ok_or("sparse indices are not int64")?;
        let linear: Vec<i64> = match indices.shape() {
            [n] if *n as usize == values.len() => at,
            [n, rank] if *n as usize == values.len() && *rank as usize == shape.len() => at
                .chunks(shape.len().max(1))
                .map(|ix| {
                    let inside = ix.iter().zip(&shape).all(|(i, d)| u64::try_from(*i).is_ok_and(|i| i < *d));
                    if inside { ix.iter().zip(&shape).fold(0i64, |a, (i, d)| a * *d as i64 + i) } else { -1 }
                })
                .collect(),
            _ => return Err("sparse indices do not fit the values".into()),
        };
        let size = values.dtype().bytes() as usize;
        let mut dense = vec![0u8; total as usize];
        let mut seen = BTreeSet::new();
        for (i, value) in linear.into_iter().zip(values.bytes().chunks_exact(size)) {
            let start = usize::try_from(i).ok().and_then(|i| i.checked_mul(size));
            let place = start.and_then(|s| dense.get_mut(s..s.checked_add(size)?));
            place.ok_or("a sparse index lies outside the tensor")?.copy_from_slice(value);
            if !seen.insert(i) {
                return Err(format!("the sparse index {i} is given twice"));
            }
        }
        Tensor::from_bytes(values.dtype(), shape, Bytes::new(dense)).ok_or_else(|| "internal: dense size".to_string())
    }

    fn external(&self, proto: &TensorProto, bytes: u64) -> Result<Bytes, String> {
        let entry = |key: &str| proto.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
        let location = entry("location").ok_or("external data without a location")?;
        let number = |key: &str| {
            entry(key).map_or(Ok(None), |v| v.parse::<u64>().map(Some).map_err(|_| format!("external data: bad {key} {v:?}")))
        };
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.unwrap_or(bytes);
        if length != bytes {
            return Err(format!("external data of {length} bytes, the shape needs {bytes}"));
        }
        let path = self.contained(location)?;
        let owner = self.mapped(&path).map_err(|e| format!("external data file {location:?}: {e}"))?;
        let size = (*owner).as_ref().len() as u64;
        let end = offset.checked_add(length).filter(|e| *e <= size);
        let end = end.ok_or_else(|| {
            format!("external data file {location:?} is too short: bytes {offset} to {offset}+{length} of {size}")
        })?;
        Bytes::shared(owner, offset as usize..end as usize).ok_or_else(|| "internal: checked range".to_string())
    }

    fn mapped(&self, path: &Path) -> std::io::Result<Owner> {
        if let Some(owner) = self.maps.borrow().get(path) {
            return Ok(owner.clone());
        }
        let file = File::open(path)?;
        if !file.metadata()?.is_file() {
            return Err(std::io::Error::other("it is not a regular file"));
        }
        let owner: Owner = Arc::new(map(&file)?);
        self.maps.borrow_mut().insert(path.to_path_buf(), owner.clone());
        Ok(owner)
    }

    /// The path of an external data file, which must lie inside the model's folder even after symbolic links are followed.
    fn contained(&self, location: &str) -> Result<PathBuf, String> {
        let folder = self.folder.ok_or("external data needs a model on disk")?;
        let relative = Path::new(location);
        let plain = relative.components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
        if !plain || location.is_empty() || location.contains('\\') {
            return Err(format!(
                "external data location {location:?} leads outside the model's folder: it must be a relative path without \"..\""
            ));
        }
        let resolve = |p: &Path| p.canonicalize().map_err(|e| format!("external data file {location:?}: {e}"));
        let (root, path) = (resolve(folder)?, resolve(&folder.join(relative))?);
        if path.starts_with(&root) {
            Ok(path)
        } else {
            Err(format!("external data location {location:?} leads outside the model's folder"))
        }
    }
}

/// A mapped file.
pub struct Mapped(Mmap);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Memory for Mapped {
    /// Gives pages back, so that a model is not in memory twice, as it was and as it is being made. Those that are read again come from the file.
    #[cfg(unix)]
    #[expect(unsafe_code, reason = "advice about a mapped file")]
    fn release(&self, range: Range<usize>) {
        // Whole pages of any size that there is; the rest stays.
        const PAGE: usize = 1 << 16;
        let (start, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
        if start < end {
            // SAFETY: pages of a read-only map of a file have the same contents when they come back. That a model is not changed meanwhile is documented.
            // An answer that it is not possible changes nothing.
            let _ = unsafe { self.0.unchecked_advise_range(UncheckedAdvice::DontNeed, start, end - start) };
        }
    }
}

/// Maps a file for reading.
#[expect(unsafe_code, reason = "memory mapping a file")]
pub fn map(file: &File) -> std::io::Result<Mapped> {
    // SAFETY: the map is read-only and private to this process; we document that models must not be changed while they are compiled.
    unsafe { Mmap::map(file) }.map(Mapped)
}

/// Bools are stored as 0 or 1; anything else would be read as two different truths.
fn check_bools(dtype: DType, bytes: &[u8]) -> Result<(), String> {
    match bytes.iter().find(|b| dtype == DType::Bool && **b > 1) {
        Some(b) => Err(format!("a bool is stored as {b}, it must be 0 or 1")),
        None => Ok(()),
    }
}

/// Little-endian bytes from the typed fields of the proto.
fn typed_bytes(proto: &TensorProto, dtype: DType, count: u64) -> Result<Vec<u8>, String> {
    let ints = |bytes: usize| -> Vec<u8> { proto.int32_data.iter().flat_map(|v| v.to_le_bytes()[..bytes].to_vec()).collect() };
    let data: Vec<u8> = match dtype {
        DType::F32 | DType::C64 => proto.float_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::F64 | DType::C128 => proto.double_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::I64 => proto.int64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::U64 => proto.uint64_data.iter().flat_map(|v| v.to_le_bytes()).collect(),
        DType::U32 => proto.uint64_data.iter().flat_map(|v| (*v as u32).to_le_bytes()).collect(),
        DType::I32 => ints(4),
        DType::I16 | DType::U16 | DType::F16 | DType::BF16 => ints(2),
        DType::Bool => proto.int32_data.iter().map(|v| u8::try_from(*v).unwrap_or(u8::MAX)).collect(),
        // Sub-byte types are packed in the field already, one byte per entry.
        _ => ints(1),
    };
    let need = dtype.bytes_for(count).unwrap_or(u64::MAX);
    if data.len() as u64 == need {
        Ok(data)
    } else {
        let stored = data.len() as u64 * 8 / dtype.bits().max(1);
        Err(format!("its data holds {stored} values, the shape needs {count} ({need} bytes)"))
    }
}
