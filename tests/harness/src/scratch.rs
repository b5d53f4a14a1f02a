//! Temporary folders that are deleted with their owner.

use std::{
    env, fs,
    fs::{DirBuilder, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{
        Mutex, Once,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
};

use crate::{Context, Result, process};

/// A temporary folder that only this user can read. It is deleted when the value is dropped, or when the process
/// exits. The second case is needed because Rust never drops a `static`, and the control plane of a test is usually
/// one.
///
/// The folder is kept, and its path is printed, in these cases: after [`Scratch::keep`], with `VALET_KEEP=1`, or if a
/// thread of this process has panicked, because then a test has failed and the logs in the folder can explain it.
///
/// A killed process cannot delete its folders. The next run deletes them. A folder is in use as long as a process
/// holds a lock on the marker file in the folder.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: AtomicBool,
    /// The lock, which is held while the folder is in use.
    mark: File,
}

/// The locked marker file of a folder in use. A folder without a marker file is kept.
const MARK: &str = ".in-use";
const PREFIX: &str = "valet-";

/// Whether a thread of this process has panicked.
static PANICKED: AtomicBool = AtomicBool::new(false);
/// The folders to delete when the process exits.
static LIVE: Mutex<Vec<Folder>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    worth_keeping: bool,
}

impl Scratch {
    /// Creates the folder `TMPDIR/valet-PURPOSE-PID-N`.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created.
    pub fn new(purpose: &str) -> Result<Self> {
        Self::make(purpose, true)
    }

    /// Creates a folder for large data that does not help to explain a failed test. It is also deleted after a
    /// failure.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created.
    pub fn disposable(purpose: &str) -> Result<Self> {
        Self::make(purpose, false)
    }

    fn make(purpose: &str, worth_keeping: bool) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            sweep();
            let before = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |info| {
                PANICKED.store(true, Ordering::Relaxed);
                before(info);
            }));
            process::at_exit();
        });
        let (path, mark) = loop {
            let n = NEXT.fetch_add(1, Ordering::Relaxed);
            let path = env::temp_dir().join(format!("{PREFIX}{purpose}-{}-{n}", std::process::id()));
            match DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                // The folder of an earlier process with the same process ID.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error).context(format_args!("cannot make {}", path.display())),
            }
            let mark = File::create(path.join(MARK)).context(format_args!("cannot write into {}", path.display()))?;
            mark.lock()
                .context(format_args!("cannot lock {}/{MARK}", path.display()))?;
            // Another run can delete the folder between its creation and the lock. In that case, try again.
            if path.join(MARK).exists() {
                break (path, mark);
            }
        };
        LIVE.lock().unwrap_or_else(|poison| poison.into_inner()).push(Folder {
            path: path.clone(),
            worth_keeping,
        });
        let keep = AtomicBool::new(worth_keeping && env::var_os("VALET_KEEP").is_some_and(|v| v == "1"));
        Ok(Self { path, keep, mark })
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in the folder.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file into the folder and returns its path.
    ///
    /// # Errors
    /// Returns an error if the file cannot be written.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.join(name);
        fs::write(&path, contents).context(format_args!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Creates a subfolder and returns its path.
    ///
    /// # Errors
    /// Returns an error if the folder cannot be created.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        fs::create_dir_all(&path).context(format_args!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Keeps the folder after the end of the process.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
        // Without the marker file, no later run deletes the folder.
        let _ = fs::remove_file(self.join(MARK));
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let Some(folder) = forget(&self.path) else { return };
        let failed = folder.worth_keeping && (thread::panicking() || PANICKED.load(Ordering::Relaxed));
        remove_or_keep(&folder.path, self.keep.load(Ordering::Relaxed) || failed);
        let _ = self.mark.unlock();
    }
}

fn forget(path: &Path) -> Option<Folder> {
    let mut live = LIVE.lock().unwrap_or_else(|poison| poison.into_inner());
    let at = live.iter().position(|folder| folder.path == path)?;
    Some(live.swap_remove(at))
}

fn remove_or_keep(path: &Path, keep: bool) {
    if keep {
        let _ = fs::remove_file(path.join(MARK));
        eprintln!("kept: {}", path.display());
    } else {
        let _ = fs::remove_dir_all(path);
    }
}

/// Deletes the remaining folders when the process exits. The processes that write to the folders have ended before.
pub(crate) fn remove_all_at_exit() {
    let failed = PANICKED.load(Ordering::Relaxed) || env::var_os("VALET_KEEP").is_some_and(|v| v == "1");
    // A running thread can hold this lock and never release it. It is better to keep a folder than to block the exit
    // of the process.
    let Ok(mut live) = LIVE.try_lock() else { return };
    for folder in live.drain(..) {
        let keep = (failed && folder.worth_keeping) || !folder.path.join(MARK).exists();
        remove_or_keep(&folder.path, keep);
    }
}

/// Deletes the folders of runs that were killed.
pub(crate) fn sweep() {
    let Ok(entries) = fs::read_dir(env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // Without a marker file: a kept folder or the folder of another program. With a locked marker file: a folder
        // in use. Without permission: the folder of another user.
        if let Ok(mark) = File::options().write(true).open(entry.path().join(MARK))
            && mark.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
