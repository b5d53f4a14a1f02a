//! A mock apiserver for unit tests.

use std::{
    convert::Infallible,
    task::{Context, Poll},
};

use futures::future::{Ready, ready};
use http::{Request, Response};
use kube::{Client, client::Body};
use serde_json::Value;

/// Returns a client whose requests are answered by `answer`. The argument of `answer` is the path of the request.
pub fn client(answer: impl Fn(&str) -> Value + Clone + Send + 'static) -> Client {
    Client::new(Server(answer), "default")
}

#[derive(Clone)]
struct Server<F>(F);

impl<F: Fn(&str) -> Value> tower_service::Service<Request<Body>> for Server<F> {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let object = (self.0)(request.uri().path());
        ready(Ok(Response::new(Body::from(object.to_string().into_bytes()))))
    }
}
