//! Tests of processes and temporary folders: their error messages, and that nothing is left at the end.

use std::{fs, path::Path, process::Command, sync::LazyLock, thread, time::Duration};

use valet_harness::{Process, Scratch, eventually, process};

use crate::SOON;

#[test]
fn process_error_shows_the_last_lines_of_the_log() {
    let scratch = Scratch::new("test").unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", "echo it is all wrong; exit 3"]);
    let process = Process::start("shell", command, scratch.join("shell.log")).unwrap();
    let error = process
        .wait_until(SOON, "it was ready", || false)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("shell ended (exit status: 3) before it was ready"),
        "{error}"
    );
    assert!(error.contains("shell.log:\n    it is all wrong"), "{error}");
}

#[test]
fn process_is_terminated_or_killed_as_requested() {
    let scratch = Scratch::new("test").unwrap();
    let sleep = || {
        let mut command = Command::new("sleep");
        command.arg("600");
        Process::start("sleep", command, scratch.join("sleep.log")).unwrap()
    };
    let asked = sleep();
    assert!(asked.is_running());
    assert!(!asked.terminate(SOON).unwrap().success());
    let frozen = sleep();
    frozen.pause();
    let error = frozen.terminate(Duration::from_millis(200)).unwrap_err().to_string();
    assert!(error.contains("was killed"), "{error}");
    let dropped = sleep();
    let pid = dropped.pid();
    drop(dropped);
    assert!(!Path::new(&format!("/proc/{pid}")).exists());

    let mut command = Command::new("sleep");
    command.arg("600");
    // The command sleeps for ten minutes. If `run` did not kill it, the test would not end.
    let error = process::run(command, &[], Duration::from_millis(200)).unwrap_err();
    assert!(
        error.to_string().contains("sleep 600 did not end within 0.2 s"),
        "{error}"
    );
}

/// If this variable is set, the test program runs as a parent process: it runs only the test below.
const PLAY_PARENT: &str = "HARNESS_TEST_PLAY_PARENT";

#[test]
fn children_and_folders_do_not_outlive_their_parent() {
    // A Process in a static, started by a thread that has ended. Many tests do this.
    static CHILD: LazyLock<(Process, Scratch)> = LazyLock::new(|| {
        let scratch = Scratch::new("child").unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        (Process::start("sleep", command, scratch.join("log")).unwrap(), scratch)
    });
    if let Ok(how) = std::env::var(PLAY_PARENT) {
        let (pid, folder) = thread::spawn(|| (CHILD.0.pid(), CHILD.1.path().to_owned()))
            .join()
            .unwrap();
        thread::sleep(Duration::from_millis(300));
        assert!(
            CHILD.0.is_running(),
            "the process runs on after the end of the thread that started it"
        );
        println!("child {pid} {}", folder.display());
        if how == "crash" {
            std::process::abort();
        }
        return;
    }
    for how in ["exit", "crash"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "processes::children_and_folders_do_not_outlive_their_parent",
                "--nocapture",
            ])
            .env(PLAY_PARENT, how)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let (_, line) = text.split_once("child ").unwrap_or_else(|| panic!("{output:?}"));
        let (pid, folder) = line.lines().next().unwrap().split_once(' ').unwrap();
        eventually(SOON, "the child process to end", || dead(pid).then_some(()));
        if how == "crash" {
            assert!(
                Path::new(folder).exists(),
                "no process was running to delete the folder"
            );
            // Before a process creates its first folder, it deletes the folders of killed processes.
            let swept = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "processes::process_error_shows_the_last_lines_of_the_log"])
                .output()
                .unwrap();
            assert!(swept.status.success(), "{swept:?}");
        }
        assert!(!Path::new(folder).exists(), "{how}: {folder} is still there");
    }
}

/// True if the process has ended, or if it only waits to be reaped.
fn dead(pid: &str) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat.contains(") Z "),
        Err(_) => true,
    }
}
