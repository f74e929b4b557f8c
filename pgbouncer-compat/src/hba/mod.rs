//! `auth_hba_file` and `auth_ident_file`, in PostgreSQL's syntax of version 18, which PgBouncer's is a part of.
//!
//! PgBouncer skips a line that it cannot read. Where that line was to reject somebody, this would let him in, so here it
//! is a fault: the pooler does not start, and one that runs keeps its rules.

mod ident;
mod method;
mod rules;
mod tokens;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pooler::config::{HbaRule, IdentMap};

use crate::finding::{Finding, Place, Report};
use tokens::Line;

/// How files are fetched.
#[derive(Clone, Copy)]
pub struct Files<'a> {
    /// The content of a file.
    pub read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// The names of the files in a directory, in any order.
    pub list: &'a dyn Fn(&Path) -> io::Result<Vec<PathBuf>>,
}

impl<'a> Files<'a> {
    /// Directories as they are, files by way of `read`.
    pub fn read_by(read: &'a dyn Fn(&Path) -> io::Result<Vec<u8>>) -> Files<'a> {
        Files { read, list: &list }
    }
}

/// The files of a directory, but not the directories in it.
fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if !path.is_dir() {
            files.push(path);
        }
    }
    Ok(files)
}

/// What a file says, and what is wrong with it. A line at fault is left out.
#[derive(Debug)]
pub struct Parsed<T> {
    /// The entries, in the order of the file.
    pub entries: Vec<T>,
    /// Why it can't be used; empty if it can.
    pub faults: Vec<Finding>,
    /// What is probably not meant.
    pub warnings: Vec<Finding>,
}

/// Reads an HBA file and all that it includes. Maps that rules name are looked up among `maps`.
pub fn read_rules(path: &Path, files: Files<'_>, maps: &[Arc<IdentMap>]) -> Parsed<HbaRule> {
    read(path, files, |line, report| rules::rule(line, maps, report))
}

/// Reads an ident file and all that it includes.
pub fn read_maps(path: &Path, files: Files<'_>) -> Parsed<Arc<IdentMap>> {
    let Parsed { entries, faults, warnings } = read(path, files, |line, _| ident::entry(line));
    Parsed { entries: ident::by_name(entries), faults, warnings }
}

/// What a line is read to, or what is wrong with it.
type Outcome<T> = Result<T, Complaint>;

/// What is wrong, in PostgreSQL's words where it has any, and what to do.
#[derive(Debug)]
struct Complaint(String, String);

impl Complaint {
    fn new(message: impl Into<String>, advice: impl Into<String>) -> Complaint {
        Complaint(message.into(), advice.into())
    }
}

fn read<T>(
    path: &Path,
    files: Files<'_>,
    mut entry: impl FnMut(&Line, &mut Report) -> Outcome<T>,
) -> Parsed<T> {
    let mut report = Report::default();
    let mut entries = Vec::new();
    for line in tokens::read(path, files, &mut report) {
        match entry(&line, &mut report) {
            Ok(entry) => entries.push(entry),
            Err(Complaint(message, advice)) => report.fault(&line.place, message, advice),
        }
    }
    report.faults.sort_by(|a, b| a.place.cmp(&b.place)); // those of lines, and of what is in them
    Parsed { entries, faults: report.faults, warnings: report.warnings }
}

/// The file that a line of another names.
fn beside(place: &Place, name: &str) -> PathBuf {
    // An absolute name takes the place of the directory.
    place.file.parent().unwrap_or(Path::new("")).join(name)
}

#[cfg(test)]
mod tests;
