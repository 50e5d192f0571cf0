//! The commands, one file each.

mod algorithms;
mod bench;
mod bundle;
mod check;
mod compile;
mod element_types;
mod engine;
mod integers;
mod look;
mod operators;
mod probe;
mod run;

pub use check::constant_bytes;
pub use engine::codegen_fault;
use onnxc_targets::Target;

use crate::cli::{Command, Machine};
use crate::fault::{Done, Fault};

/// Runs a command.
pub fn run(command: Command) -> Done<()> {
    match command {
        Command::Compile(args) => compile::compile(&args),
        Command::Compress(args) => crate::compress::front::compress(&args),
        Command::Run(args) => run::run(&args),
        Command::Verify(args) => run::verify(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::Check(args) => check::check(&args),
        Command::Inspect(args) => look::inspect(&args),
        Command::Ops(args) if args.markdown => crate::pipeline::print_all(&operators::page()),
        Command::Ops(args) => operators::ops(args.json),
        Command::Targets(args) => look::targets(args.json),
        Command::Completions { shell } => look::completions(shell),
    }
}

impl Command {
    /// The model's path, for messages.
    pub fn file(&self) -> String {
        let model = match self {
            Command::Compile(a) => &a.model,
            Command::Compress(a) => &a.model,
            Command::Run(a) => &a.model,
            Command::Verify(a) => &a.model,
            Command::Bench(a) => &a.model,
            Command::Check(a) => &a.model,
            Command::Inspect(a) => &a.model,
            Command::Ops(_) | Command::Targets(_) | Command::Completions { .. } => return "onnxc".to_string(),
        };
        model.model.display().to_string()
    }
}

/// The machine that the command line names. `cpu` is the CPU when it names none.
pub fn target(machine: &Machine, cpu: &str, threads: u32) -> Done<Target> {
    let host = target_lexicon::Triple::host().to_string();
    let triple = machine.target.as_deref().unwrap_or(&host);
    let threads = machine.max_threads.unwrap_or(threads);
    onnxc_targets::describe(triple, machine.cpu.as_deref().unwrap_or(cpu), threads).map_err(|e| Fault::Usage(e.to_string()))
}

/// The target of commands that run code here: this machine with all that it has.
fn this_machine(machine: &Machine, threads: u32) -> Done<Target> {
    if machine.target.as_deref().is_some_and(|t| t != target_lexicon::Triple::host().to_string()) {
        return Err(Fault::Usage("--target: this command runs the model on this machine; use compile for others".to_string()));
    }
    target(machine, if cfg!(target_arch = "x86_64") { "native" } else { "" }, threads)
}
