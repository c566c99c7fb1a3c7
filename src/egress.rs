//! `Egress`: which addresses may be reached where somebody else says whom to ask. Whoever names an
//! image names a host, and a registry names others by redirects and challenges; none of them shall
//! reach what only this machine can.
//!
//! Set where clients are built: names are judged when they are resolved, with the addresses that
//! are then connected to, and addresses that stand in a URL before it is asked. What the requests
//! are for it must not know.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::{ClientBuilder, Url};

/// Which addresses may be reached. Link-local ones and those of cloud metadata services never are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Egress {
    /// Those of the public internet alone.
    Public,
    /// Those of this machine and of private networks too.
    #[default]
    Private,
}

/// A host is at no address that may be reached. Says nothing of the address: who asked may not
/// know it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} is at an address that this service does not reach")]
pub struct AddressRefused {
    /// The host as it was named.
    pub host: String,
}

/// Metadata services outside of the link-local networks: Alibaba's, Azure's and Oracle's.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
/// Those of Google, Oracle and Scaleway. AWS has a network of them: instances, pods, names, time.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
];
const METADATA_AWS_V6: (u16, u16) = (0xfd00, 0xec2);

/// What an address belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reach {
    Public,
    Private,
    Never,
}

impl Egress {
    /// Whether an address may be reached.
    pub fn allows(self, address: IpAddr) -> bool {
        match reach(address) {
            Reach::Public => true,
            Reach::Private => self == Self::Private,
            Reach::Never => false,
        }
    }

    /// Judges the address that stands in a URL, if one does; names are judged when they are
    /// resolved.
    pub fn check(self, url: &Url) -> Result<(), AddressRefused> {
        let host = url.host_str().unwrap_or_default();
        let literal = host.trim_start_matches('[').trim_end_matches(']');
        match literal.parse() {
            Ok(address) if !self.allows(address) => Err(AddressRefused { host: host.to_owned() }),
            _ => Ok(()),
        }
    }

    /// A client that resolves names to addresses that may be reached and to no others.
    pub fn guard(self, client: ClientBuilder) -> ClientBuilder {
        client.dns_resolver(Resolver(self))
    }
}

impl AddressRefused {
    /// The refusal in an error or its causes.
    pub fn within<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut error = Some(error);
        while let Some(this) = error {
            if let Some(refused) = this.downcast_ref() {
                return Some(refused);
            }
            error = this.source();
        }
        None
    }
}

/// The system's resolver, whose answers are judged.
struct Resolver(Egress);

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let egress = self.0;
        Box::pin(async move {
            // The port is the connection's to say.
            let found: Vec<SocketAddr> =
                tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let allowed: Vec<SocketAddr> =
                found.iter().copied().filter(|found| egress.allows(found.ip())).collect();
            if allowed.is_empty() && !found.is_empty() {
                return Err(AddressRefused { host: name.as_str().to_owned() }.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

fn reach(address: IpAddr) -> Reach {
    match address {
        IpAddr::V4(address) => reach_v4(address),
        IpAddr::V6(address) => match translated(address) {
            Some(address) => reach_v4(address),
            None => reach_v6(address),
        },
    }
}

/// The IANA registry of special addresses (RFC 6890 and its successors).
fn reach_v4(address: Ipv4Addr) -> Reach {
    let never = is_metadata_v4(address) || address.is_multicast() || address.is_broadcast();
    let private = match address.octets() {
        [0 | 10 | 127 | 240..=255, ..]
        | [192, 168, ..]
        | [192, 0, 0 | 2, _]
        | [198, 51, 100, _]
        | [203, 0, 113, _] => true,
        [100, second, ..] => second & 0xc0 == 64,
        [172, second, ..] => second & 0xf0 == 16,
        [198, second, ..] => second & 0xfe == 18,
        _ => false,
    };
    match (never, private) {
        (true, _) => Reach::Never,
        (_, true) => Reach::Private,
        _ => Reach::Public,
    }
}

fn is_metadata_v4(address: Ipv4Addr) -> bool {
    address.is_link_local() || METADATA_V4.contains(&address)
}

fn reach_v6(address: Ipv6Addr) -> Reach {
    let [first, second, ..] = address.segments();
    let never = first & 0xffc0 == 0xfe80 // link-local
        || address.is_multicast()
        || (first, second) == METADATA_AWS_V6
        || METADATA_V6.contains(&address)
        || tunnelled(address).into_iter().any(is_metadata_v4);
    let global = first & 0xe000 == 0x2000 // all that is given out
        && !(first == 0x2001 && (second < 0x200 || second == 0xdb8)) // but for special purposes
        && !(first == 0x3fff && second < 0x1000);
    match (never, global) {
        (true, _) => Reach::Never,
        (_, true) => Reach::Public,
        _ => Reach::Private,
    }
}

fn v4(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))
}

/// The IPv4 address that an IPv6 one leads to wherever one is: mapped, compatible, translated, by
/// NAT64 or by 6to4.
fn translated(address: Ipv6Addr) -> Option<Ipv4Addr> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, a, b]
        | [0, 0, 0, 0, 0xffff, 0, a, b]
        | [0x64, 0xff9b, 0, 0, 0, 0, a, b]
        | [0x2002, a, b, ..] => Some(v4(a, b)),
        _ => None,
    }
}

/// The IPv4 addresses of which one may be what an IPv6 one leads to within somebody's own network:
/// by NAT64 (RFC 8215; where its prefix ends, and so the address begins, is theirs to choose) or by
/// ISATAP.
fn tunnelled(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    // Octet 8 is left out (RFC 6052).
    const PLACES: [[usize; 4]; 4] =
        [[6, 7, 9, 10], [7, 9, 10, 11], [9, 10, 11, 12], [12, 13, 14, 15]];
    match address.segments() {
        [0x64, 0xff9b, 1, ..] => {
            let octets = address.octets();
            PLACES.map(|places| places.map(|at| octets[at]).into()).to_vec()
        }
        [.., 0 | 0x200, 0x5efe, a, b] => vec![v4(a, b)],
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn judged(address: &str) -> Reach {
        reach(address.parse().unwrap())
    }

    #[test]
    fn addresses() {
        for address in [
            "1.1.1.1",
            "172.32.0.1",
            "100.128.0.1",
            "198.20.0.1",
            "2606:4700::1111",
            "2002:101:101::1",
            "64:ff9b::101:101",
            "::ffff:0:1.1.1.1",
            "3fff:1000::1",
            "2606:4700::5efe:101:101",
            "::ffff:1.1.1.1",
        ] {
            assert_eq!(judged(address), Reach::Public, "{address}");
        }
        for address in [
            "127.0.0.1",
            "127.255.255.254",
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "240.0.0.1",
            "::",
            "::1",
            "fc00::1",
            "fd12:3456::1",
            "fec0::1",
            "2001:db8::1",
            "2001::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::127.0.0.1",
            "64:ff9b::7f00:1",
            "2002:7f00:1::1",
            "2002:a00:1::",
            "::ffff:0:127.0.0.1",
            "64:ff9b:1::7f00:1",
            "3fff:fff::1",
            "fd00:42::43",
            "fd12::5efe:a00:1",
            "1::1",
        ] {
            assert_eq!(judged(address), Reach::Private, "{address}");
        }
        for address in [
            "169.254.169.254",
            "169.254.170.2",
            "169.254.0.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "255.255.255.255",
            "224.0.0.1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd00:ec2::23",
            "fd00:ec2:0:1::1",
            "fd20:ce::254",
            "fd00:c1::a9fe:a9fe",
            "fd00:42::42",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::",
            "::ffff:0:169.254.169.254",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1:a9fe:a9:fe00::",
            "64:ff9b:1:a9:fe:a9fe::",
            "64:ff9b:1:2:a9:fea9:fe00:0",
            "fd12::5efe:a9fe:a9fe",
            "2606:4700::200:5efe:a9fe:a9fe",
        ] {
            assert_eq!(judged(address), Reach::Never, "{address}");
        }
    }

    #[test]
    fn addresses_in_urls_however_they_are_written() {
        for url in [
            "http://169.254.169.254/latest",
            "http://[fe80::1]/",
            "http://0xa9fea9fe/",
            "http://2852039166/",
            "http://169.254.43518/",
            "http://0251.0376.0251.0376/",
            "http://[::ffff:169.254.169.254]/",
            "http://169.254.169.254./",
            "http://user@169.254.169.254:80/",
        ] {
            let url = Url::parse(url).unwrap();
            assert!(Egress::Private.check(&url).is_err(), "{url}");
        }
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://[::1]:5000/",
            "http://10.0.0.1:5000/",
        ] {
            let url = Url::parse(url).unwrap();
            assert!(Egress::Private.check(&url).is_ok(), "{url}");
            let refused = Egress::Public.check(&url).unwrap_err();
            assert_eq!(refused.host, url.host_str().unwrap());
        }
        for url in ["http://1.1.1.1/", "https://ghcr.io/"] {
            assert!(Egress::Public.check(&Url::parse(url).unwrap()).is_ok(), "{url}");
        }
    }

    #[tokio::test]
    async fn names_are_judged_by_what_they_resolve_to() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://localhost:{}/", listener.local_addr().unwrap().port());
        let client = Egress::Public.guard(reqwest::Client::builder().no_proxy()).build().unwrap();
        let error = client.get(&url).send().await.unwrap_err();
        let refused = AddressRefused::within(&error).unwrap();
        assert_eq!(
            refused.to_string(),
            "localhost is at an address that this service does not reach"
        );
        let client = Egress::Private.guard(reqwest::Client::builder().no_proxy()).build().unwrap();
        let hangs_up = async { drop(listener.accept().await.unwrap()) };
        let (sent, ()) = tokio::join!(client.get(&url).send(), hangs_up);
        assert_eq!(AddressRefused::within(&sent.unwrap_err()), None);
    }

    proptest! {
        #[test]
        fn an_address_is_judged_alike_however_it_is_embedded(bits: u32) {
            let plain = Ipv4Addr::from_bits(bits);
            let [a, b, c, d] = bits.to_be_bytes();
            let [high, low] = [[a, b], [c, d]].map(u16::from_be_bytes);
            let wanted = reach(plain.into());
            prop_assert_eq!(reach(plain.to_ipv6_mapped().into()), wanted);
            for segments in [
                [0x64, 0xff9b, 0, 0, 0, 0, high, low],
                [0, 0, 0, 0, 0xffff, 0, high, low],
                [0x2002, high, low, 0, 0, 0, 0, 1],
            ] {
                prop_assert_eq!(reach(Ipv6Addr::from(segments).into()), wanted);
            }
            // Within somebody's own network nothing is public, and metadata is metadata.
            for segments in [
                [0x64, 0xff9b, 1, 0, 0, 0, high, low],
                [0x64, 0xff9b, 1, high, low >> 8, low << 8, 0, 0],
                [0xfd12, 0, 0, 0, 0, 0x5efe, high, low],
            ] {
                let own = reach(Ipv6Addr::from(segments).into());
                prop_assert!(own == Reach::Never || own == Reach::Private && !is_metadata_v4(plain));
            }
        }
    }
}
