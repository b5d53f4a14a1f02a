//! The two kinds of grants as one trait.

use kube::CustomResourceExt;
use serde::Serialize;

use super::{DownloadGrant, Grant, GrantStatus, Operation, OperationSpec, Terms, UploadGrant, rules::Rules};

impl Grant for UploadGrant {
    const OPERATION: Operation = Operation::Upload;
    fn terms(&self) -> &Terms {
        &self.spec.terms
    }
    fn operation_spec(&self) -> OperationSpec {
        OperationSpec::Upload {
            mode: self.spec.mode,
            multipart: self.spec.multipart.unwrap_or_default(),
            constraints: self.spec.constraints.clone().unwrap_or_default(),
        }
    }
    fn spec(&self) -> impl Serialize + '_ {
        &self.spec
    }
    fn grant_status(&self) -> Option<&GrantStatus> {
        self.status.as_ref()
    }
    fn grant_status_mut(&mut self) -> Option<&mut GrantStatus> {
        self.status.as_mut()
    }
    fn check(&self) -> Result<(), Vec<String>> {
        static RULES: Rules = Rules::new(UploadGrant::crd);
        RULES.check(self)
    }
}

impl Grant for DownloadGrant {
    const OPERATION: Operation = Operation::Download;
    fn terms(&self) -> &Terms {
        &self.spec.terms
    }
    fn operation_spec(&self) -> OperationSpec {
        OperationSpec::Download {
            mode: self.spec.mode,
            version: self.spec.version.clone(),
            response: self.spec.response.clone().unwrap_or_default(),
        }
    }
    fn spec(&self) -> impl Serialize + '_ {
        &self.spec
    }
    fn grant_status(&self) -> Option<&GrantStatus> {
        self.status.as_ref()
    }
    fn grant_status_mut(&mut self) -> Option<&mut GrantStatus> {
        self.status.as_mut()
    }
    fn check(&self) -> Result<(), Vec<String>> {
        static RULES: Rules = Rules::new(DownloadGrant::crd);
        RULES.check(self)
    }
}
