//! What a build can reach: which network there is, and what the filtered one lets through although it is
//! private.

use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Exceptions at most.
const MAX_EXCEPTIONS: usize = 256;

/// Which network there is while an image is built, for `RUN` and `ADD` alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The public internet over IPv4, and DNS: nothing of this machine and of the networks around it.
    #[default]
    Filtered,
    /// That of the machine.
    Host,
    /// None: neither `RUN` nor `ADD` can reach anything.
    None,
}

/// Addresses that the filtered network lets through although they are private: `10.1.0.0/16`, or with a
/// port of TCP `10.1.2.3/32:443`. An address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct NetworkException {
    address: Ipv4Addr,
    /// Bits of the address that count, 0 to 32.
    prefix: u8,
    /// Of TCP; any protocol and port when absent.
    port: Option<u16>,
}

/// A text that is no [`NetworkException`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no exception of the filtered network: expected IPv4[/PREFIX][:PORT], such as 10.1.0.0/16:443"
)]
pub struct InvalidException {
    text: String,
}

impl NetworkException {
    /// Several of them, separated by commas; `None` if one is none, or they are too many.
    pub fn list(text: &str) -> Option<Vec<Self>> {
        let parse = |one: &str| one.trim().parse().ok();
        let list: Vec<Self> = text.split(',').map(parse).collect::<Option<_>>()?;
        (list.len() <= MAX_EXCEPTIONS).then_some(list)
    }

    /// `address/prefix`.
    pub(super) fn network(&self) -> String {
        format!("{}/{}", self.address, self.prefix)
    }

    /// The port of TCP that it is for; all ports of all protocols when absent.
    pub(super) fn port(&self) -> Option<u16> {
        self.port
    }
}

impl FromStr for NetworkException {
    type Err = InvalidException;

    fn from_str(text: &str) -> Result<Self, InvalidException> {
        let parse = || {
            let (network, port) = match text.split_once(':') {
                Some((network, port)) => (network, Some(port.parse().ok().filter(|p| *p > 0)?)),
                None => (text, None),
            };
            let (address, prefix) = network.split_once('/').unwrap_or((network, "32"));
            let (address, prefix): (Ipv4Addr, u8) = (address.parse().ok()?, prefix.parse().ok()?);
            let counts = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            // What doesn't count must be zero: who writes 10.1.2.3/8 may mean something else.
            let is_whole = prefix <= 32 && address.to_bits() & !counts == 0;
            is_whole.then_some(Self { address, prefix, port })
        };
        let shown = || text.chars().take(60).collect();
        parse().ok_or_else(|| InvalidException { text: shown() })
    }
}

impl TryFrom<String> for NetworkException {
    type Error = InvalidException;

    fn try_from(text: String) -> Result<Self, InvalidException> {
        text.parse()
    }
}

impl From<NetworkException> for String {
    fn from(exception: NetworkException) -> Self {
        let port = exception.port.map(|port| format!(":{port}")).unwrap_or_default();
        exception.network() + &port
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_are_networks_with_or_without_a_port() {
        for (text, expected) in [
            ("10.1.0.0/16", "10.1.0.0/16"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("10.1.2.3:8081", "10.1.2.3/32:8081"),
            ("192.168.0.0/24:443", "192.168.0.0/24:443"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            let parsed: NetworkException = text.parse().unwrap();
            assert_eq!(String::from(parsed), expected);
            assert_eq!(expected.parse(), Ok(parsed));
        }
        for text in [
            "",
            "10.1.2.3/8",
            "10.1.0.0/33",
            "10.1.2.3:0",
            "10.1.2.3:65536",
            "10.1.2.3/",
            "fd00::/8",
            "example.org",
            "10.1.2.3; accept",
            "10.1.2.3:1:2",
        ] {
            assert!(text.parse::<NetworkException>().is_err(), "{text}");
        }
        assert_eq!(NetworkException::list("10.0.0.1, 10.0.0.2:80").unwrap().len(), 2);
        assert_eq!(NetworkException::list("10.0.0.1,,10.0.0.2"), None);
        assert_eq!(NetworkException::list(&vec!["10.0.0.1"; 257].join(",")), None);
    }
}
