//! Conversion: a checkpoint in, a `.brk` file out, with progress and cancel.
//!
//! Not here: the conversion (`brooklet_formats::convert`); builds without the feature `convert`
//! refuse. Tests: `tests/contract/border.rs`,
//! `tests/contract/overwriting.rs`.

use std::ffi::{c_char, c_void};

use super::failure::{Result, brooklet_result, call};
use super::model::brooklet_progress;
use super::options::{Options, Report, init};

/// How to convert. Set by brooklet_convert_options_init.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_convert_options {
    /// Bytes of this struct, as its user was compiled.
    pub size: usize,
    /// The number format of the big matrices: "f32", "f16", "bf16", "int8", "int6", "int5",
    /// "int4", "int4-v1", "fp8-e4m3", "fp8-e5m2", "lmul"; NULL for "int8".
    pub dtype: *const c_char,
    /// A tokenizer.json or a World vocabulary instead of the checkpoint's own; NULL for that.
    pub tokenizer: *const c_char,
    /// Regular expressions on the names of matrices, and the number formats of those that match;
    /// the last that matches wins. NULL where there are none.
    pub override_patterns: *const *const c_char,
    /// As many formats.
    pub override_dtypes: *const *const c_char,
    /// How many.
    pub n_override: usize,
    /// Columns per scale: 32, 64 or 128; 0 for the format's own choice. Default 0.
    pub group: u32,
    /// Must be 0.
    pub reserved: u32,
    /// 1 replaces what stands at the target though it is no .brk file; what belongs to the source
    /// is never replaced. Default 0. Since version 2 of the interface.
    pub force: u32,
    /// Must be 0.
    pub reserved2: u32,
}

// SAFETY: numbers and pointers.
unsafe impl Options for brooklet_convert_options {
    const FIRST_SIZE: usize = std::mem::offset_of!(brooklet_convert_options, force);

    fn defaults() -> Self {
        brooklet_convert_options {
            size: size_of::<Self>(),
            dtype: std::ptr::null(),
            tokenizer: std::ptr::null(),
            override_patterns: std::ptr::null(),
            override_dtypes: std::ptr::null(),
            n_override: 0,
            group: 0,
            reserved: 0,
            force: 0,
            reserved2: 0,
        }
    }

    fn size_mut(&mut self) -> &mut usize {
        &mut self.size
    }

    fn reserved(&self) -> u64 {
        u64::from(self.reserved) + u64::from(self.reserved2)
    }
}

/// Fills in the defaults; `size` is sizeof(brooklet_convert_options).
///
/// Threads: any.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_convert_options_init(
    options: *mut brooklet_convert_options,
    size: usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    call(|| unsafe { init(options, size) })
}

/// Sizes of a converted file.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct brooklet_converted {
    /// Tensors.
    pub n_tensor: u64,
    /// Weights.
    pub n_weight: u64,
    /// Bytes of the checkpoint's files.
    pub source_bytes: u64,
    /// Bytes of the file written.
    pub target_bytes: u64,
    /// Bits of tensor data per weight, scales and padding included.
    pub bits_per_weight: f64,
}

// SAFETY: four u64 and an f64.
unsafe impl Report for brooklet_converted {}

/// Converts the checkpoint at `source` and puts the result at `target`, whole or not at all.
/// Nothing that belongs to the source, nor the tokenizer given, is written onto, whatever name or
/// link `target` is; a .brk file that is there is replaced, and anything else only with the option
/// `force`. Where that forbids it, nothing is written and the result is BROOKLET_EXISTS. `options`
/// may be NULL. `progress`, which may be NULL, counts weights; when it asks to stop, nothing is
/// left behind. `converted`, which may be NULL, gets what was written; `size` is
/// sizeof(brooklet_converted). BROOKLET_UNSUPPORTED without BROOKLET_FEATURE_CONVERT.
///
/// Threads: any; `progress` is called on the caller's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn brooklet_convert(
    source: *const c_char,
    target: *const c_char,
    options: *const brooklet_convert_options,
    progress: brooklet_progress,
    user: *mut c_void,
    converted: *mut brooklet_converted,
    size: usize,
) -> brooklet_result {
    // SAFETY: the caller's promise (top of the header).
    call(|| unsafe { run(source, target, options, progress, user, converted, size) })
}

/// # Safety
/// All arguments are as [`brooklet_convert`] asks.
#[cfg(feature = "convert")]
unsafe fn run(
    source: *const c_char,
    target: *const c_char,
    options: *const brooklet_convert_options,
    progress: brooklet_progress,
    user: *mut c_void,
    converted: *mut brooklet_converted,
    size: usize,
) -> Result {
    use std::ops::ControlFlow;

    use brooklet_formats::DType;
    use brooklet_formats::convert::{ConvertOptions, convert};

    use super::arguments::{optional_string, path, strings};
    use super::failure::Failure;
    use super::model::reporter;
    use super::options::{optional_report, read};

    let parse = |name: &str| {
        let known = || DType::ALL.map(DType::name).join(", ");
        DType::parse(name).ok_or_else(|| {
            Failure::argument(format!("number format {name:?}: expected one of {}", known()))
        })
    };
    // SAFETY: the caller's promise (top of the header) to the exported function above.
    unsafe {
        let (source, target, asked) =
            (path(source, "source")?, path(target, "target")?, read(options)?);
        let to = optional_report(converted, size)?;
        let mut options =
            ConvertOptions::new(parse(optional_string(asked.dtype, "dtype")?.unwrap_or("int8"))?);
        options.group = (asked.group != 0).then_some(asked.group as usize);
        if !asked.tokenizer.is_null() {
            options.tokenizer = Some(path(asked.tokenizer, "tokenizer")?.to_owned());
        }
        let patterns = strings(asked.override_patterns, asked.n_override, "override_patterns")?;
        let dtypes = strings(asked.override_dtypes, asked.n_override, "override_dtypes")?;
        for (pattern, dtype) in patterns.iter().zip(&dtypes) {
            let pattern = regex_lite::Regex::new(pattern)
                .map_err(|error| Failure::argument(error.to_string()))?;
            options.overrides.push((pattern, parse(dtype)?));
        }
        options.force = match asked.force {
            0 => false,
            1 => true,
            other => return Err(Failure::argument(format!("force {other}: expected 0 or 1"))),
        };
        let mut go_on = reporter(progress, user);
        let summary = convert(source, target, &options, &mut |progress| {
            if go_on(progress.done, progress.total) {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        })?;
        let report = brooklet_converted {
            n_tensor: summary.n_tensors as u64,
            n_weight: summary.n_weights,
            source_bytes: summary.source_bytes,
            target_bytes: summary.target_bytes,
            bits_per_weight: summary.bits_per_weight,
        };
        if let Some(to) = to {
            to.write(report);
        }
        Ok(())
    }
}

/// # Safety
/// None is needed: nothing is touched.
#[cfg(not(feature = "convert"))]
unsafe fn run(
    _: *const c_char,
    _: *const c_char,
    _: *const brooklet_convert_options,
    _: brooklet_progress,
    _: *mut c_void,
    _: *mut brooklet_converted,
    _: usize,
) -> Result {
    Err(brooklet::EngineError::NotBuilt { what: "brooklet_convert", feature: "convert" }.into())
}
