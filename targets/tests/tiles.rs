//! Every tile of every target against plain loops: all row counts, column tails, nests, epilogues and element types.

mod support;

use onnxc_ir::DType;
use onnxc_ir::kernel::{EpilogueOperand, Kernel, Less, NUMBERS, TileKernel, Values};
use onnxc_ir::math::{self, Scalar, evaluate};
use onnxc_ir::target::{SHORT_SUM, TargetDesc};
use onnxc_targets::compile_kernel;
use support::choices::{FLOATS, bytes, short, tiles, words};
use support::image::{place, read, write};
use support::programs::{bend, gelu, identity, quantise, relu, requantise, scale_clip_add, scaled, swish_to_bytes};
use support::{Arg, Case, Random, machines};

fn tile(a: DType, b: DType, mr: u32, nr: u32, cols: u32, depth: u32) -> TileKernel {
    let int8 = a != DType::F32;
    let acc = if int8 { DType::I32 } else { DType::F32 };
    TileKernel {
        a_dtype: a,
        b_dtype: b,
        short: 0,
        mr,
        nr,
        cols,
        a_row: i64::from(depth) * 4 + 8,
        nest: vec![(depth, 4)],
        open_k: false,
        list: false,
        c_row: i64::from(nr) * 4 + 4,
        c_dtype: acc,
        accumulate: false,
        bias: false,
        epilogue: identity(acc),
        operands: vec![],
        streams: 1,
        ahead: 0,
        less: None,
    }
}

/// A tile with its memory and what the memory must be after the call.
struct Check {
    kernel: TileKernel,
    case: Case,
    want: Vec<u8>,
    c: std::ops::Range<usize>,
}

/// The steps that a list has: none of the first, and each count up to 8 of the first 13.
fn kept(step: usize) -> bool {
    (7 * step + 3) % 5 < 3
}

/// How B is kept.
struct B<'k> {
    kernel: &'k TileKernel,
    at: usize,
    table: usize,
    /// Steps of the innermost loop.
    run: usize,
}

impl B<'_> {
    fn bytes(kernel: &TileKernel, run: usize, steps: usize) -> usize {
        kernel.b_bytes(run as u64) as usize * steps.checked_div(run).unwrap_or(0)
    }

    /// Element `q` of a step and column, of those of a group.
    fn get(&self, image: &[u8], step: usize, column: usize, q: usize) -> Scalar {
        let (k, nr) = (self.kernel, self.kernel.nr as usize);
        if k.has_table() {
            let numbers = NUMBERS as usize;
            let word = step / self.run * self.run.div_ceil(numbers) + step % self.run / numbers;
            let at = self.at + 4 * (word * nr + column);
            let word = u32::from_le_bytes(image[at..at + 4].try_into().unwrap());
            let number = word >> (4 * (step % self.run % numbers)) & 15;
            return Scalar::F(f64::from(image[self.table + number as usize] as i8));
        }
        let each = if k.is_coded() { 1 } else { (k.group() * k.b_dtype.bytes()) as usize };
        match read(image, self.at + each * (step * nr + column) + q * k.b_dtype.bytes() as usize, k.b_dtype) {
            Scalar::I(v) if k.is_coded() => Scalar::F(v as f64),
            value => value,
        }
    }
}

/// What changes the bytes of A and of B.
type Fill<'f> = &'f dyn Fn(&TileKernel, &mut [u8], &mut [u8]);

fn check(name: &str, kernel: TileKernel, lanes: u32, rng: &mut Random, fill: Fill) -> Check {
    let k = &kernel;
    let int8 = k.a_dtype != DType::F32;
    let acc_type = if int8 { DType::I32 } else { DType::F32 };
    let mut random = |n: usize, dtype: DType| -> Vec<u8> {
        (0..n)
            .flat_map(|_| match dtype {
                DType::F32 => rng.f32().to_le_bytes().to_vec(),
                DType::I32 => (rng.next() as i32 >> 16).to_le_bytes().to_vec(),
                DType::I16 => {
                    let any = rng.next() as i16;
                    [i16::MIN, i16::MAX, -1, 0, any, any][rng.below(6)].to_le_bytes().to_vec()
                }
                // Extremes are frequent, so that saturating code shows.
                _ => vec![[0x80, 0x7F, 0xFF, 0, rng.next() as u8, rng.next() as u8][rng.below(6)]],
            })
            .collect()
    };
    let all: usize = k.nest.iter().map(|l| l.0 as usize).product();
    let steps: Vec<usize> = (0..all).filter(|step| !k.list || kept(*step)).collect();
    let offset = |step: usize| {
        let (mut rest, mut at) = (step, 0);
        for l in k.nest.iter().rev() {
            at += (rest % l.0 as usize) as i64 * l.1;
            rest /= l.0 as usize;
        }
        at
    };
    let reach: i64 = k.nest.iter().map(|l| (i64::from(l.0) - 1) * l.1).sum::<i64>() + i64::from(k.mr - 1) * k.a_row + 4;
    let mut image = Vec::new();
    let per_word = k.group() as usize;
    let mut a = random((reach as usize).div_ceil(4) * per_word, k.a_dtype);
    let run = if k.list { steps.len() } else { k.nest.last().unwrap().0 as usize };
    let b_type = if k.has_table() { DType::U8 } else { k.b_dtype };
    let several = if let Some(Less::Apart(_)) = k.less { 2 } else { 1 };
    let mut b = random(several * B::bytes(k, run, steps.len()) / if k.is_coded() { 1 } else { b_type.bytes() as usize }, b_type);
    if k.short > 0 {
        let room = SHORT_SUM / k.short as i32;
        for pair in b.chunks_exact_mut(2) {
            let [first, second] = [pair[0], pair[1]].map(|x| i32::from(x as i8));
            let first = first.clamp(-room, room);
            pair.copy_from_slice(&[first, second.clamp(-room - first.min(0), room - first.max(0))].map(|x| x as u8));
        }
    }
    fill(k, &mut a, &mut b);
    let (a, b) = (place(&mut image, &a), place(&mut image, &b));
    let c_bytes = (k.mr as usize - 1) * k.c_row as usize + k.cols as usize * k.c_dtype.bytes() as usize;
    let before = if k.accumulate { random(c_bytes / 4, acc_type) } else { vec![0x5A; c_bytes] };
    let c = place(&mut image, &before);
    let mut args = vec![Arg::Ptr(a), Arg::Ptr(b), Arg::Ptr(c)];
    let bias = place(&mut image, &random(k.cols as usize, acc_type));
    if k.bias {
        args.push(Arg::Ptr(bias));
    }
    let mut ops = Vec::new();
    for o in &k.operands {
        let n = (k.mr as usize - 1) * o.row as usize / 4 + if o.per_column { k.cols as usize } else { 1 };
        let at = place(&mut image, &random(n, o.dtype));
        ops.push(at);
        args.push(Arg::Ptr(at));
    }
    if k.ahead > 0 {
        // Nothing is there.
        args.push(Arg::Ptr(1 << 40));
    }
    let kept = place(&mut image, &random(if k.less.is_some() { all * k.nr as usize } else { 0 }, DType::F32));
    if k.less.is_some() {
        args.push(Arg::Ptr(kept));
    }
    let table = place(&mut image, &random(16, DType::I8));
    if k.has_table() {
        args.push(Arg::Ptr(table));
    }
    if k.list {
        let list: Vec<u8> = steps.iter().flat_map(|step| (offset(*step) as i32).to_le_bytes()).collect();
        args.extend([Arg::Ptr(place(&mut image, &list)), Arg::Int(steps.len() as i64)]);
    }
    place(&mut image, &[]);
    let weights = B { kernel: k, at: b, table, run };
    let mut want = image.clone();
    let factor = |step: usize, column: usize, q: usize| {
        let own = weights.get(&image, step, column, q);
        let Some(less) = k.less else { return own };
        let from = if let Less::Apart(bytes) = less { b + bytes as usize } else { kept };
        Scalar::F(own.f() - read(&image, from + 4 * (step * k.nr as usize + column), DType::F32).f())
    };
    if k.less.is_some() {
        let rest = k.cols % lanes;
        // Of the last vector half is enough, where that has all of its columns.
        let last = if rest == 0 || lanes == 16 && 2 * rest <= lanes { rest.next_multiple_of(8) } else { lanes };
        let columns = (k.cols - rest + last) as usize;
        for (step, column) in (0..all).flat_map(|step| (0..columns).map(move |column| (step, column))) {
            write(&mut want, kept + 4 * (step * k.nr as usize + column), DType::F32, factor(step, column, 0));
        }
    }
    let program = math::expand(&k.epilogue);
    for i in 0..k.mr as usize {
        for j in 0..k.cols as usize {
            let at = c + i * k.c_row as usize + j * k.c_dtype.bytes() as usize;
            let mut acc = match (k.accumulate, k.bias) {
                (true, _) => read(&image, at, acc_type),
                (_, true) => read(&image, bias + 4 * j, acc_type),
                _ if int8 => Scalar::I(0),
                _ => Scalar::F(0.0),
            };
            for (n, step) in steps.iter().enumerate() {
                let (step, a_at) = (n, (a + i * k.a_row as usize) as i64 + offset(*step));
                for q in 0..per_word {
                    let (x, y) = (read(&image, a_at as usize + q * k.a_dtype.bytes() as usize, k.a_dtype), factor(step, j, q));
                    acc = match acc {
                        Scalar::I(s) => Scalar::I((s as i32).wrapping_add((x.i() * y.i()) as i32).into()),
                        Scalar::F(s) => Scalar::F(s + x.f() * y.f()),
                    };
                }
            }
            let mut values = vec![acc];
            for (o, at) in k.operands.iter().zip(&ops) {
                let at = at + i * o.row as usize + if o.per_column { 4 * j } else { 0 };
                values.push(read(&image, at, o.dtype));
            }
            let value = evaluate(&program, &values).unwrap();
            write(&mut want, at, k.c_dtype, value);
        }
    }
    let case = Case { name: name.to_string(), code: vec![], image, args, patches: vec![] };
    Check { case, want, c: c..c + c_bytes, kernel }
}

/// f32 results agree within rounding; everything else, and memory that is not C, exactly.
fn compare(machine: &str, name: &str, kernel: &TileKernel, c: std::ops::Range<usize>, want: &[u8], got: &[u8]) {
    let context = || format!("{machine}: {name}: {kernel:?}");
    assert_eq!(want[..c.start], got[..c.start], "writes before C: {}", context());
    assert_eq!(want[c.end..], got[c.end..], "writes behind C: {}", context());
    if kernel.c_dtype != DType::F32 {
        assert_eq!(want[c.clone()], got[c], "{}", context());
        return;
    }
    for at in c.clone().step_by(4).filter(|at| at + 4 <= c.end) {
        let (w, g) = (read(want, at, DType::F32).f(), read(got, at, DType::F32).f());
        let pad = want[at..at + 4] == [0x5A; 4];
        // Coded weights are numbers up to 128, and so are the terms of a sum.
        let terms = if kernel.is_coded() { 128.0 } else { 1.0 };
        // Sums of many steps are larger on the way, and more are rounded.
        let steps: f64 = kernel.nest.iter().map(|l| f64::from(l.0)).product();
        let near = (w - g).abs() <= 1e-5 * (terms * (steps / 256.0).max(1.0) + w.abs());
        assert!(if pad { want[at..at + 4] == got[at..at + 4] } else { near }, "{w} but {g} at {}: {}", at - c.start, context());
    }
}

fn run(cases: &dyn Fn(&TargetDesc) -> Vec<(String, TileKernel)>) {
    run_filled(cases, &|_, _, _| {});
}

fn run_filled(cases: &dyn Fn(&TargetDesc) -> Vec<(String, TileKernel)>, fill: Fill) {
    for machine in machines() {
        let mut rng = Random(7);
        let mut kernels = Vec::new();
        let mut to_run = Vec::new();
        let mut wants = Vec::new();
        for (name, kernel) in cases(&machine.target.desc) {
            let mut check = check(&name, kernel, machine.target.desc.lanes, &mut rng, fill);
            let code = compile_kernel(&Kernel::Tile(check.kernel.clone()), &machine.target);
            check.case.code = support::bytes(code.unwrap_or_else(|e| panic!("{} {name}: {e}", machine.name)), &machine.target);
            to_run.push(check.case);
            wants.push((check.want, check.c));
            kernels.push((name, check.kernel));
        }
        for ((got, (want, c)), (name, kernel)) in machine.run(to_run).iter().zip(wants).zip(&kernels) {
            compare(machine.name, name, kernel, c, &want, got);
        }
    }
}

#[test]
fn every_row_count_and_column_tail() {
    run(&|t| {
        let mut all = Vec::new();
        for b in FLOATS {
            for &(mr, nr) in tiles(t, b) {
                for rows in 1..=mr {
                    all.push((format!("rows {rows}"), tile(DType::F32, b, rows, nr, nr, 9)));
                }
                for cols in 1..=nr {
                    all.push((format!("columns {cols}"), tile(DType::F32, b, mr.min(3), nr, cols, 5)));
                }
            }
        }
        all
    });
}

/// What fills vector registers is emitted for a part of the rows at a time, which takes pointers: there must be enough of both.
#[test]
fn all_that_kernels_can_have_fits_in_registers() {
    let per_column = |row| EpilogueOperand { dtype: DType::F32, row, per_column: true, values: Values::Any };
    for machine in machines() {
        let t = &machine.target.desc;
        for (b, &(mr, nr)) in FLOATS.into_iter().flat_map(|b| tiles(t, b).iter().map(move |of| (b, of))) {
            for (list, bias, ahead) in (0..8).map(|n| (n & 1 > 0, n & 2 > 0, n & 4)) {
                let base = tile(DType::F32, b, mr, nr, nr, 24);
                let with = TileKernel { list, bias, ahead, operands: vec![per_column(0), per_column(4 * 70)], ..base };
                for (c_dtype, epilogue) in [(DType::F32, scale_clip_add()), (DType::U8, swish_to_bytes())] {
                    let kernel = TileKernel { c_dtype, c_row: 60, epilogue, ..with.clone() };
                    let code = compile_kernel(&Kernel::Tile(kernel.clone()), &machine.target);
                    code.unwrap_or_else(|e| panic!("{}: {e}: {kernel:?}", machine.name));
                }
            }
        }
    }
}

/// Every length of a loop around those that are unrolled, and words that are filled in part inside of other loops.
#[test]
fn coded_weights_of_every_depth() {
    run(&|t| {
        let mut all = Vec::new();
        for b in [DType::I8, DType::U4] {
            for &(mr, nr) in tiles(t, b) {
                for depth in 1..=35 {
                    all.push((format!("depth {depth}"), tile(DType::F32, b, mr.min(2), nr, nr, depth)));
                }
                let nest = vec![(2, 400), (3, 100), (11, 4)];
                all.push(("words in part".to_string(), TileKernel { nest, ..tile(DType::F32, b, mr, nr, nr, 1) }));
                all.push(("thousands".to_string(), tile(DType::F32, b, 1, nr, nr, 1003)));
            }
        }
        all
    });
}

#[test]
fn nests_walk_a_in_place() {
    run(&|t| {
        let (mr, nr) = t.f32_tiles[0];
        let nests = [
            vec![(3, 400), (3, 40), (7, 4)],
            vec![(3, 28), (7, 4)],
            vec![(1, 0)],
            vec![(23, 8)],
            vec![(2, 1000), (1, 5), (16, 4)],
            vec![(2, -40 + 80), (3, 0), (4, 4)],
        ];
        let of = |b: DType| {
            let nests = nests.clone().into_iter();
            nests.map(move |nest| ("nest".to_string(), TileKernel { nest, a_row: 12, ..tile(DType::F32, b, mr, nr, nr, 1) }))
        };
        FLOATS.into_iter().flat_map(of).collect()
    });
}

#[test]
fn epilogues_bias_and_accumulation() {
    run(&|t| {
        let mut all = Vec::new();
        for (b, &(mr, nr)) in FLOATS.iter().flat_map(|b| tiles(t, *b).iter().map(move |tile| (*b, tile))) {
            let lanes = t.lanes;
            for (rows, cols) in [(mr, nr), (1, nr), (mr, nr - lanes.min(nr - 1) / 2)] {
                let base = tile(DType::F32, b, rows, nr, cols, 6);
                let operands = vec![
                    EpilogueOperand { dtype: DType::F32, row: 0, per_column: true, values: Values::Any },
                    EpilogueOperand { dtype: DType::F32, row: 4, per_column: false, values: Values::Any },
                ];
                let residual = vec![
                    operands[0].clone(),
                    EpilogueOperand { dtype: DType::F32, row: 4 * 70, per_column: true, values: Values::Any },
                ];
                let with =
                    |bias, accumulate, epilogue, operands| TileKernel { bias, accumulate, epilogue, operands, ..base.clone() };
                all.push(("bias".to_string(), with(true, false, identity(DType::F32), vec![])));
                all.push(("accumulate".to_string(), with(false, true, identity(DType::F32), vec![])));
                all.push(("relu".to_string(), with(true, false, relu(), vec![])));
                all.push(("scale".to_string(), with(true, false, scale_clip_add(), operands)));
                all.push(("residual".to_string(), with(true, false, scale_clip_add(), residual.clone())));
                all.push(("gelu".to_string(), with(true, false, gelu(), vec![])));
                for ahead in [1, 50] {
                    let scale = with(true, false, scale_clip_add(), residual.clone());
                    all.push((format!("{ahead} lines ahead"), TileKernel { ahead, ..scale }));
                }
            }
        }
        all
    });
}

/// Panels of 256 KB and more, whose steps are not a multiple of the streams.
#[test]
fn rows_take_turns_at_several_places_of_a_panel() {
    run(&|t| {
        let mut all = Vec::new();
        for &(_, nr) in tiles(t, DType::F32) {
            let panel = |step: u32| (256 << 10) / step + 3;
            for cols in [nr, nr - 1] {
                let floats = tile(DType::F32, DType::F32, 1, nr, cols, panel(4 * nr));
                let bytes = tile(DType::F32, DType::I8, 1, nr, cols, panel(nr));
                for (name, base) in [("floats", floats), ("bytes", bytes)] {
                    all.extend(
                        [2, 8].map(|streams| (format!("{name}, {streams} streams"), TileKernel { streams, ..base.clone() })),
                    );
                }
            }
        }
        all
    });
}

#[test]
fn differences_of_panels_are_multiplied_and_kept() {
    run(&|t| {
        let mut all = Vec::new();
        for &(mr, nr) in tiles(t, DType::F32) {
            let sides = [(mr, nr), (1, nr), (mr, nr - 1), (2, 1), (mr.min(5), nr.div_ceil(2))];
            for ((rows, cols), depth) in sides.into_iter().flat_map(|side| [1, 9, 14].map(|depth| (side, depth))) {
                let base = tile(DType::F32, DType::F32, rows, nr, cols, depth);
                for less in [Less::Apart(i64::from(depth * nr) * 4), Less::Kept] {
                    let operands =
                        vec![EpilogueOperand { dtype: DType::F32, row: 4 * 70, per_column: true, values: Values::Any }; 2];
                    let plain = TileKernel { less: Some(less), ..base.clone() };
                    let full = TileKernel { bias: true, ahead: 3, epilogue: scale_clip_add(), operands, ..plain.clone() };
                    all.extend([("difference".to_string(), plain), ("with all".to_string(), full)]);
                }
            }
        }
        all
    });
}

#[test]
fn integers_are_exact_everywhere() {
    run(&|t| {
        let mut all = Vec::new();
        let bytes = bytes(t).into_iter().map(|(tile, a, short)| (tile, (a, DType::I8), short));
        let words = words(t).into_iter().map(|(tile, b)| (tile, (DType::I16, b), 0));
        for ((mr, nr), (a, b), short) in bytes.chain(words) {
            let tile = |rows, cols, depth| TileKernel { short, ..tile(a, b, rows, nr, cols, depth) };
            for rows in 1..=mr {
                all.push((format!("rows {rows}"), tile(rows, nr, 11)));
            }
            for cols in 1..=nr {
                let base = tile(mr, cols, 3);
                all.push((format!("columns {cols}"), base.clone()));
                let operands =
                    vec![EpilogueOperand { dtype: DType::F32, row: 0, per_column: cols % 2 == 0, values: Values::Any }];
                let epilogue = requantise();
                all.push(("requantise".to_string(), TileKernel { c_dtype: DType::U8, bias: true, epilogue, operands, ..base }));
            }
        }
        all
    });
}

/// Every depth around those that go together, runs of each length inside of other loops, and epilogues for which there are fewer registers.
#[test]
fn short_weights_of_every_depth() {
    run(&|t| {
        let mut all = Vec::new();
        for ((mr, nr), a, short) in short(t) {
            let tile = |rows, cols, depth| TileKernel { short, ..tile(a, DType::I8, rows, nr, cols, depth) };
            for depth in (1..=21).chain([255]) {
                all.push((format!("depth {depth}"), tile(mr, nr, depth)));
            }
            for run in 1..=9 {
                let nest = vec![(2, 400), (3, 100), (run, 8)];
                all.push((format!("runs of {run}"), TileKernel { nest, bias: true, ..tile(mr, nr, 1) }));
            }
            let operands = vec![EpilogueOperand { dtype: DType::F32, row: 0, per_column: true, values: Values::Any }];
            for (rows, cols) in [(1, nr), (mr, nr), (mr, nr - 1), (mr, 1)] {
                let long = TileKernel { epilogue: scaled(&gelu()), operands: operands.clone(), ..tile(rows, cols, 7) };
                all.push(("long epilogue".to_string(), TileKernel { c_dtype: DType::F32, bias: true, ..long }));
            }
        }
        all
    });
}

/// Steps that all add up to as much as 16 bits hold, of either sign.
#[test]
fn the_largest_products_of_short_weights_add_up() {
    run_filled(
        &|t| {
            let of = |((mr, nr), a, short)| {
                [5, 8, 64].map(|depth| ("largest", TileKernel { short, ..tile(a, DType::I8, mr, nr, nr, depth) }))
            };
            short(t).into_iter().flat_map(of).map(|(name, kernel)| (name.to_string(), kernel)).collect()
        },
        &|kernel, a, b| {
            a.fill(255);
            let room = SHORT_SUM / kernel.short as i32;
            for (n, pair) in b.chunks_exact_mut(2).enumerate() {
                // Columns are of one sign, so that sums of all steps are.
                let sign = if n / 2 % 2 == 0 { 1 } else { -1 };
                let first = [0, room / 2, room.min(127)][n % 3];
                pair.copy_from_slice(&[first, (room - first).min(127)].map(|x| (sign * x) as i8 as u8));
            }
        },
    );
}

/// Sums that one step has all of, the last one of those that go together or the first: with other steps they would be twice as large.
#[test]
fn steps_of_short_weights_go_together_from_the_first_on() {
    run_filled(
        &|t| {
            let several = |((mr, nr), a, short)| {
                let tile = move |nest: &[(u32, i64)], list| TileKernel {
                    short,
                    nest: nest.to_vec(),
                    list,
                    ..tile(a, DType::I8, mr, nr, nr, 1)
                };
                // Loops that could be one, and steps of a list.
                let nests: [&[(u32, i64)]; 5] =
                    [&[(5, 4)], &[(23, 4)], &[(3, 24), (6, 4)], &[(2, 40), (5, 8), (2, 4)], &[(3, 28), (7, 4)]];
                nests.into_iter().flat_map(move |nest| [false, true].map(|list| (format!("{nest:?} {list}"), tile(nest, list))))
            };
            short(t).into_iter().filter(|(_, _, steps)| *steps > 1).flat_map(several).collect()
        },
        &|kernel, a, b| {
            a.fill(255);
            b.fill(0);
            let step = 4 * kernel.nr as usize;
            let run =
                if kernel.list { b.len() / step } else { kernel.nest.iter().map(|l| l.0).rfind(|n| *n > 1).unwrap() as usize };
            for run in b.chunks_mut(run * step) {
                for (n, steps) in run.chunks_mut(kernel.short as usize * step).enumerate() {
                    let last = steps.len() - step;
                    let at = if n % 2 == 0 { last } else { 0 };
                    steps[at..at + step].as_chunks_mut::<2>().0.fill([127, 1]);
                }
            }
        },
    );
}

#[test]
fn bytes_saturate_where_they_are_packed() {
    run(&|t| {
        let mut all = Vec::new();
        for &(mr, nr) in &t.i8_tiles {
            let sizes = (1..=mr).map(|rows| (rows, nr)).chain((1..=nr).map(|cols| (mr, cols)));
            for (rows, cols) in sizes {
                for (c_dtype, values) in
                    [(DType::U8, Values::Scale(16)), (DType::I8, Values::Scale(16)), (DType::U8, Values::Any)]
                {
                    let base = tile(if t.i8_unsigned_a { DType::U8 } else { DType::I8 }, DType::I8, rows, nr, cols, 3);
                    let operands = vec![EpilogueOperand { dtype: DType::F32, row: 0, per_column: rows % 2 == 0, values }];
                    // Rows beside each other, and apart.
                    let c_row = i64::from(if rows % 2 == 0 { cols } else { nr + 4 });
                    let packed = TileKernel { c_dtype, c_row, bias: true, epilogue: quantise(c_dtype), operands, ..base };
                    if c_dtype == DType::U8 {
                        all.push((
                            format!("{rows} rows, {cols} columns, bent"),
                            TileKernel { epilogue: bend(), ..packed.clone() },
                        ));
                    }
                    all.push((format!("{rows} rows, {cols} columns, {values:?}"), packed));
                }
            }
        }
        all
    });
}

#[test]
fn lists_leave_steps_out() {
    run(&|t| {
        let mut all = Vec::new();
        let mut add = |a: DType, b: DType, (mr, nr): (u32, u32), short: u32| {
            let listed = |base: TileKernel| TileKernel { list: true, short, ..base };
            for rows in 1..=mr {
                for depth in [8, 23] {
                    all.push((format!("rows {rows}"), listed(tile(a, b, rows, nr, nr, depth))));
                }
            }
            for cols in 1..=nr {
                all.push((format!("columns {cols}"), listed(tile(a, b, mr.min(3), nr, cols, 13))));
            }
            for depth in 1..=13 {
                all.push((format!("depth {depth}"), TileKernel { bias: true, ..listed(tile(a, b, mr, nr, nr, depth)) }));
            }
            let nest = vec![(3, 400), (3, 40), (7, 4)];
            all.push(("nest".to_string(), TileKernel { nest, ..listed(tile(a, b, mr, nr, nr, 1)) }));
            if a == DType::F32 {
                let operands = vec![
                    EpilogueOperand { dtype: DType::F32, row: 0, per_column: true, values: Values::Any },
                    EpilogueOperand { dtype: DType::F32, row: 4 * 70, per_column: true, values: Values::Any },
                ];
                let base = TileKernel { bias: true, ..listed(tile(a, b, mr, nr, nr, 12)) };
                let scaled = TileKernel { epilogue: scale_clip_add(), operands, ..base.clone() };
                all.push(("scale".to_string(), scaled.clone()));
                all.push(("lines ahead".to_string(), TileKernel { ahead: 5, ..scaled }));
                all.push(("gelu".to_string(), TileKernel { epilogue: gelu(), ..base }));
            } else {
                let operands = vec![EpilogueOperand { dtype: DType::F32, row: 0, per_column: true, values: Values::Any }];
                let base = listed(tile(a, b, mr, nr, nr, 12));
                let epilogue = requantise();
                all.push(("requantise".to_string(), TileKernel { c_dtype: DType::U8, bias: true, epilogue, operands, ..base }));
            }
        };
        for b in FLOATS {
            tiles(t, b).iter().for_each(|tile| add(DType::F32, b, *tile, 0));
        }
        bytes(t).into_iter().for_each(|(tile, a, short)| add(a, DType::I8, tile, short));
        words(t).into_iter().for_each(|(tile, b)| add(DType::I16, b, tile, 0));
        all
    });
}
