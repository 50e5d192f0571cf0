//! `linear_attention`: attention whose past is one matrix for each head, updated at every position.
//!
//! Operands: queries `[B, T, Hq*dk]`, keys `[B, T, H*dk]`, values `[B, T, H*dv]`, state `[B, H, dk, dv]` (zeros without it), decay `[B, T, H*dk]` or
//! `[B, T, H]` as logarithm, beta `[B, T, H]` or `[B, T, 1]`. Attributes: `q_num_heads`, `kv_num_heads`, `update_rule`, `scale` (0: 1/sqrt(dk)).
//! Results `[B, T, Hq*dv]` and the state behind the last position. Rules of ONNX LinearAttention-27; its `chunk_size` is a hint and is not used.
//!
//! Everything is computed in f32, as the document's function body does.

use onnxc_ir::lir::{BufId, Expr, LoopKind, Stmt};
use onnxc_ir::lower::{Arg, LowerCx};
use onnxc_ir::op::{EvalCx, Import, InferCx, Lower, NEWEST, OpDef, OpError, OpResult, Sample, SampleInput, Tolerance};
use onnxc_ir::scalar::UnOp;
use onnxc_ir::{Attr, Attrs, DType, Dim, Tensor, TensorType};

use crate::common::broadcast;
use crate::common::elements::{f64s, from_f64s};
use crate::common::nest::{self, ExprExt};
use crate::common::sample::{data, data_in};

/// The record.
pub(crate) static LINEAR_ATTENTION: OpDef = OpDef {
    name: "linear_attention",
    onnx: &[Import { domain: "", name: "LinearAttention", opsets: (27, NEWEST), build: |cx| cx.forward("linear_attention") }],
    infer,
    infer_dims: None,
    eval,
    lower: Lower::OpenNest(lower),
    tolerance: Tolerance::SUMS,
    samples,
};

/// Attributes, and the extents that a head has.
struct Form {
    /// Heads of queries for each head of keys.
    group: u64,
    heads: u64,
    /// Elements of a key and of a value.
    dk: u64,
    dv: u64,
    decays: bool,
    corrects: bool,
    scale: f64,
}

impl Form {
    /// From the attributes and the extents of the last dimension of queries, keys and values.
    fn of(attrs: &Attrs, [q, k, v]: [u64; 3]) -> OpResult<Form> {
        let count = |name: &str| {
            let n = attrs.int(name).and_then(|n| u64::try_from(n).ok()).filter(|n| *n > 0);
            n.ok_or_else(|| OpError::new(format!("attribute {name} is missing or not positive")))
        };
        let (queries, heads) = (count("q_num_heads")?, count("kv_num_heads")?);
        if queries % heads != 0 {
            return Err(OpError::new(format!("{queries} heads of queries do not divide into {heads} heads of keys")));
        }
        if q % queries != 0 || k % heads != 0 || v % heads != 0 || q / queries != k / heads || k == 0 || v == 0 {
            return Err(OpError::new(format!(
                "queries of {q} elements in {queries} heads, keys of {k} and values of {v} in {heads} heads do not fit together"
            )));
        }
        let (decays, corrects) = match attrs.str("update_rule").unwrap_or("gated_delta") {
            "linear" => (false, false),
            "gated" => (true, false),
            "delta" => (false, true),
            "gated_delta" => (true, true),
            other => {
                return Err(OpError::new(format!("update_rule {other:?} is unknown")).help("linear, gated, delta or gated_delta"));
            }
        };
        let (dk, dv) = (k / heads, v / heads);
        if dk.saturating_mul(dv) > 1 << 31 {
            return Err(OpError::new(format!("a state of {dk} times {dv} elements for each head is too large")));
        }
        let scale = attrs.float("scale").filter(|s| *s != 0.0).map_or_else(|| 1.0 / (dk as f64).sqrt(), f64::from);
        Ok(Form { group: queries / heads, heads, dk, dv, decays, corrects, scale })
    }
}

/// Refuses types that the document does not have.
fn check_type(ty: &TensorType) -> OpResult<()> {
    match ty.dtype {
        DType::F32 | DType::F16 | DType::BF16 => Ok(()),
        other => Err(OpError::new(format!("linear attention of {other} is not supported")).help("f32, f16 or bf16")),
    }
}

fn infer(cx: &InferCx) -> OpResult<Vec<TensorType>> {
    let (q, k, v) = (cx.input(0)?, cx.input(1)?, cx.input(2)?);
    check_type(q)?;
    broadcast::same_dtype(cx, 0..3)?;
    for (i, ty) in cx.inputs.iter().enumerate().filter_map(|(i, ty)| Some((i, ty.as_ref()?))) {
        check_type(ty)?;
        let rank = if i == 3 { 4 } else { 3 };
        if ty.rank() != rank || i != 3 && ty.shape[..2] != q.shape[..2] {
            return Err(OpError::new(format!("input {i} is {ty} beside queries of {q}")));
        }
    }
    let last = |t: &TensorType| {
        let hidden = t.shape[2].as_const();
        hidden.ok_or_else(|| OpError::new(format!("the last extent of {t} is not known")).help("fix it with --dim or --shape"))
    };
    let form = Form::of(cx.attrs, [last(q)?, last(k)?, last(v)?])?;
    let state = [q.shape[0].clone(), Dim::Const(form.heads), Dim::Const(form.dk), Dim::Const(form.dv)];
    if let Some(given) = cx.opt(3)
        && given.shape != state
    {
        return Err(OpError::new(format!("the state is {given}, its extents must be {}", broadcast::text(&state))));
    }
    let gate = |i: usize, wanted: bool, widths: [u64; 2]| match (cx.opt(i), wanted) {
        (None, false) => Ok(()),
        (Some(t), true) if widths.contains(&last(t)?) => Ok(()),
        (Some(t), true) => Err(OpError::new(format!("input {i} is {t}, its last extent must be {} or {}", widths[0], widths[1]))),
        (None, true) => Err(OpError::new(format!("input {i} is missing, which the update rule needs"))),
        (Some(_), false) => Err(OpError::new(format!("input {i} is given, which the update rule does not have"))),
    };
    gate(4, form.decays, [form.heads, form.heads * form.dk])?;
    gate(5, form.corrects, [form.heads, 1])?;
    let mut shape = q.shape[..2].to_vec();
    shape.push(Dim::Const(form.group * form.heads * form.dv));
    let kept = cx.opt(3).map_or(q.dtype, |s| s.dtype);
    let both = [TensorType::new(q.dtype, shape), TensorType::new(kept, state.to_vec())];
    Ok(both.into_iter().take(cx.n_outputs.clamp(1, 2)).collect())
}

/// Extents of the last dimensions of queries, keys and values.
fn widths(shape: impl Fn(usize) -> u64) -> [u64; 3] {
    [shape(0), shape(1), shape(2)]
}

fn eval(cx: &EvalCx) -> OpResult<Vec<Tensor>> {
    let form = Form::of(cx.attrs, widths(|i| cx.input(i).shape()[2]))?;
    let (batches, time) = (cx.input(0).shape()[0] as usize, cx.input(0).shape()[1] as usize);
    let (dk, dv, heads) = (form.dk as usize, form.dv as usize, form.heads as usize);
    let (group, queries) = (form.group as usize, (form.group * form.heads) as usize);
    let (q, k, v) = (f64s(cx.input(0))?, f64s(cx.input(1))?, f64s(cx.input(2))?);
    let optional = |i: usize| cx.opt(i).map(f64s).transpose();
    let (decay, beta) = (optional(4)?, optional(5)?);
    let mut states = optional(3)?.unwrap_or_else(|| vec![0.0; batches * heads * dk * dv]);
    let mut y = vec![0.0; batches * time * queries * dv];
    for (b, h) in (0..batches).flat_map(|b| (0..heads).map(move |h| (b, h))) {
        let state = &mut states[(b * heads + h) * dk * dv..][..dk * dv];
        for at in (0..time).map(|t| b * time + t) {
            let (key, value) = (&k[(at * heads + h) * dk..][..dk], &v[(at * heads + h) * dv..][..dv]);
            if let Some(decay) = &decay {
                let width = cx.input(4).shape()[2] as usize;
                for i in 0..dk {
                    let g = decay[at * width + if width == heads { h } else { h * dk + i }].exp();
                    state[i * dv..][..dv].iter_mut().for_each(|s| *s *= g);
                }
            }
            let mut written = value.to_vec();
            if let Some(beta) = &beta {
                let width = cx.input(5).shape()[2] as usize;
                let rate = beta[at * width + if width == 1 { 0 } else { h }];
                for j in 0..dv {
                    let known: f64 = (0..dk).map(|i| state[i * dv + j] * key[i]).sum();
                    written[j] = rate * (value[j] - known);
                }
            }
            for (i, j) in (0..dk).flat_map(|i| (0..dv).map(move |j| (i, j))) {
                state[i * dv + j] += key[i] * written[j];
            }
            for head in h * group..(h + 1) * group {
                let query = &q[(at * queries + head) * dk..][..dk];
                for j in 0..dv {
                    let sum: f64 = (0..dk).map(|i| query[i] * state[i * dv + j]).sum();
                    y[(at * queries + head) * dv + j] = form.scale * sum;
                }
            }
        }
    }
    let mut results = vec![from_f64s(cx.outputs[0].dtype, &cx.out_shape(0), y)?];
    if let Some(ty) = cx.outputs.get(1) {
        results.push(from_f64s(ty.dtype, &cx.out_shape(1), states)?);
    }
    Ok(results)
}

/// One head while it is lowered: its memory, and where it is.
struct Head {
    form: Form,
    /// `[dk, dv]`.
    state: BufId,
    /// What the position writes, `[dv]`, and sums over keys, `[dv]`.
    written: BufId,
    sums: BufId,
    batch: Expr,
    head: Expr,
}

fn lower(cx: &mut LowerCx) -> OpResult<()> {
    let (q, y) = (cx.input(0), cx.output(0));
    let form = Form::of(cx.attrs, widths(|i| cx.input(i).view.shape[2]))?;
    let (batches, time) = (q.view.extent(0), cx.count(&q.view.extent(1)));
    if batches.bound == 0 {
        return Ok(());
    }
    let state = cx.scratch(DType::F32, form.dk * form.dv, true);
    let written = cx.scratch(DType::F32, form.dv, true);
    let sums = cx.scratch(DType::F32, form.dv, true);
    let heads = form.heads;
    cx.for_in(LoopKind::Parallel, &batches.times(&heads.into()), |cx, row| {
        let (batch, head) = nest::split(cx, row, heads);
        let h = Head { form, state, written, sums, batch, head };
        h.initial(cx);
        cx.for_range(LoopKind::Serial, Expr::Int(0), time.clone(), 1, |cx, t| h.position(cx, &t, &y));
        if let Some(to) = cx.outputs.get(1).cloned() {
            h.each_state(cx, |cx, at, i| {
                let value = nest::at(state, i);
                nest::store(cx, &to, at, value);
            });
        }
    });
    Ok(())
}

impl Head {
    /// Loops over the state: its coordinate in an operand or result, and its index in scratch.
    fn each_state(&self, cx: &mut LowerCx, body: impl FnOnce(&mut LowerCx, &[Expr], Expr)) {
        cx.for_(LoopKind::Serial, self.form.dk, |cx, i| {
            cx.for_(LoopKind::Vector, self.form.dv, |cx, j| {
                let index = i.clone().times(self.form.dv as i64).add(j.clone());
                body(cx, &[self.batch.clone(), self.head.clone(), i, j], index);
            });
        });
    }

    fn initial(&self, cx: &mut LowerCx) {
        let given = cx.opt(3);
        self.each_state(cx, |cx, at, i| {
            let value = given.as_ref().map_or(Expr::f32(0.0), |g| nest::load(cx, g, at));
            cx.push(Stmt::Store(self.state, i, value));
        });
    }

    /// Element `i` of head `head` of `arg`, whose heads have `width` elements.
    fn element(&self, cx: &mut LowerCx, arg: &Arg, t: &Expr, (head, width): (Expr, u64), i: Expr) -> Expr {
        nest::load(cx, arg, &[self.batch.clone(), t.clone(), head.times(width as i64).add(i)])
    }

    fn each_value(&self, cx: &mut LowerCx, body: impl FnOnce(&mut LowerCx, Expr)) {
        cx.for_(LoopKind::Vector, self.form.dv, body);
    }

    /// Adds to `sums` the product of element `i` of a vector with row `i` of the state.
    fn weighted_rows(&self, cx: &mut LowerCx, vector: impl Fn(&mut LowerCx, Expr) -> Expr) {
        let (sums, state, dv) = (self.sums, self.state, self.form.dv as i64);
        self.each_value(cx, |cx, j| cx.push(Stmt::Store(sums, j, Expr::f32(0.0))));
        cx.for_(LoopKind::Serial, self.form.dk, |cx, i| {
            let weight = vector(cx, i.clone());
            let weight = Expr::Var(cx.let_(weight));
            self.each_value(cx, |cx, j| {
                let from = nest::at(state, i.times(dv).add(j.clone()));
                let sum = nest::at(sums, j.clone()).add(weight.mul(from));
                cx.push(Stmt::Store(sums, j, sum));
            });
        });
    }

    /// Everything that one position does.
    fn position(&self, cx: &mut LowerCx, t: &Expr, y: &Arg) {
        let (q, k, v) = (cx.input(0), cx.input(1), cx.input(2));
        let (dk, dv) = (self.form.dk, self.form.dv);
        if let Some(decay) = cx.opt(4) {
            self.decay(cx, t, &decay);
        }
        let beta = cx.opt(5);
        if beta.is_some() {
            self.weighted_rows(cx, |cx, i| self.element(cx, &k, t, (self.head.clone(), dk), i));
        }
        let rate = beta.map(|beta| {
            let head = if beta.view.shape[2] == 1 { Expr::Int(0) } else { self.head.clone() };
            let rate = self.element(cx, &beta, t, (head, 1), Expr::Int(0));
            Expr::Var(cx.let_(rate))
        });
        self.each_value(cx, |cx, j| {
            let mut value = self.element(cx, &v, t, (self.head.clone(), dv), j.clone());
            if let Some(rate) = rate {
                value = rate.mul(value.minus(nest::at(self.sums, j.clone())));
            }
            cx.push(Stmt::Store(self.written, j, value));
        });
        cx.for_(LoopKind::Serial, dk, |cx, i| {
            let key = self.element(cx, &k, t, (self.head.clone(), dk), i.clone());
            let key = Expr::Var(cx.let_(key));
            self.each_value(cx, |cx, j| {
                let index = i.times(dv as i64).add(j.clone());
                let value = nest::at(self.state, index.clone()).add(key.mul(nest::at(self.written, j)));
                cx.push(Stmt::Store(self.state, index, value));
            });
        });
        cx.for_(LoopKind::Serial, self.form.group, |cx, g| {
            let head = self.head.clone().times(self.form.group as i64).add(g);
            let head = Expr::Var(cx.let_(head));
            self.weighted_rows(cx, |cx, i| self.element(cx, &q, t, (head.clone(), dk), i));
            self.each_value(cx, |cx, j| {
                let value = nest::at(self.sums, j.clone()).mul(nest::float(DType::F32, self.form.scale));
                let at = [self.batch.clone(), t.clone(), head.times(dv as i64).add(j)];
                nest::store(cx, y, &at, value);
            });
        });
    }

    fn decay(&self, cx: &mut LowerCx, t: &Expr, decay: &Arg) {
        let (dk, dv) = (self.form.dk, self.form.dv);
        let each = decay.view.shape[2] != self.form.heads;
        cx.for_(LoopKind::Serial, dk, |cx, i| {
            let (width, element) = if each { (dk, i.clone()) } else { (1, Expr::Int(0)) };
            let log = self.element(cx, decay, t, (self.head.clone(), width), element);
            let factor = Expr::Var(cx.let_(Expr::un(UnOp::Exp, log)));
            self.each_value(cx, |cx, j| {
                let index = i.times(dv as i64).add(j);
                let value = nest::at(self.state, index.clone()).mul(factor);
                cx.push(Stmt::Store(self.state, index, value));
            });
        });
    }
}

/// A case: heads of queries and keys, elements of a key and a value, and whether there is a state.
fn case(rule: &str, dtype: DType, (hq, h, dk, dv): (u64, u64, u64, u64), time: u64, state: bool) -> Sample {
    let attrs = Attrs::default()
        .with("update_rule", Attr::Str(rule.to_string()))
        .with("q_num_heads", Attr::Int(hq as i64))
        .with("kv_num_heads", Attr::Int(h as i64));
    let small = |n: u64| -> Option<SampleInput> { data_in(dtype, &[2, time, n], -0.5, 0.5) };
    let gate = |wanted: bool, n: u64| wanted.then(|| data_in(dtype, &[2, time, n], -1.0, 0.0)).flatten();
    let inputs = vec![
        small(hq * dk),
        small(h * dk),
        small(h * dv),
        state.then(|| data(DType::F32, &[2, h, dk, dv])).flatten(),
        gate(rule.starts_with("gated"), if state { h } else { h * dk }),
        gate(rule.ends_with("delta"), if state { 1 } else { h }),
    ];
    Sample { attrs, inputs, n_outputs: 2 }
}

fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    for rule in ["linear", "gated", "delta", "gated_delta"] {
        for state in [false, true] {
            all.push(case(rule, DType::F32, (4, 2, 3, 19), 5, state));
        }
    }
    all.push(case("gated_delta", DType::F16, (2, 2, 8, 8), 1, true));
    all.push(case("linear", DType::BF16, (1, 1, 1, 1), 3, false));
    all.push(case("gated", DType::F32, (3, 1, 4, 7), 0, true));
    all
}
