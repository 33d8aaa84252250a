//! Errors as gRPC statuses: the one table.
//!
//! What kubelet does with a code decides what is left behind. After `CANCELLED`,
//! `DEADLINE_EXCEEDED`, `RESOURCE_EXHAUSTED`, `ABORTED` and `UNAVAILABLE` it asks again, and
//! unpublishes when the pod goes. Any other code on a first publish is final: kubelet forgets the
//! volume and never unpublishes it. So final codes are for requests of which nothing is kept.

use std::error::Error;

use tonic::{Code, Status};

use crate::error::with_causes;
use crate::issuer::IssueErrorKind;
use crate::kubernetes::PodIpError;
use crate::renew::{NotReady, PublishError};
use crate::spec::request::{RequestError, RequestErrorKind};
use crate::volume::VolumeIoError;

/// Kubelet shows the message as a pod event, which holds 1024 characters.
const LONGEST_MESSAGE: usize = 900;

/// A request that cannot be carried out as written.
pub(super) fn of_request_error(error: &RequestError) -> Status {
    let code = match error.kind {
        RequestErrorKind::Invalid => Code::InvalidArgument,
        RequestErrorKind::Forged => Code::PermissionDenied,
    };
    status(code, error)
}

/// A pod whose address is not known now. Nothing is made yet, and kubelet asks again.
pub(super) fn of_pod_ip_error(error: &PodIpError) -> Status {
    status(Code::Unavailable, error)
}

/// A publish that was not accepted.
pub(super) fn of_publish_error(error: &PublishError) -> Status {
    let code = match error {
        PublishError::Busy(_) => Code::Aborted,
        PublishError::Incompatible(_) => Code::AlreadyExists,
        PublishError::OtherTarget { .. } => Code::FailedPrecondition,
        PublishError::Denied(_) => Code::PermissionDenied,
        // The failure can have left a mount that only an unpublish takes away.
        PublishError::Volume(_) => Code::Unavailable,
        PublishError::ShuttingDown => Code::Unavailable,
    };
    status(code, error)
}

/// A publish that was accepted and has no certificate yet: never a final code.
pub(super) fn of_not_ready(error: &NotReady) -> Status {
    let code = match error.kind {
        IssueErrorKind::Pending => Code::Aborted,
        IssueErrorKind::RateLimited => Code::ResourceExhausted,
        IssueErrorKind::BadResponse
        | IssueErrorKind::Config
        | IssueErrorKind::Denied
        | IssueErrorKind::Node
        | IssueErrorKind::Request
        | IssueErrorKind::Unavailable => Code::Unavailable,
    };
    status(code, error)
}

/// An accepted publish whose caller has no time left; `last_error` is why it takes so long.
pub(super) fn of_timeout(last_error: Option<&str>) -> Status {
    let why = last_error.unwrap_or("the issuer has not answered yet");
    Status::deadline_exceeded(fit(format!("the certificate is still being issued: {why}")))
}

/// A publish that a shutdown interrupts; the next process goes on with it.
pub(super) fn of_shutdown() -> Status {
    Status::unavailable("the driver is restarting; the publish goes on when kubelet asks again")
}

/// Part of a volume that could not be removed or looked at. Kubelet asks again whatever the code.
pub(super) fn of_volume_error(error: &VolumeIoError) -> Status {
    status(Code::Internal, error)
}

/// What is wrong with the arguments, and what to do.
pub(super) fn invalid(message: impl Into<String>) -> Status {
    Status::invalid_argument(fit(message.into()))
}

fn status(code: Code, error: &dyn Error) -> Status {
    Status::new(code, fit(with_causes(error)))
}

/// One line of bounded length: parts of it may come from a pod or a CA.
fn fit(mut message: String) -> String {
    if message.contains(char::is_control) {
        message = message.replace(char::is_control, " ");
    }
    if message.len() > LONGEST_MESSAGE {
        let mut end = LONGEST_MESSAGE - '…'.len_utf8();
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::PathBuf;

    use super::*;
    use crate::csi::client::is_final;
    use crate::spec::policy::PolicyDenied;
    use crate::spec::volume::{TargetPath, VolumeId};

    fn volume_error() -> VolumeIoError {
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        VolumeIoError { action: "mount", path: "/data/csi-1".into(), source }
    }

    #[test]
    fn an_accepted_publish_never_ends_for_kubelet() {
        let codes = [
            (IssueErrorKind::BadResponse, Code::Unavailable),
            (IssueErrorKind::Config, Code::Unavailable),
            (IssueErrorKind::Denied, Code::Unavailable),
            (IssueErrorKind::Node, Code::Unavailable),
            (IssueErrorKind::Pending, Code::Aborted),
            (IssueErrorKind::RateLimited, Code::ResourceExhausted),
            (IssueErrorKind::Request, Code::Unavailable),
            (IssueErrorKind::Unavailable, Code::Unavailable),
        ];
        for (kind, code) in codes {
            let error = NotReady { kind, message: "why".into(), retry_at: None };
            let status = of_not_ready(&error);
            assert_eq!((status.code(), status.message()), (code, "why"));
            assert!(!is_final(code), "{kind:?}");
        }
        for status in [of_timeout(None), of_shutdown()] {
            assert!(!is_final(status.code()), "{status:?}");
        }
        let status = of_timeout(Some("the CA sleeps"));
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert_eq!(status.message(), "the certificate is still being issued: the CA sleeps");
    }

    #[test]
    fn a_refused_publish_has_the_specification_s_code() {
        let volume = VolumeId::of_inline_volume("uid", "tls");
        let published = TargetPath::try_from(PathBuf::from("/elsewhere")).unwrap();
        let table = [
            (PublishError::Busy(volume.clone()), Code::Aborted),
            (PublishError::Incompatible(volume.clone()), Code::AlreadyExists),
            (PublishError::OtherTarget { volume, published }, Code::FailedPrecondition),
            (PublishError::Denied(PolicyDenied("no".into())), Code::PermissionDenied),
            (PublishError::Volume(volume_error()), Code::Unavailable),
            (PublishError::ShuttingDown, Code::Unavailable),
        ];
        for (error, code) in table {
            assert_eq!(of_publish_error(&error).code(), code, "{error:?}");
        }
        let table = [
            (RequestErrorKind::Invalid, Code::InvalidArgument),
            (RequestErrorKind::Forged, Code::PermissionDenied),
        ];
        for (kind, code) in table {
            let error = RequestError::new(kind, "why".into());
            assert_eq!(of_request_error(&error).code(), code);
        }
    }

    #[test]
    fn the_message_holds_every_cause_once_and_no_details() {
        let status = of_volume_error(&volume_error());
        assert_eq!(status.message(), "cannot mount /data/csi-1: permission denied");
        assert!(status.details().is_empty());

        // `PublishError::Volume` is transparent: its text is its cause's.
        let status = of_publish_error(&PublishError::Volume(volume_error()));
        assert_eq!(status.message(), "cannot mount /data/csi-1: permission denied");
    }

    #[test]
    fn the_message_is_one_line_of_bounded_length() {
        let status = invalid(format!("a\nb\u{1b}{}", "ü".repeat(2000)));
        assert!(status.message().len() <= LONGEST_MESSAGE);
        assert!(status.message().starts_with("a b ü"));
        assert!(status.message().ends_with("ü…"));
    }
}
