//! A POST of JSON for each step, signed as Standard Webhooks has it (standardwebhooks.com), so that
//! receivers can check it with a library that exists: `webhook-id`, `webhook-timestamp` and
//! `webhook-signature: v1,<base64>`, the HMAC-SHA256 of `id.timestamp.body`.
//!
//! An event is sent again until it is answered with 2xx, with the id that it had the first time and
//! a new timestamp: a receiver that remembers ids does each thing once.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderName, HeaderValue, Method};
use serde_json::{Map, Value, json};
use sha2::Sha256;

use super::event::Teller;
use super::http::{Http, JSON, Secret, whole};
use super::runtime::{CallError, Given, Runtime, Tells};
use crate::clock;

/// What a secret begins with if the rest is base64.
const ENCODED: &str = "whsec_";

/// A receiver of events.
#[derive(Debug)]
pub struct Webhook {
    http: Http,
    key: Secret,
    teller: Teller,
    time: Duration,
    /// The event that was sent last and not accepted, with its id.
    unanswered: Mutex<Option<(Map<String, Value>, String)>>,
}

impl Webhook {
    /// Sends through `http`, signed with `secret`.
    pub fn new(http: Http, secret: &Secret, teller: Teller, time: Duration) -> Self {
        Self {
            http,
            key: key(secret),
            teller,
            time,
            unanswered: Mutex::new(None),
        }
    }

    async fn send(&self, facts: Map<String, Value>) -> Result<(), CallError> {
        let id = self.id_of(&facts);
        let now = clock::now();
        let mut event = facts;
        event.insert("id".to_owned(), json!(id));
        event.insert("time".to_owned(), json!(now.to_rfc3339()));
        let body = Value::Object(event).to_string();
        let seconds = (now.0 / 1000).to_string();
        let signature = sign(&self.key, &id, &seconds, body.as_bytes());
        let headers = [
            JSON,
            header("webhook-id", &id)?,
            header("webhook-timestamp", &seconds)?,
            header("webhook-signature", &signature)?,
        ];
        let body = whole(body.into());
        let answer = self.http.send(Method::POST, "", &headers, body, self.time);
        answer.await?.accepted()?;
        *self.lock() = None;
        Ok(())
    }

    /// The id of an event: that of the last attempt, if it is the same event.
    fn id_of(&self, facts: &Map<String, Value>) -> String {
        let mut unanswered = self.lock();
        if let Some((before, id)) = &*unanswered
            && before == facts
        {
            return id.clone();
        }
        let id = format!("evt_{}", uuid::Uuid::new_v4().simple());
        *unanswered = Some((facts.clone(), id.clone()));
        id
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(Map<String, Value>, String)>> {
        // Whole at every moment, so a panic elsewhere does not matter.
        self.unanswered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

fn header(name: &'static str, value: &str) -> Result<(HeaderName, HeaderValue), CallError> {
    let value = HeaderValue::from_str(value)
        .map_err(|error| CallError::Unable(format!("cannot be told {name}: {error}")))?;
    Ok((HeaderName::from_static(name), value))
}

fn key(secret: &Secret) -> Secret {
    let text = std::str::from_utf8(secret.reveal()).unwrap_or_default();
    let decoded = text
        .strip_prefix(ENCODED)
        .and_then(|rest| STANDARD.decode(rest).ok());
    decoded.map_or_else(|| secret.clone(), Secret::new)
}

fn sign(key: &Secret, id: &str, seconds: &str, body: &[u8]) -> String {
    let mut mac =
        Hmac::<Sha256>::new_from_slice(key.reveal()).expect("HMAC takes a key of any length");
    mac.update(format!("{id}.{seconds}.").as_bytes());
    mac.update(body);
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[async_trait]
impl Runtime for Webhook {
    fn tells(&self) -> Tells {
        Tells::Nothing
    }

    async fn load(&self, given: &Given<'_>) -> Result<(), CallError> {
        self.send(self.teller.about("load", None, given)).await
    }

    async fn switch(&self, alias: &str, given: &Given<'_>) -> Result<(), CallError> {
        let facts = self.teller.about("switch", Some(alias), given);
        self.send(facts).await
    }

    async fn unroute(&self, alias: &str) -> Result<(), CallError> {
        self.send(self.teller.plain("remove", None, Some(alias)))
            .await
    }

    async fn unload(&self, name: &str) -> Result<(), CallError> {
        self.send(self.teller.plain("unload", Some(name), None))
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of the Standard Webhooks libraries.
    #[test]
    fn signatures_are_those_of_the_standard() {
        let secret = Secret::new(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_vec());
        let signature = sign(
            &key(&secret),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }
}
