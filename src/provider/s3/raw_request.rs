//! Sends a signed URL or form with the HTTP client of the AWS SDK.

use aws_sdk_s3::config::{
    ConfigBag, Intercept, RuntimeComponents, interceptors::BeforeTransmitInterceptorContextMut,
};

/// Replaces the HTTP request of an AWS SDK call with a request that Valet built from a signed URL or form.
pub struct Raw {
    pub method: String,
    pub uri: String,
    pub headers: Vec<(String, String)>,
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Raw(<redacted>)")
    }
}

impl Intercept for Raw {
    fn name(&self) -> &'static str {
        "Raw"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), aws_sdk_s3::error::BoxError> {
        let request = context.request_mut();
        request.set_method(&self.method)?;
        request.set_uri(self.uri.clone())?;
        let headers = request.headers_mut();
        let of_the_sdk: Vec<_> = headers
            .iter()
            .map(|(name, _)| name.to_owned())
            .filter(|name| {
                name == "authorization"
                    || name == "content-type"
                    || name.starts_with("x-amz-")
                    || name.starts_with("amz-sdk")
            })
            .collect();
        for name in of_the_sdk {
            headers.remove(name);
        }
        for (name, value) in &self.headers {
            // The AWS SDK sets these two headers itself.
            if !name.eq_ignore_ascii_case("content-length") && !name.eq_ignore_ascii_case("host") {
                headers.insert(name.to_ascii_lowercase(), value.clone());
            }
        }
        Ok(())
    }
}
