//! The mapping of one file, the guard that keeps a truncated file from killing the process, and what only Linux has.
//!
//! It owns every `unsafe` of the storage and the seam to Linux: `fallocate`, the `madvise` calls, `sync_file_range`.
//! Elsewhere [`Map::new`] says that it is unsupported and the storage goes the portable way (pwrite and pread).
//! It refuses to hand out a reference into a mapping, except as an [`IoSlice`] for a system call: another process may
//! change or cut off the file at any time, and a Rust reference promises that nobody does.
#![allow(unsafe_code, reason = "raw mappings and a signal handler cannot be had without; each block has its argument")]

use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use self::guard::Slot;

/// How many bytes are read ahead of an upload (what a few peers in the same place need next).
const READ_AHEAD: u64 = 256 * 1024;

/// How many places of one file are remembered as read ahead: about one for each peer that is served at a time. Only a
/// hint depends on it.
const READ_AHEAD_PLACES: usize = 128;

/// What the kernel maps around one fault (`fault_around_bytes`), so what a release has to cover.
const FAULT_AROUND: u64 = 64 * 1024;

/// A shared mapping of a whole file. It needs no open descriptor.
#[derive(Debug)]
pub(super) struct Map {
    /// Entry in the table of the SIGBUS guard. Declared before `raw` to be dropped before it: once the addresses are
    /// given back the guard must not take them for ours.
    slot: Slot,
    raw: MmapRaw,
    /// There is no disk behind the file.
    in_memory: bool,
    /// For each of a few places, the number of the window (plus 1) that was read ahead last. Any thread; a lost update
    /// costs one needless hint.
    ahead: [AtomicU32; READ_AHEAD_PLACES],
}

impl Map {
    /// Maps the first `len` bytes of `file`, which must have that many.
    pub(super) fn new(file: &File, len: u64, writable: bool) -> io::Result<Self> {
        if !cfg!(target_os = "linux") {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::Unsupported)?;
        let mut options = MmapOptions::new();
        options.len(len);
        let raw = if writable { options.map_raw(file)? } else { options.map_raw_read_only(file)? };
        if writable {
            // Else the first fault of a piece reads (or zeroes) a neighbourhood that is about to be overwritten: on ext4
            // storing took twice the time. Uploads read ahead by themselves.
            let _ = raw.advise(memmap2::Advice::Random);
        }
        let start = raw.as_ptr() as usize;
        let slot = Slot::claim(start..start + len)?;
        let ahead = [const { AtomicU32::new(0) }; READ_AHEAD_PLACES];
        Ok(Self { slot, raw, in_memory: in_memory(file), ahead })
    }

    /// Makes the pages of `offset..offset + len` present and writable, so that storing there cannot fault: whatever is
    /// wrong (no room, no memory, truncated, an old kernel) is an error here instead of a signal there.
    pub(super) fn populate(&self, offset: u64, len: usize) -> io::Result<()> {
        if !self.in_memory {
            // All pages of a range are made at once a tenth to a fifth cheaper than fault by fault. Only a hint.
            let _ = self.raw.advise_range(memmap2::Advice::WillNeed, self.at(offset, len), len);
        }
        #[cfg(target_os = "linux")]
        return self.raw.advise_range(memmap2::Advice::PopulateWrite, self.at(offset, len), len);
        #[cfg(not(target_os = "linux"))]
        return Err(io::ErrorKind::Unsupported.into());
    }

    /// Copies `parts`, one after the other, to `offset`. Whether they arrived, [`vanished`](Self::vanished) says.
    /// The mapping must have been made writable.
    pub(super) fn store<'a>(&self, mut offset: u64, parts: impl Iterator<Item = &'a [u8]>) {
        for part in parts {
            let at = self.at(offset, part.len());
            // SAFETY: `at` has checked that the destination lies within the mapping, which lives as long as `self`.
            // `part` is a slice that the caller holds and no slice into a mapping exists in this program outside system
            // calls, so the two do not overlap. No reference to the destination is made. Another thread may store to
            // other bytes of the same page (pieces do not overlap); storing the same piece twice at the same time
            // stores the same bytes, since only verified pieces come here. A fault in a cut-off file is met by the
            // guard, which puts a page of zeros there and marks this map.
            unsafe { std::ptr::copy_nonoverlapping(part.as_ptr(), self.raw.as_mut_ptr().add(at), part.len()) };
            offset += part.len() as u64;
        }
    }

    /// Lets the pages that hold `range` go from resident memory (not from the page cache; dirty ones are written as
    /// ever), together with what the kernel may have mapped around them.
    pub(super) fn release(&self, range: Range<u64>) {
        let end = range.end.saturating_add(FAULT_AROUND).min(self.raw.len() as u64);
        let start = range.start.saturating_sub(FAULT_AROUND);
        self.drop_pages(start, (end - start) as usize);
    }

    /// As [`release`](Self::release), but only the pages of the range itself: what was populated page by page.
    pub(super) fn drop_pages(&self, offset: u64, len: usize) {
        #[cfg(target_os = "linux")]
        {
            let at = self.at(offset, len);
            // SAFETY: the range lies within the mapping. It is shared and of a file, so dropping its pages loses
            // nothing: the next access finds the same bytes in the page cache. (A page that the guard put in loses its
            // bytes, but this map is then marked as vanished and its bytes are not used.) No reference points there.
            // It is a hint; failure only leaves the pages resident.
            let _ = unsafe { self.raw.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, at, len) };
        }
        #[cfg(not(target_os = "linux"))]
        let _ = (offset, len);
    }

    /// Starts reading the 256 KiB around each byte of `range` from the disk, unless that was done a moment ago.
    pub(super) fn read_ahead(&self, range: Range<u64>) {
        if self.in_memory {
            return;
        }
        for window in range.start / READ_AHEAD..range.end.div_ceil(READ_AHEAD) {
            let place = &self.ahead[window as usize % READ_AHEAD_PLACES];
            // 32 bits count windows up to a petabyte; beyond, hints are lost.
            let mark = (window + 1) as u32;
            if place.load(Ordering::Relaxed) == mark {
                continue;
            }
            place.store(mark, Ordering::Relaxed);
            let start = window * READ_AHEAD;
            let len = READ_AHEAD.min(self.raw.len() as u64 - start) as usize;
            let _ = self.raw.advise_range(memmap2::Advice::WillNeed, start as usize, len);
        }
    }

    /// The bytes at `offset`, to be given to a system call that reads them (`write`, `writev`, `sendmsg`) and to nothing
    /// else: the kernel answers a vanished page with EFAULT, and bytes that change meanwhile are the receiver's to
    /// notice.
    pub(super) fn io_slice(&self, offset: u64, len: usize) -> IoSlice<'_> {
        let at = self.at(offset, len);
        // SAFETY: the range lies within the mapping, which outlives the slice by the lifetime. What the type cannot hold
        // is that the bytes stay the same; they are file contents and anyone may change them. So the slice is made only
        // in the form that system calls take and nothing in user space reads through it (see `Lent`), which leaves the
        // compiler no read to assume anything about. This program itself stores only the bytes that are there already:
        // what is lent is verified.
        IoSlice::new(unsafe { std::slice::from_raw_parts(self.raw.as_ptr().add(at), len) })
    }

    /// Whether some page of the file was found to be gone. The bytes stored since may be lost; the map is of no more use.
    pub(super) fn vanished(&self) -> bool {
        self.slot.poisoned()
    }

    /// `offset` as an index, after checking that `len` bytes from there lie within the mapping: what every unsafe block
    /// here leans on.
    fn at(&self, offset: u64, len: usize) -> usize {
        let at = usize::try_from(offset).ok().filter(|at| at.checked_add(len).is_some_and(|end| end <= self.raw.len()));
        at.expect("segments come from the layout and the map has the file's length")
    }
}

/// Really allocates the first `len` bytes of a file, extending it if it is shorter. `Ok(false)`: the file system (or the
/// platform) cannot do that.
pub(super) fn allocate(file: &File, len: u64) -> io::Result<bool> {
    #[cfg(target_os = "linux")]
    loop {
        return match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => Ok(false),
            Err(error) => Err(error.into()),
        };
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, len);
        Ok(false)
    }
}

/// Whether a file or a folder lies in memory (tmpfs).
pub(super) fn in_memory(file: impl AsFd) -> bool {
    #[cfg(target_os = "linux")]
    return rustix::fs::fstatfs(file).is_ok_and(|fs| fs.f_type == libc::TMPFS_MAGIC);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = file;
        false
    }
}

/// Starts writing the dirty pages of a range to the disk (`msync(MS_ASYNC)` does nothing on Linux). May wait where the
/// disk's queue is full.
pub(super) fn write(file: &File, range: Range<u64>) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return sync_range(file, range, libc::SYNC_FILE_RANGE_WRITE);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = (file, range);
        Ok(())
    }
}

/// Waits for the dirty pages of a range whose writing was started. They are not durable yet: that takes a sync.
pub(super) fn wait_for_writing(file: &File, range: Range<u64>) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    return sync_range(file, range, libc::SYNC_FILE_RANGE_WAIT_BEFORE);
    #[cfg(not(target_os = "linux"))]
    {
        let _ = range;
        file.sync_data()
    }
}

#[cfg(target_os = "linux")]
fn sync_range(file: &File, range: Range<u64>, flags: libc::c_uint) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let offset = |value| i64::try_from(value).map_err(|_| io::ErrorKind::InvalidInput);
    let (start, len) = (offset(range.start)?, offset(range.end - range.start)?);
    // SAFETY: a plain system call on a descriptor that `file` holds open; it touches no memory of this process.
    if unsafe { libc::sync_file_range(file.as_raw_fd(), start, len, flags) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // A file system without it loses only the early start.
        Some(libc::ENOSYS | libc::EINVAL | libc::ESPIPE) => Ok(()),
        _ => Err(error),
    }
}

/// The SIGBUS guard: a page of a mapping whose file was cut off becomes a page of zeros and its map is marked, instead
/// of the process dying.
mod guard {
    use std::io;
    use std::ops::Range;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::sync::{Once, OnceLock};

    /// How many mappings the process can have at a time; beyond it files are written and read the portable way.
    const SLOTS: usize = 4096;

    /// One live mapping. Claimed and released by whoever makes a map, read by the signal handler, so atomics only.
    struct Entry {
        taken: AtomicBool,
        /// First address; 0: no mapping.
        start: AtomicUsize,
        /// Address just behind.
        end: AtomicUsize,
        poisoned: AtomicBool,
    }

    static TABLE: [Entry; SLOTS] = [const {
        Entry {
            taken: AtomicBool::new(false),
            start: AtomicUsize::new(0),
            end: AtomicUsize::new(0),
            poisoned: AtomicBool::new(false),
        }
    }; SLOTS];

    /// What handled SIGBUS before (Rust's own stack overflow message, or the embedding program's). Set once, before the
    /// handler is installed; reading it is one atomic load.
    static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

    /// The size of a page, which the handler may not ask for. Set once, before the handler is installed.
    static PAGE: AtomicUsize = AtomicUsize::new(0);

    /// A claimed entry of the table; freed on drop.
    #[derive(Debug)]
    pub(super) struct Slot(usize);

    impl Slot {
        /// Enters a mapping, installing the handler if it is the first.
        pub(super) fn claim(addresses: Range<usize>) -> io::Result<Self> {
            static INSTALL: Once = Once::new();
            INSTALL.call_once(install);
            let free = TABLE.iter().position(|entry| !entry.taken.swap(true, Ordering::SeqCst));
            let index = free.ok_or(io::ErrorKind::ResourceBusy)?;
            let entry = &TABLE[index];
            entry.poisoned.store(false, Ordering::SeqCst);
            entry.end.store(addresses.end, Ordering::SeqCst);
            entry.start.store(addresses.start, Ordering::SeqCst);
            Ok(Self(index))
        }

        pub(super) fn poisoned(&self) -> bool {
            TABLE[self.0].poisoned.load(Ordering::SeqCst)
        }
    }

    impl Drop for Slot {
        fn drop(&mut self) {
            let entry = &TABLE[self.0];
            entry.start.store(0, Ordering::SeqCst);
            entry.end.store(0, Ordering::SeqCst);
            entry.taken.store(false, Ordering::SeqCst);
        }
    }

    /// Installs the handler in front of the one that is there. If that fails there is no guard, as without it.
    fn install() {
        PAGE.store(rustix::param::page_size(), Ordering::SeqCst);
        // SAFETY: both structures are plain data for which all zeros is valid; `sigaction` reads and writes only them.
        // The handler is a function of the right signature for SA_SIGINFO and does only what a handler may (see there).
        unsafe {
            let mut previous: libc::sigaction = std::mem::zeroed();
            if libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut previous) != 0 {
                return;
            }
            let _ = PREVIOUS.set(previous);
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(libc::SIGBUS, &action, std::ptr::null_mut());
        }
    }

    /// Runs on the thread that touched the missing page, in the middle of any instruction: no allocation, no lock.
    extern "C" fn on_sigbus(signal: libc::c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
        // SAFETY: the kernel passes a valid `info` to a handler installed with SA_SIGINFO; positive codes mean that it
        // is about a memory access, so that the address is there.
        let fault = unsafe { ((*info).si_code > 0).then(|| (*info).si_addr() as usize) };
        if fault.is_some_and(replace_page) {
            return;
        }
        let Some(previous) = PREVIOUS.get() else { return };
        match previous.sa_sigaction {
            libc::SIG_DFL | libc::SIG_IGN => {
                // Not ours and nobody else's: back to the default, and returning repeats the access, which ends the
                // process as it would have without us. (A fault cannot be ignored.)
                // SAFETY: `previous` is what `sigaction` gave us; the call is async-signal-safe.
                unsafe {
                    let mut default = *previous;
                    default.sa_sigaction = libc::SIG_DFL;
                    libc::sigaction(libc::SIGBUS, &default, std::ptr::null_mut());
                    if fault.is_none() {
                        libc::raise(libc::SIGBUS);
                    }
                }
            }
            handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
                // SAFETY: with SA_SIGINFO the value is a function of these three arguments, installed by someone for
                // this very signal; it gets what we got.
                let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    unsafe { std::mem::transmute(handler) };
                handler(signal, info, context);
            }
            handler => {
                // SAFETY: as above; without SA_SIGINFO it is a function of one argument.
                let handler: extern "C" fn(libc::c_int) = unsafe { std::mem::transmute(handler) };
                handler(signal);
            }
        }
    }

    /// If `address` lies in one of our mappings: marks it and puts a page of zeros there.
    fn replace_page(address: usize) -> bool {
        let page = PAGE.load(Ordering::SeqCst);
        let hit = TABLE.iter().find(|entry| {
            let start = entry.start.load(Ordering::SeqCst);
            let end = entry.end.load(Ordering::SeqCst);
            // `start` once more: were the entry given to another mapping in between, `end` would not belong to it.
            start != 0 && start <= address && address < end && entry.start.load(Ordering::SeqCst) == start
        });
        let Some(entry) = hit else { return false };
        // First the mark, so that whoever manages to store into the new page finds it afterwards.
        entry.poisoned.store(true, Ordering::SeqCst);
        // SAFETY: the page lies in a mapping of ours that is alive, because the faulting thread is just using it and a
        // map outlives its users; so MAP_FIXED replaces our own page and nothing else, and unmapping the whole range
        // later covers it. `mmap` is a bare system call here; `errno` is put back for the code that was interrupted.
        unsafe {
            let errno = errno_location();
            let before = *errno;
            let placed = libc::mmap(
                (address & !(page - 1)) as *mut libc::c_void,
                page,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            );
            *errno = before;
            placed != libc::MAP_FAILED
        }
    }

    /// Where this thread's `errno` is.
    fn errno_location() -> *mut libc::c_int {
        // SAFETY: takes nothing, cannot fail, and gives a pointer that is valid for this thread.
        #[cfg(any(target_os = "linux", target_os = "emscripten", target_os = "hurd", target_os = "redox"))]
        return unsafe { libc::__errno_location() };
        // SAFETY: as above.
        #[cfg(any(target_os = "macos", target_os = "ios", target_os = "freebsd"))]
        return unsafe { libc::__error() };
        // SAFETY: as above.
        #[cfg(any(target_os = "android", target_os = "netbsd", target_os = "openbsd"))]
        return unsafe { libc::__errno() };
    }
}

/// How many bytes of a file are in memory only; `None` where the kernel does not say (before Linux 6.5).
#[cfg(all(test, target_os = "linux"))]
pub(super) fn dirty_bytes(file: &File) -> Option<u64> {
    use std::os::fd::AsRawFd;
    // The same number everywhere.
    const CACHESTAT: libc::c_long = 451;
    // Offset and length, 0 for all of it; pages in the cache, dirty, being written, evicted, recently evicted.
    let (range, mut found) = ([0u64; 2], [0u64; 5]);
    // SAFETY: a plain system call; both arrays have the size and alignment of its structures and outlive it.
    let result = unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), range.as_ptr(), found.as_mut_ptr(), 0) };
    (result == 0).then(|| found[1] * rustix::param::page_size() as u64)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::process::Command;

    use super::Map;

    const LEN: u64 = 1 << 20;

    fn mapped(dir: &tempfile::TempDir) -> (std::fs::File, Map) {
        let path = dir.path().join("file");
        let file = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(path).unwrap();
        file.set_len(LEN).unwrap();
        let map = Map::new(&file, LEN, true).unwrap();
        (file, map)
    }

    #[test]
    fn what_is_stored_is_in_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let (mut file, map) = mapped(&dir);
        map.populate(5000, 10_000).unwrap();
        map.store(5000, [b"hello ".as_slice(), b"world"].into_iter());
        map.drop_pages(5000, 10_000);
        assert!(!map.vanished());
        let mut bytes = [0; 11];
        file.seek(SeekFrom::Start(5000)).unwrap();
        file.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello world");
        assert_eq!(&*map.io_slice(5000, 5), b"hello");
    }

    #[test]
    fn a_file_cut_off_behind_the_map_is_an_error_and_the_process_lives() {
        let dir = tempfile::tempdir().unwrap();
        let (file, map) = mapped(&dir);
        file.set_len(4096).unwrap();
        assert!(map.populate(8192, 4096).is_err());
        map.store(0, [b"still there".as_slice()].into_iter());
        assert!(!map.vanished());
        map.store(8000, [[1u8; 5000].as_slice()].into_iter());
        assert!(map.vanished());
        let (_, other) = mapped(&tempfile::tempdir().unwrap());
        assert!(!other.vanished(), "a new map does not inherit the mark");
    }

    #[test]
    fn the_kernel_answers_a_vanished_page_with_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let (file, map) = mapped(&dir);
        file.set_len(0).unwrap();
        let (_reader, mut writer) = std::io::pipe().unwrap();
        let error = writer.write_vectored(&[map.io_slice(0, 100)]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EFAULT));
        assert!(!map.vanished());
    }

    #[test]
    fn a_fault_that_is_not_ours_still_ends_the_process() {
        const CHILD: &str = "ROPEWALK_TEST_FOREIGN_FAULT";
        if std::env::var_os(CHILD).is_some() {
            let dir = tempfile::tempdir().unwrap();
            let (_file, _map) = mapped(&dir);
            let (file, map) = mapped(&tempfile::tempdir().unwrap());
            let foreign = memmap2::MmapOptions::new().len(4096).map_raw(&file).unwrap();
            drop(map);
            file.set_len(0).unwrap();
            // SAFETY: a store into a live mapping; that the file is gone is the point of the test.
            unsafe { foreign.as_mut_ptr().write_volatile(1) };
            return;
        }
        let name = "storage::map::tests::a_fault_that_is_not_ours_still_ends_the_process";
        // It removes nothing of its own.
        let temporary = tempfile::tempdir().unwrap();
        let status = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name])
            .env(CHILD, "1")
            .env("TMPDIR", temporary.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(status.signal(), Some(libc::SIGBUS));
    }
}
