//! Tests of notifications from Azure Event Grid.

use serde_json::{Value, json};
use valet_harness::{Operator, net, process};

use crate::{
    container::{BY_KEY, OnAzure},
    world::{SOON, Tenant},
};

/// Sends a request to the notifications endpoint. Returns the status, and the body or the headers.
fn ask(port: u16, method: &str, headers: &[String], body: &str) -> (u16, String) {
    let mut command = process::clean(std::process::Command::new("curl"));
    command.args(["--silent", "--write-out", "\n%{http_code}", "--request", method]);
    for header in headers {
        command.args(["--header", header]);
    }
    if method == "OPTIONS" {
        command.args(["--dump-header", "-", "--output", "/dev/null"]);
    } else {
        command.args(["--data-binary", "@-"]);
    }
    command.arg(format!("http://127.0.0.1:{port}/notifications"));
    let output = process::run(command, body.as_bytes(), SOON).expect("curl runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, status) = text.rsplit_once('\n').expect("curl says the status");
    (status.parse::<u16>().expect("a status"), body.to_owned())
}

/// The token that a sender must know.
const TOKEN: &str = "6f2d1c9ad0b84f7e-notify";

/// An operator that accepts notifications, and its port.
fn listening(t: &Tenant) -> (u16, Operator) {
    let tokens = t.file("tokens", format!("{TOKEN} {}", t.name()).as_bytes());
    let port = net::free_port().unwrap();
    let operator = t.operator_with(&[
        &format!("--notifications-address=127.0.0.1:{port}"),
        &format!("--notifications-token-file={}", tokens.display()),
    ]);
    (port, operator)
}

/// Valet answers Event Grid's validation request, and then accepts its notifications.
#[test]
fn event_grid_is_validated_and_its_notifications_are_accepted() {
    let on = OnAzure::new("azevents", &BY_KEY);
    let t = &on.t;
    let (port, operator) = listening(t);
    let post = |token: &str, body: &Value| {
        let headers = [format!("X-Api-Key: {token}"), "aeg-event-type: Notification".into()];
        ask(port, "POST", &headers, &body.to_string())
    };
    let validation = json!([{
        "id": "1", "topic": "t", "subject": "", "eventType": "Microsoft.EventGrid.SubscriptionValidationEvent",
        "eventTime": "2027-01-15T08:00:00Z", "dataVersion": "1",
        "data": {"validationCode": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6", "validationUrl": "https://x.example/"},
    }]);
    let (status, body) = post(TOKEN, &validation);
    assert_eq!(status, 200);
    let body: Value = serde_json::from_str(&body).expect("it is JSON");
    assert_eq!(
        body,
        json!({"validationResponse": "512d38b6-c7b8-40c8-89fe-f46f9e9622b6"})
    );
    assert_eq!(post("somebody-elses-token", &validation).0, 401);

    t.apply(&[on.store(json!({})), t.grant("UploadGrant", "up", json!({}))]);
    t.between_polls(&["up"]);
    assert_eq!(t.mount("up").upload(&t.file("f", b"bytes")).0, 201);
    let created = |blob: &str| {
        json!([{
            "topic": "t", "subject": format!("/blobServices/default/containers/{}/blobs/{blob}", t.name()),
            "eventType": "Microsoft.Storage.BlobCreated", "eventTime": "2027-01-15T08:00:00Z", "id": "2",
            "data": {"api": "PutBlob", "contentLength": 5}, "dataVersion": "",
        }])
    };
    assert_eq!(post(TOKEN, &created("somebody/elses")).0, 204);
    assert_eq!(post(TOKEN, &created(&t.key("up"))).0, 204);
    t.reason("ug/up", "Completed");
    let metrics = operator.metrics().unwrap();
    for sample in [
        "valet_notifications_total{outcome=\"accepted\"} 1",
        "valet_notification_to_completed_seconds_count 1",
    ] {
        assert!(metrics.contains(&format!("\n{sample}\n")), "{sample}: {metrics}");
    }
}

/// The same with the CloudEvents schema, which has another validation request.
#[test]
fn cloud_events_are_validated_and_their_notifications_accepted() {
    let on = OnAzure::new("azcloud", &BY_KEY);
    let t = &on.t;
    let (port, operator) = listening(t);
    let key = |token: &str| format!("X-Api-Key: {token}");
    let permit = |origin: &str, more: &[String]| {
        let origin = format!("WebHook-Request-Origin: {origin}");
        ask(port, "OPTIONS", &[&[origin], more].concat(), "")
    };
    // Valet answers the validation request of Event Grid with or without the token, and of other origins only with
    // it. It refuses an invalid origin.
    for more in [&[][..], &[key(TOKEN)], &[key("somebody-elses-token")]] {
        let (status, said) = permit("eventgrid.azure.net", more);
        assert_eq!(status, 200, "{said}");
        assert!(
            said.contains("webhook-allowed-origin: eventgrid.azure.net") && said.contains("webhook-allowed-rate: *"),
            "{said}"
        );
    }
    for (origin, more, status) in [
        ("events.example", vec![key(TOKEN)], 200),
        ("events.example", vec![], 401),
        ("events.example", vec![key("somebody-elses-token")], 401),
        ("eventgrid.azure.net.example", vec![], 401),
        ("*", vec![key(TOKEN)], 400),
        ("a b", vec![key(TOKEN)], 400),
        ("a,b", vec![key(TOKEN)], 400),
    ] {
        let (answered, said) = permit(origin, &more);
        assert_eq!(answered, status, "{origin}");
        assert_eq!(
            said.contains("webhook-allowed-origin"),
            status == 200,
            "{origin}: {said}"
        );
    }
    assert_eq!(ask(port, "OPTIONS", &[key(TOKEN)], "").0, 400);

    let event = |blob: &str| {
        json!({
            "specversion": "1.0", "type": "Microsoft.Storage.BlobCreated", "id": "1", "source": "/subscriptions/s",
            "time": "2027-01-15T08:00:00Z", "subject": format!("blobServices/default/containers/{}/blobs/{blob}", t.name()),
            "data": {"api": "PutBlob", "contentLength": 5},
        })
    };
    let structured = "Content-Type: application/cloudevents+json; charset=utf-8".to_owned();
    let whole =
        |token: &str, event: Value| ask(port, "POST", &[key(token), structured.clone()], &event.to_string()).0;
    let binary = |token: &str, blob: &str| {
        let headers = [
            key(token),
            "Content-Type: application/json".into(),
            "ce-specversion: 1.0".into(),
            "ce-type: Microsoft.Storage.BlobCreated".into(),
            format!("ce-subject: /blobServices/default/containers/{}/blobs/{blob}", t.name()),
        ];
        ask(port, "POST", &headers, "{}").0
    };
    t.apply(&[
        on.store(json!({})),
        t.grant("UploadGrant", "whole", json!({})),
        t.grant("UploadGrant", "headed", json!({})),
    ]);
    t.between_polls(&["whole", "headed"]);
    for name in ["whole", "headed"] {
        assert_eq!(t.mount(name).upload(&t.file("f", b"bytes")).0, 201);
    }
    // A sender that passed validation still needs the token for each notification.
    assert_eq!(whole("somebody-elses-token", event(&t.key("whole"))), 401);
    assert_eq!(binary("somebody-elses-token", &t.key("headed")), 401);
    let mut older = event(&t.key("whole"));
    older["specversion"] = json!("0.3");
    assert_eq!(whole(TOKEN, older), 400);
    assert_eq!(whole(TOKEN, event("somebody/elses")), 204);
    assert_eq!(whole(TOKEN, event(&t.key("whole"))), 204);
    assert_eq!(binary(TOKEN, &t.key("headed")), 204);
    for name in ["ug/whole", "ug/headed"] {
        t.reason(name, "Completed");
    }
    let metrics = operator.metrics().unwrap();
    for sample in [
        "valet_notifications_total{outcome=\"accepted\"} 2",
        "valet_notifications_total{outcome=\"unknown\"} 1",
        "valet_notification_to_completed_seconds_count 2",
    ] {
        assert!(metrics.contains(&format!("\n{sample}\n")), "{sample}: {metrics}");
    }
}
