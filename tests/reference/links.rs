//! Tests of links: every link in the documentation points to an existing file and heading.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Component, Path, PathBuf},
};

const ROOT: &str = env!("VALET_ROOT");

/// Every page of the repository, by its path.
fn pages() -> BTreeMap<PathBuf, String> {
    let mut pages = BTreeMap::new();
    let mut folders = vec![PathBuf::from(ROOT)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder can be read") {
            let path = entry.expect("it has entries").path();
            let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if path.is_dir() && !name.starts_with('.') && !["target", "node_modules"].contains(&name) {
                folders.push(path);
            } else if name.ends_with(".md") {
                let text = fs::read_to_string(&path).expect("a page is text");
                let from_root = path.strip_prefix(ROOT).expect("it is below the root");
                pages.insert(from_root.to_owned(), text);
            }
        }
    }
    pages
}

/// The lines outside code blocks, without inline code.
fn prose(page: &str) -> impl Iterator<Item = String> {
    let mut in_block = false;
    page.lines().filter_map(move |line| {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            return None;
        }
        let outside = line.split('`').step_by(2);
        (!in_block).then(|| outside.collect::<Vec<_>>().join("`"))
    })
}

/// The targets of the links on a page.
fn links(page: &str) -> Vec<String> {
    let of_line = |line: String| {
        let rest = line.split("](").skip(1).map(|rest| rest.split(')').next());
        rest.flatten().map(str::to_owned).collect::<Vec<_>>()
    };
    prose(page).flat_map(of_line).collect()
}

/// The anchors of a page's headings, as GitHub creates them. A repeated anchor gets a number.
fn anchors(page: &str) -> BTreeSet<String> {
    let mut in_block = false;
    let mut seen = BTreeSet::new();
    for line in page.lines() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
        }
        let title = line.trim_start_matches('#');
        if in_block || title.len() == line.len() || !title.starts_with(' ') {
            continue;
        }
        let words = title.trim().to_lowercase();
        let kept = words.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor = kept.collect::<String>().replace(' ', "-");
        let numbered = (1..).map(|n| format!("{anchor}-{n}"));
        let free = std::iter::once(anchor.clone())
            .chain(numbered)
            .find(|a| !seen.contains(a));
        seen.extend(free);
    }
    seen
}

/// Normalizes a path: `docs/a/../b.md` becomes `docs/b.md`.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(plain.pop(), "{} leaves the repository", path.display()),
            part => plain.push(part),
        }
    }
    plain
}

#[test]
fn every_link_points_to_an_existing_file_and_heading() {
    // The address of the repository. Files that are used outside the repository (the chart, the alerts) link with it.
    const HERE: &str = "https://github.com/valetkey/valet/blob/main/";
    let pages = pages();
    let (mut tried, mut dead) = (0, Vec::new());
    for (name, text) in &pages {
        for link in links(text) {
            let target = match link.strip_prefix(HERE) {
                Some(path) => format!("/{path}"),
                None if link.contains("://") || link.starts_with("mailto:") => continue,
                None => link.clone(),
            };
            let (file, anchor) = target.split_once('#').unwrap_or((&target, ""));
            let to = match (file, file.strip_prefix('/')) {
                ("", _) => name.clone(),
                (_, Some(from_root)) => PathBuf::from(from_root),
                (file, None) => plain(&name.with_file_name("").join(file)),
            };
            tried += 1;
            let is_there = Path::new(ROOT).join(&to).exists();
            let leads =
                is_there && (anchor.is_empty() || pages.get(&to).is_some_and(|p| anchors(p).contains(anchor)));
            if !leads {
                dead.push(format!("{}: {link}", name.display()));
            }
        }
    }
    assert!(tried > 250, "{tried} links were found");
    assert!(dead.is_empty(), "{}", dead.join("\n"));
}

/// The troubleshooting page lists every symptom at the top.
#[test]
fn troubleshooting_page_lists_every_symptom() {
    let page = fs::read_to_string(format!("{ROOT}/docs/troubleshooting.md")).expect("the page is there");
    let listed: BTreeSet<_> = links(&page).into_iter().filter(|l| l.starts_with('#')).collect();
    let missing: Vec<_> = page
        .lines()
        .filter(|line| line.starts_with("## ") && *line != "## First look")
        .filter(|line| anchors(line).iter().all(|a| !listed.contains(&format!("#{a}"))))
        .collect();
    assert_eq!(missing, Vec::<&str>::new(), "docs/troubleshooting.md");
}

/// A store's error answer can contain the signed request, and anyone who reads the signature can use the URL. So no
/// command or program of a page or example prints more of an answer than `<Code>` and `<Message>`.
#[test]
fn no_documented_command_prints_a_whole_answer_of_a_store() {
    let examples = fs::read_dir(Path::new(ROOT).join("examples")).expect("there are examples");
    let examples = examples.map(|entry| entry.expect("it has entries").path());
    let examples: Vec<_> = examples
        .filter(|path| path.is_file())
        .map(|path| (path.clone(), fs::read_to_string(&path).expect("an example is text")))
        .collect();
    let mut seen = 0;
    for (path, text) in pages().into_iter().chain(examples) {
        let lines = text.lines();
        for line in lines
            .filter(|line| line.contains("curl") && (line.contains("--no-fail") || line.contains("fail-with-body")))
        {
            // Only commands count, not sentences about the option.
            if line.contains("--config") {
                seen += 1;
                assert!(
                    line.contains("| grep -aoE '<(Code|Message)>[^<]*'"),
                    "{}: {line}",
                    path.display()
                );
            }
        }
        for line in text
            .lines()
            .filter(|line| line.contains("answer.text()") || line.contains("answer.body()"))
        {
            seen += 1;
            assert!(line.contains("<(Code|Message)>"), "{}: {line}", path.display());
        }
    }
    assert!(
        seen >= 4,
        "only {seen} commands were found, so the test may check nothing"
    );
}
