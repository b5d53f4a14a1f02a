//! Tests that `valet sign` sends nothing when it is offline. Online, it sends credentials of the environment to no
//! address that only a document names.

use serde_json::{Value, json};

use super::{ACCESS_KEY, Listener, amazons, cluster_store, download, grant, scratch, sign, store, text};

const SESSION: (&str, &str) = ("AWS_SESSION_TOKEN", "marker-session-token");

fn secret(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "keys", "namespace": "web"}, "stringData": data})
}

/// Offline, an error names what `valet sign` would have to ask for. It sends no request and runs no program.
#[test]
fn offline_signing_sends_no_request_and_runs_no_program() {
    let listener = Listener::start("{}");
    let url = listener.url.as_str();
    let folder = scratch();
    let token = folder.write("token", b"ey.marker.jwt").unwrap();
    let ran = folder.path().join("ran");
    let config = format!("[default]\ncredential_process = touch {}\n", ran.display());
    let config = folder.write("config", config.as_bytes()).unwrap();
    let google = folder
        .write("key.json", include_bytes!("../fixtures/google/service-account.json"))
        .unwrap();
    let role = json!({"roleArn": "arn:aws:iam::123456789012:role/valet"});
    let at_listener = |more: Value| {
        let mut s3 = amazons(more);
        s3["s3"]["endpoint"] = json!(url);
        s3["s3"]["addressingStyle"] = json!("Path");
        s3
    };
    let azure = json!({"azureBlob": {"account": "anybody", "container": "media", "endpoint": url}});
    let gcs = |more: Value| {
        let mut gcs = json!({"gcs": {"bucket": "media", "endpoint": url}});
        if more != json!({}) {
            gcs["gcs"]["credentials"] = more;
        }
        gcs
    };
    let with_session = [&ACCESS_KEY[..], &[SESSION]].concat();
    type Row<'a> = (&'a str, Value, Vec<(&'a str, &'a str)>);
    let rows: Vec<Row> = vec![
        (
            "assumeRole",
            at_listener(json!({"credentials": {"assumeRole": role}})),
            with_session.clone(),
        ),
        (
            "STS of its own",
            amazons(json!({"credentials": {"assumeRole": {"endpoint": url}}})),
            with_session,
        ),
        (
            "web identity",
            amazons(json!({})),
            vec![
                ("AWS_WEB_IDENTITY_TOKEN_FILE", text(&token)),
                ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/valet"),
                ("AWS_ENDPOINT_URL_STS", url),
                ("AWS_ENDPOINT_URL", url),
            ],
        ),
        (
            "container",
            amazons(json!({})),
            vec![("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)],
        ),
        (
            "machine",
            amazons(json!({})),
            vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)],
        ),
        ("program", amazons(json!({})), vec![("AWS_CONFIG_FILE", text(&config))]),
        (
            "managed identity",
            azure.clone(),
            vec![("AZURE_POD_IDENTITY_AUTHORITY_HOST", url)],
        ),
        (
            "workload identity",
            azure,
            vec![
                ("AZURE_FEDERATED_TOKEN_FILE", text(&token)),
                ("AZURE_TENANT_ID", "t"),
                ("AZURE_CLIENT_ID", "c"),
                ("AZURE_AUTHORITY_HOST", url),
            ],
        ),
        (
            "Google's metadata",
            gcs(json!({})),
            vec![("GCE_METADATA_HOST", url.trim_start_matches("http://"))],
        ),
        (
            "signAs",
            gcs(json!({"signAs": "valet@project.iam.gserviceaccount.com"})),
            vec![
                ("GOOGLE_APPLICATION_CREDENTIALS", text(&google)),
                ("CLOUDSDK_API_ENDPOINT_OVERRIDES_IAMCREDENTIALS", url),
            ],
        ),
    ];
    for (what, place, env) in rows {
        let store = cluster_store(place);
        let signed = sign(&[store.clone(), download(&store)], &[], &env);
        assert!(!signed.is_signed && signed.out.is_empty(), "{what}");
        assert!(signed.said.contains("--online"), "{what}: {}", signed.said);
        assert!(!signed.said.contains("marker"), "{what}: {}", signed.said);
        assert_eq!(listener.connections(), 0, "{what}: a request was sent");
    }
    assert!(!ran.exists(), "a program was started");
    // Credentials that need no request can sign, and no request is sent for them either.
    for (what, place, env) in [
        ("access key", at_listener(json!({})), ACCESS_KEY.to_vec()),
        (
            "account key",
            json!({"azureBlob": {"account": "anybody", "container": "media", "endpoint": url}}),
            vec![("AZURE_STORAGE_KEY", "bWFya2VyLW1hcmtlci1tYXJrZXItbWFya2Vy")],
        ),
        (
            "service account's key",
            gcs(json!({})),
            vec![("GOOGLE_APPLICATION_CREDENTIALS", text(&google))],
        ),
    ] {
        let store = cluster_store(place);
        let signed = sign(&[store.clone(), download(&store)], &[], &env);
        assert!(
            signed.is_signed && signed.out.starts_with(url),
            "{what}: {}",
            signed.said
        );
    }
    assert_eq!(listener.connections(), 0);
}

/// The attack: a document in a pull request names an address, and `valet sign` runs with the identity of the user who
/// tests it.
#[test]
fn identity_of_environment_is_not_sent_to_address_of_a_document() {
    let tokens = Listener::start(
        r#"{"access_token": "marker-token", "token_type": "Bearer", "expires_in": "3600", "expires_on": "1"}"#,
    );
    let theirs = Listener::start("{}");
    let identity = [("AZURE_POD_IDENTITY_AUTHORITY_HOST", tokens.url.as_str())];
    let session = [&ACCESS_KEY[..], &[SESSION]].concat();
    let azure = json!({"azureBlob": {"account": "anybody", "container": "media", "endpoint": theirs.url}});
    let role = json!({"roleArn": "arn:aws:iam::123456789012:role/valet"});
    let s3 = amazons(json!({"endpoint": theirs.url, "credentials": {"assumeRole": role}}));
    let sts = amazons(json!({"credentials": {"assumeRole": {"endpoint": theirs.url}}}));
    for (what, place, env) in [
        ("Azure", &azure, &identity[..]),
        ("S3", &s3, &session[..]),
        ("STS", &sts, &session[..]),
    ] {
        for (store, part) in [
            (cluster_store(place.clone()), "--trust-endpoint"),
            (store(place.clone()), "an ObjectStore is not allowed to use"),
        ] {
            for args in [
                &["--online"][..],
                &["--online", "--allow-private-endpoints=127.0.0.0/8"],
                &[],
            ] {
                let signed = sign(&[store.clone(), download(&store)], args, env);
                assert!(!signed.is_signed, "{what}");
                let is_said = signed.said.contains(part)
                    || signed.said.contains("EndpointNotAllowed")
                    || (args.is_empty() && signed.said.contains("--online"));
                assert!(is_said, "{what} {args:?}: {}", signed.said);
                assert!(!signed.said.contains("marker"), "{what}: {}", signed.said);
                assert_eq!(
                    theirs.connections(),
                    0,
                    "{what} {args:?}: a request was sent to the address of the document"
                );
            }
        }
        // The user can trust the address with a flag.
        let store = cluster_store(place.clone());
        let trust = format!("--trust-endpoint={}", theirs.url);
        let before = theirs.connections();
        let signed = sign(&[store.clone(), download(&store)], &["--online", &trust], env);
        assert!(!signed.is_signed, "{what}: it answers with nothing");
        assert!(theirs.connections() > before, "{what}: {}", signed.said);
        let before = theirs.connections();
        let signed = sign(
            &[store.clone(), download(&store)],
            &["--online", "--trust-endpoint=http://127.0.0.1:1"],
            env,
        );
        assert!(
            !signed.is_signed && theirs.connections() == before,
            "{what}: another address was named"
        );
        theirs.forget();
    }
}

/// The attack: the user trusts the STS, and a document names an address of its author as the endpoint of the store.
/// Valet would send probe uploads with a session of the user's identity there.
#[test]
fn session_of_a_role_is_not_sent_to_address_of_a_document() {
    let sts = Listener::start(
        r#"<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials><AccessKeyId>ASIAMARKER</AccessKeyId><SecretAccessKey>marker-secret</SecretAccessKey><SessionToken>marker-token</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"#,
    );
    let theirs = Listener::start("{}");
    let role = json!({"credentials": {"assumeRole": {"endpoint": sts.url}}, "endpoint": theirs.url, "addressingStyle": "Path"});
    let store = cluster_store(amazons(role));
    let upload = grant("UploadGrant", &store, json!({"constraints": {"overwrite": "Allow"}}));
    let trust = |url: &str| format!("--trust-endpoint={url}");
    let (of_sts, of_store) = (trust(&sts.url), trust(&theirs.url));
    let documents = [store, upload];
    let signed = sign(&documents, &["--online", &of_sts], &ACCESS_KEY);
    assert!(
        !signed.is_signed && signed.said.contains(&theirs.url),
        "{}",
        signed.said
    );
    assert_eq!((sts.connections(), theirs.connections()), (0, 0));

    // The user can trust both addresses. The store then accepts every upload, so it does not enforce session policies.
    let signed = sign(&documents, &["--online", &of_sts, &of_store], &ACCESS_KEY);
    assert!(
        !signed.is_signed && signed.said.contains("does not enforce session policies"),
        "{}",
        signed.said
    );
    assert!(
        theirs.connections() > 0 && !signed.said.contains("marker"),
        "{}",
        signed.said
    );
}

/// An ObjectStore signs with its own Secret, as in a cluster, and may use only endpoints that the operator would
/// allow.
#[test]
fn object_store_signs_with_its_own_secret_and_not_the_environment() {
    let place = |endpoint: Option<&str>| {
        amazons(json!({"endpoint": endpoint, "credentials": {"secretRef": {"name": "keys"}}}))
    };
    let own = secret(json!({"AWS_ACCESS_KEY_ID": "AKIAOFTHESECRET", "AWS_SECRET_ACCESS_KEY": "s"}));
    let amazon = store(place(None));
    let signed = sign(&[amazon.clone(), download(&amazon), own.clone()], &[], &ACCESS_KEY);
    assert!(
        signed.out.contains("AKIAOFTHESECRET") && !signed.out.contains("AKIAENVIRONMENT"),
        "{}",
        signed.said
    );
    let mut elsewhere = own.clone();
    elsewhere["metadata"]["namespace"] = json!("other");
    for (what, documents, part) in [
        (
            "no Secret",
            vec![amazon.clone(), download(&amazon)],
            "CredentialsNotFound",
        ),
        (
            "of another namespace",
            vec![amazon.clone(), download(&amazon), elsewhere],
            "CredentialsNotFound",
        ),
        (
            "twice",
            vec![amazon.clone(), download(&amazon), own.clone(), own.clone()],
            "more than once",
        ),
        (
            "the store twice",
            vec![amazon.clone(), amazon.clone(), download(&amazon), own.clone()],
            "more than once",
        ),
    ] {
        let signed = sign(&documents, &[], &ACCESS_KEY);
        assert!(
            !signed.is_signed && signed.said.contains(part),
            "{what}: {}",
            signed.said
        );
    }
    for (endpoint, args, is_allowed) in [
        ("http://127.0.0.1:9000", &[][..], false),
        ("http://localhost:9000", &[], false),
        ("http://169.254.169.254", &[], false),
        ("http://[::1]:9000", &[], false),
        (
            "http://127.0.0.1:9000",
            &["--allow-private-endpoints=127.0.0.0/8"],
            true,
        ),
        (
            "http://127.0.0.1:9000",
            &["--allow-private-endpoints=127.0.0.0/8", "--deny-endpoints=127.0.0.1/32"],
            false,
        ),
        ("https://52.218.0.1", &[], true),
        ("https://52.218.0.1", &["--deny-endpoints=52.218.0.0/16"], false),
        // `valet sign` does not resolve the host name.
        ("https://s3.example", &[], true),
    ] {
        let store = store(place(Some(endpoint)));
        let signed = sign(&[store.clone(), download(&store), own.clone()], args, &[]);
        assert_eq!(signed.is_signed, is_allowed, "{endpoint} {args:?}: {}", signed.said);
        assert!(
            is_allowed || signed.said.contains("EndpointNotAllowed"),
            "{endpoint}: {}",
            signed.said
        );
    }
    let upload = grant(
        "UploadGrant",
        &amazon,
        json!({"mode": "Credentials", "constraints": {"overwrite": "Allow"}}),
    );
    let signed = sign(&[amazon, upload, own], &[], &[]);
    assert!(signed.said.contains("CapabilityMissing"), "{}", signed.said);
}
