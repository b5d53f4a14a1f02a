//! Checks of what a provider tells about its store: probes, objects, fingerprints, expiry times and texts.

use jiff::{SignedDuration, Timestamp};
use valet::{
    api::{Reason, ResponseHeaders, UploadMode},
    conformance::BODY,
    core::{ObjectFact, SignError},
    provider::{Finding, Provider},
};
use valet_test_support::access::access;

use crate::{
    checks::write,
    requests::{SECONDS, allowed, download, free, upload},
    subjects::{Subject, Variant},
};

pub async fn probe(subject: &Subject) -> Vec<String> {
    let probed = subject.provider.probe().await;
    assert_eq!(probed.finding, Finding::Usable);
    assert_eq!(probed.skew, None);
    assert!(
        subject
            .provider
            .skew()
            .is_some_and(|skew| skew.abs() < SignedDuration::from_secs(30))
    );

    // Without this list, a capability that a probe does not find would only be skipped by the other checks.
    let mut names = subject.provider.capabilities().names();
    names.sort();
    assert_eq!(names, subject.capabilities, "capabilities after the probe");

    let other = subject.connect(Variant::OtherCredentials).probe().await.finding;
    assert!(
        matches!(other, Finding::Broken(Reason::CredentialsRefused, _)),
        "{other:?}"
    );
    let missing = subject.connect(Variant::MissingBucket).probe().await.finding;
    assert!(
        matches!(missing, Finding::Broken(Reason::BucketNotFound, _)),
        "{missing:?}"
    );
    assert_eq!(subject.objects(), Vec::<String>::new(), "a probe left objects");
    Vec::new()
}

pub async fn head(subject: &Subject) -> Vec<String> {
    let key = subject.key("head");
    let before = subject.provider.head(&access(&key)).await;
    assert!(matches!(before, ObjectFact::Absent), "{before:?}");
    write(subject, &key, BODY).await;
    let ObjectFact::Present { object, modified_at } = subject.provider.head(&access(&key)).await else {
        panic!("the object exists");
    };
    assert_eq!(object.size, Some(BODY.len() as i64));
    assert!(object.e_tag.is_some_and(|tag| !tag.is_empty()));
    let age = Timestamp::now().duration_since(modified_at.expect("the store returns a time"));
    assert!(age.abs() < SignedDuration::from_mins(1), "{age}");
    let prefix = subject.key("hea");
    let other = subject.provider.head(&access(&prefix)).await;
    assert!(matches!(other, ObjectFact::Absent), "{other:?}");
    Vec::new()
}

/// An odd object key never causes an error. The key is either absent, or it names exactly the object.
pub async fn head_odd_keys(subject: &Subject) -> Vec<String> {
    let odd = [
        "a b",
        "a+b",
        "a%2Fb",
        "a%",
        "%%%",
        "ä/ö/ü",
        "日本語",
        "👍",
        "a?b=c&d",
        "a#b",
        "a;b,c",
        "'\"<>&",
        "=",
        "~",
        "a:b@c",
        "$x{y}",
        "[a]*|^`",
    ];
    for odd in odd {
        let key = subject.key(&format!("odd/{odd}"));
        let fact = subject.provider.head(&access(&key)).await;
        assert!(matches!(fact, ObjectFact::Absent), "{odd}: {fact:?}");
        write(subject, &key, BODY).await;
        let fact = subject.provider.head(&access(&key)).await;
        assert!(matches!(fact, ObjectFact::Present { .. }), "{odd}: {fact:?}");
    }
    Vec::new()
}

pub async fn fingerprint(subject: &Subject) -> Vec<String> {
    async fn of(provider: &dyn Provider, salt: &str) -> Option<String> {
        provider.fingerprint(salt).await.expect("there are credentials")
    }
    let own = subject.provider.as_ref();
    let Some(first) = of(own, "a").await else {
        return vec!["all: the provider has no fingerprint".into()];
    };
    assert_eq!(of(own, "a").await.as_ref(), Some(&first));
    assert_eq!(of(&*subject.connect(Variant::Valid), "a").await.as_ref(), Some(&first));
    assert_ne!(of(own, "b").await.as_ref(), Some(&first));
    for variant in [Variant::OtherCredentials, Variant::MissingBucket] {
        let other = of(&*subject.connect(variant), "a").await;
        assert!(other.is_some_and(|other| other != first), "{variant:?}");
    }
    is_clean(subject, &first);
    Vec::new()
}

pub async fn expiry(subject: &Subject) -> Vec<String> {
    let provider = &subject.provider;
    let before = provider.credentials_expire().await.expect("there are credentials");
    provider.prepare(Timestamp::now() + SignedDuration::from_hours(1)).await;
    let after = provider.credentials_expire().await.expect("there are credentials");
    // Fresh credentials never expire before the ones that they replace.
    assert!(match (before, after) {
        (Some(before), Some(after)) => after >= before,
        (None, after) => after.is_none(),
        (Some(_), None) => false,
    });
    assert_eq!(provider.source_expiry().await.expect("there are credentials"), after);
    assert!(!provider.expiry_is_unknown().await);
    Vec::new()
}

pub async fn conformance(subject: &Subject) -> Vec<String> {
    let before = subject.objects();
    let claimed = subject.provider.capabilities();
    let report = subject.provider.check_conformance().await;
    assert_eq!(report.unenforced, None);
    assert_eq!(report.missing, []);
    assert_eq!(report.left, None);
    assert!(!report.interrupted, "{report:?}");
    assert_eq!(subject.objects(), before, "the conformance check left objects");
    let after = subject.provider.capabilities();
    assert!(claimed.names().iter().all(|name| after.names().contains(name)));
    is_clean(subject, &format!("{report:?}"));
    let not_tested = report.not_tested_names(&claimed);
    let not_tested = not_tested
        .into_iter()
        .map(|name| format!("{name}: the conformance check does not test it"));
    not_tested.chain(report.without).collect()
}

/// Checks that a text contains no secret and no signed URL.
pub fn is_clean(subject: &Subject, text: &str) {
    for secret in &subject.secrets {
        assert!(!text.contains(secret), "a text contains a secret");
    }
    for part in ["Signature=", "signature=", "sig="] {
        assert!(!text.contains(part), "a text contains a signed URL: {text}");
    }
}

/// Causes the errors that a provider can return, and checks their texts.
pub async fn texts(subject: &Subject) -> Vec<String> {
    let key = subject.key("texts");
    let mut texts = Vec::new();
    // The upload has no size, so a provider cannot divide it into parts.
    for mode in [UploadMode::Multipart, UploadMode::Credentials] {
        let refused = subject.signed(&key, &free(mode), SECONDS).await;
        let error = refused.expect_err(mode.as_str());
        assert!(!matches!(error, SignError::Credentials { .. }), "{mode:?}: {error:?}");
        texts.push(format!("{error} {error:?}"));
    }
    let resumable = subject.signed(&key, &free(UploadMode::Resumable), SECONDS).await;
    texts.push(format!("{resumable:?}"));
    // Some stores have no maximum lifetime.
    let too_long = subject.provider.capabilities().max_expiration_seconds + 1;
    texts.push(format!(
        "{:?}",
        subject.signed(&key, &free(UploadMode::Put), too_long).await
    ));
    let signed = subject
        .signed(&key, &download(ResponseHeaders::default()), SECONDS)
        .await;
    texts.push(format!("{signed:?}"));
    for variant in [Variant::OtherCredentials, Variant::MissingBucket] {
        let wrong = subject.connect(variant);
        texts.push(format!("{:?}", wrong.probe().await));
        texts.push(format!("{:?}", wrong.head(&access(&key)).await));
        texts.push(format!("{:?}", wrong.check_conformance().await));
        if let Some(multipart) = wrong.multipart() {
            let request = allowed(&key, &upload(UploadMode::Multipart, Default::default()), SECONDS, None);
            texts.push(format!("{:?}", multipart.initiate(&request).await));
            texts.push(format!("{:?}", multipart.arrived(&access(&key), "no-upload").await));
            texts.push(format!("{:?}", multipart.open(&access(&key)).await));
            texts.push(format!(
                "{:?}",
                multipart.abort(&access(&key).to_abort("no-upload")).await
            ));
        }
    }
    texts.iter().for_each(|text| is_clean(subject, text));
    Vec::new()
}
