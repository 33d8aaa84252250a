//! The attributes as a page of documentation.

use std::fmt::Write as _;

use super::{Origin, Section, table};
use crate::spec::variables::VARIABLES;

/// `docs/attributes.md`: the whole table in Markdown, with the syntaxes and examples.
pub fn markdown() -> String {
    let mut page = String::from(HEAD);
    for section in [
        Section::Issuer,
        Section::Names,
        Section::Certificate,
        Section::Key,
        Section::Trust,
        Section::Files,
        Section::Keystores,
        Section::Permissions,
    ] {
        append(&mut page, format_args!("\n## {section}\n\n"));
        page.push_str("| Attribute | Value | Default | Meaning |\n|---|---|---|---|\n");
        for row in table().iter().filter(|row| row.section == section) {
            let mark = match row.origin {
                Origin::CertManager => "",
                Origin::Certmount => " ⁺",
            };
            let (name, syntax, default, meaning) = (row.name, row.syntax, row.default, row.meaning);
            append(
                &mut page,
                format_args!("| `{name}`{mark} | {syntax} | {default} | {meaning} |\n"),
            );
        }
    }
    page.push_str(RENEWALS);
    page.push_str(SYNTAXES);
    for variable in VARIABLES {
        append(&mut page, format_args!("| `${{{}}}` | {} |\n", variable.name, variable.meaning));
    }
    page.push_str(TAIL);
    page
}

fn append(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a string takes all that is written to it");
}

const HEAD: &str = "\
<!-- Made from src/spec/attributes by `certmount attributes --markdown`; a test compares the two. -->

# Volume attributes

What a pod writes under `volumeAttributes` of its volume decides which certificate it gets and in
which files:

```yaml
volumes:
  - name: tls
    csi:
      driver: csi.certmount.dev
      readOnly: true
      volumeAttributes:
        certmount.dev/issuer-name: internal
        certmount.dev/issuer-kind: ClusterIssuer
        certmount.dev/dns-names: shop.${POD_NAMESPACE}.svc
        certmount.dev/key-algorithm: ECDSA
```

Each attribute can be written with the prefix `certmount.dev/`, or with `csi.cert-manager.io/`, which
is that of cert-manager's csi-driver: its attributes keep their names, defaults and files here.
Attributes marked ⁺ are certmount's own. Writing one attribute with both prefixes is an error.

An attribute that does not exist is refused under `certmount.dev/`, with the nearest name that does.
Under `csi.cert-manager.io/` it is passed over with a warning, as pods in use may have some. An
attribute with any other prefix, such as `venafi.cert-manager.io/custom-fields`, is handed to the
issuer. An empty value counts as none.
";

const RENEWALS: &str = "
## How files are renewed

A renewal replaces all files of the volume at once: the symbolic link `..data` names a folder with
the files of one renewal, each name leads through it, and a new link is renamed over the old one.

- Below what `..data` names, key, certificate and trust anchors always belong together. Resolve the
  link once and read all files there; where they are gone, a renewal came in between: begin again.
- Each name alone leads to a whole file. Two names that are read one after the other can lead to two
  renewals: if key and certificate do not match, read both again. For the instant of the swap a name
  can lead nowhere; the next try finds it.
- Watch the folder, for `..data` being replaced. A watch on a file stays with the old one.

Programs that cannot do so are told of renewals by `certmount exec`.
";

const SYNTAXES: &str = "
## How values are written

- **duration**: numbers with units, such as `2160h0m0s`, `1h30m`, `1.5h` or `10s`; more than zero.
- **list**: items separated by commas; blanks and line breaks around them do not count, and empty
  items are left out. Variables are replaced.
- **CSV**: items separated by commas in one line; double quotes keep a comma in an item, as in
  `\"Acme, Inc.\",Other`. Variables are replaced.
- **template**: text in which variables are replaced.
- **file name**: a plain name in the volume, without `/`, at most 255 bytes, not starting with `..`.
  Each file needs a name of its own.
- **octal mode**: such as `0440` or `0400`.

## Variables

`$NAME` and `${NAME}` mean the same. There is no way to escape a `$`; one that no name follows stands
for itself. An unknown variable is an error.

| Variable | Meaning |
|---|---|
";

const TAIL: &str = "
## Examples

A whole subject, every name and address of the pod, and a key for server and client alike:

```yaml
volumes:
  - name: tls
    csi:
      driver: csi.certmount.dev
      readOnly: true
      volumeAttributes:
        certmount.dev/issuer-name: internal
        certmount.dev/literal-subject: CN=shop,OU=${POD_NAMESPACE},O=Acme
        certmount.dev/dns-names: >-
          shop.${POD_NAMESPACE}.svc,
          *.shop.${POD_NAMESPACE}.svc.cluster.local
        certmount.dev/ip-sans: 127.0.0.1, ::1
        certmount.dev/uri-sans: spiffe://cluster.local/ns/${POD_NAMESPACE}/sa/${SERVICE_ACCOUNT_NAME}
        certmount.dev/key-usages: digital signature, server auth, client auth
        certmount.dev/key-algorithm: ECDSA
        certmount.dev/key-size: \"384\"
        certmount.dev/duration: 24h
        certmount.dev/renew-before: 40%
```

A Java server, with the password in a Secret:

```yaml
volumes:
  - name: tls
    csi:
      driver: csi.certmount.dev
      readOnly: true
      nodePublishSecretRef:
        name: keystore-password
      volumeAttributes:
        certmount.dev/issuer-name: internal
        certmount.dev/dns-names: shop.${POD_NAMESPACE}.svc
        certmount.dev/pkcs12-enable: \"true\"
        certmount.dev/pkcs12-truststore-file: truststore.p12
        certmount.dev/pkcs12-password-key: password
```

HAProxy or MongoDB, which want key and certificate in one file:

```yaml
volumes:
  - name: tls
    csi:
      driver: csi.certmount.dev
      readOnly: true
      volumeAttributes:
        certmount.dev/issuer-name: internal
        certmount.dev/dns-names: shop.${POD_NAMESPACE}.svc
        certmount.dev/chain-then-key-file: server.pem
        certmount.dev/fs-group: \"2000\"
        certmount.dev/file-mode: \"0440\"
```

A pod written for cert-manager's csi-driver, with a new driver name:

```yaml
volumes:
  - name: tls
    csi:
      driver: csi.certmount.dev
      readOnly: true
      volumeAttributes:
        csi.cert-manager.io/issuer-name: ca-issuer
        csi.cert-manager.io/dns-names: ${POD_NAME}.${POD_NAMESPACE}.svc.cluster.local
        csi.cert-manager.io/pkcs12-enable: \"true\"
        csi.cert-manager.io/pkcs12-password: my-password
```

## Where certmount differs from cert-manager's csi-driver

- A wrong attribute is reported before anything is issued, with all other wrong ones.
- `renew-before` and `duration` must be more than zero, and `renew-before` less than `duration`.
- RSA keys have 2048, 3072, 4096 or 8192 bits; nothing in between.
- `ip-sans` takes variables too. Names are checked: a DNS name, address or URI that no verifier
  would take is refused. Empty items of lists are left out, and so are repetitions.
- `literal-subject` next to other attributes of the subject gives a warning.
- `fs-group` is at most 4294967294, as 4294967295 means no group to Linux.
- `pkcs12-enable: \"false\"` needs no password.
- `${` without `}` is an error in place of being dropped.
- With an issuer of certmount's own, a certificate must have a name.
";

#[cfg(test)]
mod tests {
    #![allow(clippy::disallowed_methods, reason = "the test writes the page when asked to")]

    use std::collections::BTreeMap;
    use std::path::Path;

    use serde::Deserialize;

    use super::*;
    use crate::spec::request::tests::Request;

    #[test]
    fn the_page_in_docs_is_this_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/attributes.md");
        if std::env::var_os("CERTMOUNT_WRITE_DOCS").is_some() {
            std::fs::write(&path, markdown()).unwrap();
        }
        let page = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            page == markdown(),
            "docs/attributes.md is not what the table says; \
             `CERTMOUNT_WRITE_DOCS=1 cargo test --lib the_page_in_docs` writes it"
        );
    }

    #[derive(Deserialize)]
    struct Pod {
        volumes: Vec<Volume>,
    }

    #[derive(Deserialize)]
    struct Volume {
        csi: Csi,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Csi {
        volume_attributes: BTreeMap<String, String>,
    }

    #[test]
    fn the_examples_are_right() {
        let page = markdown();
        let blocks: Vec<_> = page.split("```yaml\n").skip(1).collect();
        assert_eq!(blocks.len(), 5);
        for block in blocks {
            let yaml = block.split("```").next().unwrap();
            let pod: Pod = serde_saphyr::from_str(yaml).unwrap();
            let mut request = Request::bare();
            request.secret("password", "changeit");
            for (key, value) in &pod.volumes[0].csi.volume_attributes {
                request.set(key, value);
            }
            let parsed = request.parse().unwrap_or_else(|error| panic!("{error}\n{yaml}"));
            assert_eq!(parsed.warnings, [""; 0], "{yaml}");
        }
    }
}
