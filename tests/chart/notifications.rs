//! Tests of how the chart exposes the operator's endpoint for notifications.

use serde_json::json;

use crate::helm::objects;

/// Stores send notifications to the Service, replicas forward them to each other, and the tokens come from a Secret.
#[test]
fn notifications_have_a_port_a_token_and_a_network_policy() {
    let off = objects(&["networkPolicy.enabled=true"]);
    for kind in ["Deployment", "Service", "NetworkPolicy"] {
        assert!(!off.get(kind, "valet").to_string().contains("notifications"), "{kind}");
    }
    let on = objects(&[
        "notifications.enabled=true",
        "notifications.existingSecret=store-tokens",
        "notifications.secretKey=list",
        "notifications.port=9999",
        "networkPolicy.enabled=true",
        "networkPolicy.ingress.notificationsFrom[0].podSelector.matchLabels.app=minio",
    ]);
    let container = on.container();
    let args = container["args"].to_string();
    assert!(args.contains("--notifications-address=0.0.0.0:8081"), "{args}");
    assert!(
        args.contains("--notifications-token-file=/etc/valet/notifications/list"),
        "{args}"
    );
    assert!(!args.contains("sns"), "{args}");
    assert_eq!(
        container["env"][1],
        json!({"name": "VALET_POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    );
    let mount = json!([{"name": "notifications", "mountPath": "/etc/valet/notifications", "readOnly": true}]);
    assert_eq!(container["volumeMounts"], mount);
    let secret = json!({"secretName": "store-tokens", "items": [{"key": "list", "path": "list"}]});
    assert_eq!(
        on.pod()["volumes"],
        json!([{"name": "notifications", "secret": secret}])
    );
    let ports = &on.get("Service", "valet")["spec"]["ports"];
    assert_eq!(
        (&ports[1]["port"], &ports[1]["targetPort"]),
        (&json!(9999), &json!("notifications"))
    );
    assert_eq!(
        container["ports"][1],
        json!({"name": "notifications", "containerPort": 8081, "protocol": "TCP"})
    );

    let spec = &on.get("NetworkPolicy", "valet")["spec"];
    let port = json!([{"port": "notifications", "protocol": "TCP"}]);
    let replicas = json!({"podSelector": {"matchLabels": spec["podSelector"]["matchLabels"]}});
    let store = json!({"podSelector": {"matchLabels": {"app": "minio"}}});
    assert_eq!(spec["ingress"][1], json!({"ports": port, "from": [replicas, store]}));
    assert_eq!(spec["egress"][3], json!({"ports": port, "to": [replicas]}));
}

/// SNS topics, and Pub/Sub with Google identity tokens, may also send notifications. Flags configure them.
#[test]
fn notification_senders_are_configured_by_flags() {
    let on = |more: &[&str]| {
        let values = [
            "notifications.enabled=true",
            "notifications.existingSecret=store-tokens",
        ];
        let args = objects(&[&values, more].concat()).container()["args"].clone();
        let args = args.as_array().unwrap().iter().map(|a| a.as_str().unwrap().to_owned());
        args.filter(|a| a.contains("google") || a.contains("sns"))
            .collect::<Vec<_>>()
    };
    assert_eq!(on(&[]), Vec::<String>::new());
    let topic = "arn:aws:sns:eu-west-1:111122223333:uploads=media";
    let topics = format!("notifications.snsTopics={{{topic}}}");
    assert_eq!(on(&[&topics]), [format!("--notifications-sns-topics={topic}")]);
    assert_eq!(
        on(&[
            "notifications.google.accounts={valet-push@p.iam.gserviceaccount.com=media,b@p.iam.gserviceaccount.com=team-a/*}",
            "notifications.google.audience=https://valet.example.com/notifications?x=1",
        ]),
        [
            "--notifications-google-accounts=valet-push@p.iam.gserviceaccount.com=media,b@p.iam.gserviceaccount.com=team-a/*",
            "--notifications-google-audience=https://valet.example.com/notifications?x=1",
        ]
    );
}
