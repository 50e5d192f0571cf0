//! What the command line says of sizes: `--dim` and `--shape`, one value for each dimension, or several values and ranges to choose from.

use std::collections::BTreeMap;

use onnxc_ir::dim::DimBounds;
use onnxc_ir::{Dim, DimBindings};

use crate::cli::{Extent, Model};
use crate::fault::{Done, Fault};

/// Most combinations of values that one object is compiled for.
const MOST_CHOICES: usize = 256;

/// Sizes of a model: for each dimension a value, or a range of them.
#[derive(Debug, Default, PartialEq)]
pub struct Fixed {
    /// Values of the model's own dimensions.
    pub dims: DimBindings,
    /// Shapes of inputs.
    pub shapes: BTreeMap<String, Vec<Dim>>,
    /// Ranges of the dimensions that remain open.
    pub bounds: DimBounds,
}

/// Names of open dimensions, and the model with each choice of one of their ranges.
pub type Choices = (Vec<String>, Vec<(Vec<(u64, u64)>, Model)>);

/// The sizes of a model whose dimensions have one value or range each.
pub fn fixed(model: &Model) -> Done<Fixed> {
    let mut all: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (name, ranges) in &model.dims {
        let [range] = ranges[..] else {
            return Err(Fault::Usage(format!("--dim {name}: several values are for compile; give this command one")));
        };
        if all.insert(name, range).is_some_and(|other| other != range) {
            return Err(Fault::Usage(format!("--dim {name} is given twice, with different values")));
        }
    }
    let dim = |name: &str, (first, last): (u64, u64)| if first == last { Dim::Const(first) } else { Dim::sym(name) };
    let extent = |input: &str, extent: &Extent| match extent {
        Extent::Number(n) => Ok(Dim::Const(*n)),
        Extent::Name(factor, name) => all
            .get(&**name)
            .map(|range| dim(name, *range).mul(&Dim::Const(*factor)))
            .ok_or_else(|| Fault::Usage(format!("--shape {input}: {name} is no number; give it a value with --dim {name}=N"))),
    };
    let shape = |(input, extents): &(String, Vec<Extent>)| -> Done<(String, Vec<Dim>)> {
        Ok((input.clone(), extents.iter().map(|e| extent(input, e)).collect::<Done<_>>()?))
    };
    let shapes = model.shapes.iter().map(shape).collect::<Done<_>>()?;
    // What a shape names is the command line's own; the importer looks for the others in the model.
    let own = |name: &str| model.shapes.iter().flat_map(|s| &s.1).any(|e| matches!(e, Extent::Name(_, n) if n == name));
    let values = all.iter().filter(|(name, range)| range.0 == range.1 && !own(name));
    let dims = values.map(|(name, range)| (name.to_string(), range.0)).collect();
    let open = all.iter().filter(|(_, range)| range.0 != range.1);
    Ok(Fixed { dims, shapes, bounds: open.map(|(name, range)| (name.to_string(), *range)).collect() })
}

/// The dimensions with several values, and the model with each combination of their ranges, the last dimension varying fastest.
pub fn choices(model: &Model) -> Done<Choices> {
    let is_open = |ranges: &[(u64, u64)]| ranges.len() > 1 || ranges.iter().any(|r| r.0 != r.1);
    let open: Vec<usize> = (0..model.dims.len()).filter(|d| is_open(&model.dims[*d].1)).collect();
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
        let with = |(ranges, model): (Vec<(u64, u64)>, Model)| {
            let choices = model.dims[d].1.clone();
            choices.into_iter().map(move |range| {
                let (mut ranges, mut model) = (ranges.clone(), model.clone());
                ranges.push(range);
                model.dims[d].1 = vec![range];
                (ranges, model)
            })
        };
        all = all.into_iter().flat_map(with).collect();
    }
    Ok((names, all))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(dims: &[(&str, &[(u64, u64)])]) -> Model {
        Model { dims: dims.iter().map(|(n, v)| (n.to_string(), v.to_vec())).collect(), ..Model::default() }
    }

    #[test]
    fn every_combination_is_a_choice() {
        let dims: &[(&str, &[(u64, u64)])] = &[("N", &[(1, 1), (2, 2)]), ("C", &[(3, 3)]), ("L", &[(8, 8), (9, 16)])];
        let (names, all) = choices(&model(dims)).unwrap_or_default();
        assert_eq!(names, ["N", "L"]);
        let (one, two, eight, more) = ((1, 1), (2, 2), (8, 8), (9, 16));
        assert_eq!(all.iter().map(|c| c.0.clone()).collect::<Vec<_>>(), [[one, eight], [one, more], [two, eight], [two, more]]);
        let last = fixed(&all[3].1).unwrap_or_default();
        assert_eq!(last.dims, BTreeMap::from([("N".into(), 2), ("C".into(), 3)]));
        assert_eq!(last.bounds, BTreeMap::from([("L".into(), (9, 16))]));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let many: Vec<(u64, u64)> = (0..17).map(|n| (n, n)).collect();
        assert!(choices(&model(&[("N", &many), ("L", &many)])).is_err());
        assert!(choices(&model(&[("N", &[(1, 1), (2, 2)]), ("N", &[(3, 3)])])).is_err());
        assert!(fixed(&model(&[("N", &[(1, 1), (2, 2)])])).is_err());
        assert!(fixed(&model(&[("N", &[(1, 1)]), ("N", &[(2, 2)])])).is_err());
        let mut named = model(&[("N", &[(4, 4)]), ("W", &[(1, 9)])]);
        named.shapes = vec![("x".into(), vec![Extent::Name(1, "N".into()), Extent::Number(3), Extent::Name(32, "W".into())])];
        let sizes = fixed(&named).unwrap_or_default();
        assert_eq!(
            sizes.shapes,
            BTreeMap::from([("x".into(), vec![Dim::Const(4), Dim::Const(3), Dim::sym("W").mul(&Dim::Const(32))])])
        );
        assert_eq!((sizes.dims.len(), sizes.bounds.get("W")), (0, Some(&(1, 9))));
        named.dims.clear();
        assert!(fixed(&named).is_err());
    }
}
