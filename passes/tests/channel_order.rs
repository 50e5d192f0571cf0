//! Channels stay in the order in which layers leave them.

mod support;

use onnxc_ir::op::OpSet;
use onnxc_ir::{Graph, Tensor, interp, parse, text, verify};
use onnxc_passes::channel_order;
use support::machine;

/// Numbers without zeros; others for another salt.
fn numbers(shape: &[u64], salt: u64) -> Tensor {
    let n: u64 = shape.iter().product();
    let number = |i: u64| (((i + salt * 61) * 37 % 1009) as f32 + 0.25) / 512.0 - 1.0;
    Tensor::from_vec::<f32>(shape, (0..n).map(number).collect())
}

/// Numbers as [`weights`] names them, so small that results are not larger than operands.
fn named(hash: u64) -> Tensor {
    let kernel = hash & 0xf;
    let shape = [hash >> 32 & 0xffff, hash >> 16 & 0xffff, kernel, kernel];
    let large = numbers(&shape, hash >> 4 & 0xfff).to_vec::<f32>();
    Tensor::from_vec::<f32>(&shape, large.into_iter().map(|v| v / 8.0).collect())
}

/// A graph of f32; constants of four dimensions that are blobs have numbers, zeros, or bytes.
fn graph(body: &str) -> Graph {
    let blob = |hash: u64| {
        let (filters, channels, kernel) = (hash >> 32 & 0xffff, hash >> 16 & 0xffff, hash & 0xf);
        let shape = [filters, channels, kernel, kernel];
        match hash >> 48 {
            0 => Some(named(hash)),
            1 => Some(Tensor::from_vec::<f32>(&shape, vec![0.0; shape.iter().product::<u64>() as usize])),
            _ => Some(Tensor::from_vec::<i8>(&shape, (0..shape.iter().product::<u64>()).map(|i| (i * 37 % 199) as i8).collect())),
        }
    };
    let shapes = "  %apart = const i64[5] [1, 2, 32, 6, 6]
  %joined = const i64[4] [1, 64, 6, 6]
  %halves = const i64[2] [32, 32]
";
    let text = format!("graph @f(%x: f32[1,8,6,6]) {{\n{shapes}{body}");
    parse::parse(&text, OpSet(onnxc_ops::ALL), &blob).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// A constant with weights of so many filters, channels and taps.
fn weights(name: &str, filters: u64, channels: u64, kernel: u64) -> String {
    let salt: u64 = name.bytes().map(u64::from).sum();
    let hash = filters << 32 | channels << 16 | (salt & 0xfff) << 4 | kernel;
    format!("  %{name} = const f32[{filters},{channels},{kernel},{kernel}] blob({hash:016x})\n")
}

/// The graph after the pass, which must compute the same.
fn ordered(graph: &Graph) -> Graph {
    let after = channel_order::run(graph, &machine());
    verify::verify(&after).unwrap_or_else(|e| panic!("{}\n{}", e.join("\n"), text::print(&after)));
    let x: Vec<Tensor> = graph.inputs.iter().map(|id| numbers(&graph.ty(*id).const_shape().expect("fixed"), 0)).collect();
    let outputs = |g: &Graph| -> Vec<Vec<f32>> {
        interp::run(g, &x)
            .expect("runs")
            .iter()
            .map(|t| t.to_f64s().expect("numbers").into_iter().map(|v| v as f32).collect())
            .collect()
    };
    for (before, now) in outputs(graph).iter().zip(&outputs(&after)) {
        // Sums in another order: errors go with the largest terms.
        let largest = before.iter().fold(1.0f32, |m, v| m.max(v.abs()));
        for (b, n) in before.iter().zip(now) {
            assert!((b - n).abs() <= 1e-4 * largest, "{b} {n}\n{}", text::print(graph));
        }
    }
    after
}

fn count(graph: &Graph, op: &str) -> usize {
    graph.nodes.iter().filter(|n| n.op.name == op).count()
}

/// Two layers of 32 channels each, joined and shuffled in two groups.
fn shuffled() -> String {
    weights("wa", 32, 8, 1)
        + &weights("wb", 32, 8, 1)
        + "  %a = conv %x, %wa : f32[1,32,6,6] @\"a\"
  %ra = relu %a : f32[1,32,6,6]
  %b = conv %x, %wb : f32[1,32,6,6] @\"b\"
  %rb = relu %b : f32[1,32,6,6]
  %c = concat %ra, %rb {axis = 1} : f32[1,64,6,6]
  %c5 = reshape %c, %apart : f32[1,2,32,6,6]
  %t = transpose %c5 {perm = ints[0, 2, 1, 3, 4]} : f32[1,32,2,6,6]
  %s = reshape %t, %joined : f32[1,64,6,6] @\"shuffle\"
"
}

#[test]
fn a_shuffle_that_convolutions_read_is_gone_and_what_they_read_is_written_in_place() {
    let body = shuffled()
        + &weights("wl", 16, 32, 1)
        + &weights("wr", 16, 32, 3)
        + "  %l, %r = split %s, %halves {axis = 1} : f32[1,32,6,6], f32[1,32,6,6]
  %y = conv %l, %wl : f32[1,16,6,6]
  %z = conv %r, %wr {pads = ints[1, 1, 1, 1]} : f32[1,16,6,6]
  return %y, %z
}
";
    let after = ordered(&graph(&body));
    assert_eq!([count(&after, "transpose"), count(&after, "reshape"), count(&after, "split"), count(&after, "slice")], [0; 4]);
    // Each half reads a half of both layers, which are two convolutions each.
    assert_eq!([count(&after, "concat"), count(&after, "conv")], [2, 6]);
}

#[test]
fn what_is_done_to_each_channel_keeps_the_order_too() {
    let body = shuffled()
        + &weights("wd", 64, 1, 3)
        + &weights("wy", 16, 64, 1)
        + "  %d = conv %s, %wd {group = 64, pads = ints[1, 1, 1, 1]} : f32[1,64,6,6] @\"depthwise\"
  %e = tanh %d : f32[1,64,6,6]
  %y = conv %e, %wy : f32[1,16,6,6]
  return %y
}
";
    let after = ordered(&graph(&body));
    assert_eq!([count(&after, "transpose"), count(&after, "reshape"), count(&after, "slice")], [0; 3], "{}", text::print(&after));
    assert_eq!([count(&after, "concat"), count(&after, "conv")], [1, 4]);
}

#[test]
fn a_shuffle_that_something_else_reads_stays() {
    let body = shuffled() + &weights("wy", 16, 64, 1) + "  %y = conv %s, %wy : f32[1,16,6,6]\n  return %y, %s\n}\n";
    let before = graph(&body);
    assert_eq!(ordered(&before), before);
}

#[test]
fn weights_with_zeros_stay() {
    let mut body = shuffled();
    body += "  %wy = const f32[16,64,1,1] blob(0001001000400001)\n  %y = conv %s, %wy : f32[1,16,6,6]\n  return %y\n}\n";
    let before = graph(&body);
    assert_eq!(ordered(&before), before);
}

#[test]
fn integers_are_read_in_order_too() {
    let mut body = shuffled();
    body += "  %scale = const f32[] [0.02]
  %zero = const u8[] [7]
  %wy = const i8[16,64,1,1] blob(0002001000400001)
  %q = quantize_linear %s, %scale, %zero : u8[1,64,6,6]
  %y = conv_integer %q, %wy, %zero : i32[1,16,6,6]
  return %y
}
";
    let after = ordered(&graph(&body));
    assert_eq!([count(&after, "transpose"), count(&after, "concat"), count(&after, "conv_integer")], [0, 1, 1]);
}

/// A layer of `all` filters of which a concatenation reads `parts`, and another layer the last of them.
fn parts(all: u64, parts: &[u64]) -> Graph {
    let sizes: Vec<String> = parts.iter().map(u64::to_string).collect();
    let each: Vec<String> = (0..parts.len()).map(|i| format!("%p{i}")).collect();
    let types: Vec<String> = parts.iter().map(|n| format!("f32[1,{n},6,6]")).collect();
    let last = parts[parts.len() - 1];
    let body = weights("w", all, 8, 1)
        + &weights("wn", 16, last, 3)
        + &format!(
            "  %sizes = const i64[{n}] [{sizes}]
  %slope = const f32[{all},1,1] blob({slope:016x})
  %c = conv %x, %w : f32[1,{all},6,6] @\"layer\"
  %a = mul %c, %slope : f32[1,{all},6,6]
  {each} = split %a, %sizes {{axis = 1}} : {types}
  %n = conv %p{l}, %wn {{pads = ints[1, 1, 1, 1]}} : f32[1,16,6,6]
  %y = concat {each}, %n {{axis = 1}} : f32[1,{sum},6,6]
  return %y
}}
",
            n = parts.len(),
            sizes = sizes.join(", "),
            each = each.join(", "),
            types = types.join(", "),
            slope = 0x0003_0000_0000_0000u64,
            l = parts.len() - 1,
            sum = all + 16,
        );
    let text = format!("graph @f(%x: f32[1,8,6,6]) {{\n{body}");
    let blob = |hash: u64| match hash >> 48 {
        3 => Some(numbers(&[all, 1, 1], 0)),
        _ => Some(named(hash)),
    };
    parse::parse(&text, OpSet(onnxc_ops::ALL), &blob).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn filters_for_different_places_are_convolutions_of_their_own() {
    let after = ordered(&parts(64, &[32, 32]));
    assert_eq!([count(&after, "split"), count(&after, "slice"), count(&after, "conv"), count(&after, "mul")], [0, 0, 3, 2]);
}

#[test]
fn slices_share_a_convolution_where_that_saves_vectors() {
    // One vector of 16 each but for the first two, which have one together.
    let after = ordered(&parts(48, &[6, 10, 16, 16]));
    assert_eq!([count(&after, "split"), count(&after, "slice"), count(&after, "conv")], [0, 2, 4]);
    // Two vectors are as many as the whole has.
    let after = ordered(&parts(24, &[12, 12]));
    assert_eq!([count(&after, "slice"), count(&after, "conv")], [0, 3]);
    let before = parts(16, &[8, 8]);
    assert_eq!(ordered(&before), before);
}

/// A network of layers, shuffles, splits and concatenations, one after another by chance; all that nobody reads is an output.
fn network(seed: u64) -> Graph {
    let mut state = seed;
    let mut below = move |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let (mut body, mut open) = (String::new(), vec![("x".to_string(), 32u64)]);
    for n in 0..14 {
        let (x, channels) = open.remove(below(open.len() as u64) as usize);
        let ty = |n: u64| format!("f32[1,{n},4,4]");
        let conv = |filters: u64, kernel: u64, attrs: &str| {
            let groups = if attrs.contains("group") { 1 } else { channels };
            weights(&format!("w{n}"), filters, groups, kernel)
                + &format!("  %v{n} = conv %{x}, %w{n} {{{attrs}}} : {}\n", ty(filters))
        };
        match below(8) {
            0 | 1 => {
                let filters = 16 * (1 + below(4));
                body += &conv(filters, 1, "");
                open.push((format!("v{n}"), filters));
            }
            2 => {
                body += &conv(channels, 3, &format!("group = {channels}, pads = ints[1, 1, 1, 1]"));
                open.push((format!("v{n}"), channels));
            }
            3 => {
                body += &format!("  %v{n} = tanh %{x} : {}\n", ty(channels));
                open.push((format!("v{n}"), channels));
            }
            4 | 5 => {
                let groups = [2, 4, 8][below(3) as usize];
                let inside = channels / groups;
                body += &format!(
                    "  %a{n} = const i64[5] [1, {groups}, {inside}, 4, 4]
  %j{n} = const i64[4] [1, {channels}, 4, 4]
  %r{n} = reshape %{x}, %a{n} : f32[1,{groups},{inside},4,4]
  %t{n} = transpose %r{n} {{perm = ints[0, 2, 1, 3, 4]}} : f32[1,{inside},{groups},4,4]
  %v{n} = reshape %t{n}, %j{n} : {}
",
                    ty(channels)
                );
                open.push((format!("v{n}"), channels));
            }
            6 if channels > 16 => {
                let (first, second) = (channels / 2 / 8 * 8, channels - channels / 2 / 8 * 8);
                let types = format!("{}, {}", ty(first), ty(second));
                body += &format!(
                    "  %s{n} = const i64[2] [{first}, {second}]\n  %v{n}, %u{n} = split %{x}, %s{n} {{axis = 1}} : {types}\n"
                );
                open.extend([(format!("v{n}"), first), (format!("u{n}"), second)]);
            }
            _ => {
                // With what was there before, which another layer may read too.
                let (y, more) = open.pop().unwrap_or(("x".to_string(), 32));
                body += &format!("  %v{n} = concat %{x}, %{y} {{axis = 1}} : {}\n", ty(channels + more));
                open.push((format!("v{n}"), channels + more));
            }
        }
    }
    let (last, outputs) = (open.len(), open.iter().map(|v| format!("%{}", v.0)).collect::<Vec<_>>().join(", "));
    assert!(last > 0);
    let text = format!("graph @f(%x: f32[1,32,4,4]) {{\n{body}  return {outputs}\n}}\n");
    parse::parse(&text, OpSet(onnxc_ops::ALL), &|hash| Some(named(hash))).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn networks_compute_the_same() {
    let changed = (0..300).filter(|seed| {
        let before = network(*seed);
        ordered(&before) != before
    });
    assert!(changed.count() > 60, "the pass has hardly anything to do");
}
