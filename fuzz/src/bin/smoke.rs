//! Runs the targets on the stable compiler: inputs are mutations of a small corpus, the same for the same seed.

use std::fmt::Write;
use std::panic::{catch_unwind, set_hook, take_hook};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use pgferry_fuzz::{TARGETS, Target};

const USAGE: &str =
    "usage: smoke [--seconds N | --inputs N] [--seed N] [TARGET...]\n       smoke --replay TARGET HEX";

/// Longest input made, in bytes.
const MAX_LEN: usize = 4096;

struct Options {
    /// For each target.
    length: Length,
    seed: u64,
    /// None: all.
    targets: Vec<String>,
}

/// How long a target runs.
enum Length {
    Time(Duration),
    Inputs(u64),
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--replay", target, hex] => replay(target, hex),
        _ => options(&args).and_then(|options| run_all(&options)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn options(args: &[String]) -> Result<Options, String> {
    let mut options = Options { length: Length::Time(Duration::from_secs(5)), seed: 1, targets: Vec::new() };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|n| n.parse::<u64>().ok()).ok_or(USAGE);
        match arg.as_str() {
            "--seconds" => options.length = Length::Time(Duration::from_secs(number()?)),
            "--inputs" => options.length = Length::Inputs(number()?),
            "--seed" => options.seed = number()?,
            name => options.targets.push(find(name)?.name.to_owned()),
        }
    }
    Ok(options)
}

fn find(name: &str) -> Result<&'static Target, String> {
    TARGETS.iter().find(|target| target.name == name).ok_or_else(|| format!("no target {name}\n{USAGE}"))
}

fn replay(target: &str, hex: &str) -> Result<(), String> {
    let bytes: Option<Vec<u8>> = (0..hex.len())
        .step_by(2)
        .map(|at| hex.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok()))
        .collect();
    (find(target)?.run)(&bytes.ok_or("not hex digits")?);
    Ok(())
}

fn run_all(options: &Options) -> Result<(), String> {
    let chosen =
        |target: &&Target| options.targets.is_empty() || options.targets.iter().any(|n| n == target.name);
    for target in TARGETS.iter().filter(chosen) {
        let inputs = run(target, options)?;
        println!("{}: {inputs} inputs", target.name);
    }
    Ok(())
}

fn run(target: &Target, options: &Options) -> Result<u64, String> {
    let corpus = (target.corpus)();
    let mut random = Random(options.seed);
    let start = Instant::now();
    let mut inputs = 0;
    let goes_on = |inputs| match options.length {
        Length::Time(time) => start.elapsed() < time,
        Length::Inputs(wanted) => inputs < wanted,
    };
    while inputs < corpus.len() as u64 || goes_on(inputs) {
        // The corpus as it is comes first.
        let input = match corpus.get(inputs as usize) {
            Some(input) => input.clone(),
            None => mutate(&corpus, &mut random),
        };
        if fails(target, &input) {
            let mut hex = String::new();
            shrink(target, input)
                .iter()
                .try_for_each(|byte| write!(hex, "{byte:02x}"))
                .map_err(|e| e.to_string())?;
            return Err(format!("failed: --replay {} {hex}", target.name));
        }
        inputs += 1;
    }
    Ok(inputs)
}

fn fails(target: &Target, input: &[u8]) -> bool {
    catch_unwind(|| (target.run)(input)).is_err()
}

/// Leaves out whatever the failure does not need.
fn shrink(target: &Target, mut input: Vec<u8>) -> Vec<u8> {
    let hook = take_hook();
    set_hook(Box::new(|_| {}));
    let mut chunk = input.len().next_power_of_two();
    while chunk > 0 {
        let mut at = 0;
        while at < input.len() {
            let mut shorter = input.clone();
            shorter.drain(at..(at + chunk).min(input.len()));
            if fails(target, &shorter) {
                input = shorter;
            } else {
                at += chunk;
            }
        }
        chunk /= 2;
    }
    set_hook(hook);
    input
}

fn mutate(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = if random.below(8) == 0 {
        (0..random.below(200)).map(|_| random.byte()).collect()
    } else {
        corpus[random.below(corpus.len())].clone()
    };
    for _ in 0..random.below(8) {
        change(&mut bytes, corpus, random);
    }
    bytes.truncate(MAX_LEN);
    bytes
}

fn change(bytes: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let end = at + random.below((bytes.len() - at).min(64) + 1);
    match random.below(8) {
        0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        1 if at < bytes.len() => bytes[at] = random.byte(),
        2 => bytes.insert(at, random.byte()),
        3 => drop(bytes.drain(at..end)),
        4 => {
            let copy = bytes[at..end].to_vec();
            let to = random.below(bytes.len() + 1);
            bytes.splice(to..to, copy);
        }
        5 => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len() + 1);
            bytes.splice(at..end, other[from..].iter().copied());
        }
        6 => {
            let number = [0, 1, -1, 3, 4, 255, 0x7fff_ffff, i32::MIN][random.below(8)];
            bytes.splice(at..end.min(at + 4), number.to_be_bytes());
        }
        _ => {
            let some: Vec<u8> = (0..random.below(16)).map(|_| random.byte()).collect();
            bytes.splice(at..at, some);
        }
    }
}

/// SplitMix64: any seed gives a good sequence.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.next() as u8
    }
}
