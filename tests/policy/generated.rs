//! Random grants and rules. They use few different words, so that rules often match.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};
use valet::{
    api::{
        AccessRule, ByteSize, Capabilities, ClusterAccessRule, DownloadMode, LengthRange, Multipart, Namespaces,
        Operation, OperationSpec, Overwrite, Permission, Renewal, RenewalPermission, RenewalPolicy, ResponseHeaders,
        UploadConstraints, UploadMode,
    },
    core::{Allowance, GrantFacts, StoreView, admit, allowance},
};

use crate::{
    common::{ALL_CAPABILITIES, Dice, store, upload},
    slow,
};

/// The number of rounds. The seeds are the same on every machine.
const ROUNDS: u64 = 20_000;
const NAMESPACES: [&str; 4] = ["web", "web-a", "team-a", "team-ab"];
const TYPES: [&str; 8] = [
    "image/png",
    "IMAGE/PNG",
    "image/svg+xml",
    "images/png",
    "text/plain; charset=utf-8",
    "text/plain",
    "text/plainer",
    "image/*",
];

fn grant(dice: &mut Dice) -> GrantFacts {
    let mut grant = upload();
    grant.namespace = (*dice.pick(&NAMESPACES)).into();
    let pieces = [
        "tenants",
        "web",
        "web-a",
        "team-a",
        "team-ab",
        "team",
        "a",
        "b",
        "..",
        ".",
        "",
        "%2e%2e",
        "%252E",
        "x%2F..",
        "...",
        "a\\..",
        "a\u{202E}",
        "é",
        "A",
        "{namespace}",
        "tenants",
        "web",
        "a",
        "b",
    ];
    let most = if dice.one_in(4) { pieces.len() } else { 8 };
    let length = 1 + dice.below(5);
    let segments: Vec<_> = (0..length).map(|_| *dice.pick(&pieces[..most])).collect();
    grant.terms.key = segments.join("/");
    if dice.one_in(4) {
        grant.terms.key.push('/');
    }
    if dice.one_in(30) {
        grant.terms.key = format!("tenants/web/{}", "é".repeat(500 + dice.below(20)));
    }
    grant.terms.expiration_seconds = *dice.pick(&[1, 59, 60, 61, 3600, 604_800, 604_801]);
    grant.terms.renewal = dice.one_in(4).then_some(Renewal {
        policy: RenewalPolicy::Always,
    });
    grant.operation_spec = if dice.one_in(3) {
        OperationSpec::Download {
            mode: *dice.pick(&[DownloadMode::Url, DownloadMode::Url, DownloadMode::Credentials]),
            version: dice.one_in(4).then(|| "v1".into()),
            response: ResponseHeaders {
                content_type: dice.one_in(4).then(|| "text/csv".into()),
                cache_control: dice.one_in(8).then(|| "no-store".into()),
                ..ResponseHeaders::default()
            },
        }
    } else {
        let size = |dice: &mut Dice| *dice.pick(&[0, 1, 499_999, 500_000, 500_001, 1 << 26, 5_368_709_121]);
        let mode = *dice.pick(&[
            UploadMode::Put,
            UploadMode::Put,
            UploadMode::PostForm,
            UploadMode::Multipart,
            UploadMode::Resumable,
            UploadMode::Credentials,
        ]);
        let multipart = Multipart {
            part_size_bytes: dice.one_in(2).then(|| *dice.pick(&[1000, 1001, 5 << 20])),
        };
        if mode == UploadMode::Credentials && dice.one_in(2) {
            // Stores enforce few constraints on temporary credentials. Half of these grants have no constraints, so
            // that some grants are allowed.
            grant.operation_spec = OperationSpec::Upload {
                mode,
                multipart,
                constraints: UploadConstraints {
                    overwrite: Overwrite::Allow,
                    ..UploadConstraints::default()
                },
            };
            return grant;
        }
        let constraints = UploadConstraints {
            content_type: dice.one_in(2).then(|| (*dice.pick(&TYPES)).into()),
            content_length: dice.one_in(2).then(|| size(dice)),
            content_length_range: dice.one_in(6).then(|| LengthRange {
                min: 0,
                max: size(dice),
            }),
            checksum_sha256: dice.one_in(6).then(|| "A".repeat(43) + "="),
            checksum_md5: dice.one_in(6).then(|| "A".repeat(22) + "=="),
            overwrite: if dice.one_in(3) {
                Overwrite::Allow
            } else {
                Overwrite::Forbid
            },
        };
        OperationSpec::Upload {
            mode,
            multipart,
            constraints,
        }
    };
    grant
}

fn selector(dice: &mut Dice) -> LabelSelector {
    let requirement = |dice: &mut Dice| LabelSelectorRequirement {
        key: (*dice.pick(&["team", "tier", "absent"])).into(),
        operator: (*dice.pick(&["In", "NotIn", "Exists", "DoesNotExist", "in", "Gt"])).into(),
        values: match dice.below(5) {
            0 => None,
            1 => Some(vec![]),
            _ => Some(vec![(*dice.pick(&["web", "shop"])).into(), "x".into()]),
        },
    };
    LabelSelector {
        match_labels: dice.one_in(2).then(|| {
            let value = *dice.pick(&["web", "shop"]);
            BTreeMap::from([("team".to_owned(), value.to_owned())])
        }),
        match_expressions: dice
            .one_in(2)
            .then(|| (0..dice.below(3)).map(|_| requirement(dice)).collect()),
    }
}

fn rule(dice: &mut Dice) -> ClusterAccessRule {
    let pick = |dice: &mut Dice, of: &[&str], most: usize| -> Vec<String> {
        (0..dice.below(most + 1)).map(|_| (*dice.pick(of)).to_owned()).collect()
    };
    ClusterAccessRule {
        namespaces: Namespaces {
            names: pick(dice, &NAMESPACES, 4),
            selector: dice.one_in(3).then(|| selector(dice)),
        },
        rule: AccessRule {
            operations: match dice.below(5) {
                0 => vec![Operation::Upload],
                1 => vec![Operation::Download],
                _ => vec![Operation::Download, Operation::Upload],
            },
            key_prefix: dice.one_in(2).then(|| {
                let prefixes = [
                    "tenants",
                    "tenants/",
                    "tenants/{namespace}",
                    "tenants/{namespace}/",
                    "{namespace}",
                    "team-{namespace}/a",
                    "a",
                    "a/b/",
                    "te",
                    "é",
                ];
                (*dice.pick(&prefixes)).to_owned()
            }),
            credentials: *dice.pick(&[Permission::Allow, Permission::Allow, Permission::Forbid]),
            max_expiration_seconds: dice.one_in(3).then(|| *dice.pick(&[1, 60, 3600])),
            max_total_seconds: dice.one_in(4).then(|| *dice.pick(&[1, 60, 61, 604_800])),
            renewal: *dice.pick(&[
                RenewalPermission::Allow,
                RenewalPermission::Allow,
                RenewalPermission::Forbid,
            ]),
            max_bytes: dice.one_in(4).then(|| match dice.below(3) {
                0 => ByteSize::Number(*dice.pick(&[-1, 0, 1, 500_000])),
                _ => ByteSize::Quantity((*dice.pick(&["500k", "64Mi", "9999999999999999P", "many", "0", ""])).into()),
            }),
            content_types: if dice.one_in(4) {
                pick(dice, &["image/png", "image/*", "Text/Plain", "*/*"], 2)
            } else {
                vec![]
            },
            max_live_grants: None,
        },
    }
}

fn view(dice: &mut Dice) -> StoreView {
    let rules: Vec<_> = (0..dice.below(4)).map(|_| rule(dice)).collect();
    let mut view = store(rules);
    let labels = [("team", *dice.pick(&["web", "shop"])), ("tier", "x")];
    view.namespace_labels = Arc::new(crate::common::labels(&labels[..dice.below(3)]));
    view.capabilities = Arc::new(Capabilities {
        enforced: ALL_CAPABILITIES.into_iter().filter(|_| !dice.one_in(12)).collect(),
        post_form: (!dice.one_in(12)).then(|| ALL_CAPABILITIES.into_iter().filter(|_| !dice.one_in(12)).collect()),
        credentials: (!dice.one_in(8)).then(|| ALL_CAPABILITIES.into_iter().filter(|_| dice.one_in(4)).collect()),
        multipart: (!dice.one_in(12)).then(|| ALL_CAPABILITIES.into_iter().filter(|_| !dice.one_in(12)).collect()),
        resumable: (!dice.one_in(12)).then(|| ALL_CAPABILITIES.into_iter().filter(|_| !dice.one_in(12)).collect()),
        max_expiration_seconds: 604_800,
        max_upload_bytes: 5_368_709_120,
        max_key_bytes: 1024,
        ..Capabilities::default()
    });
    view
}

#[test]
fn both_evaluators_agree_on_random_grants_and_rules() {
    let (mut allowed, mut refused) = (0, 0);
    for n in 0..ROUNDS {
        let mut dice = Dice::new(n);
        let (grant, store) = (grant(&mut dice), view(&mut dice));
        let judged = admit(&grant, &store);
        let expected = slow::allows(&grant, &store);
        assert_eq!(judged.is_ok(), expected, "{n}: {judged:?} of {grant:#?} by {store:#?}");
        match judged {
            Ok(key) => {
                assert_eq!(
                    key.key().as_str(),
                    grant.terms.key,
                    "{n}: the object key is never changed"
                );
                let whole = allowance(&grant, &store.rules, &store.namespace_labels);
                let expected = Allowance {
                    renewal: slow::may_renew(&grant, &store),
                    total_seconds: slow::total_seconds(&grant, &store),
                };
                assert_eq!(whole, expected, "{n}: of {grant:#?} by {:#?}", store.rules);
                allowed += 1;
            }
            Err(_) => refused += 1,
        }
    }
    assert!(allowed > 100 && refused > 100, "{allowed} allowed, {refused} refused");
}

/// Makes one field of one access rule stricter.
fn narrow(rules: &mut Vec<ClusterAccessRule>, dice: &mut Dice) {
    let n = dice.below(rules.len());
    let selective = |dice: &mut Dice| LabelSelectorRequirement {
        key: (*dice.pick(&["team", "tier", "absent"])).into(),
        operator: (*dice.pick(&["In", "NotIn"])).into(),
        values: Some(vec!["web".into()]),
    };
    let ClusterAccessRule { namespaces, rule } = &mut rules[n];
    match dice.below(13) {
        11 => rule.renewal = RenewalPermission::Forbid,
        12 => {
            let max = rule.max_total_seconds.unwrap_or(604_801);
            rule.max_total_seconds = Some(max - dice.below(100) as i64);
        }
        0 => drop(rules.remove(n)),
        10 => rule.credentials = Permission::Forbid,
        1 => drop(rule.operations.pop()),
        2 => {
            let prefix = rule.key_prefix.take().unwrap_or_default();
            let more = *dice.pick(&["a", "web", "{namespace}"]);
            rule.key_prefix = Some(match prefix.strip_suffix('/').unwrap_or(&prefix) {
                "" => more.into(),
                some => format!("{some}/{more}"),
            });
        }
        3 => {
            let max = rule.max_expiration_seconds.unwrap_or(604_800);
            rule.max_expiration_seconds = Some(max - dice.below(100) as i64);
        }
        4 => {
            let max = rule.max_bytes.as_ref().map_or(i64::MAX, |m| m.bytes().unwrap_or(0));
            rule.max_bytes = Some(ByteSize::Number(max / (1 + dice.below(3) as i64)));
        }
        5 if rule.content_types.is_empty() => rule.content_types = vec!["image/*".into()],
        5 if rule.content_types.len() > 1 => drop(rule.content_types.pop()),
        6 => drop(namespaces.names.pop()),
        7 => namespaces.selector = None,
        8 => {
            if let Some(selector) = &mut namespaces.selector {
                selector.match_expressions.get_or_insert_default().push(selective(dice));
            }
        }
        _ => {
            if let Some(selector) = &mut namespaces.selector {
                selector
                    .match_labels
                    .get_or_insert_default()
                    .entry("tier".into())
                    .or_insert("x".into());
            }
        }
    }
}

#[test]
fn a_narrower_rule_never_allows_more() {
    let (mut kept, mut lost) = (0, 0);
    for n in 0..ROUNDS {
        let mut dice = Dice::new(n + 5_000_000);
        let (grant, mut store) = (grant(&mut dice), view(&mut dice));
        if store.rules.is_empty() {
            continue;
        }
        let before = admit(&grant, &store).is_ok();
        let mut rules = store.rules.to_vec();
        narrow(&mut rules, &mut dice);
        let whole = |store: &StoreView| allowance(&grant, &store.rules, &store.namespace_labels);
        let more = whole(&store);
        let wide = std::mem::replace(&mut store.rules, Arc::new(rules));
        let after = admit(&grant, &store).is_ok();
        assert!(before || !after, "{n}: {:#?} allows more than {wide:#?}", store.rules);
        if after {
            let less = whole(&store);
            let longest = |whole: Allowance| whole.total_seconds.unwrap_or(i64::MAX);
            assert!(
                longest(less) <= longest(more) && (more.renewal || !less.renewal),
                "{n}: {:#?} allows more than {wide:#?}: {less:?} and not {more:?}",
                store.rules
            );
        }
        if before {
            *(if after { &mut kept } else { &mut lost }) += 1;
        }
    }
    assert!(
        kept > 50 && lost > 50,
        "{kept} kept, {lost} lost: the test may check nothing"
    );
}

/// If a store loses a capability, no additional grant is allowed.
#[test]
fn store_with_fewer_capabilities_never_allows_more() {
    for n in 0..5000 {
        let mut dice = Dice::new(n + 9_000_000);
        let (grant, mut store) = (grant(&mut dice), view(&mut dice));
        let before = admit(&grant, &store).is_ok();
        let mut weaker = (*store.capabilities).clone();
        match &mut weaker.post_form {
            Some(form) if dice.one_in(2) => {
                form.remove(dice.pick(&ALL_CAPABILITIES));
            }
            form if dice.one_in(4) => *form = None,
            _ if dice.one_in(4) => weaker.credentials = None,
            _ if dice.one_in(2) => match &mut weaker.multipart {
                Some(parts) if dice.one_in(2) => {
                    parts.remove(dice.pick(&ALL_CAPABILITIES));
                }
                parts => *parts = None,
            },
            _ if dice.one_in(2) => match &mut weaker.resumable {
                Some(sessions) if dice.one_in(2) => {
                    sessions.remove(dice.pick(&ALL_CAPABILITIES));
                }
                sessions => *sessions = None,
            },
            _ => {
                weaker.enforced.remove(dice.pick(&ALL_CAPABILITIES));
            }
        }
        weaker.max_expiration_seconds -= dice.below(2) as i64 * 604_000;
        weaker.max_upload_bytes /= 1 + dice.below(3) as i64;
        weaker.max_key_bytes -= dice.below(2) * 1000;
        store.capabilities = Arc::new(weaker);
        assert!(before || admit(&grant, &store).is_err(), "{n}");
    }
}
