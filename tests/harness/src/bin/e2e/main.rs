//! End-to-end tests: Valet, installed with its chart, on a cluster with real pods. See docs/testing-e2e.md.
//!
//!   e2e [WORD...]     runs the tests with one of these words in their name; `fast` selects the parallel tests
//!
//! With E2E_CONTEXT, the tests use that context of E2E_KUBECONFIG. Otherwise they start a separate node on this
//! machine.

use std::{
    env,
    path::Path,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use valet_harness::{Context, Error, Result, Tools, node, process, program};

mod cluster;
mod flux;
mod git;
mod play;
mod pods;
mod privileged_pods;
mod s3;
mod stories;
mod suite;

use cluster::Cluster;
use play::Play;
use stories::{STORIES, Stage, Story};
use suite::Suite;

/// How many tests that do not change the operator run at the same time. These tests mostly wait.
const SIDE_BY_SIDE: usize = 4;

fn main() -> ExitCode {
    program::run("e2e", || e2e(&env::args().skip(1).collect::<Vec<_>>()))
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

fn e2e(words: &[String]) -> Result<ExitCode> {
    let mut chosen: Vec<&Story> = STORIES.iter().filter(|story| story.is_called(words)).collect();
    if chosen.is_empty() {
        let all: Vec<&str> = STORIES.iter().map(|story| story.name).collect();
        return Err(Error::new(format!(
            "no story is called so; there are: {}",
            all.join(", ")
        )));
    }
    let began = Instant::now();
    let (cluster, valet_image, image) = match variable("E2E_CONTEXT") {
        Some(context) => {
            let cluster = Cluster::named(&Tools::locate()?, &context)?;
            let valet = variable("E2E_VALET_IMAGE").context("E2E_VALET_IMAGE does not name the operator's image")?;
            let image = variable("E2E_IMAGE").context("E2E_IMAGE does not name the workloads' image")?;
            println!("cluster: context {context}");
            chosen.retain(|story| {
                let plays = story.stage != Stage::OnNode;
                if !plays {
                    println!(
                        "left out: {}, which needs a node of the suite's own (leave E2E_CONTEXT out)",
                        story.name
                    );
                }
                plays
            });
            if chosen.is_empty() {
                return Err(Error::new("there is no story left to play"));
            }
            (cluster, valet, image)
        }
        None => {
            if variable("KEEP").is_some() {
                process::interrupt_is_the_end();
            }
            let apart = match node::apart::enter()? {
                node::Place::Outside(code) => return Ok(code),
                node::Place::Inside(apart) => apart,
            };
            let folder =
                variable("E2E_IMAGES").context("E2E_IMAGES does not say where hack/images.sh put the images")?;
            let read = |name| node::Image::read(Path::new(&folder), name);
            let (pause, e2e, valet) = (read("pause")?, read("e2e")?, read("valet")?);
            let images = [pause, e2e.clone(), valet.clone()];
            let cluster = Cluster::own(&Tools::locate()?, &apart, &images)?;
            for image in &images {
                let megabytes = |file: &Path| file.metadata().map_or(0.0, |file| file.len() as f64 / 1e6);
                let unpacked = megabytes(&image.archive);
                let packed = megabytes(&image.archive.with_extension("oci.tar"));
                let (name, digest) = (&image.name, &image.digest);
                println!("image: {name}, {unpacked:.1} MB, {packed:.1} MB to pull, {digest}");
            }
            let ready = cluster
                .node()
                .map(|node| node.started_in().as_secs_f64())
                .unwrap_or_default();
            println!("cluster: a node of our own, ready after {ready:.1} s");
            (cluster, valet.name, e2e.name)
        }
    };
    println!("ask it: {}", cluster.how_to_ask());

    let suite = Suite::prepare(cluster, &valet_image, &image)?;
    let prepared = began.elapsed();
    suite.install(&suite.chart(), &[])?;
    suite.make_store()?;
    println!(
        "installed: chart and {valet_image}, {:.1} s after the start (of which {:.1} s for cluster and S3 server)",
        began.elapsed().as_secs_f64(),
        prepared.as_secs_f64()
    );

    let report = Report::default();
    play_all(&suite, &chosen, &report);
    println!(
        "{} passed, {} failed, in {:.0} s",
        report.passed(),
        report.failed(),
        began.elapsed().as_secs_f64()
    );
    if variable("KEEP").is_some() {
        println!("Everything is still running. Ctrl-C ends it all.");
        process::interrupt_is_the_end();
        loop {
            thread::sleep(Duration::from_secs(3600));
        }
    }
    if suite.cluster.node().is_none() {
        suite::clean(&suite.cluster)?;
    }
    Ok(if report.failed() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

#[derive(Default)]
struct Report {
    passed: AtomicUsize,
    failed: AtomicUsize,
    print: Mutex<()>,
}

impl Report {
    fn passed(&self) -> usize {
        self.passed.load(Ordering::Relaxed)
    }

    fn failed(&self) -> usize {
        self.failed.load(Ordering::Relaxed)
    }
}

/// First the tests that do not change the operator, in parallel; then all other tests, one after the other.
fn play_all(suite: &Suite, chosen: &[&Story], report: &Report) {
    let is_gentle = |story: &&Story| matches!(story.stage, Stage::Fast | Stage::Beside);
    let (gentle, rough): (Vec<_>, Vec<_>) = chosen.iter().copied().partition(is_gentle);
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..SIDE_BY_SIDE {
            scope.spawn(|| {
                while let Some(story) = gentle.get(next.fetch_add(1, Ordering::Relaxed)) {
                    play(suite, story, report);
                }
            });
        }
    });
    for story in rough {
        play(suite, story, report);
    }
}

fn play(suite: &Suite, story: &Story, report: &Report) {
    let began = Instant::now();
    let (namespace, result, notes) = match Play::begin(suite, story.name) {
        Ok(play) => {
            let result = (story.play)(&play);
            (play.namespace.clone(), result, play.notes())
        }
        Err(error) => (String::new(), Err(error), Vec::new()),
    };
    let took = began.elapsed().as_secs_f64();
    let dump = match &result {
        Ok(()) => String::new(),
        Err(_) => suite.cluster.dump(&namespace) + &suite.cluster.dump(suite::SYSTEM),
    };
    let _one_at_a_time = report.print.lock().unwrap_or_else(|poison| poison.into_inner());
    match result {
        Ok(()) => {
            report.passed.fetch_add(1, Ordering::Relaxed);
            println!("ok    {:<14} {took:5.1} s  {}", story.name, story.about);
        }
        Err(error) => {
            report.failed.fetch_add(1, Ordering::Relaxed);
            println!("FAIL  {:<14} {took:5.1} s  {}\n      {error}", story.name, story.about);
            println!("{dump}");
            suite.cluster.scratch().keep();
            if let Some(node) = suite.cluster.node() {
                node.keep();
            }
        }
    }
    for note in notes {
        println!("      {note}");
    }
    // The namespace of a passed test is deleted, because it would slow down later tests. KEEP=1 keeps the namespace
    // of a failed test.
    if dump.is_empty() && !namespace.is_empty() {
        let _ = suite
            .cluster
            .kubectl(&["delete", "namespace", &namespace, "--wait=false"]);
    }
}
