//! Caller's buffers: typed views that know their element type, and aligned memory for arenas.

use core::ffi::c_void;
use core::marker::PhantomData;
use core::mem::{MaybeUninit, align_of, size_of, size_of_val};

mod sealed {
    pub trait Sealed {}
}

/// Rust types that stand for an ONNX element type.
pub trait Element: sealed::Sealed + Copy {
    /// The number that ONNX gives the type.
    const DTYPE: u32;
}

macro_rules! elements {
    ($($t:ty = $code:literal),*) => { $(
        impl sealed::Sealed for $t {}
        impl Element for $t { const DTYPE: u32 = $code; }
    )* };
}
elements!(f32 = 1, u8 = 2, i8 = 3, u16 = 4, i16 = 5, i32 = 6, i64 = 7, bool = 9, f64 = 11, u32 = 12, u64 = 13);

/// Bytes that a value of an element type must be aligned to; 1 for types smaller than a byte.
const fn alignment(dtype: u32) -> usize {
    match dtype {
        4 | 5 | 10 | 16 => 2,
        1 | 6 | 12 | 14 => 4,
        7 | 11 | 13 | 15 => 8,
        _ => 1,
    }
}

/// A buffer that the model reads.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    pub(crate) pointer: *const c_void,
    pub(crate) bytes: usize,
    pub(crate) dtype: u32,
    lifetime: PhantomData<&'a [u8]>,
}

impl<'a> Input<'a> {
    /// Elements of an ONNX type that Rust has no type for (`f16`, `bf16`, 4-bit integers), as bytes.
    pub fn raw(dtype: u32, bytes: &'a [u8]) -> Input<'a> {
        Input { pointer: bytes.as_ptr().cast(), bytes: bytes.len(), dtype, lifetime: PhantomData }
    }

    pub(crate) fn is_aligned(&self) -> bool {
        self.pointer.addr().is_multiple_of(alignment(self.dtype))
    }
}

impl<'a, T: Element> From<&'a [T]> for Input<'a> {
    fn from(slice: &'a [T]) -> Input<'a> {
        Input { pointer: slice.as_ptr().cast(), bytes: size_of_val(slice), dtype: T::DTYPE, lifetime: PhantomData }
    }
}

impl<'a, T: Element, const N: usize> From<&'a [T; N]> for Input<'a> {
    fn from(array: &'a [T; N]) -> Input<'a> {
        array.as_slice().into()
    }
}

/// A buffer that the model writes.
#[derive(Debug)]
pub struct Output<'a> {
    pub(crate) pointer: *mut c_void,
    pub(crate) bytes: usize,
    pub(crate) dtype: u32,
    lifetime: PhantomData<&'a mut [u8]>,
}

impl<'a> Output<'a> {
    /// Elements of an ONNX type that Rust has no type for (`f16`, `bf16`, 4-bit integers), as bytes.
    pub fn raw(dtype: u32, bytes: &'a mut [u8]) -> Output<'a> {
        // A bool that is neither 0 nor 1 cannot arise here: the bytes stay bytes for the caller.
        Output { pointer: bytes.as_mut_ptr().cast(), bytes: bytes.len(), dtype, lifetime: PhantomData }
    }

    pub(crate) fn is_aligned(&self) -> bool {
        self.pointer.addr().is_multiple_of(alignment(self.dtype))
    }
}

impl<'a, T: Element> From<&'a mut [T]> for Output<'a> {
    fn from(slice: &'a mut [T]) -> Output<'a> {
        Output { pointer: slice.as_mut_ptr().cast(), bytes: size_of_val(slice), dtype: T::DTYPE, lifetime: PhantomData }
    }
}

impl<'a, T: Element, const N: usize> From<&'a mut [T; N]> for Output<'a> {
    fn from(array: &'a mut [T; N]) -> Output<'a> {
        array.as_mut_slice().into()
    }
}

/// `N` bytes of uninitialised memory, aligned for every arena: for a `static`, a `Box`, or the stack.
#[repr(C, align(64))]
pub struct Aligned<const N: usize>(pub [MaybeUninit<u8>; N]);

impl<const N: usize> Aligned<N> {
    /// Uninitialised memory.
    pub const fn new() -> Aligned<N> {
        Aligned([const { MaybeUninit::uninit() }; N])
    }
}

impl<const N: usize> Default for Aligned<N> {
    fn default() -> Aligned<N> {
        Aligned::new()
    }
}

const _: () = assert!(align_of::<Aligned<1>>() == 64 && size_of::<Aligned<65>>() == 128);
