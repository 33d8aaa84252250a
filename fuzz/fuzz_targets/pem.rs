//! What a CA answers and what a volume's state holds.

#![no_main]

use certmount::x509::{
    Bundle, Certificate, DistinguishedName, KeyEncoding, PrivateKey, certificates_from_pem,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let mut certificates = certificates_from_pem(data).unwrap_or_default();
    certificates.extend(Certificate::from_der(data.to_vec()));
    for certificate in &certificates {
        let _ = (certificate.names(), certificate.subject(), certificate.serial_number());
        let _ = certificate.is_signed_by(&certificates[0]);
    }
    if let Ok(key) = PrivateKey::from_pem(data).or_else(|_| PrivateKey::from_pkcs8_der(data)) {
        let pem = key.to_pem(KeyEncoding::Pkcs8).expect("every key has a PKCS#8 form");
        let again = PrivateKey::from_pem(pem.as_bytes()).expect("our own PEM is readable");
        assert_eq!(again.public_key_info(), key.public_key_info());
    }
    let _ = Bundle::from_state(data);
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = DistinguishedName::from_rfc4514(text);
    }
});
