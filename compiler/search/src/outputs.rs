//! Which outputs of a model are compared, and what the first of them decides.
//!
//! The first output of floats decides; integers are derived from it, or are copies of inputs. Other outputs of floats (states, boxes beside scores) are
//! compared as signals, so that layers which only these need are not free to change.

use onnxc_ir::{DType, Graph, TensorType};

use crate::metric::Metric;
use crate::{Error, Result};

/// Steps of which a connectionist classifier holds so many for blanks, at least.
const BLANKS: f64 = 0.4;

/// The outputs that are compared, by their numbers.
#[derive(Clone, PartialEq, Debug)]
pub struct Outputs {
    /// The one that decides.
    pub decides: usize,
    /// The others.
    pub others: Vec<usize>,
}

impl Outputs {
    /// Those of a graph.
    ///
    /// # Errors
    /// When none is of floats with known extents.
    pub fn of(graph: &Graph) -> Result<Outputs> {
        let is_compared =
            |ty: &TensorType| ty.dtype == DType::F32 && ty.const_shape().is_some_and(|s| s.iter().product::<u64>() > 0);
        let mut all = (0..graph.outputs.len()).filter(|n| is_compared(graph.ty(graph.outputs[*n])));
        let Some(decides) = all.next() else {
            let list: Vec<String> =
                graph.outputs.iter().map(|id| format!("{:?} is {}", graph.value(*id).name, graph.ty(*id))).collect();
            let why = format!(
                "no output is f32 of known extents, which compression compares with the dense model's: {}",
                list.join(", ")
            );
            return Err(Error::Input(format!("{why}; make the scores that decisions come from an output")));
        };
        Ok(Outputs { decides, others: all.collect() })
    }

    /// The type of the one that decides.
    pub fn ty<'g>(&self, graph: &'g Graph) -> &'g TensorType {
        graph.ty(graph.outputs[self.decides])
    }
}

/// The metric for an output, by its shape and by the dense model's answers: one row of scores decides by the largest; steps of scores are a path if they are
/// probabilities or mostly blanks; what has length 1 (embeddings) and all else is a signal.
pub fn metric(output: &TensorType, answers: &[Vec<f32>]) -> Metric {
    let shape = output.const_shape().unwrap_or_default();
    let large: Vec<u64> = shape.iter().copied().filter(|n| *n > 1).collect();
    match large[..] {
        [_] if !answers.iter().all(|a| is_direction(a)) => Metric::Top1,
        [_, classes] if shape.len() == 3 && classes > 2 => {
            let steps = || answers.iter().flat_map(|a| a.chunks_exact(classes as usize));
            let blanks = steps().filter(|row| row.iter().skip(1).all(|x| *x < row[0])).count();
            let is_path = steps().all(is_share) || blanks as f64 >= BLANKS * steps().count() as f64;
            if is_path { Metric::Path } else { Metric::Signal }
        }
        _ => Metric::Signal,
    }
}

/// Are these probabilities of all there is?
pub fn is_share(row: &[f32]) -> bool {
    row.iter().all(|p| (0.0..=1.001).contains(p)) && (row.iter().sum::<f32>() - 1.0).abs() < 1e-2
}

/// Is this a vector of length 1 with signs?
fn is_direction(row: &[f32]) -> bool {
    row.iter().any(|x| *x < 0.0) && (row.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(outputs: &[(DType, &[u64])]) -> Graph {
        let mut graph = Graph::new("f");
        for (n, (dtype, shape)) in outputs.iter().enumerate() {
            let y = graph.add_input(&format!("y{n}"), TensorType::fixed(*dtype, shape));
            graph.outputs.push(y);
        }
        graph
    }

    #[test]
    fn the_first_output_of_floats_decides() {
        let found = Outputs::of(&graph(&[(DType::I64, &[1, 4]), (DType::F32, &[1, 3]), (DType::F32, &[2, 8])])).unwrap();
        assert_eq!((found.decides, &found.others[..]), (1, &[2][..]));
        let error = Outputs::of(&graph(&[(DType::I64, &[1])])).err().map(|e| e.to_string());
        assert!(error.is_some_and(|e| e.contains("\"y0\"") && e.contains("i64")));
    }

    #[test]
    fn answers_tell_what_kind_they_are() {
        let ty = |shape: &[u64]| TensorType::fixed(DType::F32, shape);
        assert_eq!(metric(&ty(&[1, 3]), &[vec![2.0, -1.0, 0.5]]), Metric::Top1);
        assert_eq!(metric(&ty(&[1, 2]), &[vec![0.6, -0.8]]), Metric::Signal);
        assert_eq!(metric(&ty(&[1, 1]), &[vec![0.6]]), Metric::Signal);
        let steps = ty(&[1, 2, 3]);
        assert_eq!(metric(&steps, &[vec![0.7, 0.2, 0.1, 0.1, 0.1, 0.8]]), Metric::Path);
        assert_eq!(metric(&steps, &[vec![5.0, 1.0, 0.0, 0.0, 3.0, 0.0]]), Metric::Path);
        assert_eq!(metric(&steps, &[vec![1.0, 5.0, 0.0, 0.0, 3.0, 0.0]]), Metric::Signal);
        assert_eq!(metric(&ty(&[1, 1, 8, 8]), &[vec![0.0; 64]]), Metric::Signal);
    }
}
