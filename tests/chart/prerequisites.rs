//! Tests that README.md names every package that a new machine needs, and that every input of the build is pinned.

use std::{os::unix::fs::symlink, path::Path, process::Command};

use valet_harness::{Scratch, process, process::Output};

use crate::{helm, world::SOON};

const ROOT: &str = env!("VALET_ROOT");
const INSTALL: &str = "apt-get update && apt-get install --yes --no-install-recommends ";

fn script(root: &Path, name: &str, args: &[&str], path: Option<&Path>) -> Output {
    let mut command = process::clean(Command::new("bash"));
    command.arg(root.join(name)).args(args);
    if let Some(path) = path {
        command.env("PATH", path);
    }
    process::run(command, b"", SOON).expect("the script runs")
}

/// A copy of some files of the repository that a test can change.
fn copy(files: &[&str]) -> Scratch {
    let scratch = Scratch::new("machine").expect("a folder can be made");
    for file in files {
        let to = scratch.join(file);
        std::fs::create_dir_all(to.parent().expect("it is in a folder")).expect("a folder can be made");
        std::fs::copy(format!("{ROOT}/{file}"), to).expect("the file can be copied");
    }
    scratch
}

/// A folder with only the programs that every Debian system has.
fn bare_path() -> Scratch {
    let scratch = Scratch::new("bare").expect("a folder can be made");
    let essential = [
        "bash",
        "sh",
        "dirname",
        "sed",
        "tail",
        "cut",
        "head",
        "sort",
        "grep",
        "wc",
        "id",
        "sha256sum",
        "cat",
    ];
    for program in essential {
        let found = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(program));
        let found = found.iter().find(|path| path.is_file()).expect("Debian has it");
        symlink(found, scratch.join(program)).expect("a link can be made");
    }
    scratch
}

#[test]
fn readme_command_installs_every_package_that_a_check_requires() {
    let line = script(Path::new(ROOT), "hack/debian.sh", &[], None).text();
    let packages: Vec<_> = line.trim().strip_prefix(INSTALL).expect(&line).split(' ').collect();
    let bare = bare_path();
    for (check, args, toolchains) in [
        (
            "hack/tools.sh",
            &["--check", "chart", "stores", "tests", "clocks", "node", "browser"][..],
            3,
        ),
        ("hack/azure.sh", &["--check"], 2),
        ("hack/google.sh", &["--check"], 1),
        ("hack/flux.sh", &["--check"], 1),
        ("hack/network.sh", &["--check"], 1),
    ] {
        let said = script(Path::new(ROOT), check, args, Some(bare.path()));
        assert!(
            !said.status.success(),
            "{check} reports no missing package on a machine without packages"
        );
        let asked: Vec<_> = said
            .stderr
            .lines()
            .filter_map(|line| line.trim().strip_prefix("install it:"))
            .collect();
        assert!(!asked.is_empty(), "{check}: {}", said.stderr);
        let mut elsewhere = 0;
        for how in asked {
            let Some((_, names)) = how.split_once("apt-get install --yes ") else {
                assert!(how.contains("https://"), "{check}: {how}");
                elsewhere += 1;
                continue;
            };
            for name in names.split(' ').filter(|name| !name.starts_with("--")) {
                // The package is `Essential` in Debian, so every system has it.
                let there = name == "util-linux" || packages.contains(&name);
                assert!(
                    there,
                    "{check} requires {name}, but the command in README.md does not install it"
                );
            }
        }
        assert_eq!(elsewhere, toolchains, "{check}: {}", said.stderr);
    }
}

#[test]
fn make_test_requires_the_shell_of_the_upload_script() {
    let bare = bare_path();
    let said = |args: &[&str]| script(Path::new(ROOT), "hack/tools.sh", args, Some(bare.path())).stderr;
    assert!(
        said(&["--check", "tests"]).contains("missing  busybox"),
        "a test needs the program"
    );
    assert!(
        !said(&["--check"]).contains("missing  busybox"),
        "the demo does not need the program"
    );
    let makefile = std::fs::read_to_string(format!("{ROOT}/Makefile")).expect("it is there");
    assert!(makefile.contains("hack/tools.sh --check chart stores tests"));
}

#[test]
fn ci_installs_packages_with_the_readme_command_or_fails() {
    let ci = std::fs::read_to_string(format!("{ROOT}/.ci/run")).expect("it is there");
    assert!(
        ci.contains("\nhack/debian.sh --install\n") && !ci.contains("apt-get"),
        "{ci}"
    );
    let scratch = copy(&["hack/debian.sh", "README.md"]);
    let printed = |scratch: &Scratch| script(scratch.path(), "hack/debian.sh", &[], None);
    let line = printed(&scratch);
    assert!(line.status.success() && line.text().starts_with(INSTALL));
    assert!(!line.text().contains('\\'), "the command has only one line");
    let readme = scratch.join("README.md");
    let text = std::fs::read_to_string(&readme).expect("it can be read");
    for wrong in [
        text.replace(INSTALL, "apt-get install "),
        format!("{text}\n{INSTALL}more\n"),
    ] {
        std::fs::write(&readme, wrong).expect("it can be written");
        let said = printed(&scratch);
        assert!(
            !said.status.success() && said.stderr.contains("exactly one command"),
            "{}",
            said.stderr
        );
    }
    assert!(
        !script(Path::new(ROOT), "hack/debian.sh", &["--instal"], None)
            .status
            .success(),
        "not an option"
    );
}

#[test]
fn build_downloads_are_pinned_by_digest() {
    let files = [
        "hack/pinned.sh",
        ".github/workflows/release.yaml",
        "Dockerfile",
        "tests/e2e/images/Dockerfile",
    ];
    let scratch = copy(&files);
    let check = || script(scratch.path(), "hack/pinned.sh", &[], None);
    assert!(check().status.success(), "{}", check().stderr);
    let digest = "@sha256:6258907abe69656e41cd992e0b705cdcfabcbbe3db374f92ed2d47121282d4a1";
    let checkout = "actions/checkout@3d3c42e5aac5ba805825da76410c181273ba90b1";
    for (file, from, to, message) in [
        ("Dockerfile", digest, "", "FROM rust:1.95-bookworm is neither"),
        (
            "tests/e2e/images/Dockerfile",
            "FROM base\n",
            "FROM other\n",
            "FROM other is neither",
        ),
        (files[1], digest, "", "names no digest"),
        (
            files[1],
            checkout,
            "actions/checkout@v7",
            "names no commit with its version",
        ),
        (
            files[1],
            &format!("{checkout} # v7.0.1"),
            checkout,
            "names no commit with its version",
        ),
        (
            "Dockerfile",
            digest,
            &digest.replace("6258907a", "00000000"),
            "has more than one digest",
        ),
    ] {
        let right = std::fs::read_to_string(scratch.join(file)).expect("it can be read");
        helm::edit(&scratch.join(file), from, to);
        let said = check();
        assert!(
            !said.status.success() && said.stderr.contains(message),
            "{file}, {to}: {}",
            said.stderr
        );
        scratch.write(file, right).expect("it can be written");
    }
}
