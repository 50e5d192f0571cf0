//! A model whose open dimensions have values: sizes are known, buffers can be checked, and it can run.

use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr;

use crate::abi;
use crate::buffer::{Input, Output};
use crate::hooks::{Context, Hooks};
use crate::model::{Error, Model, check_weights, status};

/// Asks for nothing but the size of the arena.
const NOTHING: abi::onnxc_sizes = abi::onnxc_sizes {
    arena_bytes: 0,
    input_dims: ptr::null_mut(),
    output_dims: ptr::null_mut(),
    input_bytes: ptr::null_mut(),
    output_bytes: ptr::null_mut(),
    counts: ptr::null(),
};

/// A model with values for its open dimensions, from [`Model::at`].
#[derive(Clone, Copy, Debug)]
pub struct Bound<'d> {
    model: Model,
    dims: &'d [u64],
    arena_bytes: u64,
}

impl<'d> Bound<'d> {
    pub(crate) fn new(model: Model, dims: &'d [u64]) -> Result<Bound<'d>, Error> {
        if dims.len() != model.raw.n_dims as usize {
            return Err(Error::Dims);
        }
        let mut bound = Bound { model, dims, arena_bytes: 0 };
        let mut sizes = NOTHING;
        bound.ask(&mut sizes)?;
        bound.arena_bytes = sizes.arena_bytes;
        Ok(bound)
    }

    /// Size of the arena.
    pub fn arena_bytes(&self) -> u64 {
        self.arena_bytes
    }

    /// Writes the extents of all inputs, one behind the other.
    ///
    /// # Errors
    /// [`Error::Dims`] when `to` has not one element for each dimension of each input.
    pub fn input_dims(&self, to: &mut [u64]) -> Result<(), Error> {
        let ranks = self.model.inputs().map(|t| t.dims.len()).sum();
        self.extents(to, ranks, false, &[])
    }

    /// Writes the extents of all outputs, one behind the other. Those that data decides on are the largest.
    ///
    /// # Errors
    /// [`Error::Dims`] when `to` has not one element for each dimension of each output.
    pub fn output_dims(&self, to: &mut [u64]) -> Result<(), Error> {
        let ranks = self.model.outputs().map(|t| t.dims.len()).sum();
        self.extents(to, ranks, true, &[])
    }

    /// Writes the extents that all outputs have after a call that reported these counts.
    ///
    /// # Errors
    /// [`Error::Dims`] when there are not as many counts as the model has, or as [`Bound::output_dims`].
    pub fn counted_output_dims(&self, counts: &[u64], to: &mut [u64]) -> Result<(), Error> {
        if counts.len() != self.model.raw.n_counts as usize {
            return Err(Error::Dims);
        }
        let ranks = self.model.outputs().map(|t| t.dims.len()).sum();
        self.extents(to, ranks, true, counts)
    }

    fn extents(&self, to: &mut [u64], ranks: usize, outputs: bool, counts: &[u64]) -> Result<(), Error> {
        if to.len() != ranks {
            return Err(Error::Dims);
        }
        let mut sizes = NOTHING;
        if !counts.is_empty() {
            sizes.counts = counts.as_ptr();
        }
        *(if outputs { &mut sizes.output_dims } else { &mut sizes.input_dims }) = to.as_mut_ptr();
        self.ask(&mut sizes)
    }

    /// Asks the model. Every pointer is null or leads to as many elements as the model writes there, which the callers see to.
    #[inline(never)]
    #[expect(unsafe_code, reason = "calls the model")]
    fn ask(&self, sizes: &mut abi::onnxc_sizes) -> Result<(), Error> {
        // SAFETY: `dims` has as many values as the model has open dimensions (seen in `new`), the lists have room for what it writes.
        status(unsafe { (self.model.sizes)(self.dims.as_ptr(), sizes) })
    }

    /// Runs one inference. Any number of threads may do so at the same time, each with its own buffers and arena.
    ///
    /// `weights` are the contents of the weight file, or what [`Model::unpack`] gave, for a model that was compiled with weights in a file or coded,
    /// otherwise `None`.
    ///
    /// # Errors
    /// Before anything has run, when a buffer does not fit the model or the CPU does not; or [`Error::Parallel`] and [`Error::Data`], after which
    /// outputs are undefined.
    pub fn run<const I: usize, const O: usize>(
        &self,
        inputs: [Input; I],
        outputs: [Output; O],
        arena: &mut [MaybeUninit<u8>],
        weights: Option<&[u8]>,
        hooks: Hooks,
    ) -> Result<(), Error> {
        self.run_counted(inputs, outputs, arena, weights, hooks, &mut [])
    }

    /// As [`Bound::run`], for a model with sizes that data decides on: `counts` gets one for each of [`Model::counts`]. Output buffers have room for the
    /// largest; in the front part of each the tensor is dense in its actual size.
    ///
    /// # Errors
    /// As [`Bound::run`]; [`Error::Dims`] when `counts` has another length, [`Error::Data`] when a count is beyond its bound.
    #[expect(unsafe_code, reason = "calls the model")]
    pub fn run_counted<const I: usize, const O: usize>(
        &self,
        inputs: [Input; I],
        mut outputs: [Output; O],
        arena: &mut [MaybeUninit<u8>],
        weights: Option<&[u8]>,
        hooks: Hooks,
        counts: &mut [u64],
    ) -> Result<(), Error> {
        let (mut input_bytes, mut output_bytes) = ([0; I], [0; O]);
        self.check(&inputs, &outputs, (&mut input_bytes, &mut output_bytes), arena, weights)?;
        let inputs = inputs.map(|i| i.pointer);
        let outputs = outputs.each_mut().map(|o| o.pointer);
        // SAFETY: `check` has seen that number and sizes of the buffers are those that the model states; they are borrowed during the call.
        unsafe { self.call(inputs.as_ptr(), outputs.as_ptr(), arena, weights, hooks, counts) }
    }

    /// As [`Bound::run_counted`], for numbers of inputs and outputs that are not known at compile time.
    ///
    /// # Errors
    /// As [`Bound::run_counted`].
    #[cfg(feature = "std")]
    #[expect(unsafe_code, reason = "calls the model")]
    pub fn run_slices(
        &self,
        inputs: &[Input],
        outputs: &mut [Output],
        arena: &mut [MaybeUninit<u8>],
        weights: Option<&[u8]>,
        hooks: Hooks,
        counts: &mut [u64],
    ) -> Result<(), Error> {
        let (mut input_bytes, mut output_bytes) = (std::vec![0; inputs.len()], std::vec![0; outputs.len()]);
        self.check(inputs, outputs, (&mut input_bytes, &mut output_bytes), arena, weights)?;
        let inputs: std::vec::Vec<*const c_void> = inputs.iter().map(|i| i.pointer).collect();
        let outputs: std::vec::Vec<*mut c_void> = outputs.iter().map(|o| o.pointer).collect();
        // SAFETY: `check` has seen that number and sizes of the buffers are those that the model states; they are borrowed during the call.
        unsafe { self.call(inputs.as_ptr(), outputs.as_ptr(), arena, weights, hooks, counts) }
    }

    fn check(
        &self,
        inputs: &[Input],
        outputs: &[Output],
        (input_bytes, output_bytes): (&mut [u64], &mut [u64]),
        arena: &[MaybeUninit<u8>],
        weights: Option<&[u8]>,
    ) -> Result<(), Error> {
        if inputs.len() != self.model.raw.n_inputs as usize {
            return Err(Error::InputCount { expected: self.model.raw.n_inputs, given: inputs.len() });
        }
        if outputs.len() != self.model.raw.n_outputs as usize {
            return Err(Error::OutputCount { expected: self.model.raw.n_outputs, given: outputs.len() });
        }
        let (to_inputs, to_outputs) = (input_bytes.as_mut_ptr(), output_bytes.as_mut_ptr());
        self.ask(&mut abi::onnxc_sizes { input_bytes: to_inputs, output_bytes: to_outputs, ..NOTHING })?;
        let arena_bytes = self.arena_bytes;
        for (((index, buffer), tensor), expected) in (0..).zip(inputs).zip(self.model.inputs()).zip(input_bytes.iter().copied()) {
            if buffer.dtype != tensor.dtype {
                return Err(Error::InputType { index, expected: tensor.dtype, given: buffer.dtype });
            }
            if buffer.bytes as u64 != expected {
                return Err(Error::InputSize { index, expected, given: buffer.bytes });
            }
        }
        for (((index, buffer), tensor), expected) in
            (0..).zip(outputs).zip(self.model.outputs()).zip(output_bytes.iter().copied())
        {
            if buffer.dtype != tensor.dtype {
                return Err(Error::OutputType { index, expected: tensor.dtype, given: buffer.dtype });
            }
            if buffer.bytes as u64 != expected {
                return Err(Error::OutputSize { index, expected, given: buffer.bytes });
            }
        }
        if !(inputs.iter().all(Input::is_aligned) && outputs.iter().all(Output::is_aligned)) {
            return Err(Error::BufferAlignment);
        }
        if (arena.len() as u64) < arena_bytes {
            return Err(Error::ArenaSize { expected: arena_bytes, given: arena.len() });
        }
        if arena_bytes > 0 && !(arena.as_ptr().addr() as u64).is_multiple_of(self.model.raw.arena_align) {
            return Err(Error::ArenaAlignment(self.model.raw.arena_align));
        }
        match (self.model.passed_weights_bytes(), weights) {
            (expected, Some(given)) => check_weights(expected, given.as_ptr(), given.len()),
            (0, None) => Ok(()),
            (_, None) => Err(Error::NoWeights),
        }
    }

    /// Calls the entry with checked buffers.
    ///
    /// # Safety
    /// `check` has passed for the buffers that the arrays point to.
    #[expect(unsafe_code, reason = "calls the model")]
    unsafe fn call(
        &self,
        inputs: *const *const c_void,
        outputs: *const *mut c_void,
        arena: &mut [MaybeUninit<u8>],
        weights: Option<&[u8]>,
        hooks: Hooks,
        counts: &mut [u64],
    ) -> Result<(), Error> {
        if counts.len() != self.model.raw.n_counts as usize {
            return Err(Error::Dims);
        }
        let context = Context::new(hooks, self.model.raw.max_threads.max(1));
        let hooks = context.raw();
        let weights = weights.map_or(ptr::null(), |w| w.as_ptr().cast());
        let call = abi::onnxc_call {
            inputs,
            outputs,
            arena: arena.as_mut_ptr().cast(),
            weights,
            hooks: &hooks,
            dims: self.dims.as_ptr(),
            counts: counts.as_mut_ptr(),
        };
        // SAFETY: all that `call` points to is checked by our caller and lives until the model returns.
        status(unsafe { (self.model.run)(&call) })
    }
}
