//! Tests of credentials on Azurite, from the grant to the blob and back, each used with plain curl.

use std::sync::Arc;

use serde_json::{Value, json};
use valet_harness::{
    Operator, OperatorOptions,
    azurite::ACCOUNT,
    eventually,
    fake::{Asked, Fake, granted, granted_as_text},
    net,
};

use crate::{
    container::{BY_IDENTITY, BY_KEY, OnAzure},
    world::{SOON, VALET, condition, says},
};

#[test]
fn upload_and_download_work_on_azurite() {
    let on = OnAzure::new("azflow", &BY_KEY);
    let t = &on.t;
    let operator = t.operator_with(&["--log-level=trace"]);
    t.apply(&[
        on.store(json!({})),
        t.grant("UploadGrant", "up", json!({"key": t.key("up ü+(1).bin")})),
    ]);
    let grant = "up";
    t.reason(&format!("ug/{grant}"), "Issued");
    let up = t.mount(grant);
    assert_eq!(up.files["provider"], "azure-blob");
    assert_eq!(up.files["headers"], "x-ms-blob-type: BlockBlob\n");
    assert!(
        up.files["url"].contains("&sp=c&sv=2023-11-03&sr=b&sig="),
        "the SAS allows only create"
    );
    let file = t.file("f", b"bytes");
    let upload = ["--upload-file", file.to_str().unwrap()];

    // A changed URL does not work.
    let later = up.files["url"]
        .split("&se=")
        .nth(1)
        .unwrap()
        .split('&')
        .next()
        .unwrap()
        .to_owned();
    let end = up.files["url"].rsplit("sig=").next().unwrap()[..6].to_owned();
    for (what, by) in [
        ("up%20%C3%BC", "UP%20%C3%BC"),
        (later.as_str(), "2099-01-01T00%3A00%3A00Z"),
        ("&sp=c&", "&sp=cw&"),
        ("&sp=c&", "&sp=r&"),
        (&format!("sig={end}"), "sig=AAAAAA"),
        ("&sr=b&", "&sr=c&"),
        ("&sv=2023-11-03", "&sv=2022-11-02"),
        ("&sr=b&", "&sip=203.0.113.7&sr=b&"),
    ] {
        let status = on.status_after_change(&up, &upload, what, by);
        assert!((400..500).contains(&status), "{what} -> {by}: {status}");
    }
    assert_eq!(on.stored("up ü+(1).bin"), None);
    // Other HTTP methods do not work either.
    assert_eq!(up.curl(&["--request", "DELETE"]).0, 403);
    assert_eq!(up.curl(&["--request", "GET"]).0, 403);

    assert_eq!(up.upload(&file).0, 201);
    assert_eq!(on.stored("up ü+(1).bin").as_deref(), Some(&b"bytes"[..]));
    // A second upload fails, because the grant is write-once.
    assert_eq!(up.upload(&t.file("g", b"other")).0, 403);
    let done = t.reason(&format!("ug/{grant}"), "Completed");
    let object = &done["status"]["object"];
    assert_eq!(object["size"], 5);
    assert_eq!(object["checksumMD5"], "SzpiGLs+OnMD6KFxpg/Pkg==");
    assert!(
        object["eTag"].as_str().is_some_and(|e| e.starts_with("\"0x")),
        "{object}"
    );
    assert!(object["lastModifiedTime"].is_string(), "{object}");
    t.gone(grant);

    // The answer to a download has the headers that the grant sets.
    let response = json!({"contentType": "text/x-report; charset=utf-8", "contentDisposition": "attachment; filename=\"a b.txt\""});
    t.apply(&[t.grant(
        "DownloadGrant",
        "down",
        json!({"key": t.key("up ü+(1).bin"), "response": response}),
    )]);
    let down = t.mount("down");
    assert_eq!(down.files["headers"], "");
    let (status, text) = down.curl(&["--include"]);
    assert_eq!(status, 200);
    let lower = text.to_ascii_lowercase();
    assert!(
        lower.contains("content-type: text/x-report; charset=utf-8")
            && lower.contains("filename=\"a b.txt\"")
            && text.ends_with("bytes"),
        "{text}"
    );
    assert_eq!(on.status_after_change(&down, &[], "x-report", "html"), 403);
    let block = ["--request", "PUT", "--header", "x-ms-blob-type: BlockBlob"];
    assert_eq!(down.curl(&[&block[..], &upload[..]].concat()).0, 403);

    // A second upload replaces the blob if the grant allows it.
    let spec = json!({"key": t.key("again"), "constraints": {"overwrite": "Allow"}, "expirationSeconds": 600});
    t.apply(&[t.grant("UploadGrant", "again", spec)]);
    let again = t.mount("again");
    assert_eq!(again.upload(&file).0, 201);
    assert_eq!(again.upload(&t.file("g", b"other")).0, 201);

    // Neither the account key nor a signature appears in the log, at any level.
    let log = operator.log_text();
    assert!(log.contains("credential issued") && log.contains("\"TRACE\""));
    for marker in [&on.azurite.key()[..12], "sig=", &end] {
        assert!(!log.contains(marker), "the log shows {marker}");
    }
}

/// A constraint that a SAS cannot enforce is refused, and the message names it.
#[test]
fn constraint_that_azure_cannot_enforce_is_refused() {
    let on = OnAzure::new("azrefuse", &BY_KEY);
    let t = &on.t;
    let _operator = t.operator();
    t.apply(&[on.store(json!({}))]);
    for (name, spec, capability) in [
        (
            "type",
            json!({"constraints": {"contentType": "image/png"}}),
            "(ContentType)",
        ),
        (
            "length",
            json!({"constraints": {"contentLength": 5}}),
            "(ContentLength)",
        ),
        (
            "range",
            json!({"constraints": {"contentLengthRange": {"max": 5}}}),
            "(ContentLengthRange)",
        ),
        (
            "sum",
            json!({"constraints": {"checksumSHA256": "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="}}),
            "(ChecksumSHA256)",
        ),
        (
            "md5",
            json!({"constraints": {"checksumMD5": "XUFAKrxLKna5cZ2REBfFkg=="}}),
            "(ChecksumMD5); remove spec.constraints.checksumMD5 from the grant, or use another store",
        ),
        (
            "form",
            json!({"mode": "PostForm", "constraints": {"overwrite": "Allow"}}),
            "(PostForm)",
        ),
        (
            "parts",
            json!({"mode": "Multipart", "constraints": {"overwrite": "Allow", "contentLength": 5}}),
            "(Multipart)",
        ),
        ("dot", json!({"key": t.key("a./b")}), "ends with '.'"),
        ("backslash", json!({"key": t.key("a\\b")}), "as '/'"),
    ] {
        t.apply(&[t.grant("UploadGrant", name, spec)]);
        let refused = t.reason(&format!("ug/{name}"), "CapabilityMissing");
        let message = condition(&refused, "Ready").unwrap()["message"]
            .as_str()
            .unwrap_or_default();
        assert!(message.contains(capability), "{name}: {message}");
        assert!(t.get(&format!("secret/{name}")).is_none());
    }
    let store = eventually(SOON, "the store to be probed", || {
        let store = t.get(&format!("costore/{}", t.name()))?;
        store["status"]["capabilities"].is_array().then_some(store)
    });
    assert_eq!(
        store["status"]["capabilities"],
        json!(["WriteOnce", "Version", "ResponseHeaders", "SignedHeadersOnly"])
    );
}

/// Azurite lets the holder of an upload URL copy any blob. Valet finds this out and issues no upload URL.
#[test]
fn upload_is_refused_because_azurite_copies_any_blob() {
    let on = OnAzure::new("azcopy", &BY_KEY);
    let t = &on.t;
    // A tenant whose access rule covers the probe key can put a blob there.
    on.azurite.put(t.name(), "valet-probe", b"in the way").unwrap();
    let _operator = t.operator();
    t.apply(&[
        on.store(json!({"unsignedHeaders": "Refuse"})),
        t.grant("UploadGrant", "up", json!({})),
        t.grant("DownloadGrant", "down", json!({})),
    ]);
    let refused = t.reason("ug/up", "CapabilityMissing");
    let message = condition(&refused, "Ready").unwrap()["message"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    assert!(
        message.contains("SignedHeadersOnly") && message.contains("unsignedHeaders: Tolerate"),
        "{message}"
    );
    t.reason("dg/down", "Issued");
    let store = eventually(SOON, "the store to be probed", || {
        let store = t.get(&format!("costore/{}", t.name()))?;
        condition(&store, "UnsignedHeadersRefused").is_some().then_some(store)
    });
    assert_eq!(says(&store, "UnsignedHeadersRefused"), "False HeadersObeyed");
    // The probe wrote nothing.
    assert_eq!(on.azurite.names(t.name(), "").unwrap(), ["valet-probe"]);

    // The attack: if the owner tolerates unsigned headers, the holder of an upload URL can copy another blob.
    on.azurite.put(t.name(), "secret/salaries", b"everybody's").unwrap();
    t.apply(&[on.store(json!({}))]);
    t.reason("ug/up", "Issued");
    let source = format!(
        "x-ms-copy-source: {}/{ACCOUNT}/{}/secret/salaries",
        on.azurite.endpoint(),
        t.name()
    );
    let (status, said) = t.mount("up").curl(&["--upload-file", "/dev/null", "--header", &source]);
    assert_eq!(status, 202, "{said}");
    assert_eq!(on.stored("up").as_deref(), Some(&b"everybody's"[..]));
}

/// Deleting the stored access policy ends every SAS that names it, at once.
#[test]
fn deleted_stored_access_policy_invalidates_its_sas() {
    let on = OnAzure::new("azpolicy", &BY_KEY);
    let t = &on.t;
    let _operator = t.operator();
    let policy = json!({"storedAccessPolicy": "valet-1"});
    // Azurite takes permissions only from the policy, so the policy needs some here. Azure wants a policy without
    // permissions.
    on.azurite.set_policies(t.name(), &json!({"valet-1": "rcw"})).unwrap();
    on.azurite.put(t.name(), &t.key("down"), b"bytes").unwrap();
    t.apply(&[
        on.store(policy.clone()),
        t.grant("DownloadGrant", "down", json!({})),
        t.grant("UploadGrant", "up", json!({"constraints": {"overwrite": "Allow"}})),
    ]);
    let (down, up) = (t.mount("down"), t.mount("up"));
    assert!(down.files["url"].contains("&si=valet-1&"));
    assert_eq!(down.curl(&[]).0, 200);
    assert_eq!(
        on.status_after_change(&down, &[], "&si=valet-1&", "&"),
        403,
        "the policy is signed"
    );
    on.azurite.set_policies(t.name(), &json!({})).unwrap();
    assert_eq!(down.curl(&[]).0, 403);
    assert_eq!(up.upload(&t.file("f", b"bytes")).0, 403);

    // Valet still probes the store and issues no SAS that would not work. A store that is probed now has a condition
    // with the reason.
    let mut other = on.store(policy);
    other["metadata"]["name"] = json!(format!("{}-gone", t.name()));
    t.apply(&[other]);
    let store = t.reason(&format!("costore/{}-gone", t.name()), "CredentialsRefused");
    let message = condition(&store, "Ready").unwrap()["message"]
        .as_str()
        .unwrap_or_default();
    assert!(message.contains("no stored access policy valet-1"), "{message}");

    // The message of a revoked grant says how to end copies of its SAS.
    t.apply(&[t.grant("DownloadGrant", "down", json!({"revoke": true}))]);
    let revoked = t.reason("dg/down", "Revoked");
    let message = condition(&revoked, "Ready").unwrap()["message"]
        .as_str()
        .unwrap_or_default();
    assert!(message.contains("remove the stored access policy"), "{message}");
}

#[test]
fn wrong_azure_settings_are_reported_with_a_reason() {
    let on = OnAzure::new("azwrong", &BY_KEY);
    let t = &on.t;
    let _operator = t.operator();
    let other_key = "bWFya2VyLW9mLWFuLWFjY291bnQta2V5LW1hcmtlci1vZi1hbi1hY2NvdW50LWtleQ==";
    let cases = [
        (
            "key",
            Some(json!({"AZURE_STORAGE_KEY": other_key})),
            json!({}),
            "CredentialsRefused",
            "AuthorizationFailure",
        ),
        (
            "container",
            None,
            json!({"container": "not-there"}),
            "BucketNotFound",
            "no container not-there",
        ),
        (
            "account",
            None,
            json!({"account": "nobody"}),
            "CredentialsInvalid",
            "AZURE_STORAGE_ACCOUNT",
        ),
        (
            "whose",
            Some(json!({"AZURE_STORAGE_KEY": other_key})),
            json!({"account": "nobody"}),
            "",
            "",
        ),
        (
            "entries",
            Some(json!({"key": "marker"})),
            json!({}),
            "CredentialsInvalid",
            "not an account key",
        ),
        (
            "away",
            None,
            json!({"endpoint": format!("http://127.0.0.1:{}", net::free_port().unwrap())}),
            "StoreUnreachable",
            "spec.azureBlob.account",
        ),
    ];
    for (name, secret, more, reason, says) in cases {
        let name = format!("{}-{name}", t.name());
        let mut store = on.store(more);
        store["metadata"]["name"] = json!(name);
        if let Some(data) = secret {
            let mut secret = on.credentials("");
            secret["metadata"]["name"] = json!(name);
            secret["stringData"] = data;
            store["spec"]["azureBlob"]["credentials"]["secretRef"]["name"] = json!(name);
            t.apply(&[secret]);
        }
        t.apply(&[store]);
        let what = format!("costore/{name}");
        let found = eventually(SOON, &format!("{what} to be reconciled"), || {
            let store = t.get(&what)?;
            condition(&store, "Ready")
                .is_some_and(|c| c["reason"] != "Pending")
                .then_some(store)
        });
        let ready = condition(&found, "Ready").unwrap();
        let message = ready["message"].as_str().unwrap_or_default();
        assert_ne!(ready["status"], "True", "{name}: {message}");
        assert!(
            !message.contains("marker") && !message.contains(&other_key[..12]),
            "{message}"
        );
        if !reason.is_empty() {
            assert_eq!(ready["reason"], reason, "{name}: {message}");
            assert!(message.contains(says), "{name}: {message}");
        }
    }
    // A tenant's own store may not use an internal address, with any provider.
    let mut inward = on.store(json!({}));
    inward["kind"] = json!("ObjectStore");
    inward["metadata"] = json!({"name": "inward", "namespace": t.name()});
    inward["spec"]["access"] = json!([]);
    t.apply(&[inward]);
    t.reason("ostore/inward", "EndpointNotAllowed");
}

/// Workload identity and managed identity can both sign with user delegation keys.
#[test]
fn identities_sign_with_user_delegation_keys() {
    let on = OnAzure::new("azidentity", &BY_IDENTITY);
    let t = &on.t;
    let reply = |asked: &Asked| match asked.method.as_str() {
        "GET" => granted_as_text(3600),
        _ => granted(3600),
    };
    let fake = Arc::new(Fake::start(reply));
    let file = t.file("federated", b"ey.of.the-service-account");
    let ca = on.azurite.ca().to_string_lossy().into_owned();
    let env = |pairs: &[(&str, &str)]| {
        let mut all = vec![("SSL_CERT_FILE".to_owned(), ca.clone())];
        all.extend(pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())));
        all
    };
    let workload = env(&[
        ("AZURE_FEDERATED_TOKEN_FILE", file.to_str().unwrap()),
        ("AZURE_TENANT_ID", "72f988bf"),
        ("AZURE_CLIENT_ID", "app-1"),
        ("AZURE_AUTHORITY_HOST", &fake.endpoint()),
    ]);
    let managed = env(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &fake.endpoint())]);
    let mut store = on.store(json!({}));
    store["spec"]["azureBlob"]["credentials"] = Value::Null;
    store["spec"]["access"][0]["maxExpirationSeconds"] = json!(604_800);
    t.apply(&[store]);
    for (name, env) in [("workload", workload), ("managed", managed)] {
        let options = OperatorOptions {
            namespace: Some(t.name().to_owned()),
            env,
            ..OperatorOptions::default()
        };
        let operator = Operator::start(&VALET, &t.world.plane, &options).unwrap();
        t.apply(&[t.grant("UploadGrant", name, json!({}))]);
        t.reason(&format!("ug/{name}"), "Issued");
        let up = t.mount(name);
        for part in [
            "&spr=https&",
            "&skoid=f81d4fae-",
            "&sktid=72f988bf-",
            "&sks=b&",
            "&skv=",
        ] {
            assert!(up.files["url"].contains(part), "{part}");
        }
        let file = t.file("f", b"bytes");
        let with_ca = ["--cacert", ca.as_str(), "--upload-file", file.to_str().unwrap()];
        for (what, by) in [("&sp=c&", "&sp=w&"), ("skoid=f81d4fae", "skoid=f81d4faf")] {
            assert_eq!(on.status_after_change(&up, &with_ca, what, by), 403, "{what}");
        }
        assert_eq!(up.curl(&with_ca).0, 201);
        assert_eq!(up.curl(&with_ca).0, 403, "write-once");
        t.reason(&format!("ug/{name}"), "Completed");
        let down = json!({"key": t.key(name)});
        t.apply(&[t.grant("DownloadGrant", name, down)]);
        t.reason(&format!("dg/{name}"), "Issued");
        let (status, text) = t.mount(name).curl(&["--cacert", &ca]);
        assert_eq!((status, text.as_str()), (200, "bytes"));
        drop(operator);
    }
    // A week is 15 minutes longer than the life of a user delegation key that Valet requests.
    let options = OperatorOptions {
        namespace: Some(t.name().to_owned()),
        env: env(&[("AZURE_POD_IDENTITY_AUTHORITY_HOST", &fake.endpoint())]),
        ..OperatorOptions::default()
    };
    let _operator = Operator::start(&VALET, &t.world.plane, &options).unwrap();
    t.apply(&[t.grant("UploadGrant", "week", json!({"expirationSeconds": 604_800}))]);
    let week = t.reason("ug/week", "Issued");
    assert_eq!(says(&week, "Active"), "True ExpiryTruncated");
    eventually(SOON, "the store to report the expiry of its delegation key", || {
        let store = t.get(&format!("costore/{}", t.name()))?;
        store["status"]["credentialsExpirationTime"].is_string().then_some(())
    });
    let end = week["status"]["expirationTime"]
        .as_str()
        .unwrap()
        .parse::<jiff::Timestamp>()
        .unwrap();
    let days = end.duration_since(jiff::Timestamp::now()).as_hours() / 24;
    assert_eq!(days, 6, "{end}");
    // One token and one user delegation key are enough for all signatures.
    assert!(fake.asked().len() <= 5, "{}", fake.asked().len());
    let asked = fake.asked();
    let form = asked
        .iter()
        .find(|a| a.method == "POST")
        .expect("the workload identity requested a token");
    assert!(form.body.contains("client_assertion=ey.of.the-service-account"));
}
