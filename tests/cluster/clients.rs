//! Tests that run the example programs of docs/reference/clients.md as they are on the page.

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::json;
use valet_harness::process;

use crate::world::Tenant;

/// Longer than a compiler takes when it has no cache.
const LONG: Duration = Duration::from_secs(180);

/// The code blocks of the page in one language, with the paths replaced by those of this test.
fn programs(language: &str, grant: &Path, file: &Path) -> Vec<String> {
    let page =
        fs::read_to_string(concat!(env!("VALET_ROOT"), "/docs/reference/clients.md")).expect("the page is there");
    let fence = format!("```{language}\n");
    page.split(&fence)
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .map(|block| {
            block
                .replace("/grant/", &format!("{}/", grant.display()))
                .replace("FILE", &file.display().to_string())
        })
        .collect()
}

fn run(t: &Tenant, name: &str, program: &str, command: &[&str]) {
    let folder = t.file(name, b"").with_file_name(format!("of-{name}"));
    fs::create_dir_all(&folder).expect("a folder can be made");
    fs::write(folder.join(name), program).expect("a file can be written");
    let mut client = process::clean(Command::new(command[0]));
    client.current_dir(&folder).args(&command[1..]).arg(name);
    process::run_ok(client, b"", LONG).unwrap_or_else(|e| panic!("{name}: {e}"));
}

/// The example programs can upload with a URL that requires a content type, a length and a checksum.
#[test]
fn documented_example_programs_upload_and_download() {
    let t = Tenant::new("clients");
    let _operator = t.operator();
    let has_java = Command::new("javac")
        .arg("-version")
        .output()
        .is_ok_and(|java| java.status.success());
    let languages = [
        ("python", "up.py", &["python3"][..]),
        ("js", "up.mjs", &["node"]),
        ("go", "up.go", &["go", "run"]),
        ("java", "Upload.java", &["java"]),
    ];
    // Only this test needs Java, so the test skips the Java program if `javac` is missing.
    let languages = languages
        .into_iter()
        .filter(|(language, ..)| *language != "java" || has_java);
    let bytes = b"bytes";
    let file = t.file("body", bytes);
    for (language, name, command) in languages {
        let constraints = json!({
            "contentType": "text/x-report", "contentLength": 5, "checksumMD5": "SzpiGLs+OnMD6KFxpg/Pkg==",
        });
        t.apply(&[t.grant("UploadGrant", language, json!({"constraints": constraints}))]);
        let mounted = t.mount(language);
        let programs = programs(language, &mounted.folder, &file);
        run(&t, name, &programs[0], command);
        let done = t.reason_within(&format!("ug/{language}"), "Completed", Duration::from_secs(70));
        assert_eq!(done["status"]["object"]["contentType"], "text/x-report", "{language}");
        assert_eq!(t.stored(&t.key(language)).as_deref(), Some(&bytes[..]), "{language}");
    }
    // The example programs can also download an object.
    t.apply(&[t.grant("DownloadGrant", "down", json!({"key": t.key("python")}))]);
    let mounted = t.mount("down");
    let out = file.with_file_name("out");
    run(
        &t,
        "down.py",
        &programs("python", &mounted.folder, &out)[1],
        &["python3"],
    );
    assert_eq!(fs::read(&out).expect("the upload has arrived"), bytes);
}
