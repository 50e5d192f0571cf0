//! Calibration inputs.

use onnxc_ir::tensor::Bytes;
use onnxc_ir::{DType, Graph, Tensor, TensorType};

use crate::labels::Labels;
use crate::metric::Metric;
use crate::{Error, Result};

/// Inputs of a model, several of each.
#[derive(Clone, Debug)]
pub struct Samples {
    /// How many.
    pub count: usize,
    /// For each input of the model: all samples behind each other.
    stacked: Vec<Tensor>,
    /// Type and shape of one.
    types: Vec<(DType, Vec<u64>)>,
    /// What is right for each sample, as the user has it.
    truth: Option<Tensor>,
    /// They are made up.
    generated: bool,
    split: Split,
}

/// Which samples are held out: those with number `held` of every `parts`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Split {
    /// Samples in turn go to so many parts.
    pub parts: usize,
    /// The part that is held out.
    pub held: usize,
}

impl Split {
    /// Every other sample is held out.
    pub const HALF: Split = Split { parts: 2, held: 1 };
    /// The other half.
    pub const OTHER_HALF: Split = Split { parts: 2, held: 0 };
    /// Most samples are computed with.
    pub const MOST: Split = Split { parts: 5, held: 4 };
}

impl Samples {
    /// From arrays with a leading axis that counts samples. A sample has the shape of the model's input, or that without its leading 1.
    ///
    /// # Errors
    /// When an input is missing, or types and shapes do not fit.
    pub fn new(graph: &Graph, arrays: &[(String, Tensor)]) -> Result<Samples> {
        let inputs: Vec<(String, TensorType)> =
            graph.inputs.iter().map(|id| (graph.value(*id).name.clone(), graph.ty(*id).clone())).collect();
        Samples::of_types(&inputs, arrays)
    }

    /// The same for inputs of these names and types.
    ///
    /// # Errors
    /// As [`Samples::new`].
    pub fn of_types(inputs: &[(String, TensorType)], arrays: &[(String, Tensor)]) -> Result<Samples> {
        let (mut stacked, mut types, mut problems, mut count) = (Vec::new(), Vec::new(), Vec::new(), None);
        for (name, ty) in inputs {
            let Some((_, tensor)) = arrays.iter().find(|a| a.0 == *name) else {
                let there: Vec<&str> = arrays.iter().map(|a| a.0.as_str()).collect();
                problems.push(format!("no array is named {name:?} like the model's input; there are {}", there.join(", ")));
                continue;
            };
            let want = ty.const_shape().unwrap_or_default();
            let (n, sample) = tensor.shape().split_first().map_or((0, &[][..]), |(n, rest)| (*n as usize, rest));
            let fits = sample == want || want.first() == Some(&1) && sample == &want[1..];
            if tensor.dtype() != ty.dtype || !fits {
                let (dtype, shape) = (tensor.dtype(), tensor.shape());
                problems.push(format!("{name:?} is {dtype}{shape:?}: samples of {ty} are needed, with one more leading axis"));
                continue;
            }
            if *count.get_or_insert(n) != n {
                problems.push(format!("{name:?} has {n} samples, other inputs have {}", count.unwrap_or(0)));
            }
            stacked.push(tensor.clone());
            types.push((tensor.dtype(), want));
        }
        match count {
            _ if !problems.is_empty() => Err(Error::Input(problems.join("; "))),
            Some(count) if count > 0 => Ok(Samples { count, stacked, types, truth: None, generated: false, split: Split::HALF }),
            _ => Err(Error::Input("there are no samples".to_string())),
        }
    }

    /// The same samples with labels, whose leading axis counts samples.
    #[must_use]
    pub fn labelled(mut self, truth: Option<Tensor>) -> Samples {
        self.truth = truth;
        self
    }

    /// The same samples, known to be made up: weights are not computed from them.
    #[must_use]
    pub fn generated(mut self) -> Samples {
        self.generated = true;
        self
    }

    /// Are they made up?
    pub fn are_generated(&self) -> bool {
        self.generated
    }

    /// What is right for each sample, for a model with this first output; `None` without labels.
    ///
    /// # Errors
    /// As [`Labels::new`].
    pub fn labels(&self, metric: Metric, output: &TensorType) -> Result<Option<Labels>> {
        self.truth.as_ref().map(|truth| Labels::new(metric, output, truth, self.count)).transpose()
    }

    /// A fingerprint of the inputs.
    pub fn fingerprint(&self) -> String {
        let inputs = crate::work::fingerprint(self.stacked.iter());
        if self.generated { format!("generated {inputs}") } else { inputs }
    }

    /// The inputs of sample `i`.
    pub fn get(&self, i: usize) -> Vec<&[u8]> {
        let part = |t: &'_ Tensor| {
            let bytes = t.bytes().len() / self.count;
            i * bytes..(i + 1) * bytes
        };
        self.stacked.iter().map(|t| &t.bytes()[part(t)]).collect()
    }

    /// The inputs of sample `i` as tensors of the model's shapes.
    pub fn tensors(&self, i: usize) -> Vec<Tensor> {
        let tensor = |(bytes, (dtype, shape)): (&[u8], &(DType, Vec<u64>))| {
            let tensor = Tensor::from_bytes(*dtype, shape.clone(), Bytes::new(bytes.to_vec()));
            tensor.expect("internal: search: a sample has the bytes of its shape")
        };
        self.get(i).into_iter().zip(&self.types).map(tensor).collect()
    }

    /// The same samples with others held out.
    #[must_use]
    pub fn split(&self, split: Split) -> Samples {
        Samples { split, ..self.clone() }
    }

    /// Which samples are held out, for keys.
    pub fn split_name(&self) -> String {
        format!("{:?}", self.split)
    }

    /// The samples to compute with.
    pub fn fit(&self) -> Vec<usize> {
        (0..self.count).filter(|i| !self.is_held_out(*i) || self.count < self.split.parts).collect()
    }

    /// The samples that are held out, to measure with.
    pub fn held_out(&self) -> Vec<usize> {
        (0..self.count).filter(|i| self.is_held_out(*i) || self.count < self.split.parts).collect()
    }

    fn is_held_out(&self, i: usize) -> bool {
        i % self.split.parts == self.split.held
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_sample_is_held_out_by_one_of_the_halves() {
        let inputs = [("x".to_string(), TensorType::fixed(DType::F32, &[1]))];
        let samples = Samples::of_types(&inputs, &[("x".to_string(), Tensor::from_vec(&[7, 1], vec![0f32; 7]))]).unwrap();
        let (one, other) = (samples.split(Split::HALF), samples.split(Split::OTHER_HALF));
        assert_eq!((one.held_out(), one.fit()), (vec![1, 3, 5], vec![0, 2, 4, 6]));
        assert_eq!((other.held_out(), other.fit()), (one.fit(), one.held_out()));
        assert_eq!(samples.split(Split::MOST).held_out(), [4]);
        let single = Samples::of_types(&inputs, &[("x".to_string(), Tensor::from_vec(&[1, 1], vec![0f32]))]).unwrap();
        assert_eq!((single.fit(), single.held_out()), (vec![0], vec![0]));
    }
}
