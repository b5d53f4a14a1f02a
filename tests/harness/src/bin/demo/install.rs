//! The first part of the demo: the servers, the CRDs, the operator, and the platform team with its store.

use std::thread;

use valet_harness::{Error, Operator, OperatorOptions, Result};

use crate::Show;

impl Show {
    pub fn servers(&mut self) -> Result<()> {
        let version = self.stage.run("kubectl version")?;
        self.stage.check(
            version.contains("Server Version: v"),
            &format!(
                "the apiserver answers, {:.1} s after its start",
                self.cluster.started_in().as_secs_f64()
            ),
        );
        let (_, status) = self
            .stage
            .attempt("curl --silent $S3_ENDPOINT/media --output answer.xml --write-out '%{http_code}\\n'")?;
        self.stage.check(
            status.trim() == "403",
            &format!(
                "the store answers, {:.1} s after its start, and rejects requests without a credential",
                self.store.started_in().as_secs_f64()
            ),
        );
        Ok(())
    }

    pub fn install(&mut self) -> Result<()> {
        self.stage.step(
            "Install the CRDs",
            "Four custom resources. The apiserver itself checks their validation rules.",
        );
        self.stage.run("valet crds | kubectl apply -f -")?;
        self.stage
            .run("kubectl wait --for=condition=Established crd --all --timeout=30s")?;
        let kinds = self.stage.run("kubectl api-resources --api-group=valetkey.dev")?;
        let all = ["UploadGrant", "DownloadGrant", "ObjectStore", "ClusterObjectStore"];
        self.stage.check(
            all.iter().all(|kind| kinds.contains(kind)),
            "the cluster has the resources of Valet",
        );
        Ok(())
    }

    pub fn operator(&mut self) -> Result<()> {
        self.stage.step(
            "Start the operator",
            "One process. In a cluster, it runs as a Deployment.",
        );
        self.stage.run("kubectl create namespace valet-system")?;
        self.stage
            .note("$ valet controller --operator-namespace valet-system &");
        let options = OperatorOptions {
            args: vec!["--operator-namespace=valet-system".into()],
            env: vec![("VALET_LOG_FORMAT".into(), "human".into())],
            ..OperatorOptions::default()
        };
        let (valet, cluster) = (&self.valet, &self.cluster);
        let operator = thread::scope(|scope| {
            // The garbage collector looks for new kinds only every 30 s, so the controller manager is restarted.
            let restart = scope.spawn(|| cluster.restart_controller_manager());
            let operator = Operator::start(valet, cluster, &options)?;
            restart.join().map_err(|_| Error::new("the restart panicked"))??;
            Ok::<_, Error>(operator)
        })?;
        let (status, _) = operator.http_get("/readyz")?;
        self.operator = Some(operator);
        self.stage.check(status == 200, "its /readyz says 200");
        Ok(())
    }

    pub fn platform_team(&mut self) -> Result<()> {
        self.stage.step(
            "The platform team owns the store",
            "The store's credentials stay in valet-system. Its access rules say what each namespace can request.",
        );
        self.stage.run(
            "kubectl create secret generic media-keys -n valet-system \\\n  \
             --from-literal=AWS_ACCESS_KEY_ID=$S3_ACCESS_KEY \\\n  \
             --from-literal=AWS_SECRET_ACCESS_KEY=$S3_SECRET_KEY",
        )?;
        let store = format!(
            r#"apiVersion: valetkey.dev/v1alpha1
kind: ClusterObjectStore
metadata: {{name: media}}
spec:
  s3:
    bucket: media
    region: {}
    endpoint: {}
    addressingStyle: Path
    credentials:
      secretRef: {{name: media-keys}}
  access:                              # whatever no rule allows is refused
  - namespaces: {{names: [web]}}
    operations: [Upload, Download]
    keyPrefix: "tenants/{{namespace}}/"
    maxExpirationSeconds: 3600
"#,
            self.store.region(),
            self.store.endpoint()
        );
        self.stage.file("store.yaml", &store)?;
        self.stage.run("kubectl apply -f store.yaml")?;
        self.stage
            .run("kubectl wait --for=condition=Ready costore/media --timeout=30s")?;
        self.stage.run("kubectl create namespace web")?;
        let ready = self.stage.run("kubectl get costore media")?;
        self.stage.check(ready.contains("True"), "the store is Ready");
        Ok(())
    }
}
