//! Moves the bytes of a mapped file into huge pages of memory, while others read them.
//!
//! A file that came by a download or a plain copy lies in the page cache in small pages, and is
//! read more slowly from there: the processor looks up each of them. Two MiB after two MiB are
//! copied to new memory in one huge page, which then takes the place of that part of the map:
//! addresses stay, bytes are the same, and the system lets nobody see anything between.
//!
//! ```text
//! map      small pages │ small pages │ small pages │ …
//! copied        └── copy ► huge page ──┐
//! map      small pages │   huge page ◄─┘ small pages │ …       mremap, in one step
//! ```
//!
//! The memory is the process's own then, beside the page cache: nothing is moved where it is short.
//! Linux alone does this. Test: below.

use std::io;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::bytes::Bytes;

/// Bytes of a huge page.
const HUGE: usize = 2 << 20;
/// Files of fewer bytes stay where they are: caches hold much of them.
const LEAST: usize = 64 << 20;
/// The time after which it begins.
const LATER: Duration = Duration::from_millis(250);

/// A file on its way into huge pages; dropping it stops that, and what has been moved stays.
#[derive(Debug)]
pub struct Moving {
    thread: Option<JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
}

impl Moving {
    /// Begins to move `bytes` in a thread of its own, if they are a large map, if they lie in small
    /// pages, and if there is memory for as many and as many again.
    pub(super) fn begin(bytes: &Bytes) -> Option<Moving> {
        if bytes.len() < LEAST || bytes.mapped().is_none() || !has_huge_pages() {
            return None;
        }
        let available = available().unwrap_or(0);
        if available / 2 < bytes.len() as u64 {
            log::debug!("{available} bytes of memory are free: the file stays in its pages");
            return None;
        }
        let is_over = Arc::new(AtomicBool::new(false));
        let (bytes, stop) = (bytes.clone(), Arc::clone(&is_over));
        let work = move || {
            // The first tokens are waited for, and whoever wants no more has no use for this.
            std::thread::park_timeout(LATER);
            if !stop.load(Ordering::Relaxed) && !lies_in_huge_pages(&bytes) {
                match moved(&bytes, || stop.load(Ordering::Relaxed)) {
                    Ok(n) => log::debug!("{n} bytes stand in huge pages"),
                    Err(error) => log::debug!("the file stays in its pages: {error}"),
                }
            }
        };
        let thread = std::thread::Builder::new().name("brooklet-pages".into()).spawn(work);
        thread.ok().map(|thread| Moving { thread: Some(thread), is_over })
    }

    /// Waits until all of it has been moved.
    pub fn wait(mut self) {
        self.join();
    }

    fn join(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        thread.thread().unpark();
        // A panic in it has been printed; the map is whole at every moment.
        let _ = thread.join();
    }
}

impl Drop for Moving {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.join();
    }
}

/// Moves what whole huge pages cover; the bytes moved before `is_over`.
///
/// # Errors
/// The system has no memory, or does not do this.
fn moved(bytes: &Bytes, is_over: impl Fn() -> bool) -> io::Result<usize> {
    let (first, len) = bytes.mapped().ok_or(io::ErrorKind::Unsupported)?;
    let skipped = first.as_ptr().align_offset(HUGE);
    let mut done = 0;
    for at in (skipped..len).step_by(HUGE).take_while(|at| at + HUGE <= len) {
        if is_over() {
            break;
        }
        system::replace(first, at, &bytes[at..at + HUGE])?;
        done += HUGE;
    }
    Ok(done)
}

/// Whether most of the beginning of a map stands in huge pages.
fn lies_in_huge_pages(bytes: &Bytes) -> bool {
    let Some((first, len)) = bytes.mapped() else { return true };
    let touched = len.min(8 * HUGE);
    let sum = bytes[..touched].iter().step_by(4096).fold(0u8, |sum, b| sum.wrapping_add(*b));
    std::hint::black_box(sum);
    let maps = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let begins = format!("{:x}-", first.as_ptr().addr());
    let mut lines = maps.lines().skip_while(|line| !line.starts_with(&begins));
    let kilobytes = lines.find_map(|line| line.strip_prefix("FilePmdMapped:"));
    let kilobytes = kilobytes.and_then(|line| line.trim().split(' ').next()?.parse::<usize>().ok());
    kilobytes.unwrap_or(0) >= touched >> 11
}

/// Whether the system gives memory in huge pages to whoever asks, and they are as large as here.
fn has_huge_pages() -> bool {
    let read =
        |name: &str| std::fs::read_to_string(format!("/sys/kernel/mm/transparent_hugepage/{name}"));
    read("hpage_pmd_size").is_ok_and(|bytes| bytes.trim() == HUGE.to_string())
        && read("enabled").is_ok_and(|enabled| !enabled.contains("[never]"))
}

/// Bytes of memory that this process may still take, by the system and by its control groups.
fn available() -> Option<u64> {
    let number = |path: &str| std::fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let info = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let mut available = line.trim().split(' ').next()?.parse::<u64>().ok()? << 10;
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    for group in std::path::Path::new(own).ancestors() {
        let file = |name: &str| format!("/sys/fs/cgroup{}/{name}", group.display());
        if let (Some(most), Some(taken)) =
            (number(&file("memory.max")), number(&file("memory.current")))
        {
            available = available.min(most.saturating_sub(taken));
        }
    }
    Some(available)
}

#[cfg(target_os = "linux")]
mod system {
    use rustix::mm::{
        Advice, MapFlags, MprotectFlags, MremapFlags, ProtFlags, madvise, mmap_anonymous, mprotect,
        mremap_fixed, munmap,
    };

    use super::*;

    /// Memory of our own, so many bytes; given back, unless it takes a place.
    struct Spare(*mut u8, usize);

    impl Drop for Spare {
        #[allow(unsafe_code)]
        fn drop(&mut self) {
            // SAFETY: memory that `replace` has taken, of which nobody has a reference.
            let _ = unsafe { munmap(self.0.cast(), self.1) };
        }
    }

    /// A huge page with the bytes of `part` takes the place of the map's bytes from `at` on, which
    /// are these.
    ///
    /// # Errors
    /// There is no memory; the map is as it was.
    #[allow(unsafe_code)]
    pub(super) fn replace(map: NonNull<u8>, at: usize, part: &[u8]) -> io::Result<()> {
        assert_eq!(part.len(), HUGE);
        let (any, rights) = (std::ptr::null_mut(), ProtFlags::READ | ProtFlags::WRITE);
        // SAFETY: new memory, wherever the system puts it.
        let all = unsafe { mmap_anonymous(any, 2 * HUGE, rights, MapFlags::PRIVATE) }?.cast::<u8>();
        // One whole huge page of it is aligned; what stands before and behind it goes back at once.
        let before = all.align_offset(HUGE);
        let page = Spare(all.wrapping_add(before), HUGE);
        for (at, len) in [(0, before), (before + HUGE, HUGE - before)] {
            drop((len > 0).then(|| Spare(all.wrapping_add(at), len)));
        }
        // A reference to the map holds: its address and length stay, and so do its bytes.
        // SAFETY: `page` is a new huge page, which nobody else has, `part` is as long (asserted),
        // and the place that it takes lies within the map (`moved`) and has these bytes.
        unsafe {
            madvise(page.0.cast(), HUGE, Advice::LinuxHugepage)?;
            std::ptr::copy_nonoverlapping(part.as_ptr(), page.0, HUGE);
            mprotect(page.0.cast(), HUGE, MprotectFlags::READ)?;
            let to = map.as_ptr().add(at).cast();
            mremap_fixed(page.0.cast(), HUGE, HUGE, MremapFlags::MAYMOVE, to)?;
        }
        // It stands elsewhere now.
        std::mem::forget(page);
        Ok(())
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use super::*;

    /// Nothing is moved.
    pub(super) fn replace(_: NonNull<u8>, _: usize, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    /// Bytes stay the same, and where they are, while others read them; the file is left alone.
    #[test]
    fn bytes_move_under_their_readers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bytes");
        let numbers: Vec<u8> =
            (0..3 * HUGE + 5000).map(|i| (i / 4096) as u8 ^ (i % 251) as u8).collect();
        std::fs::write(&path, &numbers).unwrap();
        let bytes = Bytes::open(&path, true).unwrap();
        let before = bytes.as_ptr();
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    assert!(*bytes == *numbers);
                }
            });
            let n = moved(&bytes, || false).unwrap();
            is_over.store(true, Ordering::Relaxed);
            assert!((2 * HUGE..=3 * HUGE).contains(&n), "{n}");
        });
        assert_eq!(bytes.as_ptr(), before);
        // What has been moved is no longer the file's.
        std::fs::write(&path, vec![7; numbers.len()]).unwrap();
        let first = before.align_offset(HUGE);
        assert!(bytes[first..first + HUGE] == numbers[first..first + HUGE]);
        assert_eq!(moved(&bytes, || true).unwrap(), 0);
    }

    #[test]
    fn memory_of_this_process_is_known() {
        assert!(available().unwrap() > 1 << 20);
    }

    #[test]
    fn what_is_small_or_no_map_stays() {
        assert!(Moving::begin(&Bytes::default()).is_none());
    }
}
