//! Key usages by the names that cert-manager gives them.

/// RFC 5280 §4.2.1.3.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum KeyUsage {
    DigitalSignature,
    ContentCommitment,
    KeyEncipherment,
    DataEncipherment,
    KeyAgreement,
    CertSign,
    CrlSign,
    EncipherOnly,
    DecipherOnly,
}

/// RFC 5280 §4.2.1.12.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum ExtendedKeyUsage {
    Any,
    ServerAuth,
    ClientAuth,
    CodeSigning,
    EmailProtection,
    IpsecEndSystem,
    IpsecTunnel,
    IpsecUser,
    TimeStamping,
    OcspSigning,
    MicrosoftSgc,
    NetscapeSgc,
}

/// Both kinds, in the order asked for, without duplicates.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct KeyUsages {
    pub key: Vec<KeyUsage>,
    pub extended: Vec<ExtendedKeyUsage>,
}

#[derive(Debug, thiserror::Error)]
#[error("unknown usage {name:?}; known: {known}")]
pub struct UsageError {
    pub name: String,
    pub known: String,
}

impl KeyUsages {
    /// Parses names such as `digital signature` and `server auth`.
    pub fn parse<'a>(_names: impl IntoIterator<Item = &'a str>) -> Result<Self, UsageError> {
        todo!()
    }
}
