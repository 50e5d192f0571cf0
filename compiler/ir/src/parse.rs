//! Reads the text form back: `parse(print(g)) == g` for every graph. Errors say line and column and what was expected.

use std::collections::BTreeMap;

use crate::dim::Dim;
use crate::dtype::DType;
use crate::graph::{Attr, Attrs, Graph, Node, TensorType, ValueId};
use crate::op::OpSet;
use crate::scalar::{BinOp, NodeIx, ScalarNode, ScalarOp, ScalarProgram, UnOp};
use crate::tensor::{Bytes, Tensor};

/// Why a text is no graph.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {message}")]
pub struct ParseError {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

/// Deepest nesting of bodies and dimension expressions.
const MAX_DEPTH: usize = 64;

/// Parses one graph. `blobs` gives the constants that the text names by hash.
pub fn parse(text: &str, ops: OpSet, blobs: &dyn Fn(u64) -> Option<Tensor>) -> Result<Graph, ParseError> {
    let mut p = Parser { text, at: 0, ops, blobs, depth: 0 };
    let graph = p.graph()?;
    p.skip();
    if p.at < text.len() { p.fail("expected the end of the text") } else { Ok(graph) }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    ops: OpSet,
    blobs: &'a dyn Fn(u64) -> Option<Tensor>,
    depth: usize,
}

type Parsed<T> = Result<T, ParseError>;

impl<'a> Parser<'a> {
    fn fail<T>(&self, message: impl Into<String>) -> Parsed<T> {
        let before = &self.text[..self.at.min(self.text.len())];
        let line = before.matches('\n').count() + 1;
        let column = before.len() - before.rfind('\n').map_or(0, |n| n + 1) + 1;
        Err(ParseError { line, column, message: message.into() })
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Skips white space and `;` comments.
    fn skip(&mut self) {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start().len();
            if !self.rest().starts_with(';') {
                return;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    fn eat(&mut self, token: &str) -> bool {
        self.skip();
        let hit = self.rest().starts_with(token);
        if hit {
            self.at += token.len();
        }
        hit
    }

    fn expect(&mut self, token: &str) -> Parsed<()> {
        if self.eat(token) { Ok(()) } else { self.fail(format!("expected `{token}`")) }
    }

    fn deeper<T>(&mut self, f: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        if self.depth == MAX_DEPTH {
            return self.fail("nested too deeply");
        }
        self.depth += 1;
        let result = f(self);
        self.depth -= 1;
        result
    }

    /// A run of characters that `accept` takes, not empty.
    fn word(&mut self, what: &str, accept: impl Fn(char) -> bool) -> Parsed<&'a str> {
        self.skip();
        let rest = self.rest();
        let end = rest.find(|c| !accept(c)).unwrap_or(rest.len());
        if end == 0 {
            return self.fail(format!("expected {what}"));
        }
        self.at += end;
        Ok(&rest[..end])
    }

    fn ident(&mut self) -> Parsed<&'a str> {
        self.word("a name", |c| c.is_ascii_alphanumeric() || c == '_')
    }

    /// A string as Rust's `{:?}` prints it.
    fn string(&mut self) -> Parsed<String> {
        self.expect("\"")?;
        let mut out = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((i, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += i + 1;
                    return Ok(out);
                }
                '\\' => match chars.next().map(|(_, c)| c) {
                    Some('n') => out.push('\n'),
                    Some('r') => out.push('\r'),
                    Some('t') => out.push('\t'),
                    Some('0') => out.push('\0'),
                    Some('u') => {
                        let code: String = chars.by_ref().map(|(_, c)| c).skip(1).take_while(|c| *c != '}').take(8).collect();
                        match u32::from_str_radix(&code, 16).ok().and_then(char::from_u32) {
                            Some(c) => out.push(c),
                            None => return self.fail("bad character code in a string"),
                        }
                    }
                    Some(c @ ('"' | '\\' | '\'')) => out.push(c),
                    _ => return self.fail("bad escape in a string"),
                },
                c => out.push(c),
            }
        }
        self.fail("a string does not end")
    }

    fn name(&mut self) -> Parsed<String> {
        self.skip();
        if self.rest().starts_with('"') {
            return self.string();
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
        self.word("a value name", plain).map(str::to_string)
    }

    fn list<T>(&mut self, open: &str, close: &str, mut item: impl FnMut(&mut Self) -> Parsed<T>) -> Parsed<Vec<T>> {
        self.expect(open)?;
        let mut items = Vec::new();
        if self.eat(close) {
            return Ok(items);
        }
        loop {
            items.push(item(self)?);
            if self.eat(close) {
                return Ok(items);
            }
            self.expect(",")?;
        }
    }

    fn number(&mut self) -> Parsed<&'a str> {
        self.word("a number", |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '+' | '.' | ':'))
    }

    fn int<T: std::str::FromStr>(&mut self) -> Parsed<T> {
        let word = self.number()?;
        word.parse().or_else(|_| self.fail(format!("`{word}` is no integer in range")))
    }

    fn float(&mut self) -> Parsed<f64> {
        let word = self.number()?;
        if let Some(hex) = word.strip_prefix("nan:") {
            let bits = u64::from_str_radix(hex, 16).ok();
            let value = bits.map(|b| if hex.len() == 8 { f64::from(f32::from_bits(b as u32)) } else { f64::from_bits(b) });
            return value.map_or_else(|| self.fail("bad NaN"), Ok);
        }
        if word == "nan" {
            return Ok(f64::NAN);
        }
        word.parse().or_else(|_| self.fail(format!("`{word}` is no number")))
    }

    fn f32(&mut self) -> Parsed<f32> {
        self.skip();
        // Parsed as f32 at once: through f64 a decimal would round twice.
        let start = self.at;
        let word = self.number()?;
        if let Ok(x) = word.parse::<f32>()
            && word != "nan"
        {
            return Ok(x);
        }
        self.at = start;
        self.float().map(|x| x as f32)
    }

    fn dtype(&mut self) -> Parsed<DType> {
        let word = self.ident()?;
        DType::from_name(word).map_or_else(|| self.fail(format!("`{word}` is no element type")), Ok)
    }

    fn tensor_type(&mut self) -> Parsed<TensorType> {
        let dtype = self.dtype()?;
        let shape = self.list("[", "]", Self::dim)?;
        Ok(TensorType { dtype, shape })
    }

    fn dim(&mut self) -> Parsed<Dim> {
        self.deeper(Self::dim_inner)
    }

    fn dim_inner(&mut self) -> Parsed<Dim> {
        self.skip();
        if self.rest().starts_with('"') {
            return Ok(Dim::sym(&self.string()?));
        }
        if self.eat("(") {
            let mut sum = self.dim_term()?;
            loop {
                if self.eat(")") {
                    return Ok(sum);
                }
                if self.eat("*") {
                    sum = sum.mul(&self.dim()?);
                    continue;
                }
                self.expect("+")?;
                sum = self.dim_plus(sum)?;
            }
        }
        let word = self.word("a dimension", |c| c.is_ascii_alphanumeric() || c == '_' || c == '?')?;
        if let Ok(n) = word.parse::<u64>() {
            return Ok(Dim::Const(n));
        }
        if matches!(word, "div" | "max" | "min") && self.eat("(") {
            let a = self.dim()?;
            self.expect(",")?;
            let b = self.dim()?;
            self.expect(")")?;
            return Ok(match word {
                "div" => a.div(&b),
                "max" => a.max_of(&b),
                _ => a.min_of(&b),
            });
        }
        Ok(Dim::sym(word))
    }

    /// `d`, or `k*d` with a possibly negative k.
    fn dim_term(&mut self) -> Parsed<Dim> {
        self.skip();
        let negative = self.rest().starts_with('-');
        if !negative {
            let d = self.dim()?;
            return match (&d, self.eat("*")) {
                (_, false) => Ok(d),
                (_, true) => Ok(d.mul(&self.dim()?)),
            };
        }
        self.dim_plus(Dim::Const(0))
    }

    /// `sum + term`, where the term may have a negative coefficient or be a negative constant.
    fn dim_plus(&mut self, sum: Dim) -> Parsed<Dim> {
        if !self.eat("-") {
            return Ok(sum.add(&self.dim_term()?));
        }
        let k: u64 = self.word("a number", |c| c.is_ascii_digit())?.parse().or_else(|_| self.fail("number too large"))?;
        let term = if self.eat("*") { self.dim()?.mul(&Dim::Const(k)) } else { return Ok(sum.offset(-(k as i64))) };
        Ok(sum.sub(&term))
    }

    fn graph(&mut self) -> Parsed<Graph> {
        self.deeper(Self::graph_inner)
    }

    fn graph_inner(&mut self) -> Parsed<Graph> {
        self.expect("graph")?;
        self.expect("@")?;
        let mut graph = Graph::new(&self.name()?);
        let mut ids: BTreeMap<String, ValueId> = BTreeMap::new();
        let inputs = self.list("(", ")", |p| {
            p.expect("%")?;
            let name = p.name()?;
            p.expect(":")?;
            Ok((name, p.tensor_type()?))
        })?;
        for (name, ty) in inputs {
            let id = graph.add_input(&name, ty);
            self.define(&mut ids, name, id)?;
        }
        if self.eat("where") {
            self.bounds(&mut graph)?;
        }
        self.expect("{")?;
        while !self.eat("return") {
            self.statement(&mut graph, &mut ids)?;
        }
        if self.eat("}") {
            return Ok(graph);
        }
        loop {
            graph.outputs.push(self.used(&ids)?);
            if self.eat("}") {
                return Ok(graph);
            }
            self.expect(",")?;
        }
    }

    /// `N in 1 to 64, L in 1 to 128`
    fn bounds(&mut self, graph: &mut Graph) -> Parsed<()> {
        loop {
            let Dim::Sym(symbol) = self.dim()? else { return self.fail("expected the name of a dimension") };
            self.expect("in")?;
            let low = self.int()?;
            self.expect("to")?;
            graph.bounds.insert(symbol.to_string(), (low, self.int()?));
            if !self.eat(",") {
                return Ok(());
            }
        }
    }

    fn define(&self, ids: &mut BTreeMap<String, ValueId>, name: String, id: ValueId) -> Parsed<()> {
        match ids.insert(name.clone(), id) {
            None => Ok(()),
            Some(_) => self.fail(format!("%{name} is defined twice")),
        }
    }

    fn used(&mut self, ids: &BTreeMap<String, ValueId>) -> Parsed<ValueId> {
        self.expect("%")?;
        let name = self.name()?;
        ids.get(&name).copied().map_or_else(|| self.fail(format!("%{name} is not defined")), Ok)
    }

    fn statement(&mut self, graph: &mut Graph, ids: &mut BTreeMap<String, ValueId>) -> Parsed<()> {
        let mut results = Vec::new();
        loop {
            self.expect("%")?;
            results.push(self.name()?);
            if !self.eat(",") {
                break;
            }
        }
        self.expect("=")?;
        let mnemonic = self.ident()?;
        if mnemonic == "const" {
            let ty = self.tensor_type()?;
            let Some(shape) = ty.const_shape() else { return self.fail("a constant has a known shape") };
            let tensor = self.literal(ty.dtype, &shape)?;
            let name = results.swap_remove(0);
            let id = graph.add_const(&name, tensor);
            return self.define(ids, name, id);
        }
        let Some(op) = self.ops.get(mnemonic) else { return self.fail(format!("`{mnemonic}` is no operator")) };
        let inputs = self.operands(ids)?;
        let attrs = self.attrs()?;
        self.expect(":")?;
        let mut types = vec![self.tensor_type()?];
        while self.eat(",") {
            types.push(self.tensor_type()?);
        }
        if types.len() != results.len() {
            return self.fail(format!("{} results but {} types", results.len(), types.len()));
        }
        let mut origins = Vec::new();
        while self.eat("@") {
            origins.push(self.string()?);
        }
        let mut outputs = Vec::new();
        for (name, ty) in results.into_iter().zip(types) {
            let id = graph.add_value(&name, ty, None);
            self.define(ids, name, id)?;
            outputs.push(id);
        }
        graph.nodes.push(Node { op, inputs, outputs, attrs, origins });
        Ok(())
    }

    fn operands(&mut self, ids: &BTreeMap<String, ValueId>) -> Parsed<Vec<Option<ValueId>>> {
        let mut operands = Vec::new();
        self.skip();
        if !self.rest().starts_with(['%', '_']) {
            return Ok(operands);
        }
        loop {
            operands.push(if self.eat("_") { None } else { Some(self.used(ids)?) });
            if !self.eat(",") {
                return Ok(operands);
            }
        }
    }

    fn attrs(&mut self) -> Parsed<Attrs> {
        self.skip();
        if !self.rest().starts_with('{') {
            return Ok(Attrs::default());
        }
        let items = self.list("{", "}", |p| {
            let key = p.name()?;
            p.expect("=")?;
            Ok((key, p.attr()?))
        })?;
        Ok(Attrs(items.into_iter().collect()))
    }

    fn attr(&mut self) -> Parsed<Attr> {
        self.skip();
        let rest = self.rest();
        if rest.starts_with('"') {
            return Ok(Attr::Str(self.string()?));
        }
        if rest.starts_with("graph") {
            return Ok(Attr::Graph(Box::new(self.graph()?)));
        }
        for (word, parse) in [
            ("ints", (|p| p.list("[", "]", Self::int).map(Attr::Ints)) as fn(&mut Self) -> Parsed<Attr>),
            ("dims", |p| p.list("[", "]", Self::dim).map(Attr::Dims)),
            ("floats", |p| p.list("[", "]", Self::f32).map(Attr::Floats)),
            ("strs", |p| p.list("[", "]", Self::string).map(Attr::Strs)),
            ("type", |p| p.dtype().map(Attr::Type)),
            ("tensor", |p| {
                let dtype = p.dtype()?;
                let shape = p.list("[", "]", Self::int)?;
                p.literal(dtype, &shape).map(Attr::Tensor)
            }),
            ("program", |p| {
                let text = p.string()?;
                program(&text).map_or_else(|| p.fail("bad scalar program"), |x| Ok(Attr::Program(x)))
            }),
        ] {
            if self.eat(word) {
                return parse(self);
            }
        }
        let start = self.at;
        let word = self.number()?;
        if let Ok(n) = word.parse::<i64>() {
            return Ok(Attr::Int(n));
        }
        self.at = start;
        self.f32().map(Attr::Float)
    }

    fn literal(&mut self, dtype: DType, shape: &[u64]) -> Parsed<Tensor> {
        let tensor = if self.eat("blob(") {
            let hash = self.word("a hash", |c| c.is_ascii_hexdigit())?;
            let Ok(hash) = u64::from_str_radix(hash, 16) else { return self.fail("bad hash") };
            self.expect(")")?;
            (self.blobs)(hash).filter(|t| t.dtype() == dtype && t.shape() == shape)
        } else if self.eat("hex(") {
            let mut bytes = Vec::new();
            while !self.eat(")") {
                let rest = self.rest();
                let Some(byte) = rest.get(..2).and_then(|h| u8::from_str_radix(h, 16).ok()) else { return self.fail("bad hex") };
                bytes.push(byte);
                self.at += 2;
            }
            Tensor::from_bytes(dtype, shape.to_vec(), Bytes::new(bytes))
        } else if self.eat("strs") {
            let strings = self.list("[", "]", Self::byte_string)?;
            Tensor::from_strings(shape, strings)
        } else {
            self.elements(dtype, shape)?
        };
        tensor.map_or_else(|| self.fail("the constant's values do not fit its type"), Ok)
    }

    fn elements(&mut self, dtype: DType, shape: &[u64]) -> Parsed<Option<Tensor>> {
        let mut bytes = Vec::new();
        self.list("[", "]", |p| {
            match dtype {
                DType::F32 => bytes.extend(p.f32()?.to_le_bytes()),
                DType::F64 => bytes.extend(p.float()?.to_le_bytes()),
                t => {
                    let n: i64 = p.int()?;
                    bytes.extend(&n.to_le_bytes()[..t.bytes() as usize]);
                }
            }
            Ok(())
        })?;
        Ok(Tensor::from_bytes(dtype, shape.to_vec(), Bytes::new(bytes)))
    }

    /// A string of bytes as `escape_ascii` prints it.
    fn byte_string(&mut self) -> Parsed<Vec<u8>> {
        self.expect("\"")?;
        let mut out = Vec::new();
        let bytes = self.text.as_bytes();
        while let Some(b) = bytes.get(self.at).copied() {
            self.at += 1;
            match b {
                b'"' => return Ok(out),
                b'\\' => {
                    let escape = bytes.get(self.at).copied();
                    self.at += 1;
                    match escape {
                        Some(b'n') => out.push(b'\n'),
                        Some(b'r') => out.push(b'\r'),
                        Some(b't') => out.push(b'\t'),
                        Some(b'x') => {
                            let hex = self.text.get(self.at..self.at + 2).and_then(|h| u8::from_str_radix(h, 16).ok());
                            let Some(byte) = hex else { return self.fail("bad escape in a string") };
                            out.push(byte);
                            self.at += 2;
                        }
                        Some(c @ (b'"' | b'\\' | b'\'')) => out.push(c),
                        _ => return self.fail("bad escape in a string"),
                    }
                }
                b => out.push(b),
            }
        }
        self.fail("a string does not end")
    }
}

/// Reads what `Display for ScalarProgram` prints.
pub fn program(text: &str) -> Option<ScalarProgram> {
    let mut out = ScalarProgram::default();
    for item in text.split(';') {
        let mut words = item.split_whitespace();
        let dtype = DType::from_name(words.next()?)?;
        let word = words.next()?;
        let operands: Vec<NodeIx> = words.map(|w| w.strip_prefix('%')?.parse().ok()).collect::<Option<_>>()?;
        if operands.iter().any(|o| *o as usize >= out.nodes.len()) {
            return None;
        }
        let op = scalar_op(word, &operands, dtype)?;
        out.nodes.push(ScalarNode { op, dtype });
    }
    (!out.nodes.is_empty()).then_some(out)
}

fn scalar_op(word: &str, operands: &[NodeIx], dtype: DType) -> Option<ScalarOp> {
    Some(match (word, operands) {
        ("fma", [a, b, c]) => ScalarOp::Fma(*a, *b, *c),
        ("select", [c, a, b]) => ScalarOp::Select(*c, *a, *b),
        ("cast", [a]) => ScalarOp::Cast(*a),
        (_, [a, b]) => ScalarOp::Bin(BinOp::from_name(word)?, *a, *b),
        (_, [a]) => ScalarOp::Un(UnOp::from_name(word)?, *a),
        (_, []) => match word.strip_prefix('a').and_then(|n| n.parse().ok()) {
            Some(n) => ScalarOp::Arg(n),
            None if dtype.is_float() => {
                ScalarOp::Const(if word == "NaN" { f64::NAN } else { word.parse::<f64>().ok()? }.to_bits())
            }
            None => ScalarOp::Const(word.parse::<i64>().ok()? as u64),
        },
        _ => return None,
    })
}
