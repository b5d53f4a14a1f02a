//! Reads the state of objects in memory.

use futures::{FutureExt, future::BoxFuture};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use valet::{
    api::ObservedObject,
    core::{Access, ObjectFact},
    net::client::Answer,
    provider::ObjectReader,
};

use super::{scheme::Request, store::Memory};

impl ObjectReader for Memory {
    fn head<'a>(&'a self, access: &'a Access) -> BoxFuture<'a, ObjectFact> {
        async {
            let request = Request {
                method: "HEAD",
                path: self.path(access.key().as_str()),
                ..Request::default()
            };
            match self.send(&request, &[], Vec::new()).await {
                Ok(answer) => match answer.status {
                    200 => present(&answer),
                    404 => ObjectFact::Absent,
                    401 | 403 => {
                        let problem = self.findings.clock.problem();
                        problem.map_or(ObjectFact::Hidden, ObjectFact::ClockSkewed)
                    }
                    status => {
                        ObjectFact::Unreachable(format!("the store answered status {status} to a HEAD request"))
                    }
                },
                Err(e) => ObjectFact::Unreachable(e.to_string()),
            }
        }
        .boxed()
    }
}

fn present(answer: &Answer) -> ObjectFact {
    let text = |name: &str| answer.headers.get(name)?.to_str().ok().map(str::to_owned);
    let time = |name: &str| Some(jiff::fmt::rfc2822::parse(&text(name)?).ok()?.timestamp());
    let modified = time("last-modified");
    let age = modified.map(|m| time("date").unwrap_or_else(Timestamp::now).duration_since(m));
    ObjectFact::Present {
        object: ObservedObject {
            size: text("x-memory-size").and_then(|size| size.parse().ok()),
            e_tag: text("etag"),
            content_type: text("content-type"),
            version: text("x-memory-version"),
            last_modified_time: modified.map(Time),
            ..ObservedObject::default()
        }
        .checked(),
        modified_at: age.and_then(|age| Timestamp::now().checked_sub(age).ok()),
    }
}
