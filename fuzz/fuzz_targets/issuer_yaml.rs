//! Issuer and Secret files, as they lie in the configuration folder.

#![no_main]

use certmount::spec::object;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for document in object::parse(text) {
        if let Err(error) = document {
            assert!(!error.to_string().is_empty());
        }
    }
});
