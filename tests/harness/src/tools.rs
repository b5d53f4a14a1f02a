//! The programs for the tests and the demo.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use crate::{Context, Error, Result};

/// The folder with the programs: kube-apiserver, kube-controller-manager, etcd, kubectl, kstatus, versitygw, and a
/// python3 that has botocore.
#[derive(Clone, Debug)]
pub struct Tools {
    folder: PathBuf,
}

const PROGRAMS: [&str; 7] = [
    "etcd",
    "kstatus",
    "kube-apiserver",
    "kube-controller-manager",
    "kubectl",
    "python3",
    "versitygw",
];

impl Tools {
    /// Finds the folder: the value of `VALET_TOOLS`, or otherwise the output of `hack/tools.sh`. The script builds
    /// the programs at the first call (about ten minutes on two cores) and prints its progress on standard error.
    ///
    /// # Errors
    /// Returns an error if the script fails, or if a program is missing in the folder.
    pub fn locate() -> Result<Self> {
        static FOUND: OnceLock<std::result::Result<Tools, String>> = OnceLock::new();
        FOUND
            .get_or_init(|| Self::look().map_err(|error| error.to_string()))
            .clone()
            .map_err(Error::new)
    }

    fn look() -> Result<Self> {
        let folder = match env::var_os("VALET_TOOLS") {
            Some(folder) => PathBuf::from(folder),
            None => folder_of("tools.sh")?,
        };
        for program in PROGRAMS {
            if !folder.join(program).is_file() {
                return Err(Error::new(format!(
                    "{} has no {program}; run hack/tools.sh, or point VALET_TOOLS at the folder that it prints",
                    folder.display()
                )));
            }
        }
        Ok(Self { folder })
    }

    /// The folder with the programs.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of one program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// A command that runs one program, in a cleaned environment (see [`crate::process::clean`]).
    pub fn command(&self, name: &str) -> Command {
        crate::process::clean(Command::new(self.program(name)))
    }
}

/// Returns the last line of output of a script in `hack`: the folder in which it installed programs once per machine.
/// The progress is on standard error.
///
/// # Errors
/// Returns an error if the script fails or prints nothing.
pub(crate) fn folder_of(script: &str) -> Result<PathBuf> {
    let script = Path::new(env!("VALET_ROOT")).join("hack").join(script);
    let output = Command::new(&script)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context(format_args!("cannot run {}", script.display()))?;
    if !output.status.success() {
        return Err(Error::new(format!(
            "{} failed ({}); what it said stands above",
            script.display(),
            output.status
        )));
    }
    let printed = String::from_utf8_lossy(&output.stdout);
    let folder = printed.lines().last().unwrap_or_default().trim();
    if folder.is_empty() {
        return Err(Error::new(format!("{} printed no folder", script.display())));
    }
    Ok(PathBuf::from(folder))
}
