//! The results as they come: a file that is gone on with, or standard output.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use brooklet_formats::FormatError;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::failure::{Failure, Result};
use crate::output;

/// Where results go, and which are there.
pub(super) struct Journal {
    file: Option<(PathBuf, File)>,
    /// The request that each line answers, by its number.
    there: HashMap<usize, String>,
    known: usize,
}

/// The part of a result that tells what it answers.
#[derive(Deserialize)]
struct Answer {
    line: usize,
    request: String,
    /// One that failed is tried again.
    error: Option<IgnoredAny>,
}

impl Journal {
    /// Reads what is there of an earlier time, and goes on behind it. A line that was not finished
    /// is taken away; a file that is none of ours is left alone.
    pub(super) fn open(path: Option<&Path>, inputs: &[PathBuf]) -> Result<Journal> {
        let Some(path) = path else {
            return Ok(Journal { file: None, there: HashMap::new(), known: 0 });
        };
        let there = path.canonicalize();
        let is_input = |input: &PathBuf| {
            there
                .as_ref()
                .is_ok_and(|there| input.canonicalize().is_ok_and(|input| input == *there))
        };
        if let Some(input) = inputs.iter().find(|input| is_input(input)) {
            let (path, input) = (path.to_owned(), input.clone());
            return Err(FormatError::OntoInput { path, input }.into());
        }
        if there.is_ok_and(|there| !there.is_file()) {
            return Err(Failure::usage(
                format!("{}: results go to a regular file", path.display()),
                "give another name, or leave -o away",
            ));
        }
        let failed = |error| Failure::io("write", path.display())(error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let mut file = options.open(path).map_err(failed)?;
        let (there, end) = answers(path, &file)?;
        file.set_len(end).map_err(failed)?;
        file.seek(SeekFrom::Start(end)).map_err(failed)?;
        Ok(Journal { file: Some((path.to_owned(), file)), there, known: 0 })
    }

    /// Whether request number `line` has been answered.
    pub(super) fn has(&mut self, line: usize, print: &str) -> Result<bool> {
        match (self.there.get(&line), &self.file) {
            (Some(there), _) if there == print => {
                self.known += 1;
                Ok(true)
            }
            (Some(_), Some((path, _))) => Err(Failure::usage(
                format!("{}: it answers another request in line {line}", path.display()),
                "give the results of these requests a new name",
            )),
            _ => Ok(false),
        }
    }

    /// How many requests had been answered before.
    pub(super) fn known(&self) -> usize {
        self.known
    }

    /// Adds a result.
    pub(super) fn write(&mut self, result: &impl Serialize) -> Result {
        let Some((path, file)) = &mut self.file else { return output::json_line(result) };
        let line = serde_json::to_string(result);
        let line = line.map_err(|error| Failure::new(format!("JSON: {error}")))? + "\n";
        file.write_all(line.as_bytes()).map_err(Failure::io("write", path.display()))
    }
}

/// The answers in a file of results, and where its last whole line ends.
fn answers(path: &Path, file: &File) -> Result<(HashMap<usize, String>, u64)> {
    let (mut there, mut end, mut bytes) = (HashMap::new(), 0, Vec::new());
    let mut reader = BufReader::new(file);
    loop {
        bytes.clear();
        let read = reader.read_until(b'\n', &mut bytes);
        let read = read.map_err(Failure::io("read", path.display()))?;
        let is_whole = bytes.last() == Some(&b'\n');
        match serde_json::from_slice::<Answer>(&bytes) {
            _ if read == 0 => break,
            Ok(answer) if is_whole => {
                if answer.error.is_none() {
                    there.insert(answer.line, answer.request);
                }
            }
            // Broken off while it was written.
            _ if !is_whole && (end > 0 || bytes.starts_with(b"{\"line\":")) => break,
            _ => {
                return Err(Failure::usage(
                    format!("{}: it is there, and no file of results", path.display()),
                    "give another name",
                ));
            }
        }
        end += read as u64;
    }
    Ok((there, end))
}
