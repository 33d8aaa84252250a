//! What certificates say that tests make by themselves.

use certmount::x509::{BasicConstraints, DistinguishedName, KeyUsages, NameConstraints, Template};

/// A CA with a subject in the form of RFC 4514.
pub fn ca_template(subject: &str, path_len: Option<u8>) -> Template {
    Template {
        subject: DistinguishedName::from_rfc4514(subject).unwrap(),
        subject_alt_names: Vec::new(),
        usages: KeyUsages::default(),
        basic_constraints: BasicConstraints::Ca { path_len },
        name_constraints: NameConstraints::default(),
    }
}
