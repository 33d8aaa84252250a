//! Where an issuer's requests may go.

use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use nix::ifaddrs::getifaddrs;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use url::Host;

use super::ServerName;
use crate::issuer::Surroundings;

/// Where requests of an issuer may go.
///
/// The driver is in the node's network. Whoever may write `Issuer`s in a namespace is a tenant, and
/// must not reach through it what listens for the node only, such as kubelet, or what a cloud tells
/// its machines.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Reach {
    /// Anywhere: what the operator wrote.
    Anywhere,
    /// Not the loopback of the node, nor link-local, unspecified, multicast and metadata addresses,
    /// nor any address of this process' network or of the node, of which those are given that are
    /// in no interface here: what a tenant wrote.
    Public(Arc<[IpAddr]>),
}

impl Default for Reach {
    fn default() -> Self {
        Self::Public(Arc::default())
    }
}

/// An address that is out of reach.
#[derive(Debug, thiserror::Error)]
#[error("{0} is an address of the node itself or of its cloud, which only a ClusterIssuer may ask")]
pub(super) struct Forbidden(IpAddr);

/// A name without an address.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct NoAddress(#[source] io::Error);

impl Reach {
    /// The reach of an issuer in `namespace`; `None` for a `ClusterIssuer`.
    pub(crate) fn of(namespace: Option<&str>, surroundings: &Surroundings) -> Self {
        match namespace {
            Some(_) => Self::Public(surroundings.node_addresses.as_slice().into()),
            None => Self::Anywhere,
        }
    }

    /// Whether `address` may be asked.
    pub(crate) fn check(&self, address: IpAddr) -> Result<(), String> {
        match self {
            Self::Public(node) if !is_public(address) || is_of_node(address, node) => {
                Err(Forbidden(address).to_string())
            }
            _ => Ok(()),
        }
    }
}

/// Resolves names as the system does, and drops what is out of reach. Asked for each connection, so
/// a name that changes its addresses between two questions gains nothing.
pub(super) struct Resolver {
    pub(super) reach: Reach,
    pub(super) server_name: Option<ServerName>,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach.clone();
        let server = self.server_name.as_ref().filter(|it| it.name == name.as_str());
        let host = match server.and_then(|it| it.server.host()) {
            None => Host::Domain(name.as_str().to_owned()),
            Some(host) => host.to_owned(),
        };
        Box::pin(async move {
            // Port 0 is replaced by that of the URL.
            let found: Vec<SocketAddr> = match host {
                Host::Ipv4(address) => vec![(address, 0).into()],
                Host::Ipv6(address) => vec![(address, 0).into()],
                Host::Domain(name) => {
                    tokio::net::lookup_host((name, 0)).await.map_err(NoAddress)?.collect()
                }
            };
            let forbidden = found.iter().find(|it| reach.check(it.ip()).is_err()).copied();
            let allowed: Vec<_> =
                found.into_iter().filter(|it| reach.check(it.ip()).is_ok()).collect();
            match (allowed.is_empty(), forbidden) {
                (true, Some(address)) => Err(Forbidden(address.ip()).into()),
                (true, None) => {
                    let nothing = io::Error::other("the name has no address");
                    Err(Box::<dyn Error + Send + Sync>::from(NoAddress(nothing)))
                }
                (false, _) => Ok(Box::new(allowed.into_iter()) as Addrs),
            }
        })
    }
}

/// Addresses at which clouds tell their machines secrets, and that are not link-local.
const METADATA: [IpAddr; 3] = [
    // Alibaba Cloud, Azure, AWS.
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

fn is_public(address: IpAddr) -> bool {
    if METADATA.contains(&address) {
        return false;
    }
    match address {
        IpAddr::V4(address) => {
            let [first, ..] = address.octets();
            // RFC 1122 §3.2.1.3: all of 0.0.0.0/8 is "this host on this network".
            first != 0
                && !address.is_loopback()
                && !address.is_link_local()
                && !address.is_multicast()
                && !address.is_broadcast()
        }
        IpAddr::V6(address) => {
            !address.is_loopback()
                && !address.is_unspecified()
                && !address.is_multicast()
                && !address.is_unicast_link_local()
                && embedded(address).is_none_or(|inner| is_public(inner.into()))
        }
    }
}

/// The IPv4 address that `address` leads to: mapped and compatible (RFC 4291 §2.5.5), 6to4
/// (RFC 3056), and NAT64 (RFC 6052).
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let bytes = address.octets();
    let at = |start: usize| {
        Ipv4Addr::new(bytes[start], bytes[start + 1], bytes[start + 2], bytes[start + 3])
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff | 0, ..] => Some(at(12)),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] => Some(at(12)),
        [0x2002, ..] => Some(at(2)),
        _ => None,
    }
}

/// Whether `address` is one of `node`, or of an interface here. Interfaces come and go, so they are
/// looked at each time.
fn is_of_node(address: IpAddr, node: &[IpAddr]) -> bool {
    let address = match address {
        IpAddr::V6(inner) => embedded(inner).map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    };
    node.contains(&address) || interface_addresses().any(|own| own == address)
}

fn interface_addresses() -> impl Iterator<Item = IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten();
    interfaces.filter(|interface| interface.interface_name != SERVICES).filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
    })
}

/// Where kube-proxy with IPVS puts the addresses of all Services of the cluster, which lead away from
/// the node.
const SERVICES: &str = "kube-ipvs0";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    #[test]
    fn a_tenant_reaches_no_address_of_the_node_or_its_cloud() {
        for forbidden in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:7f00:1::",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
        ] {
            let address = forbidden.parse().unwrap();
            assert!(Reach::default().check(address).is_err(), "{forbidden}");
            assert!(Reach::Anywhere.check(address).is_ok(), "{forbidden}");
        }
        for allowed in
            ["10.0.0.1", "192.168.1.1", "172.16.0.1", "93.184.216.34", "fd00::1", "2001:db8::1"]
        {
            assert!(Reach::default().check(allowed.parse().unwrap()).is_ok(), "{allowed}");
        }
    }

    #[test]
    fn only_a_cluster_issuer_reaches_anything() {
        let node: IpAddr = "10.9.8.7".parse().unwrap();
        let surroundings = Surroundings {
            node_addresses: vec![node],
            ..Surroundings::new(Clock::system(), "node-1")
        };
        assert_eq!(Reach::of(None, &surroundings), Reach::Anywhere);
        let tenant = Reach::of(Some("shop"), &surroundings);
        for forbidden in [node, "::ffff:10.9.8.7".parse().unwrap()] {
            assert!(tenant.check(forbidden).is_err(), "{forbidden}");
        }
        assert!(tenant.check("10.9.8.6".parse().unwrap()).is_ok());
    }

    #[test]
    fn a_tenant_reaches_no_interface_of_the_node() {
        let mut own = interface_addresses();
        assert!(own.all(|address| Reach::default().check(address).is_err()));
        assert!(interface_addresses().any(|address| address.is_loopback()));
    }
}
