//! Benchmark of grants. It measures the time from a grant to its Secret compared with a plain create of a Secret, the
//! number of API writes per grant, the delay of the Secret's deletion after the expiry, the time from a notification
//! to Completed, and the time from a narrower access rule to the deletion of the Secrets.
//!
//! ```text
//! bench
//! ```
//! The benchmark starts a control plane, an S3 server and one operator for all namespaces. The last line of the
//! output contains the results. Wrong counts make the exit status 1; times are only reported. VALET_BIN names the
//! operator program; the default is the `valet` next to this program. BENCH_IDLE_SECONDS (300) is the time for which
//! an idle operator is observed. BENCH_GRANTS, for example "1000 6000", creates these numbers of grants at the end
//! and measures the memory.

mod client;
mod counts;
mod objects;
mod promises;
mod times;

use std::{
    env,
    process::ExitCode,
    thread,
    time::{Duration, Instant, SystemTime},
};

use client::{Client, Resource, Watch, proxy};
use counts::{Account, Counts, Mark, Usage, call, list, looks, total};
use objects::{bare, names};
use serde_json::{Value, json};
use times::{Times, since_1970, sleep_until};
use valet_harness::{
    Context, Error, Operator, OperatorOptions, Process, Result, Scene, UrlCheck, net, poll,
    program::{self, number},
    verify_urls,
};

/// Number of measured grants of each kind, and of plain Secrets for comparison.
const GRANTS: usize = 300;
/// Number of grants before the measurement, so that caches are filled and connections are open.
const WARM_UP: usize = 5;
/// Time between two grants. A plain Secret is created halfway between them.
const PACE: Duration = Duration::from_millis(100);
/// Number of grants that expire in the same second, half of each kind.
const ENDING: usize = 200;
/// Time in which the expiring grants must be created and read.
const UNTIL_THE_END: Duration = Duration::from_secs(30);
/// Time limit for everything that has no time limit of its own.
const SOON: Duration = Duration::from_secs(60);
/// The audit log and the metrics are written shortly after a response. Unnecessary writes would also happen in this
/// time.
const SETTLE: Duration = Duration::from_secs(3);

const NAMESPACE: &str = "bench";
const GROUP: &str = "valetkey.dev";
const KINDS: [(&str, Resource); 2] = [
    ("DownloadGrant", resource(GROUP, "downloadgrants")),
    ("UploadGrant", resource(GROUP, "uploadgrants")),
];
const SECRETS: Resource = resource("", "secrets");

const fn resource(group: &'static str, plural: &'static str) -> Resource {
    Resource {
        group,
        plural,
        namespace: NAMESPACE,
    }
}

fn main() -> ExitCode {
    program::run("bench", bench)
}

fn bench() -> Result<()> {
    let idle = number("BENCH_IDLE_SECONDS", 300)?;
    let mut bench = Bench::start()?;
    bench.say_where();
    bench.warm_up()?;
    let started = bench.usage()?;

    let (mut grants, mut bare) = (Vec::new(), Vec::new());
    for kind in 0..KINDS.len() {
        let (of_grants, of_bare) = bench.latency(kind)?;
        grants.extend(of_grants);
        bare.extend(of_bare);
    }
    let after_grants = bench.usage()?;
    let per_grant = bench.writes as f64 / grants.len() as f64;
    let idle_writes = bench.idle(Duration::from_secs(idle))?;
    let after_idle = bench.usage()?;
    bench.expiry()?;
    let at_the_end = bench.usage()?;
    bench.notified()?;
    let mut usages = vec![
        ("warm, with ten grants".to_owned(), started),
        ("after the grants".to_owned(), after_grants),
        ("after the idle time".to_owned(), after_idle),
        ("after the expiry".to_owned(), at_the_end),
    ];
    for many in numbers("BENCH_GRANTS")? {
        usages.push((format!("with {many} grants"), bench.grow(many)?));
    }
    bench.narrowed()?;

    println!("\nThe operator itself                      CPU s    RSS MiB");
    for (when, usage) in usages {
        println!("  {when:<36} {:>7.2}  {:>9.1}", usage.cpu, usage.resident);
    }

    let (grants, bare) = (Times::of(&grants), Times::of(&bare));
    println!(
        "\ngrant to Secret p50 {:.1} ms, p99 {:.1} ms; bare create p50 {:.1} ms, p99 {:.1} ms; ratio p50 {:.1}; \
         writes per grant {per_grant:.2}; idle writes {idle_writes}",
        grants.p50,
        grants.p99,
        bare.p50,
        bare.p99,
        grants.p50 / bare.p50
    );
    match bench.wrong.as_slice() {
        [] => Ok(()),
        wrong => Err(Error::new(wrong.join("\nbench: "))),
    }
}

/// The numbers in an environment variable. Empty if the variable is not set.
fn numbers(variable: &str) -> Result<Vec<usize>> {
    let text = env::var(variable).unwrap_or_default();
    let all = text
        .split_whitespace()
        .map(str::parse)
        .collect::<std::result::Result<_, _>>();
    all.context(format_args!("{variable} must be numbers, as in \"1000 6000\""))
}

struct Bench {
    // The fields are dropped in this order: clients before servers.
    client: Client,
    watch: Watch,
    _proxy: Process,
    operator: Operator,
    /// The port of the operator's receiver of notifications.
    notifications: u16,
    scene: Scene,
    /// One Secret of the operator for each kind of grant, as a template for the plain Secrets.
    models: Vec<Value>,
    /// Number of grants of each kind with issued credentials.
    live: usize,
    /// The operator's writes for the measured grants.
    writes: u64,
    /// Errors that make the benchmark fail after all measurements.
    wrong: Vec<String>,
}

impl Bench {
    fn start() -> Result<Self> {
        let rule = json!({
            "operations": ["Upload", "Download"], "keyPrefix": "tenants/{namespace}/", "maxExpirationSeconds": 7200,
        });
        let scene = Scene::set(NAMESPACE, rule)?;
        let notifications = net::free_port()?;
        let tokens = scene
            .plane
            .scratch()
            .write("tokens", format!("{} *", promises::TOKEN))?;
        let operator = scene.operator(&OperatorOptions {
            args: vec![
                format!("--notifications-address=127.0.0.1:{notifications}"),
                format!("--notifications-token-file={}", tokens.display()),
            ],
            ..OperatorOptions::default()
        })?;
        scene
            .plane
            .kubectl(&["wait", "--for=condition=Ready", "costore/bench", "--timeout=30s"])?;
        let (proxy, port) = proxy(&scene.plane)?;
        Ok(Self {
            client: Client::connect(port)?,
            watch: Watch::start(port, SECRETS)?,
            _proxy: proxy,
            operator,
            notifications,
            scene,
            models: Vec::new(),
            live: 0,
            writes: 0,
            wrong: Vec::new(),
        })
    }

    fn say_where(&self) {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        println!(
            "One operator for all namespaces, kube-apiserver, etcd and versitygw on {} processor(s), load {} at the \
             start;\nthe client talks to the apiserver through kubectl proxy. Times in ms.",
            thread::available_parallelism().map_or(0, std::num::NonZero::get),
            load.split(' ').next().unwrap_or("?"),
        );
    }

    /// Creates a few grants of each kind that are not measured. Their Secrets are the templates of the plain Secrets.
    fn warm_up(&mut self) -> Result<()> {
        for (at, (kind, resource)) in KINDS.into_iter().enumerate() {
            let names = names(&format!("warm-{at}"), WARM_UP);
            for name in &names {
                self.client.post(resource, &self.grant(kind, name))?;
            }
            self.wait_for_secrets(&names)?;
            self.wait_for_statuses(resource, WARM_UP)?;
            let secrets = self.client.list(SECRETS)?;
            let model = secrets.into_iter().find(|s| s["metadata"]["name"] == names[0].as_str());
            self.models.push(bare(model.context("the Secret is gone again")?));
            for name in names {
                self.client.post(SECRETS, &self.model(at, &format!("bare-{name}")))?;
            }
        }
        self.live = WARM_UP * KINDS.len();
        thread::sleep(SETTLE);
        Ok(())
    }

    /// Builds a grant with a lifetime of two hours.
    fn grant(&self, kind: &str, name: &str) -> Value {
        self.scene.grant(kind, name, 7200)
    }

    fn model(&self, kind: usize, name: &str) -> Value {
        let mut secret = self.models[kind].clone();
        secret["metadata"]["name"] = name.into();
        secret
    }

    /// Measures grants of one kind and the same number of plain Secrets in between, from the request to the event of
    /// the Secret.
    fn latency(&mut self, at: usize) -> Result<(Vec<Duration>, Vec<Duration>)> {
        let (kind, resource) = KINDS[at];
        let names = names(&format!("g{at}"), GRANTS);
        let (mut grants, mut secrets) = (Vec::new(), Vec::new());
        let (looked, cpu) = (looks(&self.operator)?, self.usage()?.cpu);
        self.client.writes.clear();
        let mark = Mark::now(&self.scene.plane)?;
        let start = Instant::now();
        for (n, name) in (0..).zip(&names) {
            sleep_until(start + PACE * n);
            grants.push(self.client.post(resource, &self.grant(kind, name))?);
            let secret = self.model(at, &format!("bare-{name}"));
            sleep_until(start + PACE * n + PACE / 2);
            secrets.push(self.client.post(SECRETS, &secret)?);
        }
        self.wait_for_secrets(&names)?;
        self.wait_for_statuses(resource, WARM_UP + GRANTS)?;
        thread::sleep(SETTLE);
        let account = mark.account(&self.scene.plane, &self.client.writes)?;
        self.live += GRANTS;

        let seen = |prefix: &str, posted: &[client::Posted]| -> Result<Vec<Duration>> {
            let each = names.iter().zip(posted).map(|(name, posted)| {
                let came = self.watch.came(&format!("{prefix}{name}"));
                came.map(|came| came.duration_since(posted.sent))
            });
            each.collect::<Option<_>>().context("a Secret was not seen")
        };
        let reply = |posted: &[client::Posted]| posted.iter().map(|p| p.reply).collect::<Vec<_>>();
        let (seen_grants, seen_bare) = (seen("", &grants)?, seen("bare-", &secrets)?);
        println!(
            "\n{GRANTS} {kind}s, {:.0} a second, and as many bare Secrets",
            1.0 / PACE.as_secs_f64()
        );
        println!("                                           p50      p99      max");
        let row = |what: &str, times: &[Duration]| {
            let times = Times::of(times);
            println!(
                "  {what:<36} {:>7.1}  {:>7.1}  {:>7.1}",
                times.p50, times.p99, times.max
            );
            times.p50
        };
        let grant_seen = row("grant sent to its Secret seen", &seen_grants);
        row("grant sent to its reply", &reply(&grants));
        let bare_seen = row("bare Secret sent to its event seen", &seen_bare);
        let bare_reply = row("bare Secret sent to its reply", &reply(&secrets));
        println!(
            "  ratio of medians: {:.1} to the bare Secret seen, {:.1} to its reply",
            grant_seen / bare_seen,
            grant_seen / bare_reply
        );
        self.print_writes(&account, GRANTS);
        println!("  operator's reads: {}", list(&account.reads));
        println!(
            "  HEADs: {:.2} a grant; operator's CPU time: {:.1} ms a grant",
            (looks(&self.operator)? - looked) as f64 / GRANTS as f64,
            (self.usage()?.cpu - cpu) * 1000.0 / GRANTS as f64
        );

        let n = GRANTS as u64;
        let status = call("PATCH", resource.group, resource.plural, "status");
        let expected = Counts::from([(call("POST", "", "secrets", ""), n), (status, n)]);
        self.writes += total(&account.by_metrics);
        self.check(&format!("two writes for each {kind}"), &account, &expected);
        Ok((seen_grants, seen_bare))
    }

    /// Checks that the operator writes nothing while nothing happens.
    fn idle(&mut self, time: Duration) -> Result<u64> {
        println!("\nIdle for {} s with {} live grants", time.as_secs(), self.live);
        let (looked, cpu) = (looks(&self.operator)?, self.usage()?.cpu);
        self.client.writes.clear();
        let mark = Mark::now(&self.scene.plane)?;
        thread::sleep(time);
        let account = mark.account(&self.scene.plane, &self.client.writes)?;
        self.print_writes(&account, self.live);
        println!("  other components' writes: {}", list(&account.others));
        println!("  operator's reads: {}", list(&account.reads));
        let uploads = (self.live / KINDS.len()) as f64;
        println!(
            "  HEADs: {:.2} for each UploadGrant, {:.2} since the start; operator's CPU time: {:.2} s",
            (looks(&self.operator)? - looked) as f64 / uploads,
            looks(&self.operator)? as f64 / uploads,
            self.usage()?.cpu - cpu
        );
        self.check("no writes at rest", &account, &Counts::new());
        Ok(total(&account.by_metrics).max(total(&account.by_audit)))
    }

    /// Measures how late the Secrets are deleted when many credentials expire in the same second.
    fn expiry(&mut self) -> Result<()> {
        let names = names("end", ENDING);
        self.client.writes.clear();
        let mark = Mark::now(&self.scene.plane)?;
        let deadline = jiff::Timestamp::from_second(since_1970(SystemTime::now() + UNTIL_THE_END) as i64)
            .context("the end is no time")?;
        for (n, name) in names.iter().enumerate() {
            let (kind, resource) = KINDS[n % KINDS.len()];
            let mut grant = self.grant(kind, name);
            grant["spec"]["deadlineTime"] = deadline.to_string().into();
            self.client.post(resource, &grant)?;
            thread::sleep(PACE / 4);
        }
        self.wait_for_secrets(&names)?;
        let ends = self.ends(&names)?;
        let all_gone = || names.iter().all(|name| self.watch.went(name).is_some());
        poll(UNTIL_THE_END + SOON, || all_gone().then_some(()));
        self.watch.alive()?;
        let went = names.iter().zip(&ends).filter_map(|(name, end)| {
            let went = since_1970(self.watch.went(name)?);
            Some(went - *end as f64)
        });
        let late: Vec<f64> = went.collect();
        let left = ENDING - late.len();
        if late.is_empty() {
            return Err(Error::new("no Secret was gone a minute after its URL's end"));
        }
        let early = late.iter().filter(|late| **late < 0.0).count();
        let late: Vec<_> = late.iter().map(|l| Duration::from_secs_f64(l.max(0.0))).collect();
        let times = Times::of(&late);
        let same = ends.iter().filter(|end| **end == deadline.as_second()).count();
        println!("\n{ENDING} grants whose URLs end at the same second ({same} do)");
        println!(
            "  Secret gone after its URL's end: p50 {:.1}, p99 {:.1}, max {:.1}; before it: {early}",
            times.p50, times.p99, times.max
        );
        // The operator writes an event for each upload that did not arrive. Nothing waits for these events.
        thread::sleep(SETTLE);
        let account = mark.account(&self.scene.plane, &self.client.writes)?;
        self.print_writes(&account, ENDING);
        if early > 0 || left > 0 || same < ENDING {
            self.wrong.push(format!(
                "{early} Secrets went before their URLs' end, {left} were there a minute after it, and {same} of \
                 {ENDING} URLs end when asked"
            ));
        }
        Ok(())
    }

    /// Creates download grants until there are `many` grants in total, and measures the operator's memory.
    fn grow(&mut self, many: usize) -> Result<Usage> {
        let (kind, resource) = KINDS[0];
        let there = self.live + ENDING + promises::TOLD;
        let names = names(&format!("many-{many}"), many.saturating_sub(there));
        for name in &names {
            self.client.post(resource, &self.grant(kind, name))?;
        }
        self.wait_for_secrets(&names)?;
        self.live += names.len();
        self.client.writes.clear();
        thread::sleep(SETTLE);
        self.usage()
    }

    /// Reads the expiry times from the URLs in these Secrets, with a parser that is independent of Valet.
    fn ends(&self, names: &[String]) -> Result<Vec<i64>> {
        let template = r#"{{range .items}}{{.metadata.name}} {{.data.url | base64decode}}{{"\n"}}{{end}}"#;
        let output = format!("--output=go-template={template}");
        let text = self
            .scene
            .plane
            .kubectl(&["get", "secrets", "--namespace", NAMESPACE, &output])?;
        let check = |url: &str| UrlCheck {
            url: url.to_owned(),
            access_key: self.scene.store.access_key().to_owned(),
            secret_key: self.scene.store.secret_key().to_owned(),
            region: self.scene.store.region().to_owned(),
            ..UrlCheck::default()
        };
        let urls = names.iter().map(|name| {
            let found = text
                .lines()
                .filter_map(|l| l.split_once(' '))
                .find(|(other, _)| other == name);
            found.map(|(_, url)| check(url))
        });
        let urls: Vec<_> = urls
            .collect::<Option<_>>()
            .context("a Secret is gone before its time")?;
        let verdicts = verify_urls(self.scene.plane.tools(), &urls)?;
        Ok(verdicts.iter().map(|verdict| verdict.expires_at).collect())
    }

    fn wait_for_secrets(&self, names: &[String]) -> Result<()> {
        let all = poll(SOON, || {
            names.iter().all(|name| self.watch.came(name).is_some()).then_some(())
        });
        self.watch.alive()?;
        all.context("a grant got no Secret within a minute")
    }

    /// Waits until `n` grants have the reason Issued.
    fn wait_for_statuses(&mut self, resource: Resource, n: usize) -> Result<()> {
        let issued = |grant: &Value| {
            let conditions = grant["status"]["conditions"].as_array().into_iter().flatten();
            conditions
                .filter(|c| c["type"] == "Ready" && c["reason"] == "Issued")
                .count()
        };
        let end = Instant::now() + SOON;
        while self.client.list(resource)?.iter().map(issued).sum::<usize>() < n {
            if Instant::now() > end {
                return Err(Error::new(
                    "a grant was not reported as issued within a minute of its Secret",
                ));
            }
            thread::sleep(Duration::from_millis(200));
        }
        Ok(())
    }

    fn print_writes(&self, account: &Account, grants: usize) {
        let (metrics, audit) = (total(&account.by_metrics), total(&account.by_audit));
        println!(
            "  operator's writes: {:.2} a grant; {metrics} by the apiserver's metrics, {audit} by its audit log: {}",
            metrics as f64 / grants as f64,
            list(&account.by_audit)
        );
    }

    fn check(&mut self, what: &str, account: &Account, expected: &Counts) {
        if account.agrees(expected) {
            return;
        }
        let mut surprises = account.surprises(expected);
        surprises.truncate(10);
        self.wrong.push(format!(
            "not {what}, but {} by the metrics, and {} by the audit log; for instance {}",
            list(&account.by_metrics),
            list(&account.by_audit),
            surprises.join(", ")
        ));
    }

    fn usage(&self) -> Result<Usage> {
        Usage::of(self.operator.process().pid())
    }
}
