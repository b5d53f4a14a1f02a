//! The acceptance suite of the providers. Every provider runs the same checks, and the checks use a provider only
//! through the trait [`valet::provider::Provider`].
//!
//! A check depends on the capabilities of the provider. If a capability is missing, the suite prints what it skips:
//! `cargo test --test provider -- --nocapture`.

mod checks;
mod client;
mod facts;
mod google;
mod memory;
mod multipart;
mod requests;
mod subjects;

use futures::{FutureExt, future::LocalBoxFuture};
use subjects::Subject;

/// A check of one provider. It returns what it skipped, with the reasons.
type Check = for<'a> fn(&'a Subject) -> LocalBoxFuture<'a, Vec<String>>;

const CHECKS: &[(&str, Check)] = &[
    ("probe finds usable and unusable stores", |s| {
        facts::probe(s).boxed_local()
    }),
    ("put uploads exactly the signed object", |s| {
        checks::put(s).boxed_local()
    }),
    ("signed PUT limits access", |s| {
        checks::put_limits_access(s).boxed_local()
    }),
    ("get returns the object with the signed headers", |s| {
        checks::get(s).boxed_local()
    }),
    ("signed GET limits access", |s| {
        checks::get_limits_access(s).boxed_local()
    }),
    ("write-once upload keeps an existing object", |s| {
        checks::write_once(s).boxed_local()
    }),
    ("constraints of PUT are enforced", |s| {
        checks::put_constraints(s).boxed_local()
    }),
    ("POST form uploads and limits access", |s| checks::form(s).boxed_local()),
    ("constraints of POST forms are enforced", |s| {
        checks::form_constraints(s).boxed_local()
    }),
    ("head describes objects", |s| facts::head(s).boxed_local()),
    ("head accepts odd object keys", |s| {
        facts::head_odd_keys(s).boxed_local()
    }),
    ("fingerprint depends on salt and credentials", |s| {
        facts::fingerprint(s).boxed_local()
    }),
    ("credentials have one expiry", |s| facts::expiry(s).boxed_local()),
    ("multipart upload is completed", |s| {
        multipart::complete(s).boxed_local()
    }),
    ("multipart upload is aborted", |s| multipart::abort(s).boxed_local()),
    ("conformance check holds all capabilities", |s| {
        facts::conformance(s).boxed_local()
    }),
    ("texts contain no secret", |s| facts::texts(s).boxed_local()),
];

/// Runs all checks with a provider, prints a line for each check, and fails if a check failed.
async fn accept(subject: Subject) {
    let mut failed = Vec::new();
    // Without a probe, Valet signs no upload for some stores. Therefore the first check is the probe.
    for (name, check) in CHECKS {
        let result = std::panic::AssertUnwindSafe(check(&subject)).catch_unwind().await;
        match result {
            Ok(skipped) => {
                println!("{}: {name}: ok", subject.name);
                skipped
                    .iter()
                    .for_each(|why| println!("{}: {name}: skipped {why}", subject.name));
            }
            Err(_) => failed.push(*name),
        }
    }
    let left = subject.objects();
    let left: Vec<_> = left.iter().filter(|key| !key.starts_with(subjects::PREFIX)).collect();
    assert!(left.is_empty(), "{}: the provider left objects: {left:?}", subject.name);
    assert!(failed.is_empty(), "{}: failed: {failed:?}", subject.name);
}

#[tokio::test]
async fn memory_passes_the_acceptance_suite() {
    accept(subjects::memory()).await;
}

#[tokio::test]
async fn s3_on_versitygw_passes_the_acceptance_suite() {
    accept(subjects::s3()).await;
}

#[tokio::test]
async fn azure_on_azurite_passes_the_acceptance_suite() {
    accept(subjects::azure()).await;
}

#[tokio::test]
async fn gcs_passes_the_acceptance_suite() {
    accept(subjects::gcs()).await;
}
