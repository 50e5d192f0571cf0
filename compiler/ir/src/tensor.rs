//! Tensors with values: constants of a graph, inputs and outputs of the reference interpreter.
//!
//! Elements are little-endian bytes in row-major order. Weights of a model stay where they are (an mmap'd file): a
//! [`Tensor`] shares them and copies only when somebody asks for typed elements.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};

use crate::dtype::DType;

/// Something that holds bytes: a vector, a mapped file.
pub trait Memory: AsRef<[u8]> + Send + Sync {
    /// These bytes will not be read soon: what holds them may give memory back that it can fill again.
    fn release(&self, _range: Range<usize>) {}
}

impl Memory for Vec<u8> {}

/// Bytes that many tensors may share: owned, or a part of something that outlives them (a mapped file).
#[derive(Clone)]
pub struct Bytes {
    owner: Arc<dyn Memory>,
    range: Range<usize>,
}

impl Bytes {
    /// Takes ownership of a vector.
    pub fn new(bytes: Vec<u8>) -> Bytes {
        let range = 0..bytes.len();
        Bytes { owner: Arc::new(bytes), range }
    }

    /// A part of a shared owner. `None` when the range does not lie inside.
    pub fn shared(owner: Arc<dyn Memory>, range: Range<usize>) -> Option<Bytes> {
        let len = (*owner).as_ref().len();
        (range.start <= range.end && range.end <= len).then_some(Bytes { owner, range })
    }

    /// The bytes.
    pub fn as_slice(&self) -> &[u8] {
        &(*self.owner).as_ref()[self.range.clone()]
    }

    /// They will not be read soon.
    pub fn release(&self) {
        self.owner.release(self.range.clone());
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.range.len())
    }
}

/// A tensor with known shape and values.
#[derive(Clone, Debug)]
pub struct Tensor {
    dtype: DType,
    shape: Vec<u64>,
    storage: Storage,
}

#[derive(Clone, Debug)]
enum Storage {
    Bytes(Bytes),
    Strings(Arc<Vec<Vec<u8>>>),
}

/// A Rust type that is the element of some [`DType`].
pub trait Element: Copy + Send + Sync + 'static {
    /// The tensor type.
    const DTYPE: DType;
    /// Reads one element from exactly its bytes.
    fn read(bytes: &[u8]) -> Self;
    /// Appends the element's bytes.
    fn write(self, out: &mut Vec<u8>);
}

macro_rules! elements {
    ($($rust:ty => $dtype:ident),* $(,)?) => {$(
        impl Element for $rust {
            const DTYPE: DType = DType::$dtype;
            fn read(bytes: &[u8]) -> Self {
                Self::from_le_bytes(bytes.try_into().expect("internal: element size"))
            }
            fn write(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}

elements!(f32 => F32, f64 => F64, f16 => F16, bf16 => BF16, i8 => I8, i16 => I16, i32 => I32, i64 => I64,
          u8 => U8, u16 => U16, u32 => U32, u64 => U64);

impl Element for bool {
    const DTYPE: DType = DType::Bool;
    fn read(bytes: &[u8]) -> bool {
        bytes[0] != 0
    }
    fn write(self, out: &mut Vec<u8>) {
        out.push(u8::from(self));
    }
}

/// The number of elements of a shape; `None` on overflow.
pub fn element_count(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |a, d| a.checked_mul(*d))
}

impl Tensor {
    /// A tensor over existing bytes. `None` when their number does not fit the type and shape.
    pub fn from_bytes(dtype: DType, shape: Vec<u64>, bytes: Bytes) -> Option<Tensor> {
        let need = dtype.bytes_for(element_count(&shape)?)?;
        (dtype != DType::Str && need == bytes.as_slice().len() as u64).then_some(Tensor {
            dtype,
            shape,
            storage: Storage::Bytes(bytes),
        })
    }

    /// A tensor of typed elements. Panics when their number is not the shape's (a broken invariant of the caller).
    pub fn from_vec<T: Element>(shape: &[u64], elements: Vec<T>) -> Tensor {
        let mut bytes = Vec::with_capacity(elements.len() * T::DTYPE.bytes() as usize);
        elements.iter().for_each(|e| e.write(&mut bytes));
        Tensor::from_bytes(T::DTYPE, shape.to_vec(), Bytes::new(bytes)).expect("internal: element count is the shape's")
    }

    /// A tensor of strings.
    pub fn from_strings(shape: &[u64], strings: Vec<Vec<u8>>) -> Option<Tensor> {
        (element_count(shape)? == strings.len() as u64).then(|| Tensor {
            dtype: DType::Str,
            shape: shape.to_vec(),
            storage: Storage::Strings(Arc::new(strings)),
        })
    }

    /// A scalar (rank 0).
    pub fn scalar<T: Element>(value: T) -> Tensor {
        Tensor::from_vec(&[], vec![value])
    }

    /// A tensor of zero bytes.
    pub fn zeros(dtype: DType, shape: &[u64]) -> Option<Tensor> {
        let bytes = dtype.bytes_for(element_count(shape)?)?;
        Tensor::from_bytes(dtype, shape.to_vec(), Bytes::new(vec![0; usize::try_from(bytes).ok()?]))
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Extents.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product::<u64>() as usize
    }

    /// True when some extent is zero.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The raw little-endian bytes; empty for strings.
    pub fn bytes(&self) -> &[u8] {
        match &self.storage {
            Storage::Bytes(b) => b.as_slice(),
            Storage::Strings(_) => &[],
        }
    }

    /// The elements will not be read soon: those in a mapped file need not stay in memory.
    pub fn release(&self) {
        if let Storage::Bytes(b) = &self.storage {
            b.release();
        }
    }

    /// The elements as compiled code holds them: sub-byte ones have a byte each, sign-extended where the type has a sign; others are shared.
    pub fn unpacked(&self) -> Bytes {
        let bits = self.dtype.bits();
        if !self.dtype.is_packed() {
            return match &self.storage {
                Storage::Bytes(b) => b.clone(),
                Storage::Strings(_) => Bytes::new(Vec::new()),
            };
        }
        let (per_byte, spare) = (8 / bits as usize, 8 - bits);
        let element = |i: usize| {
            let high = self.bytes()[i / per_byte] << (spare - (i % per_byte) as u64 * bits);
            if self.dtype.is_signed_int() { (high as i8 >> spare) as u8 } else { high >> spare }
        };
        Bytes::new((0..self.len()).map(element).collect())
    }

    /// The strings of a string tensor.
    pub fn strings(&self) -> Option<&[Vec<u8>]> {
        match &self.storage {
            Storage::Strings(s) => Some(s),
            Storage::Bytes(_) => None,
        }
    }

    /// The elements as `T`, which must be the tensor's own type: no conversion. Panics otherwise.
    pub fn to_vec<T: Element>(&self) -> Vec<T> {
        assert_eq!(self.dtype, T::DTYPE, "internal: typed access with another type");
        self.bytes().chunks_exact(T::DTYPE.bytes() as usize).map(T::read).collect()
    }

    /// The elements of any integer type or bool as i64 (u64 wraps); `None` for other types.
    pub fn to_i64s(&self) -> Option<Vec<i64>> {
        Some(match self.dtype {
            DType::I64 => self.to_vec::<i64>(),
            DType::I32 => self.to_vec::<i32>().into_iter().map(i64::from).collect(),
            DType::I16 => self.to_vec::<i16>().into_iter().map(i64::from).collect(),
            DType::I8 => self.to_vec::<i8>().into_iter().map(i64::from).collect(),
            DType::U8 => self.to_vec::<u8>().into_iter().map(i64::from).collect(),
            DType::U16 => self.to_vec::<u16>().into_iter().map(i64::from).collect(),
            DType::U32 => self.to_vec::<u32>().into_iter().map(i64::from).collect(),
            DType::U64 => self.to_vec::<u64>().into_iter().map(|x| x as i64).collect(),
            DType::Bool => self.to_vec::<bool>().into_iter().map(i64::from).collect(),
            _ => return None,
        })
    }

    /// The elements of any real type as f64 (64-bit integers may round); `None` for strings, complex and packed types.
    pub fn to_f64s(&self) -> Option<Vec<f64>> {
        Some(match self.dtype {
            DType::F32 => self.to_vec::<f32>().into_iter().map(f64::from).collect(),
            DType::F64 => self.to_vec::<f64>(),
            DType::F16 => self.to_vec::<f16>().into_iter().map(f64::from).collect(),
            DType::BF16 => self.to_vec::<bf16>().into_iter().map(f64::from).collect(),
            DType::U64 => self.to_vec::<u64>().into_iter().map(|x| x as f64).collect(),
            _ => self.to_i64s()?.into_iter().map(|x| x as f64).collect(),
        })
    }

    /// The same elements under another shape. `None` when the counts differ.
    pub fn reshaped(&self, shape: &[u64]) -> Option<Tensor> {
        (element_count(shape)? == element_count(&self.shape)?).then(|| Tensor { shape: shape.to_vec(), ..self.clone() })
    }

    /// A 64-bit FNV-1a hash over type, shape and elements: names a constant in text IR and in the weight table.
    pub fn fingerprint(&self) -> u64 {
        let mut h = Fnv::default();
        h.write(&[self.dtype as u8, self.shape.len() as u8]);
        self.shape.iter().for_each(|d| h.write(&d.to_le_bytes()));
        h.write(self.bytes());
        for s in self.strings().unwrap_or_default() {
            h.write(&(s.len() as u64).to_le_bytes());
            h.write(s);
        }
        h.0
    }

    /// A hash that equal tensors share, for tables that compare the tensors then: it looks at a few of the elements only.
    pub fn key(&self) -> u64 {
        let mut h = Fnv(sample(self.bytes()));
        h.write(&[self.dtype as u8, self.shape.len() as u8]);
        self.shape.iter().for_each(|d| h.write(&d.to_le_bytes()));
        self.strings().unwrap_or_default().iter().for_each(|s| h.write(s));
        h.0
    }
}

impl PartialEq for Tensor {
    /// Bitwise: NaN equals the same NaN, 0.0 differs from -0.0.
    fn eq(&self, other: &Tensor) -> bool {
        let (a, b) = (self.bytes(), other.bytes());
        self.dtype == other.dtype
            && self.shape == other.shape
            && (std::ptr::eq(a, b) || a == b)
            && self.strings() == other.strings()
    }
}

impl Eq for Tensor {}

/// A hash of the length and of bytes from everywhere: all of few bytes, some of many.
pub(crate) fn sample(bytes: &[u8]) -> u64 {
    const PIECES: usize = 64;
    const PIECE: usize = 64;
    let mut h = Fnv::default();
    h.write(&(bytes.len() as u64).to_le_bytes());
    if bytes.len() <= PIECES * PIECE {
        h.write(bytes);
    } else {
        (0..PIECES).map(|i| (bytes.len() - PIECE) / (PIECES - 1) * i).for_each(|at| h.write(&bytes[at..at + PIECE]));
        h.write(&bytes[bytes.len() - PIECE..]);
    }
    h.0
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): stable over versions and machines, unlike the standard library's hashers.
pub struct Fnv(pub u64);

impl Default for Fnv {
    fn default() -> Fnv {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    /// Mixes `bytes` in.
    pub fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = (self.0 ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
