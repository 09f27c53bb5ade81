//! `brooklet verify`: reads a whole file and compares every checksum.
//!
//! Then it opens the file as a model, which checks hyper-parameters and shapes. Test:
//! `tests/cli/inspect.rs`.

use std::ops::ControlFlow;
use std::path::PathBuf;

use brooklet::{Model, ModelOptions};
use brooklet_formats::brk::BrkFile;

use crate::failure::Result;
use crate::{output, progress, units};

/// Checks that a model file is undamaged and complete.
///
/// Every byte is read and compared with its checksum, then the model is opened. The exit code is 0
/// only if all is well.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example:
  brooklet verify model.brk && echo fine")]
pub(crate) struct Args {
    /// The model (.brk)
    model: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &Args, quiet: bool) -> Result {
    let file = BrkFile::open(&args.model)?;
    let bar = progress::bar(0, progress::Unit::Bytes, quiet);
    let verified = file.verify(|done, total| {
        progress::show(&bar, done, total);
        ControlFlow::Continue(())
    });
    bar.finish_and_clear();
    verified?;
    let model = Model::from_file(file.clone(), &ModelOptions::default())?;
    model.tokenizer()?;
    if quiet {
        return Ok(());
    }
    output::text(&format!(
        "{}: ok, {} tensors, {}\n",
        args.model.display(),
        file.tensors().len(),
        units::bytes(file.file_len())
    ))
}
