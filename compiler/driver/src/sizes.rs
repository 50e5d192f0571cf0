//! What the command line says of sizes: `--dim` and `--shape`, one value for each dimension or several to choose from.

use std::collections::BTreeMap;

use crate::cli::{Extent, Model};
use crate::fault::{Done, Fault};

/// Most combinations of values that one object is compiled for.
const MOST_CHOICES: usize = 256;

/// Values of dimensions, shapes of inputs.
pub type Fixed = (BTreeMap<String, u64>, BTreeMap<String, Vec<u64>>);

/// Names of open dimensions, and the model with each choice of their values.
pub type Choices = (Vec<String>, Vec<(Vec<u64>, Model)>);

/// The sizes of a model whose dimensions have one value each.
pub fn fixed(model: &Model) -> Done<Fixed> {
    let mut dims = BTreeMap::new();
    for (name, values) in &model.dims {
        let [value] = values[..] else {
            return Err(Fault::Usage(format!("--dim {name}: several values are for compile; give this command one")));
        };
        if dims.insert(name.clone(), value).is_some_and(|other| other != value) {
            return Err(Fault::Usage(format!("--dim {name} is given twice, with different values")));
        }
    }
    let extent = |input: &str, extent: &Extent| match extent {
        Extent::Number(n) => Ok(*n),
        Extent::Name(name) => dims
            .get(name)
            .copied()
            .ok_or_else(|| Fault::Usage(format!("--shape {input}: {name} is no number; give it a value with --dim {name}=N"))),
    };
    let shape = |(input, extents): &(String, Vec<Extent>)| -> Done<(String, Vec<u64>)> {
        Ok((input.clone(), extents.iter().map(|e| extent(input, e)).collect::<Done<_>>()?))
    };
    let shapes = model.shapes.iter().map(shape).collect::<Done<_>>()?;
    // What a shape names is the command line's own; the importer looks for the others in the model.
    let own = |name: &str| model.shapes.iter().flat_map(|s| &s.1).any(|e| *e == Extent::Name(name.to_string()));
    dims.retain(|name, _| !own(name));
    Ok((dims, shapes))
}

/// The dimensions with several values, and the model with each combination of them, the last dimension varying fastest.
pub fn choices(model: &Model) -> Done<Choices> {
    let open: Vec<usize> = (0..model.dims.len()).filter(|d| model.dims[*d].1.len() > 1).collect();
    let names: Vec<String> = open.iter().map(|d| model.dims[*d].0.clone()).collect();
    let count = open.iter().try_fold(1usize, |n, d| n.checked_mul(model.dims[*d].1.len()));
    if count.is_none_or(|n| n > MOST_CHOICES) {
        let said = format!("--dim {}: more than {MOST_CHOICES} combinations of values", names.join(", --dim "));
        return Err(Fault::Usage(format!("{said}; each is compiled by itself, give fewer")));
    }
    if let Some(twice) = names.iter().find(|n| model.dims.iter().filter(|d| d.0 == **n).count() > 1) {
        return Err(Fault::Usage(format!("--dim {twice} is given twice")));
    }
    let mut all = vec![(Vec::new(), model.clone())];
    for d in open {
        let with = |(values, model): (Vec<u64>, Model)| {
            let choices = model.dims[d].1.clone();
            choices.into_iter().map(move |value| {
                let (mut values, mut model) = (values.clone(), model.clone());
                values.push(value);
                model.dims[d].1 = vec![value];
                (values, model)
            })
        };
        all = all.into_iter().flat_map(with).collect();
    }
    Ok((names, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(dims: &[(&str, &[u64])]) -> Model {
        Model { dims: dims.iter().map(|(n, v)| (n.to_string(), v.to_vec())).collect(), ..Model::default() }
    }

    #[test]
    fn every_combination_is_a_choice() {
        let (names, all) = choices(&model(&[("N", &[1, 2]), ("C", &[3]), ("L", &[8, 16])])).unwrap_or_default();
        assert_eq!(names, ["N", "L"]);
        assert_eq!(all.iter().map(|c| c.0.clone()).collect::<Vec<_>>(), [[1, 8], [1, 16], [2, 8], [2, 16]]);
        let last = fixed(&all[3].1).map(|f| f.0).unwrap_or_default();
        assert_eq!(last, BTreeMap::from([("N".into(), 2), ("C".into(), 3), ("L".into(), 16)]));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let many: Vec<u64> = (0..17).collect();
        assert!(choices(&model(&[("N", &many), ("L", &many)])).is_err());
        assert!(choices(&model(&[("N", &[1, 2]), ("N", &[3])])).is_err());
        assert!(fixed(&model(&[("N", &[1, 2])])).is_err());
        assert!(fixed(&model(&[("N", &[1]), ("N", &[2])])).is_err());
        let mut named = model(&[("N", &[4])]);
        named.shapes = vec![("x".into(), vec![Extent::Name("N".into()), Extent::Number(3)])];
        assert_eq!(fixed(&named).map(|f| f.1).unwrap_or_default(), BTreeMap::from([("x".into(), vec![4, 3])]));
        named.dims.clear();
        assert!(fixed(&named).is_err());
    }
}
