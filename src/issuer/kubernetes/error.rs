//! Errors of the Kubernetes API, sorted by whose fault they are.

use std::time::Duration;

use kube::core::Status;

use crate::issuer::{IssueError, IssueErrorKind};
use crate::kubernetes::excerpt;

/// Why the API server did not do what it was asked: to `action`, such as `create a
/// CertificateRequest in namespace shop`.
pub(super) fn api_error(action: &str, error: kube::Error) -> IssueError {
    use IssueErrorKind::{Config, Denied, RateLimited, Unavailable};
    let kube::Error::Api(status) = error else {
        let message = format!("the API server cannot be asked to {action}");
        return IssueError::new(Unavailable, message).caused_by(error);
    };
    let said = excerpt(&status.message);
    let (kind, message) = match status.code {
        // What validates requests before they are stored: webhooks and admission policies.
        _ if said.contains("denied") && !said.contains("cannot") => {
            (Denied, format!("the API server refused to {action}: {said}"))
        }
        401 => (Config, format!("the API server does not know who asks it to {action}: {said}")),
        403 => {
            (Config, format!("certmount may not {action}: give its ClusterRole that right: {said}"))
        }
        404 if is_kind_missing(&status) => (
            Config,
            format!(
                "the API server cannot {action}, for it does not know that kind of object: \
                     install its CustomResourceDefinition, with cert-manager for instance"
            ),
        ),
        429 => (RateLimited, format!("the API server is too busy to {action}: {said}")),
        400..=499 => (Config, format!("the API server did not {action}: {said}")),
        _ => (Unavailable, format!("the API server failed to {action}: {said}")),
    };
    let seconds = status.details.as_ref().map_or(0, |details| details.retry_after_seconds);
    let retry_after = (seconds > 0).then(|| Duration::from_secs(seconds.into()));
    IssueError { retry_after, ..IssueError::new(kind, message) }
}

/// The same for what `account` was to do itself.
pub(super) fn pod_error(action: &str, account: &str, error: kube::Error) -> IssueError {
    match &error {
        kube::Error::Api(status) if status.code == 401 => IssueError::new(
            IssueErrorKind::Unavailable,
            format!(
                "the API server does not take the token of {account}, which was to {action}; \
                 kubelet hands over a new one before the old one ends"
            ),
        ),
        kube::Error::Api(status) if status.code == 403 && status.message.contains("cannot") => {
            let said = excerpt(&status.message);
            let message = format!(
                "{account} may not {action}: give it a Role in that namespace with the verb create \
                 for certificaterequests.cert-manager.io: {said}"
            );
            IssueError::new(IssueErrorKind::Config, message)
        }
        _ => api_error(action, error),
    }
}

/// There is nothing to act as `account` with.
pub(super) fn no_token(action: &str, account: &str) -> IssueError {
    let message = format!(
        "{account} is to {action}, and kubelet has not handed over its token yet: the CSIDriver \
         object needs tokenRequests with the audience \"\", serviceAccountTokenInSecrets: true and \
         requiresRepublish: true"
    );
    IssueError::new(IssueErrorKind::Unavailable, message)
}

/// Whether it is the kind that is missing, and not the object or its namespace.
fn is_kind_missing(status: &Status) -> bool {
    status.message.contains("could not find the requested resource")
        || status.message.contains("page not found")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(code: u16, message: &str) -> IssueError {
        let status = Status::failure(message, "Reason").with_code(code);
        api_error("create a CertificateRequest", kube::Error::Api(status.boxed()))
    }

    #[test]
    fn tells_whose_fault_it_is() {
        use IssueErrorKind::{Config, Denied, RateLimited, Unavailable};
        let forbidden = "certificaterequests.cert-manager.io is forbidden: User \"x\" cannot create \
                         resource \"certificaterequests\" in API group \"cert-manager.io\"";
        let table = [
            (403, forbidden, Config),
            (403, "ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no", Denied),
            (400, "admission webhook \"w\" denied the request: no", Denied),
            (401, "Unauthorized", Config),
            (404, "the server could not find the requested resource", Config),
            (404, "404 page not found", Config),
            (422, "spec.expirationSeconds: Invalid value: 1", Config),
            (429, "too many requests", RateLimited),
            (500, "etcdserver: request timed out", Unavailable),
            (503, "", Unavailable),
        ];
        for (code, message, kind) in table {
            let error = told(code, message);
            assert_eq!(error.kind, kind, "{code} {message}");
        }
        assert!(told(403, forbidden).message.contains("ClusterRole"));
        assert!(told(404, table[4].1).message.contains("install"));
    }

    #[test]
    fn a_pod_is_told_what_its_service_account_lacks() {
        let told = |code, message: &str| {
            let status = Status::failure(message, "Reason").with_code(code);
            let error = kube::Error::Api(status.boxed());
            pod_error("create a CertificateRequest", "service account shop/web", error)
        };
        let forbidden = told(403, "certificaterequests is forbidden: User \"x\" cannot create it");
        assert_eq!(forbidden.kind, IssueErrorKind::Config);
        assert!(forbidden.message.contains("service account shop/web may not create"));
        assert!(!forbidden.message.contains("ClusterRole"), "{}", forbidden.message);
        assert_eq!(told(401, "Unauthorized").kind, IssueErrorKind::Unavailable);
        assert_eq!(told(403, "admission webhook denied it").kind, IssueErrorKind::Denied);
    }

    #[test]
    fn honours_retry_after() {
        let mut status = Status::failure("busy", "TooManyRequests").with_code(429);
        let details = serde_json::from_str(r#"{"retryAfterSeconds": 7}"#).unwrap();
        status.details = Some(details);
        let error = api_error("ask", kube::Error::Api(status.boxed()));
        assert_eq!(error.retry_after, Some(Duration::from_secs(7)));
    }
}
