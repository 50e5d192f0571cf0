//! The command line: commands, flags, help.

mod compression;
mod size;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
pub use compression::{Budget, Compress, Metric, Objective, Technique};
use onnxc_codegen::Weights;
pub use size::Size;
use size::size;

/// onnxc compiles ONNX models to native code.
#[derive(Parser, Debug)]
#[command(name = "onnxc", version, about, max_term_width = 110, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
}

const EXAMPLES: &str = "Examples:
  onnxc compile model.onnx -o model.a                       archive, C header, Rust binding and report
  onnxc compile model.onnx -o model.o --target aarch64-unknown-linux-gnu --dim N=1
  onnxc run model.onnx --inputs data/ --outputs out/        input_<i>.npy|.pb in, output_<j> out
  onnxc bench model.onnx --cpu native --threads 2 --profile
  onnxc check model.onnx                                    every problem of the model at once

Exit codes: 0 done, 1 the model or the data is at fault, 2 usage, 3 internal error (a reproducer is saved).";

/// Flags of every command.
#[derive(Args, Debug, Clone)]
pub struct Global {
    /// Colours in messages.
    #[arg(long, global = true, value_enum, default_value_t = Color::Auto)]
    pub color: Color,
    /// How errors are printed on stderr.
    #[arg(long, global = true, value_enum, default_value_t = MessageFormat::Human)]
    pub message_format: MessageFormat,
    /// Threads of the compiler itself (0: one per core). The output does not depend on it.
    #[arg(short = 'j', long = "jobs", global = true, default_value_t = 0, value_name = "N")]
    pub jobs: usize,
}

/// When to use colours.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Color {
    /// When stderr is a terminal and NO_COLOR is not set.
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

/// Form of messages.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum MessageFormat {
    /// For people.
    Human,
    /// One JSON object per line.
    Json,
}

/// The commands.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Compile a model to an object or archive with its header, binding and report.
    #[command(after_help = "Examples:
  onnxc compile magika.onnx -o magika.a --shape bytes=1,2048
  onnxc compile model.onnx -o model.o --emit=obj,header --target riscv64gc-unknown-linux-gnu --cpu rv64gcv
  onnxc compile model.onnx -o model.a --cpu native --tune
  onnxc compile model.onnx -o model.a --calib inputs.npz --max-drop 1%      writes model.recipe too
  onnxc compile model.onnx -o model.a --recipe model.recipe
  onnxc compile model.onnx -o model.a --emit=bundle --recipe dense --recipe small.recipe")]
    Compile(Compile),
    /// Search for the points between the dense model and the smallest and fastest one that calibration inputs allow; write each as a recipe. Without
    /// inputs, these are generated and only numbers of weights change.
    #[command(after_help = "Example:
  onnxc compress model.onnx --calib inputs.npz --cpu native --front points/
  onnxc compile model.onnx -o model.a --cpu native --recipe points/point_03.recipe")]
    Compress(Compress),
    /// Run a model on inputs from files.
    #[command(after_help = "Example:
  onnxc run model.onnx --inputs data.npz --outputs out/")]
    Run(Run),
    /// Compare a model's answers with expected outputs (the ONNX test layout).
    #[command(after_help = "Example:
  onnxc verify test_relu/model.onnx --data test_relu/")]
    Verify(Verify),
    /// Measure a model.
    #[command(after_help = "Examples:
  onnxc bench model.onnx --threads 1 --json
  onnxc bench model.onnx --profile --roofline layers.svg
  onnxc bench model.onnx --tune")]
    Bench(Bench),
    /// Say whether a model can be compiled, and for what sizes; report every problem.
    #[command(after_help = "Examples:
  onnxc check model.onnx                                      for open dimensions some sizes and ranges are tried
  onnxc check model.onnx --dim N=1..64 --target riscv64gc-unknown-linux-gnu --json")]
    Check(Check),
    /// Show inputs, outputs, operators and sizes of a model; with --layers what each step of the compiled model does. Of a bundle (.a, .o) its points.
    Inspect(Inspect),
    /// List the operators.
    Ops(Ops),
    /// List the targets, their CPUs and features.
    Targets(Listing),
    /// Write a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

/// The model, and what is fixed about it.
#[derive(Args, Debug, Clone, Default)]
pub struct Model {
    /// The model: `.onnx`, or a `.nir` text that onnxc wrote.
    pub model: PathBuf,
    /// Value of a named dimension (repeatable); `compile` takes several, N=1,4,16, and ranges, N=1..64, and the caller of the model chooses.
    #[arg(long = "dim", value_name = "N=1", value_parser = dim)]
    pub dims: Vec<(String, Vec<(u64, u64)>)>,
    /// Shape of an input (repeatable); an extent may be the name of a --dim or a multiple of it, 32*H, which then need not be one of the model's.
    #[arg(long = "shape", value_name = "INPUT=1,3,224,224", value_parser = shape)]
    pub shapes: Vec<(String, Vec<Extent>)>,
    /// Length of an input that is a sequence; its tensors are the inputs INPUT_0, INPUT_1, ... (repeatable).
    #[arg(long = "length", value_name = "INPUT=3", value_parser = limit)]
    pub lengths: Vec<(String, u64)>,
    /// The largest extents of a tensor whose size data decides on, where operators do not say or say too much; a run that needs more fails
    /// with ONNXC_DATA (repeatable).
    #[arg(long = "bound", value_name = "TENSOR=2,100", value_parser = extents)]
    pub bounds: Vec<(String, Vec<u64>)>,
    /// An optional input that is not given (repeatable).
    #[arg(long = "absent", value_name = "INPUT")]
    pub absent: Vec<String>,
    /// An input that becomes a constant: a table, axes, a shape (repeatable).
    #[arg(long = "const", value_name = "INPUT=FILE.npy", value_parser = file)]
    pub consts: Vec<(String, PathBuf)>,
    /// An input whose buffer the caller may give for an output too, which is then updated in place (repeatable).
    #[arg(long = "alias", value_name = "INPUT=OUTPUT", value_parser = pair)]
    pub aliases: Vec<(String, String)>,
    /// Limit of a resource while importing (repeatable): nodes, rank, tensor-bytes, depth, fold-bytes, sequence, unroll-bytes.
    #[arg(long = "limit", value_name = "NAME=N", value_parser = limit)]
    pub limits: Vec<(String, u64)>,
}

/// The machine to compile for.
#[derive(Args, Debug, Clone, Default)]
pub struct Machine {
    /// Target triple; the machine at hand by default.
    #[arg(long, value_name = "TRIPLE")]
    pub target: Option<String>,
    /// CPU name, `native`, or features as +feature,-feature.
    #[arg(long, value_name = "CPU", allow_hyphen_values = true)]
    pub cpu: Option<String>,
    /// Most threads that one inference may use.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub max_threads: Option<u32>,
}

/// What the compiler may do for speed.
#[derive(Args, Debug, Clone)]
pub struct Freedom {
    /// Rounding: `strict` keeps the model's own operations, in any order; `fast` may let rounding errors grow by a bound that is stated
    /// (Winograd's convolutions, integers between quantisations).
    #[arg(long, value_enum, default_value_t = Math::Fast)]
    pub math: Math,
    /// The most that the weights of the compiled model may take: a multiple of the model's constants, or bytes (with K, M or G). Faster forms of weights are
    /// taken within it only, with --calib the model is compressed until it fits, and what does not fit so many bytes is refused. Without it faster forms may
    /// take 1.5x.
    #[arg(long, value_name = "1.5x|BYTES", value_parser = size)]
    pub max_size: Option<Size>,
    /// Where weights go: `embed`, read-only data of the object; `section:NAME`, a section of it; `file`, a file beside it, which each call gets; `coded`, read-only
    /// data of the object, coded by their entropy, which NAME_unpack decodes once into memory that each call gets. --max-size is about what is stored: coded
    /// weights count as coded. `run`, `verify` and `bench` decode as a program would.
    #[arg(long, value_name = "embed|file|section:NAME|coded", default_value = "embed", hide_default_value = true, value_parser = weights)]
    pub weights: Weights,
    /// Measuring.
    #[command(flatten)]
    pub tuning: Tuning,
    /// Compress the model as this recipe says, which `compile --calib` or `compress` has written; its arrays lie beside it (FILE.npz). With --emit=bundle
    /// each point of the bundle (repeatable): a recipe, a folder of recipes, or `dense`.
    #[arg(long, value_name = "FILE")]
    pub recipe: Vec<PathBuf>,
    /// A recipe that is in memory.
    #[arg(skip)]
    pub found: Option<std::sync::Arc<crate::compress::Loaded>>,
}

/// Choices by measurement.
#[derive(Args, Debug, Clone, Default)]
pub struct Tuning {
    /// Measure the ways to compute each layer on this machine, and take the fastest: tiles, order of loops, algorithms of convolutions. The target must
    /// have the features of this CPU (--cpu native). Measurements are kept, and nothing is measured twice.
    #[arg(long)]
    pub tune: bool,
    /// Where measurements are kept; `onnxc/tune.jsonl` in the user's cache folder by default.
    #[arg(long, value_name = "FILE", requires = "tune")]
    pub tune_cache: Option<PathBuf>,
}

/// Forms of arithmetic.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Math {
    /// The model's operations.
    Strict,
    /// Bounded errors are allowed.
    Fast,
}

impl Default for Freedom {
    fn default() -> Freedom {
        Freedom {
            math: Math::Fast,
            max_size: None,
            weights: Weights::Embed,
            tuning: Tuning::default(),
            recipe: Vec::new(),
            found: None,
        }
    }
}

impl Freedom {
    /// How many times the constants of a model, which take so many bytes, faster forms of its weights may take.
    pub fn growth(&self, constants: u64) -> f64 {
        match self.max_size {
            None => onnxc_passes::winograd::GROWTH,
            Some(Size::Times(n)) => n,
            Some(Size::Bytes(n)) => n as f64 / (constants as f64).max(1.0),
        }
    }

    /// What passes are told.
    pub fn math(&self) -> onnxc_passes::Math {
        match self.math {
            Math::Strict => onnxc_passes::Math::Strict,
            Math::Fast => onnxc_passes::Math::Fast,
        }
    }
}

/// Looking into the compiler.
#[derive(Args, Debug, Clone, Default)]
pub struct Debugging {
    /// Print the text form after a pass (repeatable; `all` for every pass).
    #[arg(long, value_name = "PASS")]
    pub dump_after: Vec<String>,
    /// Print the list of passes and stop.
    #[arg(long)]
    pub print_passes: bool,
    /// Print the time of each pass, and the most memory that was used, to stderr, or to a file.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true)]
    pub time_passes: Option<Option<PathBuf>>,
    /// Stop after a phase and print what it made.
    #[arg(long, value_name = "PHASE")]
    pub stop_after: Option<String>,
}

/// What `compile` writes.
#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Emit {
    /// Object file.
    Obj,
    /// Static library.
    Lib,
    /// C header.
    Header,
    /// Rust binding.
    Rust,
    /// Rust crate in a folder.
    Crate,
    /// Graph before code generation, as text.
    Ir,
    /// Cranelift IR.
    Clif,
    /// Assembly listing.
    Asm,
    /// JSON report.
    Report,
    /// Several points of the model in the archive or object, which share weights: the caller chooses one in each call. Each --recipe is one.
    Bundle,
}

/// `compile`.
#[derive(Args, Debug)]
pub struct Compile {
    /// Model.
    #[command(flatten)]
    pub model: Model,
    /// Machine.
    #[command(flatten)]
    pub machine: Machine,
    /// Trade-offs.
    #[command(flatten)]
    pub freedom: Freedom,
    /// Looking inside.
    #[command(flatten)]
    pub debugging: Debugging,
    /// Compression.
    #[command(flatten)]
    pub budget: Budget,
    /// Output file; the other outputs lie beside it with their own endings.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Prefix of all symbols; from the output's name by default.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    pub name: Option<String>,
    /// What to write; by the ending of the output by default.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub emit: Vec<Emit>,
}

/// `run`.
#[derive(Args, Debug)]
pub struct Run {
    /// Model.
    #[command(flatten)]
    pub model: Model,
    /// Machine.
    #[command(flatten)]
    pub machine: Machine,
    /// Trade-offs.
    #[command(flatten)]
    pub freedom: Freedom,
    /// Looking inside.
    #[command(flatten)]
    pub debugging: Debugging,
    /// Folder of `input_<i>.npy` or `.pb`, or a `.npz` with one array per input name.
    #[arg(long, value_name = "DIR|FILE.npz")]
    pub inputs: PathBuf,
    /// Folder for `output_<j>`, in the kind of the inputs; created when missing.
    #[arg(long, value_name = "DIR")]
    pub outputs: PathBuf,
    /// Use the reference interpreter instead of compiled code.
    #[arg(long)]
    pub interpret: bool,
    /// The inputs are a `.npz` whose arrays have one more leading axis that counts samples: every sample is run, and the outputs are stacked the same way.
    #[arg(long)]
    pub samples: bool,
}

/// `verify`.
#[derive(Args, Debug)]
pub struct Verify {
    /// Model.
    #[command(flatten)]
    pub model: Model,
    /// Machine.
    #[command(flatten)]
    pub machine: Machine,
    /// Trade-offs.
    #[command(flatten)]
    pub freedom: Freedom,
    /// Looking inside.
    #[command(flatten)]
    pub debugging: Debugging,
    /// Folder with `input_<i>` and `output_<j>`, or with `test_data_set_<n>` folders of these.
    #[arg(long, value_name = "DIR")]
    pub data: PathBuf,
    /// Largest max|a-b| / max|b| of an output.
    #[arg(long, default_value_t = 1e-4)]
    pub tolerance: f64,
    /// Use the reference interpreter instead of compiled code.
    #[arg(long)]
    pub interpret: bool,
}

/// `bench`.
#[derive(Args, Debug)]
pub struct Bench {
    /// Model.
    #[command(flatten)]
    pub model: Model,
    /// Machine.
    #[command(flatten)]
    pub machine: Machine,
    /// Trade-offs.
    #[command(flatten)]
    pub freedom: Freedom,
    /// Looking inside.
    #[command(flatten)]
    pub debugging: Debugging,
    /// Inputs as for `run`; random ones by default.
    #[arg(long, value_name = "DIR|FILE.npz")]
    pub inputs: Option<PathBuf>,
    /// Threads.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub threads: u32,
    /// Seconds to measure.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// One JSON object on stdout.
    #[arg(long)]
    pub json: bool,
    /// Time, arithmetic, bytes and kernel of each layer, against roofs of this machine that are measured.
    #[arg(long)]
    pub profile: bool,
    /// Draw the layers under these roofs.
    #[arg(long, value_name = "FILE.svg")]
    pub roofline: Option<PathBuf>,
}

/// `check`.
#[derive(Args, Debug)]
pub struct Check {
    /// Model.
    #[command(flatten)]
    pub model: Model,
    /// Machine.
    #[command(flatten)]
    pub machine: Machine,
    /// Trade-offs.
    #[command(flatten)]
    pub freedom: Freedom,
    /// One JSON object on stdout.
    #[arg(long)]
    pub json: bool,
}

/// `inspect`.
#[derive(Args, Debug)]
pub struct Inspect {
    /// Model.
    #[command(flatten)]
    pub model: Model,
    /// Machine, for --layers.
    #[command(flatten)]
    pub machine: Machine,
    /// Trade-offs.
    #[command(flatten)]
    pub freedom: Freedom,
    /// Plan the model for a machine and list its layers: operations, bytes, kernels, arena.
    #[arg(long)]
    pub layers: bool,
    /// JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// `ops`.
#[derive(Args, Debug)]
pub struct Ops {
    /// JSON instead of text.
    #[arg(long, conflicts_with = "markdown")]
    pub json: bool,
    /// The page of the documentation: ONNX operators with their versions, and what is refused, with the reasons.
    #[arg(long)]
    pub markdown: bool,
}

/// `targets`.
#[derive(Args, Debug)]
pub struct Listing {
    /// JSON instead of text.
    #[arg(long)]
    pub json: bool,
}

/// An extent in `--shape`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Extent {
    /// A number.
    Number(u64),
    /// A multiple of the value of the `--dim` of this name.
    Name(u64, String),
}

impl Extent {
    /// A shape of numbers.
    pub fn numbers(shape: &[u64]) -> Vec<Extent> {
        shape.iter().copied().map(Extent::Number).collect()
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.trim().parse().map_err(|_| format!("`{text}` is no whole number"))
}

fn named<'t>(text: &'t str, form: &str) -> Result<(String, &'t str), String> {
    let (name, value) = text.rsplit_once('=').ok_or_else(|| format!("write it as {form}"))?;
    if name.is_empty() { Err("the name is missing".into()) } else { Ok((name.to_string(), value)) }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (input, output) = named(text, "INPUT=OUTPUT")?;
    Ok((input, output.to_string()))
}

fn limit(text: &str) -> Result<(String, u64), String> {
    let (name, value) = named(text, "NAME=NUMBER")?;
    Ok((name, number(value)?))
}

/// `NAME=1`, `NAME=1,4`, `NAME=1..64`, `NAME=1..16,17..64`
fn dim(text: &str) -> Result<(String, Vec<(u64, u64)>), String> {
    let (name, value) = named(text, "NAME=NUMBER")?;
    let range = |text: &str| {
        let (first, last) = text.split_once("..").unwrap_or((text, text));
        let (first, last) = (number(first)?, number(last.trim_start_matches('='))?);
        match first {
            0 if last > 0 => Err(format!("`{text}`: a range begins at 1 or above")),
            _ if first > last => Err(format!("`{text}` has no values: write the smaller one first")),
            _ => Ok((first, last)),
        }
    };
    let mut ranges: Vec<(u64, u64)> = value.split(',').map(range).collect::<Result<_, _>>()?;
    ranges.sort_unstable();
    ranges.dedup();
    match ranges.windows(2).find(|w| w[0].1 >= w[1].0) {
        Some(w) => Err(format!("{}..{} and {}..{} overlap", w[0].0, w[0].1, w[1].0, w[1].1)),
        None => Ok((name, ranges)),
    }
}

fn shape(text: &str) -> Result<(String, Vec<Extent>), String> {
    let (name, value) = named(text, "INPUT=d0,d1,...")?;
    let extent = |d: &str| match d.trim() {
        d if d.starts_with(|c: char| c.is_alphabetic() || c == '_') => Ok(Extent::Name(1, d.to_string())),
        d => match d.split_once('*') {
            Some((factor, name)) => match number(factor)? {
                0 => Err(format!("`{d}`: the factor is 0")),
                n => Ok(Extent::Name(n, name.trim().to_string())),
            },
            None => number(d).map(Extent::Number),
        },
    };
    let dims = value.split(',').filter(|d| !d.trim().is_empty()).map(extent).collect::<Result<_, _>>()?;
    Ok((name, dims))
}

fn extents(text: &str) -> Result<(String, Vec<u64>), String> {
    let (name, value) = named(text, "TENSOR=d0,d1,...")?;
    let dims = value.split(',').filter(|d| !d.trim().is_empty());
    Ok((name, dims.map(number).collect::<Result<_, _>>()?))
}

fn file(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("write it as INPUT=FILE, a .npy or .pb file")?;
    if name.is_empty() || path.is_empty() {
        Err("the name or the file is missing".into())
    } else {
        Ok((name.to_string(), path.into()))
    }
}

fn prefix(text: &str) -> Result<String, String> {
    let mut chars = text.chars();
    let good =
        chars.next().is_some_and(|c| c.is_ascii_alphabetic() || c == '_') && chars.all(|c| c.is_ascii_alphanumeric() || c == '_');
    if good { Ok(text.to_string()) } else { Err("a prefix is a C identifier: letters, digits and _, no digit first".into()) }
}

fn weights(text: &str) -> Result<Weights, String> {
    match text.split_once(':') {
        None if text == "embed" => Ok(Weights::Embed),
        None if text == "file" => Ok(Weights::File),
        None if text == "coded" => Ok(Weights::Coded),
        Some(("section", name)) if !name.is_empty() && !name.contains(char::is_whitespace) => {
            Ok(Weights::Section(name.to_string()))
        }
        _ => Err("embed, file, section:NAME or coded".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn shapes_and_dims_parse() {
        let extents = vec![Extent::Number(1), Extent::Name(1, "N".into()), Extent::Name(32, "H".into()), Extent::Number(8)];
        assert_eq!(shape("x:0=1,N,32*H,8"), Ok(("x:0".into(), extents)));
        assert_eq!(dim("N=4,1,4"), Ok(("N".into(), vec![(1, 1), (4, 4)])));
        assert_eq!(dim("N=8..64,1..4"), Ok(("N".into(), vec![(1, 4), (8, 64)])));
        assert!(dim("N=0..4").is_err() && dim("N=4..1").is_err() && dim("N=1..4,4..8").is_err() && dim("N=..4").is_err());
        assert_eq!(shape("s="), Ok(("s".into(), vec![])));
        assert!(shape("x").is_err() && shape("x=1,-2").is_err() && dim("=3").is_err() && dim("N=1,").is_err());
        assert_eq!(weights("section:.w"), Ok(Weights::Section(".w".into())));
        assert!(weights("section:").is_err() && prefix("1a").is_err() && prefix("a-b").is_err());
    }
}
