//! Child processes that end with this process at the latest.
#![allow(
    unsafe_code,
    reason = "what runs between fork and exec, and signals, have no safe interface"
)]

use std::{
    fs::{self, File},
    io::{Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Mutex, MutexGuard, Once, OnceLock,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use crate::{Context, Error, Result, poll, scratch};

/// Number of log lines in an error.
const TAIL: usize = 15;

/// A long-running child process that writes its output to a log file. It is killed when the value is dropped. If this
/// process ends without running destructors, the kernel kills the child.
pub struct Process {
    name: String,
    log: PathBuf,
    pid: u32,
    child: Mutex<Child>,
}

impl Process {
    /// Starts `command` without standard input, and appends standard output and standard error to `log`.
    ///
    /// # Errors
    /// Returns an error if the program cannot be started or the log cannot be opened.
    pub fn start(name: &str, mut command: Command, log: impl Into<PathBuf>) -> Result<Self> {
        let log = log.into();
        let file = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .context(format_args!("cannot open {}", log.display()))?;
        let both = file
            .try_clone()
            .context(format_args!("cannot open {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file).stderr(both);
        let child = spawn(command).context(format_args!("cannot start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            log,
            pid: child.id(),
            child: Mutex::new(child),
        })
    }

    /// The name of the process in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process ID.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The log file with the output of the process.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The output of the process, as far as it is UTF-8.
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The path and the last lines of the log, for a message.
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }

    /// Sends a signal, for example `libc::SIGSTOP`. Does nothing if the process has ended.
    pub fn signal(&self, signal: i32) {
        let mut child = self.child();
        // Until the child is reaped, its process ID cannot belong to another process.
        if reap(&mut child).is_none() {
            // SAFETY: kill takes two integers and does not access memory of this process.
            unsafe { libc::kill(self.pid.cast_signed(), signal) };
        }
    }

    /// Freezes the process (SIGSTOP): its connections stay open, but it does not answer. Returns when the process is
    /// frozen.
    pub fn pause(&self) {
        self.signal(libc::SIGSTOP);
        // Before it is frozen, the process can still answer, and can handle a later SIGTERM before the SIGSTOP.
        let stat = format!("/proc/{}/stat", self.pid);
        poll(Duration::from_secs(5), || {
            let frozen = fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") T "));
            frozen.then_some(())
        });
    }

    /// Continues a frozen process (SIGCONT).
    pub fn resume(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Whether the process has not ended yet.
    pub fn is_running(&self) -> bool {
        self.exit_status().is_none()
    }

    /// The exit status of the process, or `None` while it is running.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        reap(&mut self.child())
    }

    /// Waits until the process ends. Returns `None` if it is still running after `timeout`.
    pub fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        let end = Instant::now() + timeout;
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self.exit_status() {
                return Some(status);
            }
            if Instant::now() >= end {
                return None;
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    /// Kills the process (SIGKILL) and waits until it has ended.
    pub fn kill(&self) {
        end(&mut self.child());
    }

    /// Stops the process (SIGTERM) and returns its exit status.
    ///
    /// # Errors
    /// Returns an error with the last log lines if the process is still running after `grace`. The process is then
    /// killed.
    pub fn terminate(&self, grace: Duration) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM);
        self.wait(grace).ok_or_else(|| {
            self.kill();
            Error::new(format!(
                "{} did not end within {} s of SIGTERM and was killed; {}",
                self.name,
                grace.as_secs_f64(),
                self.log_tail()
            ))
        })
    }

    /// Calls `ready` every 20 ms until it returns true.
    ///
    /// # Errors
    /// Returns an error with the last log lines if the process ends first, or if `timeout` has passed.
    pub fn wait_until(&self, timeout: Duration, what: &str, mut ready: impl FnMut() -> bool) -> Result<()> {
        let end = Instant::now() + timeout;
        loop {
            if ready() {
                return Ok(());
            }
            if let Some(status) = self.exit_status() {
                return Err(Error::new(format!(
                    "{} ended ({status}) before {what}; {}",
                    self.name,
                    self.log_tail()
                )));
            }
            if Instant::now() >= end {
                return Err(Error::new(format!(
                    "{}: waited {} s in vain until {what}; {}",
                    self.name,
                    timeout.as_secs_f64(),
                    self.log_tail()
                )));
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(|poison| poison.into_inner())
    }
}

/// Kills a child process and waits until it has ended.
pub(crate) fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
    forget(child.id());
}

fn reap(child: &mut Child) -> Option<ExitStatus> {
    let status = child.try_wait().ok().flatten();
    if status.is_some() {
        forget(child.id());
    }
    status
}

impl Drop for Process {
    /// Without a graceful stop, because nobody needs what a test server would save when it stops.
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a file and its name, for a message.
pub(crate) fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(TAIL)..].join("\n    ");
    format!("the last lines of {}:\n    {last}", log.display())
}

/// The result of a short command.
#[derive(Clone, Debug)]
pub struct Output {
    /// The exit status.
    pub status: ExitStatus,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, as far as it is UTF-8.
    pub stderr: String,
}

impl Output {
    /// Standard output, as far as it is UTF-8.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

/// Runs a short command and collects its output. A command that fails is not an error here; check its status.
///
/// # Errors
/// Returns an error if the program cannot be started, or has not ended after `timeout`. The program is then killed.
pub fn run(mut command: Command, stdin: &[u8], timeout: Duration) -> Result<Output> {
    let line = describe(&command);
    command
        .stdin(if stdin.is_empty() {
            Stdio::null()
        } else {
            Stdio::piped()
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = spawn(command).context(format_args!("cannot run {line}"))?;
    let (mut input, mut out, mut err) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let process = Process {
        name: line.clone(),
        log: PathBuf::new(),
        pid: child.id(),
        child: Mutex::new(child),
    };
    let (status, stdout, stderr) = thread::scope(|scope| {
        // A pipe can hold 64 KiB. Without a separate thread for standard input, this process and the command could
        // block each other.
        if let Some(input) = input.take() {
            scope.spawn(move || {
                let mut input = input;
                // A program can end before it has read all of its input.
                let _ = input.write_all(stdin);
            });
        }
        let read = |pipe: &mut dyn Read| {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            bytes
        };
        let stdout = scope.spawn(move || out.as_mut().map(|pipe| read(pipe)).unwrap_or_default());
        let stderr = scope.spawn(move || err.as_mut().map(|pipe| read(pipe)).unwrap_or_default());
        let status = process.wait(timeout);
        if status.is_none() {
            process.kill();
        }
        (
            status,
            stdout.join().unwrap_or_default(),
            stderr.join().unwrap_or_default(),
        )
    });
    let stderr = String::from_utf8_lossy(&stderr).into_owned();
    match status {
        Some(status) => Ok(Output { status, stdout, stderr }),
        None => Err(Error::new(format!(
            "{line} did not end within {} s and was killed; it said: {}",
            timeout.as_secs_f64(),
            stderr.trim()
        ))),
    }
}

/// As [`run`], but a command that fails is an error.
///
/// # Errors
/// As [`run`], and if the status of the command is not zero. The error contains the output.
pub fn run_ok(command: Command, stdin: &[u8], timeout: Duration) -> Result<Output> {
    let line = describe(&command);
    let output = run(command, stdin, timeout)?;
    if output.status.success() {
        return Ok(output);
    }
    let said = if output.stderr.trim().is_empty() {
        output.text()
    } else {
        output.stderr.clone()
    };
    Err(Error::new(format!(
        "{line} failed ({}): {}",
        output.status,
        said.trim()
    )))
}

/// The name and the arguments of a command for messages, shortened.
fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut line = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.extend(argument.to_string_lossy().chars().take(200));
    }
    line
}

/// Removes environment variables that would influence a command: proxies (all servers are on loopback), clusters and
/// credentials of the user, and settings of Valet.
pub fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let upper = name.to_ascii_uppercase();
        if upper.ends_with("_PROXY")
            || upper.starts_with("AWS_")
            || upper.starts_with("AZURE_")
            || upper.starts_with("VALET_")
            || ["KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"].contains(&upper.as_str())
        {
            command.env_remove(&*name);
        }
    }
    command
}

type Order = (Command, mpsc::Sender<std::io::Result<Child>>);

/// Starts a child in a separate process group, from a single thread that starts all children.
///
/// The signal of PR_SET_PDEATHSIG is sent when the thread that forked the child ends. Threads of tests end early, but
/// this thread ends with the process. Because of the separate group, a Ctrl-C in the terminal reaches only this
/// process, which then stops the children in the correct order.
pub(crate) fn spawn(command: Command) -> std::io::Result<Child> {
    static SPAWNER: OnceLock<mpsc::Sender<Order>> = OnceLock::new();
    at_exit();
    let orders = SPAWNER.get_or_init(|| {
        let (send, receive) = mpsc::channel::<Order>();
        thread::Builder::new()
            .name("spawner".into())
            .spawn(move || {
                for (mut command, reply) in receive {
                    let child = command.spawn();
                    if let Ok(child) = &child {
                        remember(child.id());
                    }
                    let _ = reply.send(child);
                }
            })
            .expect("a thread can be started");
        send
    });
    let command = tie_to_this_process(command);
    let (send, receive) = mpsc::channel();
    orders.send((command, send)).expect("the spawner runs for ever");
    receive.recv().expect("the spawner answers")
}

fn tie_to_this_process(mut command: Command) -> Command {
    #[cfg(target_os = "linux")]
    let parent = std::process::id().cast_signed();
    command.process_group(0);
    // SAFETY: between fork and exec, only functions that are safe after a fork are called: prctl, getppid,
    // sigemptyset and pthread_sigmask. None of them allocates memory or takes a lock.
    unsafe {
        command.pre_exec(move || {
            #[cfg(target_os = "linux")]
            {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(std::io::Error::last_os_error());
                }
                // The parent process can end before `prctl` runs.
                if libc::getppid() != parent {
                    return Err(std::io::Error::from_raw_os_error(libc::ESRCH));
                }
            }
            // `exit_on_interrupt` blocks signals, and a child process inherits blocked signals.
            let mut none = std::mem::MaybeUninit::uninit();
            libc::sigemptyset(none.as_mut_ptr());
            libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
            Ok(())
        });
    }
    command
}

/// The process IDs of children that may still be running.
static LIVE: Mutex<Vec<u32>> = Mutex::new(Vec::new());

fn remember(pid: u32) {
    LIVE.lock().unwrap_or_else(|poison| poison.into_inner()).push(pid);
}

pub(crate) fn forget(pid: u32) {
    LIVE.lock()
        .unwrap_or_else(|poison| poison.into_inner())
        .retain(|&other| other != pid);
}

/// Registers, once, an exit handler that kills the children and deletes the scratch folders.
pub(crate) fn at_exit() {
    static ONCE: Once = Once::new();
    extern "C" fn tidy_up() {
        if let Ok(mut live) = LIVE.try_lock() {
            for &pid in live.iter() {
                // SAFETY: kill and waitpid do not access memory of this process, except the null pointer that waitpid
                // accepts. The child is not reaped yet, so its process ID cannot belong to another process.
                unsafe {
                    libc::kill(pid.cast_signed(), libc::SIGKILL);
                    libc::waitpid(pid.cast_signed(), std::ptr::null_mut(), 0);
                }
            }
            live.clear();
        }
        scratch::remove_all_at_exit();
    }
    // SAFETY: the function does not unwind, and it is valid for the life of the process.
    ONCE.call_once(|| unsafe {
        libc::atexit(tidy_up);
    });
}

/// Whether Ctrl-C is the normal end of the program.
static INTERRUPT_IS_THE_END: AtomicBool = AtomicBool::new(false);

/// After this call, Ctrl-C (SIGINT) and SIGTERM end this process in an orderly way, with status 130 or 143: children
/// are killed and scratch folders are deleted. Programs must call it first in `main`, because only threads that start
/// later inherit the blocked signals.
pub fn exit_on_interrupt() {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set before the other calls read it. All calls access only this set.
    let set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        let mut set = set.assume_init();
        libc::sigaddset(&raw mut set, libc::SIGINT);
        libc::sigaddset(&raw mut set, libc::SIGTERM);
        libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
        set
    };
    thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: both pointers are to live variables of this thread.
        unsafe { libc::sigwait(&raw const set, &raw mut signal) };
        let expected = INTERRUPT_IS_THE_END.load(Ordering::Relaxed);
        std::process::exit(if expected { 0 } else { 128 + signal });
    });
}

/// After this call, an interrupt is not a failure, and the exit status is 0. See [`exit_on_interrupt`].
pub fn interrupt_is_the_end() {
    INTERRUPT_IS_THE_END.store(true, Ordering::Relaxed);
}
