//! Runs the program in separate Linux namespaces (network, mounts and process IDs). The kernel removes them with the
//! last process.
//!
//! A node creates bridges, packet filter rules, mounts, and containers that are not child processes of the node. It
//! is hard to undo all of this, in particular after a crash. So the program that needs a node starts itself again in
//! new namespaces (`unshare`). When the program ends or is killed, the kernel stops all processes in the namespaces,
//! and removes the mounts, the network and the rules. The kernel does not remove control groups. [`enter`] deletes
//! those of its own run, and the next run deletes those of a killed run.
//!
//! Two such programs can run at the same time. They do not see each other, and have no access to the network of the
//! machine.
#![allow(
    unsafe_code,
    reason = "namespaces, signals and children of the kernel have no safe interface"
)]

use std::{
    env, fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, ExitStatus},
    sync::{Mutex, Once},
    thread,
    time::{Duration, Instant},
};

use crate::{Context, Error, Result, Scratch, process, scratch};

/// The environment variable that marks the process in the namespaces. Its value is the folder for data.
const FOLDER: &str = "VALET_APART";
/// The environment variable with the control group of the process.
const GROUP: &str = "VALET_APART_GROUP";

/// The prefix of the control groups of runs. The process ID follows.
const GROUPS: &str = "valet-node-";

/// The mount point of the control groups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Where the program continues after [`enter`].
pub enum Place {
    /// The process outside the namespaces. The program has run inside; this is its exit status.
    Outside(ExitCode),
    /// The process inside the namespaces.
    Inside(Apart),
}

/// The namespaces of the program, seen from inside.
#[derive(Clone, Debug)]
pub struct Apart {
    folder: PathBuf,
    group: String,
}

impl Apart {
    /// A folder for large files and mounts. It is deleted when the run ends.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// A command prefix that runs a command in these namespaces from another terminal.
    pub fn way_in(&self) -> String {
        let outside = self.group.rsplit('-').next().unwrap_or_default();
        format!("nsenter --mount --net --target $(pgrep --parent {outside}) ")
    }

    /// The control group of all processes in the namespaces, for example `/valet-node-1`.
    pub fn group(&self) -> &str {
        &self.group
    }
}

/// Starts this program again with the same arguments in new namespaces, and waits for it. In the new process, returns
/// the description of the namespaces. Call it first in `main`, after [`process::exit_on_interrupt`].
///
/// # Errors
/// Returns an error if this machine or this user cannot create the namespaces.
pub fn enter() -> Result<Place> {
    match (env::var_os(FOLDER), env::var(GROUP)) {
        (Some(_), Ok(_)) if std::process::id() == 1 => first_process().map(Place::Outside),
        (Some(folder), Ok(group)) => {
            let apart = Apart {
                folder: folder.into(),
                group,
            };
            furnish(&apart)?;
            Ok(Place::Inside(apart))
        }
        _ => from_outside().map(Place::Outside),
    }
}

fn this_program() -> Result<Command> {
    let program = env::current_exe().context("cannot find this very program")?;
    let mut command = Command::new(program);
    command.args(env::args_os().skip(1));
    Ok(command)
}

fn from_outside() -> Result<ExitCode> {
    // SAFETY: geteuid takes nothing and touches no memory of ours.
    if unsafe { libc::geteuid() } != 0 {
        return Err(Error::new(
            "a node of one's own needs root, for namespaces, mounts and control groups; or name a cluster that you have",
        ));
    }
    remove_groups_of_the_dead();
    let group = format!("{GROUPS}{}", std::process::id());
    // Must run before the first Scratch is created. Then it runs after the handler of Scratch, which stops the
    // processes.
    tidy_up_at_exit();
    let scratch = Scratch::disposable("node")?;
    *OURS.lock().unwrap_or_else(|poison| poison.into_inner()) = Some(Ours {
        group: group.clone(),
        folder: scratch.path().to_owned(),
    });
    make_group(&group)?;

    let program = this_program()?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--net", "--pid", "--ipc", "--uts", "--mount-proc"])
        // If `unshare` is killed, the kernel also kills the first process in the namespaces, and with it all others.
        .args(["--fork", "--kill-child", "--"])
        .arg(program.get_program())
        .args(program.get_args())
        .env(FOLDER, scratch.path())
        .env(GROUP, format!("/{group}"));
    let mut child = process::spawn(command).context("cannot run unshare")?;
    let status = child.wait().context("cannot wait for unshare")?;
    process::forget(child.id());
    Ok(exit_code(status))
}

fn exit_code(status: ExitStatus) -> ExitCode {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

/// Process 1 in the namespaces inherits orphaned processes, for example the shim of each container. It only waits for
/// them.
fn first_process() -> Result<ExitCode> {
    let child = this_program()?.spawn().context("cannot start this program again")?;
    let own = child.id().cast_signed();
    loop {
        let mut status = 0;
        // SAFETY: the pointer is to a live variable.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, 0) };
        if pid == own {
            return Ok(exit_code(ExitStatus::from_raw(status)));
        }
        if pid < 0 && std::io::Error::last_os_error().raw_os_error() != Some(libc::EINTR) {
            return Ok(ExitCode::FAILURE);
        }
    }
}

/// Prepares the folders that containerd, the kubelet and the network plugins always write to. `/var/lib` and
/// `/var/log` become overlays on a folder of this run, and `/run` is empty.
fn furnish(apart: &Apart) -> Result<()> {
    run(&["ip", "link", "set", "lo", "up"])?;
    run(&["mount", "-t", "tmpfs", "tmpfs", "/run"])?;
    for place in ["/var/lib", "/var/log"] {
        let name = place.replace('/', "-");
        let folder = |kind: &str| -> Result<String> {
            let path = apart.folder.join(format!("overlay{name}-{kind}"));
            fs::create_dir_all(&path).context(format_args!("cannot make {}", path.display()))?;
            Ok(path.display().to_string())
        };
        let options = format!(
            "lowerdir={place},upperdir={},workdir={}",
            folder("upper")?,
            folder("work")?
        );
        run(&["mount", "-t", "overlay", "overlay", "-o", &options, place])?;
    }
    Ok(())
}

/// Runs a command of the operating system.
pub(crate) fn run(line: &[&str]) -> Result<()> {
    let mut command = process::clean(Command::new(line[0]));
    command.args(&line[1..]);
    process::run_ok(command, &[], Duration::from_secs(30)).map(|_| ())
}

// --- control groups -----------------------------------------------------------------------------------------------

/// The folders in which a control group must be created: one for each controller in version 1, and a single one in
/// version 2.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(CGROUPS);
    if root.join("cgroup.controllers").exists() {
        return vec![root];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let folders = entries.map(|entry| entry.path());
    // `unified` is version 2 next to version 1. It has no controllers.
    folders
        .filter(|path| path.join("cgroup.procs").exists() && !path.join("cgroup.controllers").exists())
        .collect()
}

/// All folders that can contain control groups. containerd also creates groups of version 2 next to version 1.
fn groups_roots() -> Vec<PathBuf> {
    let mut roots = hierarchies();
    roots.push(PathBuf::from(CGROUPS).join("unified"));
    roots
}

fn make_group(group: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let folder = hierarchy.join(group);
        fs::create_dir_all(&folder).context(format_args!("cannot make the control group {}", folder.display()))?;
        // Version 1: a group must have CPUs and memory nodes before a process can join it.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(all) = fs::read(hierarchy.join(file)) {
                fs::write(folder.join(file), all)
                    .context(format_args!("cannot write {}/{file}", folder.display()))?;
            }
        }
        // Version 2: enable all controllers for child groups.
        if let Ok(controllers) = fs::read_to_string(hierarchy.join("cgroup.controllers")) {
            for controller in controllers.split_whitespace() {
                let _ = fs::write(hierarchy.join("cgroup.subtree_control"), format!("+{controller}"));
                let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
    }
    Ok(())
}

/// Deletes a control group and its child groups. Returns false while a process still runs in one of them.
fn remove_group(group: &str) -> bool {
    fn remove(folder: &Path) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                remove(&entry.path());
            }
        }
        let _ = fs::remove_dir(folder);
    }
    let folders: Vec<_> = groups_roots().iter().map(|root| root.join(group)).collect();
    folders.iter().for_each(|folder| remove(folder));
    folders.iter().all(|folder| !folder.exists())
}

fn remove_groups_of_the_dead() {
    for root in groups_roots() {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if let Some(owner) = name.strip_prefix(GROUPS)
                && !Path::new("/proc").join(owner).exists()
            {
                remove_group(&name);
            }
        }
    }
}

/// The folder and control group to delete when this process exits.
static OURS: Mutex<Option<Ours>> = Mutex::new(None);

struct Ours {
    group: String,
    folder: PathBuf,
}

/// Registers an exit handler that deletes [`OURS`].
fn tidy_up_at_exit() {
    static ONCE: Once = Once::new();
    extern "C" fn tidy_up() {
        let Ok(mut ours) = OURS.try_lock() else { return };
        let Some(Ours { group, folder }) = ours.take() else {
            return;
        };
        // The kernel needs some time to stop all processes in the group.
        let end = Instant::now() + Duration::from_secs(10);
        while !remove_group(&group) && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
        }
        // Delete the folder only now, because the processes could still write to it before.
        let _ = fs::remove_dir_all(folder);
        // Delete the folders that killed processes in the namespaces have left.
        scratch::sweep();
    }
    // SAFETY: the function does not unwind, and it is valid for the life of the process.
    ONCE.call_once(|| unsafe {
        libc::atexit(tidy_up);
    });
}
