//! The time, as templates ask for it. Test: `tests` beside this file.

/// The local time.
#[cfg(not(all(target_family = "wasm", target_os = "unknown")))]
pub(super) fn now(layout: &str) -> Result<String, String> {
    /// Bytes of a `strftime` layout at most.
    const MAX_LAYOUT: usize = 1000;
    if layout.len() > MAX_LAYOUT {
        return Err("the layout is too long".to_owned());
    }
    jiff::fmt::strtime::format(layout, &jiff::ZonedDateTime::now())
        .map_err(|error| error.to_string())
}

/// WebAssembly without a system has no clock.
#[cfg(all(target_family = "wasm", target_os = "unknown"))]
pub(super) fn now(_: &str) -> Result<String, String> {
    Err("there is no clock here".to_owned())
}
