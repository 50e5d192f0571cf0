//! onnxc, the compiler driver: command line, pipeline, files, messages.

pub mod cli;
mod commands;
mod compress;
pub mod data;
pub mod fault;
pub mod nir;
pub mod pipeline;
pub mod plan_text;
pub mod profile;
mod progress;
mod reproducer;
mod sizes;
mod tune;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;

/// The process: parses the command line, runs the command, prints what went wrong, answers the exit code.
pub fn main() -> ExitCode {
    // clap exits with 2 on its own for a wrong command line and with 0 for --help.
    let cli = cli::Cli::parse();
    let color = match cli.global.color {
        cli::Color::Always => true,
        cli::Color::Never => false,
        cli::Color::Auto => std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
    };
    // Fails only when a pool exists already, and then that one serves as well.
    let _ = rayon::ThreadPoolBuilder::new().num_threads(cli.global.jobs).stack_size(64 << 20).build_global();
    // Deep graphs and expressions are walked recursively; a thread of our own gives them room.
    let (format, file) = (cli.global.message_format, cli.command.file());
    fault::set_look(format, color);
    let worker = std::thread::Builder::new().stack_size(1 << 28).spawn(move || reproducer::guard(|| commands::run(cli.command)));
    let result = worker.map(std::thread::JoinHandle::join);
    match result {
        Ok(Ok(Ok(()))) => ExitCode::SUCCESS,
        Ok(Ok(Err(fault))) => {
            fault.print(&file, format, color);
            ExitCode::from(fault.exit_code())
        }
        _ => {
            eprintln!("onnxc: cannot start a thread");
            ExitCode::from(3)
        }
    }
}
