//! The dashboard over sockets: who sees what, what it says, and that nothing in an entry is markup.

mod access;
mod figures;
mod forms;
mod shown;

use crate::client::Answer;
use crate::server::Server;

pub const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

pub const OURS: (&str, &str) = ("sec-fetch-site", "same-origin");

/// Somebody who signed in.
pub struct Visitor<'s> {
    server: &'s Server,
    cookie: String,
}

impl<'s> Visitor<'s> {
    pub fn sign_in(server: &'s Server, key: &str) -> Self {
        let answer = try_sign_in(server, key);
        assert_eq!(answer.status, 303, "{answer:?}");
        let cookie = answer.header("set-cookie").unwrap();
        let cookie = cookie.split(';').next().unwrap().to_owned();
        Self { server, cookie }
    }

    pub fn admin(server: &'s Server) -> Self {
        Self::sign_in(server, &server.key)
    }

    pub fn get(&self, path: &str) -> Answer {
        let mut client = self.server.connect();
        client
            .send("GET", path, &[("cookie", &self.cookie)], b"")
            .unwrap()
    }

    pub fn page(&self, path: &str) -> String {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        text(&answer)
    }

    pub fn post(&self, path: &str, form: &[(&str, &str)]) -> Answer {
        let headers = [FORM, OURS, ("cookie", &self.cookie)];
        let body = encoded(form);
        let mut client = self.server.connect();
        client
            .send("POST", path, &headers, body.as_bytes())
            .unwrap()
    }
}

pub fn try_sign_in(server: &Server, key: &str) -> Answer {
    let body = encoded(&[("key", key), ("to", "/ui/operation")]);
    let mut client = server.connect();
    client
        .send("POST", "/ui/sign-in", &[FORM, OURS], body.as_bytes())
        .unwrap()
}

pub fn encoded(form: &[(&str, &str)]) -> String {
    let pairs = form.iter().map(|(name, value)| {
        let value = value.bytes().map(|byte| format!("%{byte:02x}"));
        format!("{name}={}", value.collect::<String>())
    });
    pairs.collect::<Vec<_>>().join("&")
}

pub fn text(answer: &Answer) -> String {
    String::from_utf8(answer.body.clone()).unwrap()
}

pub fn store() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

pub fn percent(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
