//! What the head of a request must have, rule by rule.

use std::sync::Arc;

use super::*;
use crate::grpc::listener::accept::Token;

const TOKEN: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn pass() -> Pass {
    Pass::Token {
        token: Arc::new(Token::of(TOKEN.as_bytes())),
        address: "127.0.0.1:7447".parse().unwrap(),
    }
}

/// A request that is let in over TCP, after a change.
fn checked(change: impl FnOnce(&mut Request<()>)) -> Result<(), Refused> {
    let mut request = Request::post("http://localhost:7447/kmerge.v1.AdminService/GetStatus")
        .header("content-type", "application/grpc")
        .header("authorization", format!("Bearer {TOKEN}"))
        .body(())
        .unwrap();
    change(&mut request);
    check(&request, &pass())
}

fn with(name: &'static str, value: &str) -> Result<(), Refused> {
    checked(|request| {
        request.headers_mut().insert(name, value.parse().unwrap());
    })
}

fn access(error: AccessError) -> Result<(), Refused> {
    Err(Refused::Access(error))
}

#[test]
fn a_call_that_shows_all_is_let_in() {
    assert_eq!(checked(|_| ()), Ok(()));
    for kind in ["application/grpc+proto", "application/grpc;charset=utf-8"] {
        assert_eq!(with("content-type", kind), Ok(()), "{kind}");
    }
    assert_eq!(with("authorization", &format!("bearer  {TOKEN}")), Ok(()));
    assert_eq!(with("host", "[::1]:7447"), Ok(()));
}

#[test]
fn what_is_no_grpc_is_none_of_ours() {
    for kind in [
        "application/grpc-web",
        "application/grpc-web+proto",
        "application/grpcx",
        "application/json",
        "text/plain",
        "",
    ] {
        let refused = Err(Refused::NotGrpc(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        assert_eq!(with("content-type", kind), refused, "{kind}");
    }
    let refused = Err(Refused::NotGrpc(StatusCode::METHOD_NOT_ALLOWED));
    for method in [Method::GET, Method::OPTIONS, Method::PUT, Method::CONNECT] {
        assert_eq!(checked(|request| *request.method_mut() = method), refused);
    }
}

#[test]
fn the_origin_is_refused_on_every_way_in() {
    for origin in ["null", "http://localhost:7447", "https://example.org", ""] {
        assert_eq!(with("origin", origin), access(AccessError::Origin));
    }
    let request = Request::post("http://kmerged/x")
        .header("content-type", "application/grpc")
        .header("origin", "null")
        .body(())
        .unwrap();
    assert_eq!(check(&request, &Pass::Known), access(AccessError::Origin));
}

#[test]
fn only_names_of_loopback_with_the_port_are_served() {
    let refused = access(AccessError::Authority { port: 7447 });
    let to = |uri: &str| {
        let uri = uri.parse().unwrap();
        checked(|request| *request.uri_mut() = uri)
    };
    for good in ["LOCALHOST:7447", "127.0.0.1:7447", "[::1]:7447"] {
        assert_eq!(to(&format!("http://{good}/x")), Ok(()), "{good}");
    }
    for bad in [
        "localhost",
        "localhost:80",
        "example.org:7447",
        "localhost.example.org:7447",
        "127.0.0.1.example.org:7447",
        "x@localhost:7447",
        "localhost:7447@example.org:7447",
        "0.0.0.0:7447",
        "127.0.0.2:7447",
        "[::]:7447",
        "2130706433:7447",
    ] {
        assert_eq!(to(&format!("http://{bad}/x")), refused, "{bad}");
        assert_eq!(with("host", bad), refused, "{bad}");
    }
    assert_eq!(to("/without/one"), refused);
}

#[test]
fn the_token_is_asked_for_and_compared() {
    let missing = access(AccessError::TokenMissing);
    let wrong = access(AccessError::TokenWrong);
    let without = checked(|request| {
        request.headers_mut().remove("authorization");
    });
    assert_eq!(without, missing);
    for scheme in ["", "Bearer", "Basic eDp5", TOKEN] {
        assert_eq!(with("authorization", scheme), missing, "{scheme}");
    }
    for token in [
        "",
        "0",
        &TOKEN[1..],
        &TOKEN.to_uppercase(),
        &TOKEN.replace('0', "1"),
        &format!("{TOKEN}0"),
    ] {
        let header = format!("Bearer {token}");
        assert_eq!(with("authorization", &header), wrong, "{token}");
    }
    let twice = checked(|request| {
        let right = request.headers()["authorization"].clone();
        request.headers_mut().append("authorization", right);
    });
    assert_eq!(twice, wrong);
}
