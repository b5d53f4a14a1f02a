//! A world apart: network, mounts and process numbers of one's own, which the kernel takes away with the last process.
//!
//! A node makes bridges, packet filter rules, mounts, and containers that are nobody's children. Undoing each of them is
//! a list that is never complete, least of all after a crash. So the program that wants a node starts itself once more
//! in namespaces of its own (`unshare`), and there everything is made as on a machine of its own. When the program
//! ends, in order or not, the kernel ends every process in there, unmounts, and forgets network and rules. What it cannot
//! forget are the control groups, which [`enter`] deletes itself, and those of a run that was killed the next run.
//!
//! Two of them can live side by side: neither sees the other, and none has a way to the network of the machine.
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

/// Tells the program that it is in there, and where its data is to go.
const FOLDER: &str = "VALET_APART";
/// And which control group is its own.
const GROUP: &str = "VALET_APART_GROUP";

/// What control groups of runs are called, before their process' number.
const GROUPS: &str = "valet-node-";

/// Where the machine has its control groups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Where a program goes on after [`enter`].
pub enum Place {
    /// Outside. The program has run in there, and this is how it ended.
    Outside(ExitCode),
    /// In there.
    Inside(Apart),
}

/// A world apart, from inside.
#[derive(Clone, Debug)]
pub struct Apart {
    folder: PathBuf,
    group: String,
}

impl Apart {
    /// A folder for what is bulky, or mounted. It goes when all in here is over.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// How to run a command in here from another terminal: what to put before it.
    pub fn way_in(&self) -> String {
        let outside = self.group.rsplit('-').next().unwrap_or_default();
        format!("nsenter --mount --net --target $(pgrep --parent {outside}) ")
    }

    /// The control group that everything in here belongs into, as in `/valet-node-1`.
    pub fn group(&self) -> &str {
        &self.group
    }
}

/// Starts this program once more, with the same arguments, in a world apart, and waits for it; in there, returns what
/// there is to know about it. The first thing to call in `main`, after [`process::exit_on_interrupt`].
///
/// # Errors
/// If this machine or this user cannot do it.
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
    // Before the first Scratch, so that it comes after the end of the processes, which the Scratch's handler sees to.
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
        // If unshare dies, so does the first process in there, and with it all others.
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

/// The first process in there inherits orphans: every container's shim. It does nothing but bury them.
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

/// Folders that containerd, kubelet and the network plugins write into whatever their settings say. In here they get
/// their own: changes to `/var/lib` and `/var/log` go into our folder, and `/run` is empty.
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

/// Runs a command of the system.
pub(crate) fn run(line: &[&str]) -> Result<()> {
    let mut command = process::clean(Command::new(line[0]));
    command.args(&line[1..]);
    process::run_ok(command, &[], Duration::from_secs(30)).map(|_| ())
}

// --- control groups -----------------------------------------------------------------------------------------------

/// The folders in which a group has to be made: one a controller with version 1, one in all with version 2.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from(CGROUPS);
    if root.join("cgroup.controllers").exists() {
        return vec![root];
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let folders = entries.map(|entry| entry.path());
    // `unified` is version 2 beside version 1, and has no controllers.
    folders
        .filter(|path| path.join("cgroup.procs").exists() && !path.join("cgroup.controllers").exists())
        .collect()
}

/// Wherever a group may be: containerd also makes those of version 2 beside version 1.
fn groups_roots() -> Vec<PathBuf> {
    let mut roots = hierarchies();
    roots.push(PathBuf::from(CGROUPS).join("unified"));
    roots
}

fn make_group(group: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        let folder = hierarchy.join(group);
        fs::create_dir_all(&folder).context(format_args!("cannot make the control group {}", folder.display()))?;
        // Version 1: nothing may run on no processors.
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(all) = fs::read(hierarchy.join(file)) {
                fs::write(folder.join(file), all)
                    .context(format_args!("cannot write {}/{file}", folder.display()))?;
            }
        }
        // Version 2: hand every controller down.
        if let Ok(controllers) = fs::read_to_string(hierarchy.join("cgroup.controllers")) {
            for controller in controllers.split_whitespace() {
                let _ = fs::write(hierarchy.join("cgroup.subtree_control"), format!("+{controller}"));
                let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
    }
    Ok(())
}

/// Deletes a group and those in it. False while something still runs in one of them.
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

/// What is to go when this process exits.
static OURS: Mutex<Option<Ours>> = Mutex::new(None);

struct Ours {
    group: String,
    folder: PathBuf,
}

/// Registers what deletes [`OURS`].
fn tidy_up_at_exit() {
    static ONCE: Once = Once::new();
    extern "C" fn tidy_up() {
        let Ok(mut ours) = OURS.try_lock() else { return };
        let Some(Ours { group, folder }) = ours.take() else {
            return;
        };
        // The kernel needs a moment to end all that runs in it.
        let end = Instant::now() + Duration::from_secs(10);
        while !remove_group(&group) && Instant::now() < end {
            thread::sleep(Duration::from_millis(50));
        }
        // Until then somebody may have written into it.
        let _ = fs::remove_dir_all(folder);
        // And what those in there could not tidy up, if they were killed.
        scratch::sweep();
    }
    // SAFETY: the function unwinds nowhere and stays where it is for as long as the process lives.
    ONCE.call_once(|| unsafe {
        libc::atexit(tidy_up);
    });
}
