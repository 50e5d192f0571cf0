//! The loops: for every block of tiles the transform of the input, a product for each point, the transform of the result with bias and epilogue.

use onnxc_ir::Tensor;
use onnxc_ir::blob::Blob;
use onnxc_ir::kernel::{FetchKernel, Kernel};
use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::math;
use onnxc_ir::op::Extent;
use onnxc_ir::scalar::{BinOp, ScalarProgram};

use super::blocks::{Blocks, Shape};
use super::kernels::{Kernels, channels_left};
use super::numbers::Numbers;
use super::points::{Coefficients, Points, Run};
use crate::common::list::List;
use crate::common::nest::{ExprExt, int};
use crate::common::tile::{self, Outer, Product, broadcast_strides};
use crate::schedule::Schedule;

/// Channels that a transform keeps in the first-level cache between its two directions.
const CHANNELS: u64 = 16;
/// Most operations of the epilogues of a tile that are computed together with the transform: of floats, and of integers, whose requantisation takes some.
const MOST_NODES: (usize, usize) = (200, 400);
/// Accumulators of targets with registers for a transform beside what functions in an epilogue need.
const ROOMY: u32 = 16;
/// Fewer blocks than so many for each thread are divided inside.
const BLOCKS_OF_THREAD: u64 = 4;

/// Distances in a buffer of `[point][tile][channel]`, in elements.
#[derive(Clone, Copy)]
struct Planes {
    tile: i64,
    point: i64,
}

impl Planes {
    fn new(tiles: u64, channels: u64) -> Planes {
        // Neighbours and points lie apart by an odd number of cache lines: a tile reads many neighbours, a transform all points.
        let apart = |n: u64| if n.is_multiple_of(32) { n + 16 } else { n };
        let tile = channels.next_multiple_of(16);
        let tile = if tile.is_multiple_of(256) { tile + 16 } else { tile };
        Planes { tile: tile as i64, point: apart(tiles * tile) as i64 }
    }
}

/// A convolution to be computed in tiles.
pub(crate) struct Tiled {
    pub numbers: Numbers,
    /// With what it reads around it, as far as tiles reach.
    pub x: Arg,
    pub y: Arg,
    pub channels: u64,
    pub filters: u64,
    /// `[filter][channel][tap]`, and what is taken from those that are bytes without sign.
    pub weights: (Tensor, i32),
    /// Added to the sums.
    pub bias: Option<(BufId, i64)>,
    /// Over a sum and `operands`, which broadcast to y.
    pub program: ScalarProgram,
    pub operands: Vec<Arg>,
}

struct Winograd<'c> {
    conv: &'c Tiled,
    points: &'static Points,
    blocks: Blocks,
    weights: Weights,
    /// Transformed input, products, and what is between the two directions of a transform.
    input: BufId,
    products: BufId,
    between: BufId,
    input_planes: Planes,
    product_planes: Planes,
}

/// Transformed weights: the right sides of the products, whose channels are a list if some are left out, and elements of a point.
struct Weights {
    b: BufId,
    list: Option<List>,
    point: i64,
}

/// Where a tile is: image, row and column of tiles.
struct At {
    image: Expr,
    row: Expr,
    column: Expr,
}

/// What makes one of an odd number modulo 2^32: each step has twice as many right bits (Newton).
fn inverse(odd: u32) -> i32 {
    let step = |x: u32, _| x.wrapping_mul(2u32.wrapping_sub(odd.wrapping_mul(x)));
    (0..5).fold(odd, step) as i32
}

/// Emits the convolution, whose extents are known.
pub(crate) fn emit(cx: &mut LowerCx, conv: &Tiled, points: &'static Points) {
    let (x, y) = (&conv.x.view.shape, &conv.y.view.shape);
    let (numbers, (weights, moved)) = (conv.numbers, conv.weights.clone());
    let shape = Shape {
        images: x[0],
        height: y[2],
        width: y[3],
        channels: conv.channels,
        filters: conv.filters,
        taps: points.taps as u64,
        numbers,
    };
    let schedule = Schedule::of(cx.attrs);
    let blocks = Blocks::choose(cx.target, points, shape, &schedule);
    let (filters, channels, nr) = (conv.filters as usize, conv.channels as usize, blocks.product.1);
    let left =
        channels_left((&weights, points.taps), (filters, channels), nr as usize, schedule.sparse && numbers == Numbers::Floats);
    let left = if left.iter().all(Vec::is_empty) {
        channels_left((&weights, points.taps), (filters, channels), nr as usize, false)
    } else {
        left
    };
    let list = left.iter().any(|l| l.len() < channels).then(|| List::of_rows(cx, &left, nr));
    let rows: usize = left.iter().map(Vec::len).sum();
    let packed = Blob::packed(weights, Kernels { points, numbers, moved, filters, channels, nr: nr as usize, left });
    let few = blocks.count() < BLOCKS_OF_THREAD * u64::from(cx.target.max_threads);
    let inside = blocks.count() == 1 || (few && !Blocks::are_own(cx.target, points, shape));
    let (n, tiles) = (points.n() as u64, blocks.tiles_of_block);
    let (input_planes, product_planes) = (Planes::new(tiles, conv.channels), Planes::new(tiles, conv.filters));
    let mut scratch = |dtype, planes: Planes| cx.scratch(dtype, n * n * planes.point as u64, !inside);
    let (input, products) = (scratch(numbers.factor(), input_planes), scratch(numbers.sum(), product_planes));
    let between = cx.scratch(numbers.sum(), 2 * n * n * CHANNELS, true);
    let weights = cx.blob_buf(numbers.factor(), packed);
    let point = rows as i64 * i64::from(nr);
    let weights = Weights { b: weights, list, point };
    let w = Winograd { conv, points, blocks, weights, input, products, between, input_planes, product_planes };
    if inside { w.blocks_in_order(cx) } else { w.blocks_in_parallel(cx) }
}

impl Winograd<'_> {
    /// Coefficients of the transforms of input and result.
    fn coefficients(&self, cx: &mut LowerCx) -> (Coefficients, Coefficients) {
        if self.conv.numbers == Numbers::Integers {
            return (Coefficients::whole(), Coefficients::whole());
        }
        let any = vec![Expr::f32(0.0); self.points.n()];
        let to = Coefficients::set(cx, |k, cx| drop(self.points.input(cx, k, &any)));
        (to, Coefficients::set(cx, |k, cx| drop(self.points.output(cx, k, &any))))
    }

    /// Blocks are tasks.
    fn blocks_in_parallel(&self, cx: &mut LowerCx) {
        let (tiles, size, count) = (self.blocks.tiles, self.blocks.tiles_of_block, self.blocks.count());
        let (to, back) = self.coefficients(cx);
        cx.for_(LoopKind::Parallel, count, |cx, block| {
            let first = Expr::Var(cx.let_(block.clone().times(size as i64)));
            let left = Expr::bin(BinOp::Sub, Expr::Int(tiles as i64), first.clone());
            let here = if tiles.is_multiple_of(size) {
                Expr::Int(size as i64)
            } else {
                Expr::bin(BinOp::Min, left, Expr::Int(size as i64))
            };
            let here = Expr::Var(cx.let_(here));
            self.each_tile(cx, LoopKind::Serial, &first, &here, &|cx, at, i| self.transform_input(cx, &to, at, i));
            let last = tiles - (count - 1) * size;
            if last == size {
                self.multiply(cx, LoopKind::Serial, size);
            } else {
                let is_last = Expr::bin(BinOp::Eq, block, Expr::Int(count as i64 - 1));
                cx.if_(is_last, |cx| self.multiply(cx, LoopKind::Serial, last), |cx| self.multiply(cx, LoopKind::Serial, size));
            }
            self.each_tile(cx, LoopKind::Serial, &first, &here, &|cx, at, i| self.transform_result(cx, &back, at, i));
        });
    }

    /// Blocks follow each other, and the tiles and points of each are tasks.
    fn blocks_in_order(&self, cx: &mut LowerCx) {
        let (tiles, size) = (self.blocks.tiles, self.blocks.tiles_of_block);
        let (to, back) = self.coefficients(cx);
        for first in (0..tiles).step_by(size as usize) {
            let here = size.min(tiles - first);
            let (first, count) = (Expr::Int(first as i64), Expr::Int(here as i64));
            self.each_tile(cx, LoopKind::Parallel, &first, &count, &|cx, at, i| self.transform_input(cx, &to, at, i));
            self.multiply(cx, LoopKind::Parallel, here);
            self.each_tile(cx, LoopKind::Parallel, &first, &count, &|cx, at, i| self.transform_result(cx, &back, at, i));
        }
    }

    /// A loop over the tiles of a block; `body` gets where the tile is in the image, and its number in the block.
    fn each_tile(&self, cx: &mut LowerCx, kind: LoopKind, first: &Expr, count: &Expr, body: &dyn Fn(&mut LowerCx, &At, &Expr)) {
        let (rows, columns) = (self.blocks.rows as i64, self.blocks.columns as i64);
        cx.for_range(kind, Expr::Int(0), count.clone(), 1, |cx, i| {
            let tile = Expr::Var(cx.let_(first.clone().add(i.clone())));
            let mut split = |e: Expr, by: i64| {
                let outer = Expr::Var(cx.let_(Expr::bin(BinOp::Div, e.clone(), Expr::Int(by))));
                let inner = Expr::Var(cx.let_(Expr::bin(BinOp::Sub, e, outer.clone().times(by))));
                (outer, inner)
            };
            let (line, column) = split(tile, columns);
            let (image, row) = split(line, rows);
            body(cx, &At { image, row, column }, &i);
        });
    }

    /// Vector loops over all channels, in pieces; `body` gets the first channel of a piece and a channel in it.
    fn each_piece(&self, cx: &mut LowerCx, channels: u64, body: &dyn Fn(&mut LowerCx, &Expr, u64)) {
        let (full, rest) = (channels / CHANNELS, channels % CHANNELS);
        cx.for_(LoopKind::Serial, full, |cx, piece| {
            let start = Expr::Var(cx.let_(piece.times(CHANNELS as i64)));
            body(cx, &start, CHANNELS);
        });
        if rest > 0 {
            let start = Expr::Var(cx.let_(Expr::Int((full * CHANNELS) as i64)));
            body(cx, &start, rest);
        }
    }

    fn transform_input(&self, cx: &mut LowerCx, k: &Coefficients, at: &At, i: &Expr) {
        let (x, m, n) = (&self.conv.x, (self.points.m * self.points.stride) as i64, self.points.n());
        let s = &x.view.strides;
        let origin = Expr::Int(x.view.offset).add(at.image.clone().times(s[0]));
        let origin = origin.add(at.row.clone().times(m * s[2])).add(at.column.clone().times(m * s[3]));
        let origin = Expr::Var(cx.let_(origin));
        let to = Expr::Var(cx.let_(i.clone().times(self.input_planes.tile)));
        self.each_piece(cx, self.conv.channels, &|cx, start, channels| {
            let from = Expr::Var(cx.let_(origin.clone().add(start.clone().times(s[1]))));
            let to = Expr::Var(cx.let_(to.clone().add(start.clone())));
            // The columns that the next tile does not share with this one.
            self.fetch(cx, x, from.clone().add(Expr::Int(n as i64 * s[3])), (n, m));
            cx.for_(LoopKind::Vector, channels, |cx, c| {
                let element = c.clone().times(s[1]).add(from);
                for column in 0..n as i64 {
                    let load = |row: i64| Expr::Load(x.buf, Box::new(element.clone().add(Expr::Int(row * s[2] + column * s[3]))));
                    let wide = |e: Expr| e.cast_from(x.dtype, self.conv.numbers.sum());
                    let d: Vec<Expr> = (0..n as i64).map(load).map(|e| Expr::Var(cx.let_(wide(e)))).collect();
                    let out = self.points.input(cx, &mut k.clone(), &d);
                    for (row, e) in out.into_iter().enumerate() {
                        cx.push(Stmt::Store(self.between, self.between_at(&c, row * n + column as usize), e));
                    }
                }
                for row in 0..n {
                    let d: Vec<Expr> = (0..n).map(|column| self.kept(cx, &c, row * n + column)).collect();
                    let out = self.points.input(cx, &mut k.clone(), &d);
                    for (column, e) in out.into_iter().enumerate() {
                        let point = (row * n + column) as i64 * self.input_planes.point;
                        let e = e.cast_from(self.conv.numbers.sum(), self.conv.numbers.factor());
                        cx.push(Stmt::Store(self.input, c.clone().add(to.clone()).add(Expr::Int(point)), e));
                    }
                }
            });
        });
    }

    /// Brings near rows and columns of pixels of the tile to come, a line of each: where channels are neighbours, and the second-level cache has hardly room for
    /// the whole beside the block.
    fn fetch(&self, cx: &mut LowerCx, of: &Arg, first: Expr, (rows, columns): (usize, i64)) {
        let (s, bytes) = (&of.view.strides, of.dtype.bytes());
        let whole = of.view.shape.iter().product::<u64>() * bytes;
        if cx.target.prefetches && s[1] == 1 && whole > cx.target.l2_bytes / 2 {
            let nest = [(rows as u32, s[2] * bytes as i64), (columns as u32, s[3] * bytes as i64)];
            cx.push(Stmt::Call(Kernel::Fetch(FetchKernel { nest }), vec![(of.buf, first)], Vec::new()));
        }
    }

    /// Element `place` of channel `c` between the two directions.
    fn between_at(&self, c: &Expr, place: usize) -> Expr {
        c.clone().add(Expr::Int(place as i64 * CHANNELS as i64))
    }

    fn kept(&self, cx: &mut LowerCx, c: &Expr, place: usize) -> Expr {
        Expr::Var(cx.let_(Expr::Load(self.between, Box::new(self.between_at(c, place)))))
    }

    /// The products of all points of a block of so many tiles.
    fn multiply(&self, cx: &mut LowerCx, kind: LoopKind, tiles: u64) {
        for rows in self.points.runs() {
            for columns in self.points.runs() {
                self.multiply_run(cx, kind, tiles, (&rows, &columns));
            }
        }
    }

    /// The products of the points of two runs.
    fn multiply_run(&self, cx: &mut LowerCx, kind: LoopKind, tiles: u64, (rows, columns): (&Run, &Run)) {
        let (conv, numbers, (n, kernels)) = (self.conv, self.conv.numbers, (self.points.n(), self.points.kernels()));
        let (mr, nr) = self.blocks.product;
        let mut identity = ScalarProgram::default();
        identity.arg(0, numbers.sum());
        // Elements from one point to the next one in each direction, and those to the first.
        let [a, c] = [self.input_planes, self.product_planes].map(|p| p.point);
        let along = |run: &Run, points: usize, kernels: usize| Outer {
            n: (run.points as u64).into(),
            a: a * points as i64,
            b: self.weights.point * (run.step * kernels) as i64,
            c: c * points as i64,
            bias: 0,
            operands: Vec::new(),
        };
        let first = (rows.first * n + columns.first) as i64;
        let kernel = (rows.kernel * kernels + columns.kernel) as i64;
        let (down, across) = (along(rows, n, kernels), along(columns, 1, 1));
        // One loop where the points of both directions are all there are.
        let outer = if rows.points == n && columns.points == n {
            vec![Outer { n: ((n * n) as u64).into(), ..across }]
        } else {
            vec![down, across]
        };
        let product = Product {
            outer,
            rows: Extent::from(tiles),
            cols: Extent::from(conv.filters),
            a: (self.input, numbers.factor(), first * a),
            a_row: self.input_planes.tile,
            nest: vec![(conv.channels, 1)],
            open_k: None,
            b: (self.weights.b, numbers.factor(), kernel * self.weights.point),
            short: 0,
            table: None,
            list: self.weights.list.clone(),
            c: (self.products, numbers.sum(), first * c),
            c_row: self.product_planes.tile,
            bias: None,
            epilogue: identity,
            operands: Vec::new(),
            nr,
            mr,
        };
        tile::emit_panels_outside(cx, &product, kind);
    }

    /// Are the epilogues of a tile computed together with its transform?
    fn at_once(&self, cx: &LowerCx) -> bool {
        let (m, conv) = (self.points.m, self.conv);
        let roomy = cx.target.accumulators() >= ROOMY;
        let nodes = if roomy { conv.program.nodes.len() } else { math::expand(&conv.program).nodes.len() };
        let most = if conv.numbers == Numbers::Floats { MOST_NODES.0 } else { MOST_NODES.1 };
        nodes * m * m <= most && conv.operands.len() <= 2
    }

    fn transform_result(&self, cx: &mut LowerCx, k: &Coefficients, at: &At, i: &Expr) {
        let (m, y) = (self.points.m as u64, &self.conv.y.view.shape);
        if !self.at_once(cx) {
            let mut inside = |first: &Expr, n: u64| {
                let left = Expr::bin(BinOp::Sub, Expr::Int(n as i64), first.clone().times(m as i64));
                Expr::Var(cx.let_(Expr::bin(BinOp::Min, Expr::Int(m as i64), left)))
            };
            let extents = [inside(&at.row, y[2]), inside(&at.column, y[3])];
            return self.store_result(cx, k, at, i, (m, m), Some(extents));
        }
        // Rows and columns of the last tiles that are in the image.
        let (rows, columns) = (y[2] - (self.blocks.rows - 1) * m, y[3] - (self.blocks.columns - 1) * m);
        let last = |e: &Expr, n: u64| Expr::bin(BinOp::Eq, e.clone(), Expr::Int(n as i64 - 1));
        let part = |cx: &mut LowerCx, columns: u64| {
            if rows == m {
                return self.store_result(cx, k, at, i, (m, columns), None);
            }
            cx.if_(
                last(&at.row, self.blocks.rows),
                |cx| self.store_result(cx, k, at, i, (rows, columns), None),
                |cx| self.store_result(cx, k, at, i, (m, columns), None),
            );
        };
        if columns == m {
            return part(cx, m);
        }
        cx.if_(last(&at.column, self.blocks.columns), |cx| part(cx, columns), |cx| part(cx, m));
    }

    /// The first rows and columns of a tile of the result; with `extents` all are computed, and epilogues of so many have loops of their own.
    fn store_result(
        &self,
        cx: &mut LowerCx,
        k: &Coefficients,
        at: &At,
        i: &Expr,
        (rows, columns): (u64, u64),
        extents: Option<[Expr; 2]>,
    ) {
        let (m, conv) = (self.points.m, self.conv);
        let origin = |cx: &mut LowerCx, offset: i64, s: &[i64]| {
            let image = Expr::Int(offset).add(at.image.clone().times(s[0]));
            let sum = image.add(at.row.clone().times(m as i64 * s[2])).add(at.column.clone().times(m as i64 * s[3]));
            Expr::Var(cx.let_(sum))
        };
        let y = origin(cx, conv.y.view.offset, &conv.y.view.strides);
        let spread: Vec<Vec<i64>> = conv.operands.iter().map(|o| broadcast_strides(o, &conv.y.view.shape)).collect();
        let operands: Vec<Expr> = conv.operands.iter().zip(&spread).map(|(o, s)| origin(cx, o.view.offset, s)).collect();
        let from = Expr::Var(cx.let_(i.clone().times(self.product_planes.tile)));
        self.each_piece(cx, conv.filters, &|cx, start, channels| {
            let from = Expr::Var(cx.let_(from.clone().add(start.clone())));
            let bias = conv.bias.map(|(b, at)| (b, start.clone().add(Expr::Int(at))));
            let ends = |cx: &mut LowerCx, origin: &Expr, s: &[i64]| {
                (Expr::Var(cx.let_(origin.clone().add(start.clone().times(s[1])))), s.to_vec())
            };
            let y = ends(cx, &y, &conv.y.view.strides);
            let operands: Vec<_> = operands.iter().zip(&spread).map(|(o, s)| ends(cx, o, s)).collect();
            // Lines to write are read first, if they are not near.
            for (of, (base, s)) in std::iter::once((&conv.y, &y)).chain(conv.operands.iter().zip(&operands)) {
                if s[2] != 0 && s[3] != 0 {
                    self.fetch(cx, of, base.clone().add(Expr::Int(m as i64 * s[3])), (m, m as i64));
                }
            }
            let pixel = |(base, s): &(Expr, Vec<i64>), c: &Expr, row: &Expr, column: &Expr| {
                c.clone().times(s[1]).add(base.clone()).add(row.clone().times(s[2])).add(column.clone().times(s[3]))
            };
            let finish = |cx: &mut LowerCx, c: &Expr, row: Expr, column: Expr, sum: Expr| {
                let mut args = vec![sum];
                for (o, place) in conv.operands.iter().zip(&operands) {
                    args.push(Expr::Load(o.buf, Box::new(pixel(place, c, &row, &column))));
                }
                let value = cx.program(&conv.program, &args);
                cx.push(Stmt::Store(conv.y.buf, pixel(&y, c, &row, &column), value));
            };
            let raw = (m * self.points.n()) as u64;
            cx.for_(LoopKind::Vector, channels, |cx, c| {
                self.columns(cx, k, &c, &from);
                let bias = bias.map(|(b, at)| Expr::Var(cx.let_(Expr::Load(b, Box::new(c.clone().add(at))))));
                for row in 0..rows as usize {
                    let p: Vec<Expr> = (0..self.points.n()).map(|x| self.kept(cx, &c, row * self.points.n() + x)).collect();
                    let out = self.points.output(cx, &mut k.clone(), &p);
                    for (column, e) in out.into_iter().take(columns as usize).enumerate() {
                        let e = self.taken_once(e);
                        let e = bias.clone().map_or(e.clone(), |b| Expr::bin(BinOp::Add, e, b));
                        if extents.is_none() {
                            finish(cx, &c, Expr::Int(row as i64), Expr::Int(column as i64), e);
                        } else {
                            cx.push(Stmt::Store(self.between, self.between_at(&c, raw as usize + row * m + column), e));
                        }
                    }
                }
            });
            let Some([rows, columns]) = &extents else { return };
            cx.for_range(LoopKind::Serial, Expr::Int(0), rows.clone(), 1, |cx, row| {
                cx.for_range(LoopKind::Serial, Expr::Int(0), columns.clone(), 1, |cx, column| {
                    let raw = Expr::Int(raw as i64).add(row.clone().times(m as i64)).add(column.clone());
                    let raw = Expr::Var(cx.let_(raw.times(CHANNELS as i64)));
                    cx.for_(LoopKind::Vector, channels, |cx, c| {
                        let sum = Expr::Var(cx.let_(Expr::Load(self.between, Box::new(c.clone().add(raw)))));
                        finish(cx, &c, row.clone(), column.clone(), sum);
                    });
                });
            });
        });
    }

    /// A result that was taken several times, modulo 2^32.
    fn taken_once(&self, e: Expr) -> Expr {
        let ((odd, bits), of) = (self.points.multiple(), self.conv.numbers.sum());
        let e = if odd == 1 { e } else { e.mul(int(of, inverse(odd).into())) };
        if bits == 0 { e } else { Expr::bin(BinOp::Shr, e, int(of, bits.into())) }
    }

    /// The first direction of the transform of the result.
    fn columns(&self, cx: &mut LowerCx, k: &Coefficients, c: &Expr, from: &Expr) {
        let n = self.points.n();
        for column in 0..n {
            let load = |row: usize| {
                let point = (row * n + column) as i64 * self.product_planes.point;
                Expr::Load(self.products, Box::new(c.clone().add(from.clone()).add(Expr::Int(point))))
            };
            let p: Vec<Expr> = (0..n).map(load).map(|e| Expr::Var(cx.let_(e))).collect();
            let out = self.points.output(cx, &mut k.clone(), &p);
            for (row, e) in out.into_iter().enumerate() {
                cx.push(Stmt::Store(self.between, self.between_at(c, row * n + column), e));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn inverses_are_modulo_words() {
        assert!([1u32, 3, 9, 81, 0xFFFF_FFFF].iter().all(|n| n.wrapping_mul(super::inverse(*n) as u32) == 1));
    }
}
