//! Tells the type of each file that is named on the command line; the same as `detect.c` in Rust.

use magika::{Arena, Inputs, Outputs};

const BEGIN: usize = 1024;
const END: usize = 1024;
const BLOCK: usize = 4096;
const PADDING: i32 = 256;
const LABELS: &str = include_str!("../../labels.txt");

fn tokens(file: &[u8]) -> [i32; BEGIN + END] {
    let mut tokens = [PADDING; BEGIN + END];
    let blank = |c: &u8| matches!(c, b' ' | b'\t'..=b'\r');
    let first = &file[..file.len().min(BLOCK)];
    let first = &first[first.iter().take_while(|c| blank(c)).count()..];
    for (token, byte) in tokens.iter_mut().zip(first.iter().take(BEGIN)) {
        *token = i32::from(*byte);
    }
    let last = &file[file.len().saturating_sub(BLOCK)..];
    let last = &last[..last.len() - last.iter().rev().take_while(|c| blank(c)).count()];
    for (token, byte) in tokens.iter_mut().rev().zip(last.iter().rev().take(END)) {
        *token = i32::from(*byte);
    }
    tokens
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let labels: Vec<&str> = LABELS.lines().collect();
    let mut arena = Box::new(Arena::new());
    for path in std::env::args().skip(1) {
        let file = std::fs::read(&path).map_err(|e| format!("{path}: {e}"))?;
        let mut scores = [0f32; 214];
        magika::run(&Inputs { bytes: &tokens(&file) }, &mut Outputs { target_label: &mut scores }, &mut arena)?;
        let (best, score) = scores.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).ok_or("no labels")?;
        let name = path.rsplit('/').next().unwrap_or(&path);
        println!("{name:<16} {:<12} {:5.1} %", labels[best], 100.0 * score);
    }
    Ok(())
}
