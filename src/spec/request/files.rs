//! From attributes to the files of the volume and who may read them.

use super::Ownership;
use super::reader::Reader;
use crate::spec::attributes::{Name, Prefix};
use crate::spec::layout::{FileContent, FileLayout, FileName, Password, fits_keystores};
use crate::spec::values::{self, ValueError, quoted};
use crate::x509::{KeyAlgorithm, KeyEncoding, Pkcs12Profile};

/// Reads which files there are and what is in each.
pub(super) fn files(reader: &mut Reader<'_>, key: KeyAlgorithm) -> FileLayout {
    let encoding = key_encoding(reader, key);
    let mut files = Files { reader, layout: FileLayout::default(), taken: Vec::new() };
    files.add_or("tls.crt", Name::CertificateFile, FileContent::CertificateChain);
    files.add_or("tls.key", Name::PrivateKeyFile, FileContent::PrivateKey(encoding));
    files.add_or("ca.crt", Name::CaFile, FileContent::TrustAnchors);
    files.add(Name::LeafFile, FileContent::Leaf);
    files.add(Name::IntermediatesFile, FileContent::Intermediates);
    files.add(Name::FullChainFile, FileContent::FullChain);
    files.add(Name::KeyThenChainFile, FileContent::KeyThenCertificateChain(encoding));
    files.add(Name::ChainThenKeyFile, FileContent::CertificateChainThenKey(encoding));
    files.add(Name::CertificateDerFile, FileContent::CertificateDer);
    files.add(Name::PrivateKeyDerFile, FileContent::PrivateKeyDer(encoding));
    files.add_encrypted_key();
    files.add_pkcs12();
    files.add_jks();
    files.layout
}

fn key_encoding(reader: &mut Reader<'_>, key: KeyAlgorithm) -> KeyEncoding {
    const ENCODINGS: [(&str, KeyEncoding); 3] =
        [("PKCS1", KeyEncoding::Pkcs1), ("PKCS8", KeyEncoding::Pkcs8), ("SEC1", KeyEncoding::Sec1)];
    let is_rsa = matches!(
        key,
        KeyAlgorithm::Rsa2048
            | KeyAlgorithm::Rsa3072
            | KeyAlgorithm::Rsa4096
            | KeyAlgorithm::Rsa8192
    );
    let is_ecdsa = !is_rsa && key != KeyAlgorithm::Ed25519;
    let default = if is_rsa { KeyEncoding::Pkcs1 } else { KeyEncoding::Pkcs8 };
    let encoding = reader.one_of(Name::KeyEncoding, &ENCODINGS).unwrap_or(default);
    let misfit = match encoding {
        KeyEncoding::Pkcs1 if !is_rsa => "PKCS1 is for RSA keys only: use PKCS8",
        KeyEncoding::Sec1 if !is_ecdsa => "SEC1 is for ECDSA keys only: use PKCS8",
        _ => return encoding,
    };
    reader.refuse(Name::KeyEncoding, format_args!(" {misfit}"));
    default
}

/// A layout in the making.
struct Files<'r, 'a> {
    reader: &'r mut Reader<'a>,
    layout: FileLayout,
    /// Which attribute took which name, to tell both in case of a clash.
    taken: Vec<(Name, FileName)>,
}

impl Files<'_, '_> {
    /// Adds a file if the attribute that names it is given.
    fn add(&mut self, attribute: Name, content: FileContent) {
        if let Some(name) = self.name(attribute) {
            self.insert(attribute, name, content);
        }
    }

    /// Adds a file under the name given or else under `default`.
    fn add_or(&mut self, default: &str, attribute: Name, content: FileContent) {
        let name = match self.reader.has(attribute) {
            true => self.name(attribute),
            false => FileName::try_from(default).ok(),
        };
        if let Some(name) = name {
            self.insert(attribute, name, content);
        }
    }

    fn name(&mut self, attribute: Name) -> Option<FileName> {
        self.reader.parse(attribute, |text| FileName::try_from(text))
    }

    fn insert(&mut self, attribute: Name, name: FileName, content: FileContent) {
        if let Some((other, _)) = self.taken.iter().find(|(_, taken)| *taken == name) {
            let other = other.attribute().name;
            let name = quoted(name.as_str()).to_string();
            self.reader.refuse(attribute, format_args!(" is {name}, and so is {other}"));
            return;
        }
        let inserted = self.layout.insert(name.clone(), content);
        debug_assert!(inserted.is_ok(), "the name is not taken");
        self.taken.push((attribute, name));
    }

    fn add_encrypted_key(&mut self) {
        const PASSWORD: [Name; 2] = [Name::EncryptedKeyPassword, Name::EncryptedKeyPasswordKey];
        let wanted = self.reader.has(Name::EncryptedKeyFile);
        self.check_use(PASSWORD, wanted);
        if let Some(password) = self.password(PASSWORD, wanted) {
            self.add(Name::EncryptedKeyFile, FileContent::EncryptedPrivateKey(password));
        }
    }

    fn add_pkcs12(&mut self) {
        const PASSWORD: [Name; 2] = [Name::Pkcs12Password, Name::Pkcs12PasswordKey];
        const PROFILES: [(&str, Pkcs12Profile); 3] = [
            ("Modern2023", Pkcs12Profile::Modern2023),
            ("LegacyDES", Pkcs12Profile::LegacyDes),
            ("LegacyRC2", Pkcs12Profile::LegacyRc2),
        ];
        if self.reader.has(Name::Pkcs12Filename) && !self.reader.has(Name::Pkcs12Enable) {
            self.reader
                .refuse(Name::Pkcs12Filename, " does nothing without pkcs12-enable: \"true\"");
        }
        let keystore = self.reader.flag(Name::Pkcs12Enable);
        let truststore = self.reader.has(Name::Pkcs12TruststoreFile);
        self.check_use(PASSWORD, keystore || truststore);
        // Whoever comes from cert-manager's csi-driver has software that reads what it writes.
        let usual = match self.reader.prefix_of(Name::Pkcs12Enable) {
            Prefix::CertManager if keystore => Pkcs12Profile::LegacyRc2,
            _ => Pkcs12Profile::Modern2023,
        };
        let profile = self.reader.one_of(Name::Pkcs12Profile, &PROFILES).unwrap_or(usual);
        let alias = self.alias(Name::Pkcs12Alias);
        if let Some(password) = self.password(PASSWORD, keystore) {
            let content = FileContent::Pkcs12Keystore { alias, password, profile };
            self.add_or("keystore.p12", Name::Pkcs12Filename, content);
        }
        if let Some(password) = self.password(PASSWORD, truststore) {
            let content = FileContent::Pkcs12Truststore { password, profile };
            self.add(Name::Pkcs12TruststoreFile, content);
        }
    }

    fn add_jks(&mut self) {
        const PASSWORD: [Name; 2] = [Name::JksPassword, Name::JksPasswordKey];
        let keystore = self.reader.has(Name::JksFile);
        let truststore = self.reader.has(Name::JksTruststoreFile);
        self.check_use(PASSWORD, keystore || truststore);
        let alias = self.alias(Name::JksAlias);
        if let Some(password) = self.password(PASSWORD, keystore) {
            self.add(Name::JksFile, FileContent::JksKeystore { alias, password });
        }
        if let Some(password) = self.password(PASSWORD, truststore) {
            self.add(Name::JksTruststoreFile, FileContent::JksTruststore { password });
        }
    }

    fn alias(&mut self, attribute: Name) -> String {
        const DEFAULT: &str = "certificate";
        let given = self.reader.parse(attribute, |text| {
            match text.len() <= 255 && !text.contains(char::is_control) && fits_keystores(text) {
                true => Ok(text.to_owned()),
                false => Err("must be at most 255 bytes of plain letters".into()),
            }
        });
        given.unwrap_or_else(|| DEFAULT.to_owned())
    }

    /// Checks that a password is given where one is needed, and only there.
    fn check_use(&mut self, [in_clear, by_key]: [Name; 2], needed: bool) {
        let given = self.reader.has(in_clear) || self.reader.has(by_key);
        let (name, or) = (in_clear.attribute().name, by_key.attribute().name);
        match (needed, given) {
            (true, false) => {
                self.reader.refuse(in_clear, format_args!(" or {or} is required for these files"));
            }
            (false, true) => {
                self.reader.warn(format_args!("{name} is given, but there is no file to protect"));
            }
            _ => {}
        }
    }

    fn password(&mut self, [in_clear, by_key]: [Name; 2], wanted: bool) -> Option<Password> {
        if wanted { self.reader.password(in_clear, by_key) } else { None }
    }
}

/// Reads who may read the files.
pub(super) fn ownership(reader: &mut Reader<'_>, mount_group: &str) -> Ownership {
    const DEFAULT_MODE: u32 = 0o440;
    Ownership {
        mode: reader.parse(Name::FileMode, values::file_mode).unwrap_or(DEFAULT_MODE),
        uid: reader.parse(Name::FileUid, values::owner_id),
        gid: match reader.has(Name::FsGroup) {
            true => reader.parse(Name::FsGroup, values::owner_id),
            false => group(reader, mount_group),
        },
    }
}

/// The pod's fsGroup as kubelet hands it over, in decimal; zero is root's group.
fn group(reader: &mut Reader<'_>, text: &str) -> Option<u32> {
    if text.is_empty() {
        return None;
    }
    let group: Result<u32, ValueError> = match text.parse() {
        Ok(u32::MAX) | Err(_) => Err("is not the number of a group".into()),
        Ok(group) => Ok(group),
    };
    let note =
        |error| reader.problems.add(format_args!("volume_mount_group {} {error}", quoted(text)));
    group.map_err(note).ok()
}
