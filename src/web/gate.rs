//! Who may see the live page: whoever has the token that was printed, from a page of this host's own.
//!
//! * The token in the address is exchanged for a cookie, which scripts cannot read and which no other site can have sent along.
//! * The `Host` has to be this host: a foreign name that leads here (DNS rebinding) is turned away before anything else.
//! * Every answer, refusals included, says what a browser may do with it: nothing that is not named.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{self, COOKIE, HOST, LOCATION, SET_COOKIE},
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use crate::{config::PageEndpoint, escape::hex};

/// What a browser may do with what it gets. No script, style or picture from elsewhere; no frame, form or other address.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
         frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
];

/// What those get who have no cookie.
const NO_COOKIE: &str = "Open the address that poptap printed when it started: it has the token.\n";
const WRONG_TOKEN: &str = "This is not the token: open the address that poptap printed when it started last.\n";
const WRONG_HOST: &str = "This is not an address of this page: open the one that poptap printed.\n";

/// 128 random bits, in hexadecimal.
type Secret = String;

/// The secrets of one run.
pub(super) struct Gate {
    token: Secret,
    cookie: Secret,
    /// Cookies are not told apart by ports, so that the name has it.
    cookie_name: String,
    address: SocketAddr,
    allow_remote: bool,
}

impl Gate {
    /// Draws the secrets for a page at `address`.
    ///
    /// # Errors
    ///
    /// When the system has no random numbers.
    pub(super) fn new(address: SocketAddr, endpoint: PageEndpoint) -> Result<Self, getrandom::Error> {
        Ok(Self {
            token: draw()?,
            cookie: draw()?,
            cookie_name: format!("poptap-{}", address.port()),
            address,
            allow_remote: endpoint.allow_remote,
        })
    }

    /// What is to be opened in a browser.
    pub(super) fn url(&self) -> String {
        let host = if self.address.ip().is_unspecified() {
            format!("localhost:{}", self.address.port())
        } else {
            self.address.to_string()
        };
        format!("http://{host}/?token={}", self.token)
    }

    /// What is answered in place of what was asked for; `None` where that may be had.
    fn judge(&self, request: &Request) -> Option<Response> {
        if !request.headers().get(HOST).is_some_and(|host| self.is_host(host)) {
            return Some((StatusCode::MISDIRECTED_REQUEST, WRONG_HOST).into_response());
        }
        if let Some(token) = token_in(request) {
            let is_right = same(token, &self.token);
            return Some(if is_right { self.admit() } else { (StatusCode::FORBIDDEN, WRONG_TOKEN).into_response() });
        }
        let is_known = self.has_cookie(request.headers());
        (!is_known).then(|| (StatusCode::UNAUTHORIZED, NO_COOKIE).into_response())
    }

    /// To the page, with the cookie, and without the token in the address.
    fn admit(&self) -> Response {
        let cookie = format!("{}={}; Path=/; HttpOnly; SameSite=Strict", self.cookie_name, self.cookie);
        (StatusCode::SEE_OTHER, [(LOCATION, "/".to_owned()), (SET_COOKIE, cookie)]).into_response()
    }

    /// A name could lead here from anywhere; of names, only `localhost` cannot. The port may be that of a tunnel.
    fn is_host(&self, host: &HeaderValue) -> bool {
        let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else { return false };
        let name = authority.host();
        let literal = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name).parse::<IpAddr>();
        let is_ours = |address: IpAddr| self.allow_remote || address.is_loopback() || address == self.address.ip();
        !authority.as_str().contains('@') && (name.eq_ignore_ascii_case("localhost") || literal.is_ok_and(is_ours))
    }

    fn has_cookie(&self, headers: &HeaderMap) -> bool {
        let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
        let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.any(|(name, value)| name == self.cookie_name && same(value, &self.cookie))
    }
}

/// Lets nobody through who may not pass, and says with every answer what may be done with it.
pub(super) async fn guard(State(gate): State<std::sync::Arc<Gate>>, request: Request, next: Next) -> Response {
    let mut response = match gate.judge(&request) {
        None => next.run(request).await,
        Some(response) => response,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn token_in(request: &Request) -> Option<&str> {
    let pairs = request.uri().query().filter(|_| request.uri().path() == "/")?.split('&');
    pairs.filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == "token").map(|(_, token)| token)
}

/// In a time that does not depend on where they differ.
fn same(given: &str, secret: &str) -> bool {
    aws_lc_rs::constant_time::verify_slices_are_equal(given.as_bytes(), secret.as_bytes()).is_ok()
}

fn draw() -> Result<Secret, getrandom::Error> {
    let mut octets = [0; 16];
    getrandom::fill(&mut octets)?;
    Ok(hex(&octets))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(address: &str, allow_remote: bool) -> Gate {
        let address = address.parse().unwrap();
        Gate::new(address, PageEndpoint { address, allow_remote }).unwrap()
    }

    #[test]
    fn hosts() {
        for (address, allow_remote, host, expected) in [
            ("127.0.0.1:8110", false, "127.0.0.1:8110", true),
            ("127.0.0.1:8110", false, "localhost:8110", true),
            ("127.0.0.1:8110", false, "LOCALHOST:9", true),
            ("127.0.0.1:8110", false, "[::1]:8110", true),
            ("127.0.0.1:8110", false, "evil.example:8110", false),
            ("127.0.0.1:8110", false, "localhost.evil.example", false),
            ("127.0.0.1:8110", false, "127.0.0.1.evil.example", false),
            ("127.0.0.1:8110", false, "x@localhost", false),
            ("127.0.0.1:8110", false, "192.0.2.1:8110", false),
            ("127.0.0.1:8110", false, "", false),
            ("192.0.2.1:8110", true, "192.0.2.1:8110", true),
            ("[::]:8110", true, "192.0.2.7:8110", true),
            ("[::]:8110", true, "evil.example:8110", false),
        ] {
            let found = gate(address, allow_remote).is_host(&HeaderValue::from_str(host).unwrap());
            assert_eq!(found, expected, "{address} {host}");
        }
    }

    #[test]
    fn secrets_differ_and_are_compared_whole() {
        let (one, other) = (gate("127.0.0.1:1", false), gate("127.0.0.1:1", false));
        assert!(one.token.len() == 32 && one.token != other.token && one.token != one.cookie);
        assert!(same(&one.token, &one.token.clone()));
        assert!(!same(&one.token[..31], &one.token) && !same("", &one.token) && !same(&other.token, &one.token));
        assert!(gate("[::]:8110", true).url().starts_with("http://localhost:8110/?token="));
    }
}
