//! The rows of the table of attributes.
//!
//! A row is: the name for parsers, the name for people, whose it is, how its value is written, its
//! default, its meaning.

use super::{Attribute, Origin, Section, Syntax};

/// Writes the table and an enum that has a variant for each of its rows.
macro_rules! attributes {
    ($($section:ident {
        $($id:ident $name:literal $origin:ident, $syntax:expr, $default:literal, $meaning:literal;)+
    })+) => {
        /// The attributes by name, for parsers.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[expect(clippy::enum_variant_names, reason = "variants are called as the attributes are")]
        pub(in crate::spec) enum Name { $($($id,)+)+ }

        impl Name {
            pub(super) const ALL: &[Self] = &[$($(Self::$id,)+)+];
            /// How many there are.
            pub(in crate::spec) const COUNT: usize = Self::ALL.len();
        }

        pub(super) static TABLE: [Attribute; Name::COUNT] = [$($(Attribute {
            name: $name,
            syntax: $syntax,
            default: $default,
            meaning: $meaning,
            origin: Origin::$origin,
            section: Section::$section,
        },)+)+];
    };
}

attributes! {
    Issuer {
        IssuerName "issuer-name" CertManager, Syntax::Text, "**required**",
            "The issuer that signs the certificate.";
        IssuerKind "issuer-kind" CertManager, Syntax::Text, "`Issuer`",
            "`Issuer`, which is one in the pod's namespace, or `ClusterIssuer`; issuers of other groups \
             have other kinds.";
        IssuerGroup "issuer-group" CertManager, Syntax::Text,
            "`certmount.dev`; `cert-manager.io` where `issuer-name` has the prefix `csi.cert-manager.io/`",
            "`certmount.dev` for the issuers that certmount serves itself, `certificates.k8s.io` for a \
             Kubernetes signer; any other group gets a `CertificateRequest` of cert-manager.";
    }

    Names {
        CommonName "common-name" CertManager, Syntax::Template, "",
            "The subject's common name. Clients look at `dns-names`, not here.";
        DnsNames "dns-names" CertManager, Syntax::List, "",
            "DNS names; a `*` may stand for the whole first label.";
        IpSans "ip-sans" CertManager, Syntax::List, "", "IP addresses.";
        UriSans "uri-sans" CertManager, Syntax::List, "", "URIs, such as SPIFFE IDs.";
        EmailSans "email-sans" Certmount, Syntax::List, "", "E-mail addresses.";
        LiteralSubject "literal-subject" CertManager, Syntax::Template, "",
            "The whole subject as RFC 4514 writes it, such as `CN=web,OU=shop,DC=example`. It takes the \
             place of `common-name` and of all attributes below in this table.";
        Countries "countries" CertManager, Syntax::Csv, "", "Countries (C) of the subject.";
        Organizations "organizations" CertManager, Syntax::Csv, "", "Organizations (O) of the subject.";
        OrganizationalUnits "organizationalunits" CertManager, Syntax::Csv, "",
            "Organizational units (OU) of the subject.";
        Localities "localities" CertManager, Syntax::Csv, "", "Localities (L) of the subject.";
        Provinces "provinces" CertManager, Syntax::Csv, "", "States or provinces (ST) of the subject.";
        StreetAddresses "streetaddresses" CertManager, Syntax::Csv, "",
            "Street addresses (STREET) of the subject.";
        PostalCodes "postalcodes" CertManager, Syntax::Csv, "", "Postal codes of the subject.";
        SerialNumber "serialnumber" CertManager, Syntax::Text, "",
            "The serial number in the subject, which is not that of the certificate.";
    }

    Certificate {
        Duration "duration" CertManager, Syntax::Duration, "`2160h0m0s`",
            "How long the certificate shall hold; an issuer may give less.";
        RenewBefore "renew-before" CertManager, Syntax::DurationOrPercent, "a third of the lifetime",
            "How long before its end the certificate is renewed; less than `duration`. `30%` is 30 % \
             of the real lifetime.";
        IsCa "is-ca" CertManager, Syntax::Boolean, "`false`",
            "Whether the certificate may sign others.";
        MaxPathLen "max-path-len" Certmount, Syntax::Number, "no limit",
            "How many CAs may come after this one in a chain, 0 to 255; with `is-ca` only.";
        KeyUsages "key-usages" CertManager, Syntax::List, "`digital signature,key encipherment`",
            "Key usages and extended key usages, by cert-manager's names: `signing`, \
             `digital signature`, `content commitment`, `key encipherment`, `key agreement`, \
             `data encipherment`, `cert sign`, `crl sign`, `encipher only`, `decipher only`, `any`, \
             `server auth`, `client auth`, `code signing`, `email protection`, `s/mime`, \
             `ipsec end system`, `ipsec tunnel`, `ipsec user`, `timestamping`, `ocsp signing`, \
             `microsoft sgc`, `netscape sgc`; or object identifiers of extended key usages, such as \
             `1.3.6.1.5.2.3.5`.";
    }

    Key {
        KeyAlgorithm "key-algorithm" CertManager, Syntax::OneOf(&["RSA", "ECDSA", "Ed25519"]), "`RSA`",
            "The kind of key. ECDSA keys are made a thousand times faster than RSA keys.";
        KeySize "key-size" CertManager, Syntax::Number, "RSA `2048`, ECDSA `256`",
            "RSA: 2048, 3072, 4096 or 8192. ECDSA: 256, 384 or 521. Ed25519: none.";
        KeyEncoding "key-encoding" CertManager, Syntax::OneOf(&["PKCS1", "PKCS8", "SEC1"]),
            "RSA `PKCS1`, others `PKCS8`",
            "How the private key is written; `PKCS1` is for RSA only, `SEC1` for ECDSA only.";
        ReusePrivateKey "reuse-private-key" CertManager, Syntax::Boolean, "`false`",
            "Whether renewals keep the private key.";
    }

    Trust {
        TrustConfigMaps "trust-config-maps" Certmount, Syntax::List, "",
            "ConfigMaps of the pod's namespace with certificates in PEM to trust, beside those of the \
             issuer: `name`, whose key is then `ca.crt`, or `name/key`. They are followed.";
        TrustBundles "trust-bundles" Certmount, Syntax::List, "",
            "ClusterTrustBundles to trust, beside the certificates of the issuer: the name of one, or \
             the name of a signer, such as `kubernetes.io/kube-apiserver-serving`, for all of its own. \
             They are followed.";
    }

    Files {
        CertificateFile "certificate-file" CertManager, Syntax::FileName, "`tls.crt`",
            "PEM: the certificate, then the intermediates.";
        PrivateKeyFile "privatekey-file" CertManager, Syntax::FileName, "`tls.key`",
            "PEM: the private key.";
        CaFile "ca-file" CertManager, Syntax::FileName, "`ca.crt`",
            "PEM: the trust anchors; empty where the issuer does not say them, and nothing else is \
             trusted.";
        LeafFile "leaf-file" Certmount, Syntax::FileName, "", "PEM: the certificate alone.";
        IntermediatesFile "intermediates-file" Certmount, Syntax::FileName, "",
            "PEM: the intermediates alone.";
        FullChainFile "full-chain-file" Certmount, Syntax::FileName, "",
            "PEM: the certificate, the intermediates and the root that they end in.";
        KeyThenChainFile "key-then-chain-file" Certmount, Syntax::FileName, "",
            "PEM: private key, certificate, intermediates in one file, so that readers of one file \
             never see a key without its certificate.";
        ChainThenKeyFile "chain-then-key-file" Certmount, Syntax::FileName, "",
            "PEM: certificate, intermediates, private key in one file.";
        CertificateDerFile "certificate-der-file" Certmount, Syntax::FileName, "",
            "DER: the certificate.";
        PrivateKeyDerFile "privatekey-der-file" Certmount, Syntax::FileName, "",
            "DER: the private key, in `key-encoding`.";
        EncryptedKeyFile "privatekey-encrypted-file" Certmount, Syntax::FileName, "",
            "PEM: the private key in PKCS#8 under a password (PBES2, AES-256).";
        EncryptedKeyPassword "privatekey-password" Certmount, Syntax::Password, "",
            "The password of `privatekey-encrypted-file`, for all who may read the pod to see.";
        EncryptedKeyPasswordKey "privatekey-password-key" Certmount, Syntax::SecretKey, "",
            "Where that password is in the Secret that `nodePublishSecretRef` names.";
    }

    Keystores {
        Pkcs12Enable "pkcs12-enable" CertManager, Syntax::Boolean, "`false`",
            "Whether to write a PKCS#12 keystore: private key, certificate, intermediates and trust \
             anchors. Needs a password.";
        Pkcs12Filename "pkcs12-filename" CertManager, Syntax::FileName, "`keystore.p12`",
            "Its name; with `pkcs12-enable` only.";
        Pkcs12TruststoreFile "pkcs12-truststore-file" Certmount, Syntax::FileName, "",
            "PKCS#12: the trust anchors alone. Needs a password.";
        Pkcs12Password "pkcs12-password" CertManager, Syntax::Password, "",
            "The password of the PKCS#12 files, for all who may read the pod to see.";
        Pkcs12PasswordKey "pkcs12-password-key" Certmount, Syntax::SecretKey, "",
            "Where that password is in the Secret that `nodePublishSecretRef` names.";
        Pkcs12Alias "pkcs12-alias" Certmount, Syntax::Text, "`certificate`",
            "The friendly name of the PKCS#12 keystore's entry.";
        Pkcs12Profile "pkcs12-profile" Certmount,
            Syntax::OneOf(&["Modern2023", "LegacyDES", "LegacyRC2"]),
            "`Modern2023`; `LegacyRC2` where `pkcs12-enable` has the prefix `csi.cert-manager.io/`",
            "The algorithms of the PKCS#12 files. `Modern2023` is AES-256 and SHA-256. `LegacyDES` and \
             `LegacyRC2` are for software from before 2020; OpenSSL 3 does not read `LegacyRC2`, which \
             is what cert-manager's csi-driver writes.";
        JksFile "jks-file" Certmount, Syntax::FileName, "",
            "JKS: the private key with certificate and intermediates. Needs a password.";
        JksTruststoreFile "jks-truststore-file" Certmount, Syntax::FileName, "",
            "JKS: the trust anchors. Needs a password.";
        JksPassword "jks-password" Certmount, Syntax::Password, "",
            "The password of the JKS files, for all who may read the pod to see.";
        JksPasswordKey "jks-password-key" Certmount, Syntax::SecretKey, "",
            "Where that password is in the Secret that `nodePublishSecretRef` names.";
        JksAlias "jks-alias" Certmount, Syntax::Text, "`certificate`",
            "The name of the JKS keystore's entry.";
    }

    Permissions {
        FsGroup "fs-group" CertManager, Syntax::Id, "the pod's `fsGroup`",
            "The group that the files belong to.";
        FileUid "file-uid" Certmount, Syntax::Id, "root", "The user that the files belong to.";
        FileMode "file-mode" Certmount, Syntax::Mode, "`0440`",
            "The permissions of the files. Others than the owner can be allowed to read, with `0444` \
             for instance, but never to write.";
    }
}
