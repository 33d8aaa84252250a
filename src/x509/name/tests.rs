use proptest::prelude::*;

use super::*;

#[test]
fn rfc_4514_examples_are_read_and_written() {
    for text in [
        "UID=jsmith,DC=example,DC=net",
        "OU=Sales+CN=J.  Smith,DC=example,DC=net",
        r#"CN=James \"Jim\" Smith\, III,DC=example,DC=net"#,
        r"CN=Before\0dAfter,DC=example,DC=net",
        "CN=Lučić",
        "1.3.6.1.4.1.1466.0=#04024869",
        r"CN=\ leading and trailing\ ",
        r"CN=\#hash",
        "O=\u{3000}",
        "OU=b,OU=a,O=x+O=y,postalCode=12345,STREET=1 Way,C=DE,SERIALNUMBER=7",
        "",
    ] {
        assert_eq!(parse(text).to_string(), text);
    }
}

#[test]
fn other_spellings_of_the_same_name_are_read() {
    for (text, same) in [
        (" cn = web , ou = a + o = b ", "CN=web,OU=a+O=b"),
        ("2.5.4.3=web", "CN=web"),
        (r"CN=Lu\C4\8Di\C4\87", "CN=Lučić"),
        (r"CN=a\3Db\=c=d", "CN=a=b=c=d"),
        ("CN=#0C03776562", "CN=web"),
        ("postalcode=1,E=a@b.example,s=Here", ""),
    ] {
        match DistinguishedName::from_rfc4514(text) {
            Ok(name) => assert_eq!(name, parse(same), "{text}"),
            Err(error) => assert!(same.is_empty(), "{text}: {error}"),
        }
    }
}

#[test]
fn the_last_rdn_is_encoded_first_in_the_right_string_types() {
    let der = parse("CN=web,DC=example,C=DE").to_der();
    let country = [0x31, 0x0b, 0x30, 0x09, 0x06, 0x03, 0x55, 0x04, 0x06, 0x13, 0x02, b'D', b'E'];
    assert_eq!(der[2..15], country);
    assert!(der.windows(9).any(|bytes| bytes == b"\x16\x07example"));
    assert!(der.ends_with(b"\x0c\x03web"));
    // As Go does where the type does not allow the characters.
    assert!(parse("C=Österreich").to_der().windows(2).any(|bytes| bytes == b"\x0c\x0b"));
}

#[test]
fn what_is_wrong_is_said() {
    for (text, message) in [
        (
            "web",
            r#""web" is not of the form type=value, such as CN=web; escape a comma within a value as \,"#,
        ),
        (
            "CN=a,,",
            r#""" is not of the form type=value, such as CN=web; escape a comma within a value as \,"#,
        ),
        (
            "XY=a",
            r#"unknown attribute type "XY"; known: CN, C, O, OU, L, ST, STREET, SERIALNUMBER, DC, UID, postalCode, emailAddress, E, title, SN, givenName, GN, or an object identifier such as 2.5.4.3"#,
        ),
        ("CN=", r#"CN "" is empty"#),
        (r"CN=a\", r#""a\\" ends with a backslash"#),
        (r"CN=a\zz", r#""a\\zz" has a backslash before a character that it cannot escape"#),
        (r"CN=\ff", r#""\\ff" has escaped bytes that are not UTF-8"#),
        ("CN=a;b", r#""a;b" has the character ';'; escape it with a backslash"#),
        ("CN=#zz", r##""CN=#zz": what follows # is not the hex digits of a DER value"##),
        ("DC=bücher", r#"DC "bücher" is not ASCII; write it with A-labels (xn--…)"#),
        ("O=a+O=a", "an RDN holds the same attribute twice"),
    ] {
        assert_eq!(DistinguishedName::from_rfc4514(text).unwrap_err().to_string(), message);
    }
    let long = "a".repeat(65);
    let error = DistinguishedName::from_rfc4514(&format!("CN={long}")).unwrap_err().to_string();
    assert!(error.contains("is 65 bytes long; a common name has at most 64"), "{error}");
    assert_eq!(parse(&format!("CN={}", &long[1..])).common_name(), Some(&long[1..]));
}

#[test]
fn pushed_attributes_keep_their_order_and_repeat() {
    let mut name = DistinguishedName::default();
    assert!(name.is_empty());
    for (attribute, value) in [("DC", "com"), ("DC", "example"), ("CN", "a, b"), ("CN", "c")] {
        name.push(attribute, value).unwrap();
    }
    assert_eq!(name.to_string(), r"CN=c,CN=a\, b,DC=example,DC=com");
    assert_eq!(name.common_name(), Some("a, b"));
    assert_eq!(DistinguishedName::from_der(&name.to_der()).unwrap(), name);
    name.push("XY", "").unwrap_err();
    name.push("O", "").unwrap_err();
}

#[test]
fn dns_names_are_normalized() {
    for (text, name) in [
        ("Web.Example", "web.example"),
        ("localhost", "localhost"),
        ("*.Bücher.example", "*.xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("a_b.svc", "a_b.svc"),
        ("1.2.3.example", "1.2.3.example"),
    ] {
        assert_eq!(GeneralName::dns(text).unwrap(), GeneralName::Dns(name.to_owned()));
    }
    assert_eq!(GeneralName::dns("Web.Example").unwrap().to_string(), "dns:web.example");
}

#[test]
fn dns_names_that_nobody_would_accept_are_refused() {
    let label = "a".repeat(64);
    let long = ["a".repeat(60).as_str(); 5].join(".");
    for (text, reason) in [
        ("", "is empty"),
        ("web.example.", "ends with a dot"),
        ("a..b", "has an empty label"),
        (".a", "has an empty label"),
        ("*", "wildcard"),
        ("*.", "ends with a dot"),
        ("a.*.example", "wildcard"),
        ("w*.example", "wildcard"),
        ("*.*.example", "wildcard"),
        ("a b.example", "has the character ' '"),
        ("a/b", "has the character '/'"),
        ("a\0b", "has the character '\\0'"),
        ("-a.example", "begins or ends with a hyphen"),
        ("xn--\u{fffd}", "IDNA"),
        ("xn--a.example", "IDNA"),
        ("10.0.0.1", "is an IP address"),
        (&label, "more than 63 characters"),
        (&long, "longer than 253 characters"),
    ] {
        let error = GeneralName::dns(text).unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn other_names_are_checked() {
    let accepted = [
        (GeneralName::email("jane.doe+x@Example.com"), "email:jane.doe+x@example.com"),
        (GeneralName::ip("10.0.0.1"), "ip:10.0.0.1"),
        (GeneralName::ip("2001:0db8::0001"), "ip:2001:db8::1"),
        (GeneralName::uri("spiffe://td/ns/a/sa/b"), "uri:spiffe://td/ns/a/sa/b"),
        (GeneralName::uri("urn:uuid:1"), "uri:urn:uuid:1"),
        (GeneralName::uri("https://a/%C3%BC?q#f"), "uri:https://a/%C3%BC?q#f"),
    ];
    for (name, text) in accepted {
        assert_eq!(name.unwrap().to_string(), text);
    }
    let refused = [
        (GeneralName::email("jane"), "has no @"),
        (GeneralName::email("@a.example"), "local part"),
        (GeneralName::email("Jane <j@a.example>"), "local part"),
        (GeneralName::email("j@*.example"), "domain"),
        (GeneralName::email("jö@a.example"), "local part"),
        (GeneralName::ip("10.0.0.0/8"), "is not one"),
        (GeneralName::ip("web"), "is not one"),
        (GeneralName::uri("/a/b"), "is not absolute"),
        (GeneralName::uri("1a:b"), "scheme"),
        (GeneralName::uri("spiffe://"), "nothing after"),
        (GeneralName::uri("a:b c"), "has the character ' '"),
        (GeneralName::uri("a:ü"), "percent-encode"),
        (GeneralName::uri("a:%2"), "hex digits"),
    ];
    for (name, reason) in refused {
        let error = name.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
}

proptest! {
    #[test]
    fn any_value_survives_text(values in prop::collection::vec("\\PC{1,16}", 1..5)) {
        let mut name = DistinguishedName::default();
        for value in &values {
            name.push("O", value).unwrap();
        }
        prop_assert_eq!(DistinguishedName::from_rfc4514(&name.to_string()).unwrap(), name);
    }

    #[test]
    fn no_text_panics(text in "[A-Za-z0-9,+=\\\\# \"é\\.:;%@*-]{0,40}") {
        let _ = DistinguishedName::from_rfc4514(&text).map(|name| (name.to_string(), name.to_der()));
        let _ = (GeneralName::dns(&text), GeneralName::email(&text), GeneralName::uri(&text));
    }
}

fn parse(text: &str) -> DistinguishedName {
    DistinguishedName::from_rfc4514(text).unwrap()
}
