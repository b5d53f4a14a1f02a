//! Demo of Valet on a real control plane and a real S3 server: from the installation to an upload, a download and an
//! expired credential. The demo runs each command exactly as it shows it, and checks each step.
//!
//! ```text
//! demo [--keep]
//! ```
//! With `--keep`, or if the environment variable KEEP is not empty, everything keeps running until Ctrl-C. VALET_BIN
//! names the operator program; the default is the `valet` next to this program.

mod afterwards;
mod install;
mod stage;
mod tenant;

use std::{env, os::unix::fs::symlink, path::PathBuf, process::ExitCode, thread};

use stage::Stage;
use valet_harness::{
    Context, ControlPlane, Error, Operator, Result, S3Server, Scratch, Tools, operator::find_valet,
    process::interrupt_is_the_end, program,
};

fn main() -> ExitCode {
    program::run("demo", demo)
}

fn demo() -> Result<ExitCode> {
    let mut keep = env::var_os("KEEP").is_some_and(|value| !value.is_empty());
    for argument in env::args().skip(1) {
        match argument.as_str() {
            "--keep" => keep = true,
            _ => {
                eprintln!("usage: demo [--keep]\n  --keep  leave everything running until Ctrl-C");
                return Ok(ExitCode::from(2));
            }
        }
    }
    Ok(if play(keep)? {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Runs the demo. Returns whether all checks succeeded.
fn play(keep: bool) -> Result<bool> {
    let valet = find_valet()?;
    let tools = Tools::locate()?;
    let programs = Scratch::new("bin")?;
    symlink(&valet, programs.join("valet")).context("cannot make a link")?;
    let mut stage = Stage::new(&[programs.path(), tools.folder()])?;
    stage.title("Valet: temporary access to one object, in a Secret, without the store's credentials");

    stage.step(
        "A cluster and an object store",
        "etcd, kube-apiserver, kube-controller-manager and the S3 server versitygw run as processes.",
    );
    let (cluster, store) = start_servers(&tools)?;
    store.create_versioned_bucket("media")?;
    stage.set("KUBECONFIG", cluster.kubeconfig().display().to_string());
    // kubectl writes its cache into the home folder, and could read other settings there.
    stage.set("HOME", cluster.scratch().join("home").display().to_string());
    stage.set("S3_ENDPOINT", store.endpoint());
    stage.set("S3_ACCESS_KEY", store.access_key());
    stage.set("S3_SECRET_KEY", store.secret_key());

    let mut show = Show {
        stage,
        cluster,
        store,
        valet,
        operator: None,
    };
    if let Err(error) = show.story() {
        show.stage.fail(&error);
        if let Some(operator) = &show.operator {
            println!(
                "\nThe last lines of the operator's log:\n{}",
                operator.process().log_tail()
            );
        }
        println!("\nIn the namespace web:\n{}", show.cluster.dump("web"));
        show.cluster.scratch().keep();
    }
    let good = show.stage.end();
    if keep {
        show.invite();
        interrupt_is_the_end();
        loop {
            thread::park();
        }
    }
    Ok(good)
}

fn start_servers(tools: &Tools) -> Result<(ControlPlane, S3Server)> {
    thread::scope(|scope| {
        let store = scope.spawn(|| S3Server::start(tools));
        let cluster = ControlPlane::start(tools)?;
        let store = store.join().map_err(|_| Error::new("starting the store panicked"))??;
        Ok((cluster, store))
    })
}

/// The servers and users of the demo. The steps are in the modules `install`, `tenant` and `afterwards`.
struct Show {
    stage: Stage,
    cluster: ControlPlane,
    store: S3Server,
    valet: PathBuf,
    operator: Option<Operator>,
}

impl Show {
    fn story(&mut self) -> Result<()> {
        self.servers()?;
        self.install()?;
        self.operator()?;
        self.platform_team()?;
        self.tenant()?;
        self.workload()?;
        self.write_once()?;
        self.download()?;
        self.overview()?;
        self.the_end_of_a_key()?;
        self.refused()?;
        self.ledger()
    }

    fn secret_exists(&self, name: &str) -> bool {
        // A direct request is faster: the start of kubectl would take noticeable time.
        self.cluster
            .get(&format!("/api/v1/namespaces/web/secrets/{name}"))
            .is_ok()
    }

    /// Prints where everything is, for users who want to continue.
    fn invite(&self) {
        println!("\nEverything is still running. In another terminal:\n");
        for (name, value) in self.stage.env() {
            if name == "PATH" {
                let mine: Vec<_> = env::split_paths(value).take(2).collect();
                let mine: Vec<_> = mine.iter().map(|folder| folder.display().to_string()).collect();
                println!("  export PATH={}:$PATH", mine.join(":"));
            } else if name != "HOME" {
                println!("  export {name}={value}");
            }
        }
        println!("  cd {}", self.stage.folder().display());
        println!("\nand, for instance:\n");
        for line in [
            "kubectl get valet -A",
            "kubectl explain ug.spec.constraints",
            "sed 's/avatar-42/avatar-43/; s#/42/#/43/#' avatar-42.yaml | kubectl apply -f - && kubectl get ug -n web -w",
            "kubectl patch costore media --type=merge -p '{\"spec\":{\"access\":[]}}'   # and see Valet delete the Secrets",
        ] {
            println!("  {line}");
        }
        if let Some(operator) = &self.operator {
            println!("  tail -f {}", operator.log().display());
            println!("  curl -s http://127.0.0.1:{}/metrics | grep ^valet", operator.port());
        }
        println!("\nCtrl-C stops everything and deletes the files.");
    }
}
