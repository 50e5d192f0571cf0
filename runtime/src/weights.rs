//! Weights that calls bring: a file that is mapped into memory, or coded weights that are decoded; both are checked against the hash in the descriptor.

use std::fmt;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::path::Path;

use crate::model::{Error, Model};
use crate::{abi, sha256};

/// Alignment of weights.
const ALIGN: usize = 64;

/// A weight file in memory: one copy for all processes and all instances.
#[derive(Debug)]
pub struct WeightFile {
    map: memmap2::Mmap,
}

/// Why a weight file cannot be used.
#[derive(Debug)]
pub enum WeightFileError {
    /// The model keeps its weights in the object.
    NotNeeded,
    /// The file cannot be opened or mapped.
    Io(io::Error),
    /// The file has another size.
    Size {
        /// Bytes that the model needs.
        expected: u64,
        /// Bytes of the file.
        given: u64,
    },
    /// The file has the right size and other contents: it belongs to another model, or is damaged.
    Hash,
}

impl fmt::Display for WeightFileError {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            WeightFileError::NotNeeded => f.write_str("the model keeps its weights in the object"),
            WeightFileError::Io(e) => write!(f, "weight file: {e}"),
            WeightFileError::Size { expected, given } => {
                write!(f, "the weight file has {given} bytes, the model needs {expected}")
            }
            WeightFileError::Hash => f.write_str("the weight file belongs to another model or is damaged"),
        }
    }
}

impl std::error::Error for WeightFileError {}

impl From<io::Error> for WeightFileError {
    fn from(e: io::Error) -> WeightFileError {
        WeightFileError::Io(e)
    }
}

impl WeightFile {
    /// Maps the weight file of `model` and checks its size and hash. The file must not be changed while it is mapped.
    ///
    /// # Errors
    /// See [`WeightFileError`].
    pub fn open(path: impl AsRef<Path>, model: &Model) -> Result<WeightFile, WeightFileError> {
        let m = model.descriptor();
        if m.weights_mode != abi::ONNXC_WEIGHTS_FILE || m.weights_bytes == 0 {
            return Err(WeightFileError::NotNeeded);
        }
        let file = File::open(path)?;
        let given = file.metadata()?.len();
        if given != m.weights_bytes {
            return Err(WeightFileError::Size { expected: m.weights_bytes, given });
        }
        // SAFETY: the mapping is private and read-only. That nobody shrinks or changes the file meanwhile is asked of the caller above; no
        // reader of files can be safe from it.
        #[expect(unsafe_code, reason = "maps a file")]
        let map = unsafe { memmap2::Mmap::map(&file)? };
        if sha256::digest(&map) != m.weights_sha256 {
            return Err(WeightFileError::Hash);
        }
        Ok(WeightFile { map })
    }

    /// The weights, for `Model::run`.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }
}

/// The weights of a model with coded weights: decoded once, for all calls on all threads.
pub struct UnpackedWeights {
    memory: Vec<MaybeUninit<u8>>,
    /// The part of the memory that has them.
    part: Range<usize>,
}

impl UnpackedWeights {
    /// Allocates memory and decodes the weights of `model` into it.
    ///
    /// # Errors
    /// [`Error::Weights`] when the weights of the model are not coded, or when there is no memory for them; [`Error::Cpu`]; [`Error::Data`] when they are
    /// damaged.
    pub fn new(model: &Model) -> Result<UnpackedWeights, Error> {
        let m = model.descriptor();
        let refused = Error::Weights { expected: m.weights_bytes, given: 0 };
        let bytes = usize::try_from(m.weights_bytes).ok().filter(|_| m.unpack.is_some()).ok_or(refused)?;
        let mut memory = Vec::new();
        memory.try_reserve_exact(bytes.saturating_add(ALIGN)).map_err(|_| refused)?;
        memory.resize(bytes + ALIGN, MaybeUninit::uninit());
        let start = memory.as_ptr().align_offset(ALIGN);
        let part = start..start + bytes;
        let weights = model.unpack(&mut memory[part.clone()])?;
        // Weights of no bytes have no hash.
        if bytes > 0 && sha256::digest(weights) != m.weights_sha256 {
            return Err(Error::Data);
        }
        Ok(UnpackedWeights { memory, part })
    }

    /// The weights, for `Model::run`.
    pub fn bytes(&self) -> &[u8] {
        let part = &self.memory[self.part.clone()];
        // SAFETY: `Model::unpack` has written all bytes of this part.
        #[expect(unsafe_code, reason = "reads what the model has written")]
        unsafe {
            std::slice::from_raw_parts(part.as_ptr().cast(), part.len())
        }
    }
}

impl fmt::Debug for UnpackedWeights {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("UnpackedWeights").field("bytes", &self.part.len()).finish_non_exhaustive()
    }
}
