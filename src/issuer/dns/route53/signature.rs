//! AWS Signature Version 4, with the headers that the services here need.

use aws_lc_rs::{digest, hmac};
use data_encoding::HEXLOWER;
use hyper::Method;
use hyper::header::{AUTHORIZATION, HeaderName};
use url::{Position, Url};
use zeroize::Zeroizing;

use crate::clock::Timestamp;
use crate::issuer::web::Request;

/// Whom AWS knows us as. Prints nothing; secrets are zeroized.
pub(super) struct Keys {
    /// The id of the access key, which is no secret.
    pub(super) id: String,
    /// The access key.
    pub(super) secret: Zeroizing<String>,
    /// What belongs to an access key that lives for hours.
    pub(super) session_token: Option<Zeroizing<String>>,
}

/// What a signature is good for.
#[derive(Clone, Copy)]
pub(super) struct Scope<'a> {
    pub(super) region: &'a str,
    pub(super) service: &'a str,
}

/// The headers of a signed request.
pub(super) struct Signed<'a> {
    date: String,
    session_token: Option<&'a str>,
    authorization: String,
}

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const SESSION_TOKEN: HeaderName = HeaderName::from_static("x-amz-security-token");

const ALGORITHM: &str = "AWS4-HMAC-SHA256";

impl Keys {
    /// Signs a request that is made at `now`. The query of `url` must be in order and encoded as
    /// [`encoded`] does.
    pub(super) fn sign(
        &self,
        method: &Method,
        url: &Url,
        body: &[u8],
        scope: Scope<'_>,
        now: Timestamp,
    ) -> Signed<'_> {
        let date = now.strftime("%Y%m%dT%H%M%SZ").to_string();
        let session_token = self.session_token.as_ref().map(|token| token.as_str());
        let mut headers =
            vec![("host", &url[Position::BeforeHost..Position::AfterPort]), ("x-amz-date", &date)];
        headers.extend(session_token.map(|token| ("x-amz-security-token", token)));
        let names: Vec<_> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let headers: String =
            headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let canonical = Zeroizing::new(format!(
            "{method}\n{}\n{}\n{headers}\n{names}\n{}",
            url.path(),
            url.query().unwrap_or_default(),
            sha256(body)
        ));
        let Scope { region, service } = scope;
        let day = &date[..8];
        let scope = format!("{day}/{region}/{service}/aws4_request");
        let to_sign = format!("{ALGORITHM}\n{date}\n{scope}\n{}", sha256(canonical.as_bytes()));
        let first = Zeroizing::new(format!("AWS4{}", self.secret.as_str()));
        let key = [day, region, service, "aws4_request"]
            .iter()
            .fold(Zeroizing::new(first.as_bytes().to_vec()), |key, part| {
                Zeroizing::new(mac(&key, part).as_ref().to_vec())
            });
        let signature = HEXLOWER.encode(mac(&key, &to_sign).as_ref());
        let id = &self.id;
        let authorization = format!(
            "{ALGORITHM} Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}"
        );
        Signed { date, session_token, authorization }
    }
}

impl Signed<'_> {
    /// The request with its signature.
    pub(super) fn put_on<'r>(&self, request: Request<'r>) -> Request<'r> {
        let request = request.secret(DATE, &self.date).secret(AUTHORIZATION, &self.authorization);
        match self.session_token {
            Some(token) => request.secret(SESSION_TOKEN, token),
            None => request,
        }
    }
}

/// `text` with everything encoded that RFC 3986 does not call unreserved.
pub(super) fn encoded(text: &str) -> String {
    let encode = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
            char::from(byte).to_string()
        }
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

fn mac(key: &[u8], text: &str) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes())
}

fn sha256(bytes: &[u8]) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(session_token: Option<&str>) -> Keys {
        Keys {
            id: "AKIDEXAMPLE".to_owned(),
            secret: Zeroizing::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned()),
            session_token: session_token.map(|token| Zeroizing::new(token.to_owned())),
        }
    }

    fn signature(method: Method, url: &str, session_token: Option<&str>) -> String {
        let now = "2015-08-30T12:36:00Z".parse().unwrap();
        let scope = Scope { region: "us-east-1", service: "service" };
        let keys = keys(session_token);
        let signed = keys.sign(&method, &url.parse().unwrap(), b"", scope, now);
        assert_eq!(signed.date, "20150830T123600Z");
        signed.authorization.rsplit_once("Signature=").unwrap().1.to_owned()
    }

    /// The test suite that AWS publishes for the algorithm: get-vanilla, post-vanilla,
    /// get-vanilla-query-unreserved and post-sts-header-before.
    #[test]
    fn signatures_are_those_of_aws_own_test_suite() {
        let host = "https://example.amazonaws.com/";
        assert_eq!(
            signature(Method::GET, host, None),
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
        assert_eq!(
            signature(Method::POST, host, None),
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"
        );
        let unreserved = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        assert_eq!(
            signature(Method::GET, &format!("{host}?{unreserved}={unreserved}"), None),
            "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197"
        );
        let token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";
        assert_eq!(
            signature(Method::POST, host, Some(token)),
            "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"
        );
    }

    #[test]
    fn what_is_reserved_is_encoded() {
        assert_eq!(encoded("a-._~Z9"), "a-._~Z9");
        assert_eq!(encoded("a b/ü*"), "a%20b%2F%C3%BC%2A");
    }
}
