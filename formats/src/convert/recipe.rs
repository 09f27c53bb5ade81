//! [`Recipe`]: number formats of matrices as a file has them, one pattern a line.
//!
//! A line is what `--override` takes, `PATTERN=TYPE`; blank lines and those that begin with `#` say
//! nothing. A line must match a matrix, and no two the same one: a recipe for another model is a
//! mistake that shall not pass. Matrices without a line get what the other options say. Not here:
//! how a recipe is found (`tools/quantize`). Test: below.

use std::path::{Path, PathBuf};

use regex_lite::{Regex, RegexBuilder};

use crate::{DType, FormatError};

/// The longest file, and the most lines, that are taken for a recipe; a model of 100 layers has
/// some 40 lines.
const MAX_LEN: usize = 1 << 20;
const MAX_LINES: usize = 4096;

/// Bytes that a pattern may take while it is compiled.
const MAX_PATTERN: usize = 1 << 20;

/// Number formats of matrices by patterns on their names.
#[derive(Clone, Debug)]
pub struct Recipe {
    /// The file, which errors name.
    path: PathBuf,
    lines: Vec<Line>,
}

#[derive(Clone, Debug)]
struct Line {
    number: usize,
    pattern: Regex,
    dtype: DType,
}

impl Recipe {
    /// Reads the bytes of the file at `path`.
    ///
    /// # Errors
    /// It is too large or no text, or a line is no `PATTERN=TYPE`.
    pub fn parse(path: &Path, bytes: &[u8]) -> Result<Recipe, FormatError> {
        let failed = |line, problem| FormatError::Recipe { path: path.to_owned(), line, problem };
        if bytes.len() > MAX_LEN {
            let problem = format!("the file has {} bytes, more than any recipe", bytes.len());
            return Err(failed(1, problem));
        }
        let text = std::str::from_utf8(bytes).map_err(|error| {
            let line = 1 + bytes[..error.valid_up_to()].iter().filter(|b| **b == b'\n').count();
            failed(line, "this is no text".to_owned())
        })?;
        let mut lines = Vec::new();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if lines.len() == MAX_LINES {
                return Err(failed(number, format!("more than {MAX_LINES} patterns")));
            }
            let (pattern, dtype) = line.rsplit_once('=').ok_or_else(|| {
                let expected = r"expected PATTERN=TYPE, such as ^layers\.0\.att\.key$=int5";
                failed(number, expected.to_owned())
            })?;
            let dtype = dtype.parse().map_err(|error| failed(number, format!("{error}")))?;
            let pattern = RegexBuilder::new(pattern).size_limit(MAX_PATTERN).build();
            let pattern = pattern.map_err(|error| failed(number, error.to_string()))?;
            lines.push(Line { number, pattern, dtype });
        }
        if lines.is_empty() {
            return Err(failed(1, "no line says PATTERN=TYPE".to_owned()));
        }
        Ok(Recipe { path: path.to_owned(), lines })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The patterns and their number formats, in the order of the file.
    pub fn lines(&self) -> impl Iterator<Item = (&str, DType)> {
        self.lines.iter().map(|line| (line.pattern.as_str(), line.dtype))
    }

    /// The number format of the matrix `name`, if there is a line for it.
    pub(super) fn dtype_of(&self, name: &str) -> Option<DType> {
        self.lines.iter().find(|line| line.pattern.is_match(name)).map(|line| line.dtype)
    }

    /// Checks the lines against the names of all matrices.
    ///
    /// # Errors
    /// A line matches none, or two match the same.
    pub fn check<'a>(
        &self,
        matrices: impl IntoIterator<Item = &'a str>,
    ) -> Result<(), FormatError> {
        let failed = |line: &Line, problem| {
            Err(FormatError::Recipe { path: self.path.clone(), line: line.number, problem })
        };
        let mut used = vec![false; self.lines.len()];
        for name in matrices {
            let mut of = self.lines.iter().zip(&mut used);
            let mut of = of.by_ref().filter(|(line, _)| line.pattern.is_match(name));
            let Some((first, used)) = of.next() else { continue };
            *used = true;
            if let Some((second, _)) = of.next() {
                let problem = format!("line {} is for the matrix {name} too", first.number);
                return failed(second, problem);
            }
        }
        match self.lines.iter().zip(used).find(|(_, used)| !used) {
            None => Ok(()),
            Some((line, _)) => {
                let pattern = line.pattern.as_str();
                failed(line, format!("the model has no matrix that {pattern:?} matches"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &[u8]) -> Result<Recipe, String> {
        Recipe::parse(Path::new("x.recipe"), text).map_err(|error| error.to_string())
    }

    #[test]
    fn lines_are_found_and_checked() {
        let text = b"# head first\n^head$=int6\n\n  ^layers\\.[01]\\.a$=int5\r\n^a=b=f16\n";
        let recipe = parse(text).expect("a recipe");
        let lines: Vec<_> = recipe.lines().collect();
        let layers = (r"^layers\.[01]\.a$", DType::Int5);
        assert_eq!(lines, [("^head$", DType::Int6), layers, ("^a=b", DType::F16)]);
        assert_eq!(recipe.dtype_of("layers.1.a"), Some(DType::Int5));
        assert_eq!(recipe.dtype_of("layers.2.a"), None);
        recipe.check(["head", "layers.0.a", "layers.2.a", "a=b"]).expect("all have their matrix");
        let error = recipe.check(["head", "a=b"]).expect_err("no layers").to_string();
        assert!(error.contains("x.recipe: line 4: the model has no matrix"), "{error}");
        let twice = parse(b"a=int4\nb=int5\nlayers=int8").expect("a recipe");
        let error = twice.check(["a", "b", "layers"]).expect_err("twice").to_string();
        assert!(error.contains("line 3: line 1 is for the matrix layers too"), "{error}");
    }

    #[test]
    fn nonsense_is_refused_by_its_line() {
        let long = [b"a=int4\n".as_slice(); 5000].concat();
        let huge = vec![b'\n'; MAX_LEN + 1];
        let deep = [b"(".repeat(10_000).as_slice(), b"=int4"].concat();
        for (text, expected) in [
            (&b""[..], "line 1: no line"),
            (b"# only words", "line 1: no line"),
            (b"head", "line 1: expected PATTERN=TYPE"),
            (b"a=int4\nhead=int3", "line 2: unknown number format \"int3\""),
            (b"\n(=int4", "line 2: "),
            (b"((a{1000}){1000}){1000}=int4", "line 1: "),
            (b"a=int4\n\xff=int4", "line 2: this is no text"),
            (&deep, "line 1: "),
            (&long, "line 4097: more than 4096"),
            (&huge, "line 1: the file has"),
        ] {
            let error = parse(text).expect_err("no recipe");
            assert!(error.contains(expected), "{error:?} is not {expected:?}");
        }
    }
}
