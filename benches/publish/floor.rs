//! The floor: what a publish must do, as straight calls in one thread, with no checks between.
//!
//! A P-256 key, a request, a signature by a local CA, a tmpfs, three files put in place by renaming
//! a link, and a read-only bind mount.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use certmount::clock::Clock;
use certmount::x509::{
    AuthorityInformation, BasicConstraints, CertificateAuthority, CertificationRequest,
    DistinguishedName, GeneralName, KeyAlgorithm, KeyEncoding, KeyUsages, NameConstraints,
    PrivateKey, Template, Validity, chain_to_pem, self_sign,
};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// How long each of `count` rounds took; the mounts are made below `data` and `targets`, as the
/// plugin's are, and taken away again. The folders below `targets` stay: an ext4 without a journal
/// passes by each inode that was freed in the last minutes before it makes a directory, so that what
/// is measured next would be slower for each that is removed.
pub(crate) fn measure(count: usize, data: &Path, targets: &Path) -> Result<Vec<Duration>> {
    let authority = authority()?;
    let template = template()?;
    let volume = data.join("floor");
    let mut took = Vec::with_capacity(count);
    for round in 0..count {
        let target = targets.join(format!("floor-{round}"));
        let began = Instant::now();
        publish(&authority, &template, &volume, &target)?;
        took.push(began.elapsed());
        umount2(&target, MntFlags::empty())?;
        umount2(&volume, MntFlags::empty())?;
        fs::remove_dir(&volume)?;
    }
    Ok(took)
}

#[allow(clippy::disallowed_methods, reason = "the link that is renamed makes the write atomic")]
fn publish(
    authority: &CertificateAuthority,
    template: &Template,
    volume: &Path,
    target: &Path,
) -> Result<()> {
    let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
    let request = CertificationRequest::new(template, &key)?;
    let leaf = authority.sign(
        template,
        key.public_key_info(),
        a_day(),
        &AuthorityInformation::default(),
    )?;
    std::hint::black_box(request.der());

    fs::create_dir(volume)?;
    let safe = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("floor"), volume, Some("tmpfs"), safe, Some("size=4m,nr_inodes=256,mode=0750"))?;
    let data = volume.join("data");
    let files = data.join("..1");
    fs::create_dir(&data)?;
    fs::create_dir(&files)?;
    fs::write(files.join("tls.crt"), chain_to_pem([&leaf]))?;
    fs::write(files.join("tls.key"), key.to_pem(KeyEncoding::Pkcs8)?.as_bytes())?;
    fs::write(files.join("ca.crt"), chain_to_pem(authority.trust_anchors()))?;
    symlink("..1", data.join("..data_tmp"))?;
    fs::rename(data.join("..data_tmp"), data.join("..data"))?;
    for name in ["tls.crt", "tls.key", "ca.crt"] {
        symlink(Path::new("..data").join(name), data.join(name))?;
    }

    fs::create_dir(target)?;
    let none = None::<&str>;
    mount(Some(&data), target, none, MsFlags::MS_BIND, none)?;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | safe;
    Ok(mount(none, target, none, read_only, none)?)
}

fn authority() -> Result<CertificateAuthority> {
    let key = Arc::new(PrivateKey::generate(KeyAlgorithm::EcdsaP256)?);
    let mut subject = DistinguishedName::default();
    subject.push("CN", "floor")?;
    let template = Template {
        subject,
        subject_alt_names: Vec::new(),
        usages: KeyUsages::parse(["cert sign"])?,
        basic_constraints: BasicConstraints::Ca { path_len: None },
        name_constraints: NameConstraints::default(),
    };
    let certificate = self_sign(&template, &key, a_day(), &AuthorityInformation::default())?;
    Ok(CertificateAuthority::new(vec![certificate], Vec::new(), key)?)
}

/// What is asked for.
pub(crate) fn template() -> Result<Template> {
    Ok(Template {
        subject: DistinguishedName::default(),
        subject_alt_names: vec![GeneralName::dns("web.demo.svc")?],
        usages: KeyUsages::parse(["digital signature", "key encipherment"])?,
        basic_constraints: BasicConstraints::EndEntity,
        name_constraints: NameConstraints::default(),
    })
}

fn a_day() -> Validity {
    let now = Clock::system().now();
    Validity { not_before: now, not_after: now + Duration::from_secs(86_400) }
}
