//! Distinguished names (RFC 4514) and subject alternative names (RFC 5280 §4.2.1.6).

use std::net::IpAddr;

/// A distinguished name: RDNs in encoding order, values as asked for. May hold an attribute type
/// several times and several attributes in one RDN.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DistinguishedName {
    _todo: (),
}

/// A checked subject alternative name.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub enum GeneralName {
    /// A-labels, lower case, a wildcard only as the whole left-most label.
    Dns(String),
    /// An address of the form local@domain (RFC 822 addr-spec, ASCII).
    Email(String),
    Ip(IpAddr),
    /// An absolute URI.
    Uri(String),
}

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct NameError(pub String);

impl DistinguishedName {
    /// Parses RFC 4514 text such as `CN=web,OU=a+OU=b,DC=example`; the last RDN is encoded first.
    pub fn from_rfc4514(_text: &str) -> Result<Self, NameError> {
        todo!()
    }
    /// Appends one RDN of one attribute, named by its RFC 4519 short name such as `CN` or `OU`.
    pub fn push(&mut self, _attribute: &str, _value: &str) -> Result<(), NameError> {
        todo!()
    }
    pub fn is_empty(&self) -> bool {
        todo!()
    }
    /// The first common name, if any.
    pub fn common_name(&self) -> Option<&str> {
        todo!()
    }
}

impl GeneralName {
    /// A host name; Unicode is turned into A-labels.
    pub fn dns(_text: &str) -> Result<Self, NameError> {
        todo!()
    }
    pub fn email(_text: &str) -> Result<Self, NameError> {
        todo!()
    }
    pub fn ip(_text: &str) -> Result<Self, NameError> {
        todo!()
    }
    pub fn uri(_text: &str) -> Result<Self, NameError> {
        todo!()
    }
}
