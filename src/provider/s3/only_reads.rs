//! Refuses write requests to the endpoint of a tenant.

use aws_sdk_s3::{
    config::{ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextRef},
    error::BoxError,
};

/// Refuses every request except GET and HEAD before the client sends it. The code that creates write requests also
/// checks whether they are allowed. This check is for the case that such code is missing.
#[derive(Clone, Copy, Debug)]
pub struct OnlyReads;

impl Intercept for OnlyReads {
    fn name(&self) -> &'static str {
        "OnlyReads"
    }

    fn read_before_transmit(
        &self,
        context: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        match context.request().method() {
            "GET" | "HEAD" => Ok(()),
            _ => Err("the operator sends only read requests to this endpoint".into()),
        }
    }
}
