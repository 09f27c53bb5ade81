//! How much memory this process has held at most.
//!
//! Resident memory, mapped file pages included, as the system counts it. Test: `tests/cli/bench.rs`
//! through `bench --json`.

/// Forgets the peak so far, where the system can (Linux: `/proc/self/clear_refs`).
pub(crate) fn reset_peak() {
    if cfg!(target_os = "linux") {
        // Not offered in some containers; the peak then includes what came before.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
    }
}

/// The most bytes that were resident at once; 0 where the system does not say.
pub(crate) fn peak() -> u64 {
    field("/proc/self/status", "VmHWM:").or_else(usage).unwrap_or(0)
}

/// The bytes that are this process's own: not those of files, which others may share; where the
/// system says.
pub(crate) fn private() -> Option<u64> {
    field("/proc/self/status", "RssAnon:")
}

/// Resident bytes by what they lie in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Resident {
    /// This process's own: not those of files, which others may share.
    pub(crate) private: u64,
    /// The share of all resident bytes that huge pages map.
    pub(crate) huge: f64,
}

/// Resident bytes now, where the system says.
pub(crate) fn resident() -> Option<Resident> {
    // One line per kind, summed over all mappings ("The /proc filesystem", Linux).
    let of = |name| field("/proc/self/smaps_rollup", name);
    let all = of("Rss:")?;
    let huge = of("AnonHugePages:")? + of("FilePmdMapped:").unwrap_or(0);
    Some(Resident { private: of("Anonymous:")?, huge: huge as f64 / all.max(1) as f64 })
}

/// The bytes that a program may take without harm to others, where the system says.
pub(crate) fn available() -> Option<u64> {
    field("/proc/meminfo", "MemAvailable:")
}

/// A field of one of Linux's status files, which count in KiB.
fn field(file: &str, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(file).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(unix)]
fn usage() -> Option<u64> {
    use nix::sys::resource::{UsageWho, getrusage};
    let most = u64::try_from(getrusage(UsageWho::RUSAGE_SELF).ok()?.max_rss()).ok()?;
    // KiB everywhere but on Apple's systems, which count bytes.
    Some(if cfg!(target_vendor = "apple") { most } else { most * 1024 })
}

#[cfg(not(unix))]
fn usage() -> Option<u64> {
    None
}
