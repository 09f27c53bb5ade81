//! Facts of a conversion that the file carries: the checkpoint's hash and length, and the recipe
//! asked for.

use std::fs::File;
use std::io::Read;
use std::iter;
use std::path::PathBuf;

use xxhash_rust::xxh3::Xxh3;

use super::equalize::Equalized;
use super::options::ConvertOptions;
use super::recipe::Recipe;
use crate::FormatError;

/// Bytes of all files.
pub(super) fn files_len(files: &[PathBuf]) -> Result<u64, FormatError> {
    let len = |file: &PathBuf| {
        std::fs::metadata(file).map(|m| m.len()).map_err(FormatError::io("read", file))
    };
    files.iter().map(len).sum()
}

/// Hash of all files' bytes, in their order; `each` is called about once a megabyte, and its
/// failure ends it.
pub(super) fn hash_files(
    files: &[PathBuf],
    mut each: impl FnMut() -> Result<(), FormatError>,
) -> Result<String, FormatError> {
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    for path in files {
        let mut file = File::open(path).map_err(FormatError::io("open", path))?;
        loop {
            each()?;
            match file.read(&mut buffer).map_err(FormatError::io("read", path))? {
                0 => break,
                n => hash.update(&buffer[..n]),
            }
        }
    }
    Ok(format!("xxh3-64:{:016x}", hash.digest()))
}

/// How a recipe ends that says what was equalized, or that nothing was to be.
pub(super) fn equalized(
    options: &ConvertOptions,
    Equalized { pairs, largest }: Equalized,
) -> String {
    let listed = options.recipe.iter().flat_map(Recipe::lines).map(|line| line.1);
    let dtypes = iter::once(options.dtype).chain(options.overrides.iter().map(|(_, dtype)| *dtype));
    match (options.equalize, pairs) {
        (true, 0) => String::new(),
        (true, _) => format!(" (equalized {pairs} pairs, largest factor {largest})"),
        // Where nothing is rounded, nothing would have been.
        (false, _) if dtypes.chain(listed).all(|dtype| !dtype.has_scales()) => String::new(),
        (false, _) => " --no-equalize".to_owned(),
    }
}

impl ConvertOptions {
    /// The number formats asked for, as people type them: type, group, and for single matrices
    /// those of a recipe, then those that win over it.
    pub fn formats(&self) -> String {
        let mut formats = format!("--type {}", self.dtype);
        if let Some(group) = self.group {
            formats += &format!(" --group {group}");
        }
        if self.columns {
            formats += " --columns";
        }
        let listed = self.recipe.iter().flat_map(Recipe::lines);
        let own = self.overrides.iter().map(|(pattern, dtype)| (pattern.as_str(), *dtype));
        for (pattern, dtype) in listed.chain(own) {
            formats += &format!(" --override '{pattern}={dtype}'");
        }
        formats
    }
}

/// The options asked for, as people type them; behind each LoRA, the hash of its files.
pub(super) fn recipe(options: &ConvertOptions, lora_hashes: &[String]) -> String {
    let mut recipe = match options.exact {
        true => "--type f32".to_owned(),
        false => options.formats(),
    };
    if options.untie {
        recipe += " --untie";
    }
    for (lora, hash) in options.loras.iter().zip(lora_hashes) {
        let name = lora.path.file_name().unwrap_or_default().to_string_lossy();
        recipe += &format!(" --lora '{name}:{}' ({hash})", lora.scale);
    }
    if let Some(config) = &options.config {
        let name = config.file_name().unwrap_or_default().to_string_lossy();
        recipe += &format!(" --config '{name}'");
    }
    if let Some(assumed) = &options.assume {
        recipe += &format!(" --assume {assumed}");
    }
    recipe
}
