//! Variables such as `${POD_NAME}` in attribute values.
//!
//! The syntax is that of Go's `os.Expand`, which cert-manager's csi-driver uses: `$NAME` and
//! `${NAME}`, no way to escape, and a `$` that no name follows stands for itself. An unknown
//! variable is an error, and so is a `${` that is never closed, which Go drops in silence.
//!
//! Every value is a Kubernetes name or an address, without commas, quotes or blanks, so it cannot add an item to a list or an
//! attribute to a distinguished name.

use std::borrow::Cow;
use std::net::IpAddr;

use super::volume::PodRef;

/// What the variables stand for in one request.
#[derive(Clone, Copy, Debug)]
pub struct Variables<'a> {
    /// The pod the volume is for.
    pub pod: &'a PodRef,
    /// The node it runs on.
    pub node_name: &'a str,
    /// The pod's address, where it is known already.
    pub pod_ip: Option<IpAddr>,
}

/// A variable and what it means, for documentation.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// The name between `${` and `}`.
    pub name: &'static str,
    /// What it stands for.
    pub meaning: &'static str,
    value: for<'a> fn(&Variables<'a>) -> Option<Cow<'a, str>>,
}

/// All variables.
pub static VARIABLES: &[Variable] = &[
    Variable {
        name: "POD_NAME",
        meaning: "the pod's name",
        value: |known| Some(known.pod.name.as_str().into()),
    },
    Variable {
        name: "POD_NAMESPACE",
        meaning: "the pod's namespace",
        value: |known| Some(known.pod.namespace.as_str().into()),
    },
    Variable {
        name: "POD_UID",
        meaning: "the pod's uid",
        value: |known| Some(known.pod.uid.as_str().into()),
    },
    Variable {
        name: "SERVICE_ACCOUNT_NAME",
        meaning: "the name of the pod's service account",
        value: |known| Some(known.pod.service_account.as_str().into()),
    },
    Variable {
        name: "NODE_NAME",
        meaning: "the name of the node the pod runs on",
        value: |known| Some(known.node_name.into()),
    },
    Variable {
        name: "POD_IP",
        meaning: "the pod's IP address. Kubelet makes a pod's volumes before the pod has one, so \
                  it is known for pods with `hostNetwork: true` only, to a driver that asks the \
                  Kubernetes API; everywhere else this variable is an error",
        value: |known| known.pod_ip.map(|ip| ip.to_string().into()),
    },
];

/// Why a value cannot be expanded.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ExpandError {
    /// There is no such variable.
    #[error("unknown variable {0:?}; known are {known}", known = names())]
    Unknown(String),
    /// `${` without its `}`, or `${}`.
    #[error("'${{' must be followed by a variable's name and '}}'")]
    Malformed,
    /// [`Variables::pod_ip`] is `None`.
    #[error(
        "POD_IP is not known yet: a pod's volumes are made before it gets its address; \
         use a DNS name, of a Service for instance, in place of the address"
    )]
    NoAddressYet,
}

impl Variables<'_> {
    /// Replaces every variable in `text`.
    ///
    /// # Errors
    ///
    /// When a variable is unknown, malformed, or has no value yet.
    pub fn expand<'t>(&self, text: &'t str) -> Result<Cow<'t, str>, ExpandError> {
        let Some((before, mut rest)) = text.split_once('$') else { return Ok(text.into()) };
        let mut expanded = String::with_capacity(2 * text.len());
        expanded.push_str(before);
        loop {
            let (name, after) = variable_name(rest)?;
            if name.is_empty() {
                expanded.push('$');
            } else {
                expanded.push_str(&self.value(name)?);
            }
            let Some((before, next)) = after.split_once('$') else {
                expanded.push_str(after);
                return Ok(expanded.into());
            };
            expanded.push_str(before);
            rest = next;
        }
    }

    fn value(&self, name: &str) -> Result<Cow<'_, str>, ExpandError> {
        let variable = VARIABLES
            .iter()
            .find(|variable| variable.name == name)
            .ok_or_else(|| ExpandError::Unknown(name.to_owned()))?;
        (variable.value)(self).ok_or(ExpandError::NoAddressYet)
    }
}

/// Splits what follows a `$` into a variable's name, empty where there is none, and the rest.
fn variable_name(text: &str) -> Result<(&str, &str), ExpandError> {
    if let Some(braced) = text.strip_prefix('{') {
        return match braced.split_once('}') {
            None | Some(("", _)) => Err(ExpandError::Malformed),
            Some(name_and_rest) => Ok(name_and_rest),
        };
    }
    // The shell's special variables are one character long: `$$`, `$1`, `$@`.
    let length = if text.starts_with(is_special) {
        1
    } else {
        text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len())
    };
    Ok(text.split_at(length))
}

fn is_special(c: char) -> bool {
    matches!(c, '*' | '#' | '$' | '@' | '!' | '?' | '-' | '0'..='9')
}

fn names() -> String {
    let names: Vec<_> = VARIABLES.iter().map(|variable| variable.name).collect();
    names.join(", ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::spec::fixture::pod;

    fn expand(text: &str) -> Result<String, ExpandError> {
        let pod = pod("shop", "web-0", "seller");
        let variables =
            Variables { pod: &pod, node_name: "node1", pod_ip: "10.0.0.7".parse().ok() };
        variables.expand(text).map(Cow::into_owned)
    }

    #[test]
    fn both_spellings_are_expanded() {
        let text = "$POD_NAME.${POD_NAMESPACE}/$POD_UID-$SERVICE_ACCOUNT_NAME@$NODE_NAME=${POD_IP}";
        assert_eq!(expand(text).unwrap(), "web-0.shop/uid-1-seller@node1=10.0.0.7");
        assert_eq!(expand("plain").unwrap(), "plain");
        assert_eq!(expand("").unwrap(), "");
    }

    #[test]
    fn a_lone_dollar_stands_for_itself() {
        assert_eq!(expand("a$").unwrap(), "a$");
        assert_eq!(expand("$.$POD_NAME$/é").unwrap(), "$.web-0$/é");
    }

    #[test]
    fn unknown_variables_are_named_with_the_known_ones() {
        for (text, name) in [("$PODNAME", "PODNAME"), ("${x y}", "x y"), ("$$POD_NAME", "$")] {
            assert_eq!(expand(text).unwrap_err(), ExpandError::Unknown(name.into()), "{text}");
        }
        // A name ends where Go's ends: with the last letter, digit or underscore.
        assert_eq!(expand("$POD_NAMEx").unwrap_err(), ExpandError::Unknown("POD_NAMEx".into()));
        let shown = expand("$1").unwrap_err().to_string();
        assert!(shown.contains("\"1\"") && shown.contains("POD_NAMESPACE"), "{shown}");
    }

    #[test]
    fn broken_braces_are_an_error() {
        for text in ["${}", "${", "${POD_NAME", "a${b"] {
            assert_eq!(expand(text).unwrap_err(), ExpandError::Malformed, "{text}");
        }
    }

    #[test]
    fn an_address_not_known_yet_is_said_to_be_so() {
        let pod = pod("shop", "web-0", "seller");
        let variables = Variables { pod: &pod, node_name: "n", pod_ip: None };
        assert_eq!(variables.expand("${POD_IP}").unwrap_err(), ExpandError::NoAddressYet);
    }

    proptest! {
        #[test]
        fn expansion_is_total(text in any::<String>(), shellish in "[${}A-Z_a1é]{0,24}") {
            let _ = expand(&text);
            let _ = expand(&shellish);
        }

        #[test]
        fn text_without_a_dollar_is_kept(text in "[^$]{0,40}") {
            prop_assert_eq!(expand(&text).unwrap(), text);
        }
    }
}
