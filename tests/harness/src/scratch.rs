//! A folder of one's own that goes when its owner goes.

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

/// A temporary folder, readable by this user only, deleted when dropped or, at the latest, when the process exits:
/// Rust never drops a `static`, and a test's control plane usually is one.
///
/// It stays, and its place is printed, after [`Scratch::keep`], if `VALET_KEEP=1` is set, or if any thread of this
/// process has panicked (a test has failed, and the logs in here say why).
///
/// A run that was killed cannot tidy up after itself. The next run does it: whoever holds no lock on the mark in
/// its folder any more is dead.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    keep: AtomicBool,
    /// Held for as long as the folder is in use.
    mark: File,
}

/// The locked file that tells a live folder from one left behind. A folder without it is to be kept.
const MARK: &str = ".in-use";
const PREFIX: &str = "valet-";

/// Whether a thread of this process has panicked.
static PANICKED: AtomicBool = AtomicBool::new(false);
/// Folders to delete when the process exits.
static LIVE: Mutex<Vec<Folder>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Folder {
    path: PathBuf,
    worth_keeping: bool,
}

impl Scratch {
    /// Makes `TMPDIR/valet-PURPOSE-PID-N`.
    ///
    /// # Errors
    /// If the folder cannot be made.
    pub fn new(purpose: &str) -> Result<Self> {
        Self::make(purpose, true)
    }

    /// One for bulky data that helps nobody to find out why a test has failed: deleted also then.
    ///
    /// # Errors
    /// If the folder cannot be made.
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
                // Left by a process that had this number before.
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(error).context(format_args!("cannot make {}", path.display())),
            }
            let mark = File::create(path.join(MARK)).context(format_args!("cannot write into {}", path.display()))?;
            mark.lock()
                .context(format_args!("cannot lock {}/{MARK}", path.display()))?;
            // Another run's sweep can come between the two lines above; then the folder is gone.
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

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path in the folder.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file into the folder and returns its path.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.join(name);
        fs::write(&path, contents).context(format_args!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// Makes a folder in the folder and returns its path.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        fs::create_dir_all(&path).context(format_args!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// From now on the folder stays, whatever happens.
    pub fn keep(&self) {
        self.keep.store(true, Ordering::Relaxed);
        // Without its mark no later run sweeps it away.
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

/// What is left to delete when the process exits. The processes that write into the folders are dead by then.
pub(crate) fn remove_all_at_exit() {
    let failed = PANICKED.load(Ordering::Relaxed) || env::var_os("VALET_KEEP").is_some_and(|v| v == "1");
    // A thread that is still running may hold the lock and never let go of it: better a folder too many than a
    // process that hangs at its end.
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
        // No mark: kept on purpose, or none of ours. Locked: in use. Not ours to open: somebody else's.
        if let Ok(mark) = File::options().write(true).open(entry.path().join(MARK))
            && mark.try_lock().is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
