//! Event Grid, as it posts.

use serde_json::{Value, json};
use valet_harness::{net, process};

use crate::{
    container::{BY_KEY, OnAzure},
    world::SOON,
};

/// Event Grid asks first whether it may send, and is answered; then its news are taken.
#[test]
fn event_grid() {
    let on = OnAzure::new("azevents", &BY_KEY);
    let t = &on.t;
    let token = "6f2d1c9ad0b84f7e-notify";
    let tokens = t.file("tokens", token.as_bytes());
    let port = net::free_port().unwrap();
    let operator = t.operator_with(&[
        &format!("--notifications-address=127.0.0.1:{port}"),
        &format!("--notifications-token-file={}", tokens.display()),
    ]);
    let post = |token: &str, body: &Value| {
        let mut command = process::clean(std::process::Command::new("curl"));
        command
            .args([
                "--silent",
                "--write-out",
                "\n%{http_code}",
                "--header",
                "aeg-event-type: Notification",
            ])
            .args(["--header", &format!("X-Api-Key: {token}"), "--data-binary", "@-"])
            .arg(format!("http://127.0.0.1:{port}/notifications"));
        let output = process::run(command, body.to_string().as_bytes(), SOON).expect("curl runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, status) = text.rsplit_once('\n').expect("curl says the status");
        (status.parse::<u16>().expect("a status"), body.to_owned())
    };
    let validation = json!([{
        "id": "1", "topic": "t", "subject": "", "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
        "eventTime": "2027-01-15T08:00:00Z", "dataVersion": "1",
        "data": {"validationCode": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6", "validationUrl": "https://x.example/"},
    }]);
    let (status, body) = post(token, &validation);
    assert_eq!(status, 200);
    let body: Value = serde_json::from_str(&body).expect("it is JSON");
    assert_eq!(
        body,
        json!({"validationResponse": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6"})
    );
    assert_eq!(post("somebody-elses-token", &validation).0, 401);

    t.apply(&[on.store(json!({})), t.grant("UploadGrant", "up", json!({}))]);
    t.reason("ug/up", "Issued");
    let issued = std::time::Instant::now();
    // After the looks at 2, 6 and 14 s there is none before 30 s.
    std::thread::sleep(std::time::Duration::from_millis(15_500).saturating_sub(issued.elapsed()));
    assert_eq!(t.mount("up").upload(&t.file("f", b"bytes")).0, 201);
    let created = |blob: &str| {
        json!([{
            "topic": "t", "subject": format!("/blobServices/default/containers/{}/blobs/{blob}", t.name()),
            "eventType": "Microsoft.Storage.BlobCreated", "eventTime": "2027-01-15T08:00:00Z", "id": "2",
            "data": {"api": "PutBlob", "contentLength": 5}, "dataVersion": "",
        }])
    };
    assert_eq!(post(token, &created("somebody/elses")).0, 204);
    assert_eq!(post(token, &created(&t.key("up"))).0, 204);
    t.reason_within("ug/up", "Completed", std::time::Duration::from_secs(10));
    let metrics = operator.metrics().unwrap();
    assert!(
        metrics.contains("valet_notifications_total{outcome=\"accepted\"} 1"),
        "{metrics}"
    );
}
