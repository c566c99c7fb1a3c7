//! The filtered network of a sandbox: a network namespace of its own, rules in it that say what may be
//! reached (nftables), and a process outside that carries the packets over ordinary sockets (slirp4netns),
//! without a device, an address or a rule of the machine's own.
//!
//! The rules are there before anything else is. Nothing in the sandbox can change them or go around them:
//! it has neither `CAP_NET_ADMIN` nor `CAP_NET_RAW` (`power`).

use std::fmt::Write as _;
use std::fs::File;
use std::io::{Read, Write as _};
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

use crate::build::network::NetworkException;
use crate::build::{SandboxError, programs};

/// The addresses in there: nobody else's, as they are for documents (RFC 5737).
const OWN: &str = "198.51.100.0/24";
/// Answers for whoever answers this machine.
pub(super) const NAME_SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 3);
/// Bytes of a packet: none of them leaves this machine as it is.
const MTU: &str = "65520";
/// Bytes that are kept of what slirp4netns says.
const SAID: usize = 2 << 10;

/// Never let through, whatever the exceptions say: link-local addresses, where metadata services are, others'
/// metadata services, multicast and broadcast.
const NEVER: [&str; 6] = [
    "169.254.0.0/16",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "192.0.0.192/32",
    "224.0.0.0/4",
    "255.255.255.255/32",
];
/// Let through by exceptions alone: private and special addresses (IANA's registry, RFC 6890).
const PRIVATE: [&str; 12] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "240.0.0.0/4",
];

/// A network that lasts as long as this.
#[derive(Debug)]
pub(super) struct FilteredNetwork {
    carrier: Child,
}

impl Drop for FilteredNetwork {
    fn drop(&mut self) {
        // It ends by itself as well, when its input does.
        let _ = self.carrier.kill();
        let _ = self.carrier.wait();
    }
}

/// Makes the network and enters it. No other thread of the process is in it.
pub(super) fn enter(exceptions: &[NetworkException]) -> Result<FilteredNetwork, SandboxError> {
    let filter = program("nft", "nftables")?;
    let carrier = program("slirp4netns", "slirp4netns")?;
    let rules = rules(exceptions, &own_addresses()?);
    make_device();
    let this = || File::open("/proc/thread-self/ns/net");
    let outside = this().map_err(SandboxError::of("open the network namespace"))?;
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(SandboxError::of("make a network namespace, which needs root"))?;
    let inside = this().map_err(SandboxError::of("open the network namespace"))?;
    apply(Command::new(filter), &rules)?;
    let enter = |namespace: &File| {
        setns(namespace, CloneFlags::CLONE_NEWNET)
            .map_err(SandboxError::of("enter the network namespace"))
    };
    enter(&outside)?;
    let carried = carry(Command::new(carrier), &inside);
    enter(&inside)?;
    carried
}

fn program(name: &str, package: &str) -> Result<PathBuf, SandboxError> {
    programs::find(name).ok_or_else(|| SandboxError {
        what: "make a filtered network".to_owned(),
        reason: format!("{name} is not installed (Debian package {package})"),
    })
}

/// The device through which packets come and go, where it is missing, as in most containers: theirs may make it. What
/// is wrong if it can't be made, the carrier says.
fn make_device() {
    let path = Path::new("/dev/net/tun");
    if path.exists() {
        return;
    }
    let _ = std::fs::create_dir_all("/dev/net");
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    // Its number never changes (kernel documentation, "Universal TUN/TAP device driver").
    let _ = mknod(path, SFlag::S_IFCHR, mode, makedev(10, 200));
}

/// The machine's own addresses: what listens there may be for the machine alone.
fn own_addresses() -> Result<Vec<Ipv4Addr>, SandboxError> {
    let found =
        nix::ifaddrs::getifaddrs().map_err(SandboxError::of("list the machine's addresses"))?;
    let of = |interface: nix::ifaddrs::InterfaceAddress| {
        interface.address?.as_sockaddr_in().map(nix::sys::socket::SockaddrIn::ip)
    };
    Ok(found.filter_map(of).collect())
}

/// What the namespace lets out, in nftables' language. What is refused is answered at once.
fn rules(exceptions: &[NetworkException], own: &[Ipv4Addr]) -> String {
    let refuse = "reject with icmpx type admin-prohibited";
    let mut text = format!(
        "table inet filter {{\n chain output {{\n  type filter hook output priority 0; policy drop;\n  \
         oifname \"lo\" accept\n  meta nfproto ipv6 {refuse}\n  \
         ip daddr {NAME_SERVER} meta l4proto {{ tcp, udp }} th dport 53 accept\n"
    );
    let mut line = |networks: &str, rest: &str| {
        // Writing into a text can't fail.
        let _ = writeln!(text, "  ip daddr {networks} {rest}");
    };
    for network in NEVER {
        line(network, refuse);
    }
    for exception in exceptions {
        match exception.port() {
            Some(port) => line(&exception.network(), &format!("tcp dport {port} accept")),
            None => line(&exception.network(), "accept"),
        }
    }
    for network in PRIVATE {
        line(network, refuse);
    }
    for address in own {
        line(&address.to_string(), refuse);
    }
    text + "  accept\n }\n}\n"
}

fn apply(mut filter: Command, rules: &str) -> Result<(), SandboxError> {
    const WHAT: &str = "set the network's rules by nft";
    let failed = || SandboxError::of(WHAT);
    let mut child = filter
        .args(["-f", "-"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed())?;
    if let Some(mut input) = child.stdin.take() {
        // One that ended at once says why.
        let _ = input.write_all(rules.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed())?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(SandboxError::of(WHAT)(said.lines().next().unwrap_or("it said nothing")))
}

/// Starts what carries packets between the namespace and the machine's sockets. It has given up all its
/// powers and sees nothing of the disk by the time that it takes the first of them.
fn carry(mut carrier: Command, inside: &File) -> Result<FilteredNetwork, SandboxError> {
    const WHAT: &str = "start the network by slirp4netns";
    let failed = || SandboxError::of(WHAT);
    let namespace = format!("/proc/{}/fd/{}", std::process::id(), inside.as_raw_fd());
    let mut child = carrier
        .args(["--configure", "--mtu", MTU, "--cidr", OWN, "--disable-host-loopback"])
        .args(["--enable-sandbox", "--enable-seccomp", "--exit-fd=0", "--ready-fd=1"])
        .args(["--netns-type=path", &namespace, "tap0"])
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed())?;
    let said = child.stderr.take().map(listen);
    let mut ready = String::new();
    if let Some(mut output) = child.stdout.take() {
        output.read_to_string(&mut ready).map_err(failed())?;
    }
    let network = FilteredNetwork { carrier: child };
    if ready.ends_with('1') {
        return Ok(network);
    }
    drop(network);
    let said = said.unwrap_or_default();
    let said = said.lock().unwrap_or_else(PoisonError::into_inner);
    Err(SandboxError::of(WHAT)(said.lines().last().unwrap_or("it ended at once")))
}

/// Takes what it says, so that it never waits for somebody to read it, and keeps the first of it.
fn listen(mut errors: ChildStderr) -> Arc<Mutex<String>> {
    let said = Arc::new(Mutex::new(String::new()));
    let kept = said.clone();
    std::thread::spawn(move || {
        let mut buffer = [0; 1024];
        while let Ok(count @ 1..) = errors.read(&mut buffer) {
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < SAID {
                kept.push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        }
    });
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::Egress;

    fn ends(network: &str) -> (u32, u32) {
        let (address, prefix) = network.split_once('/').unwrap();
        let (address, prefix): (Ipv4Addr, u32) =
            (address.parse().unwrap(), prefix.parse().unwrap());
        (address.to_bits(), address.to_bits() | u32::MAX.checked_shr(prefix).unwrap_or(0))
    }

    /// What builds are refused is what the service itself refuses to reach for others, to the address.
    #[test]
    fn the_ranges_are_those_that_are_not_public() {
        let mut ranges: Vec<_> =
            NEVER.iter().chain(&PRIVATE).map(|network| ends(network)).collect();
        ranges.sort_unstable();
        let is_listed =
            |address: u32| ranges.iter().any(|(first, last)| (*first..=*last).contains(&address));
        let edges = ranges.iter().flat_map(|(first, last)| {
            [first.saturating_sub(1), *first, (first / 2 + last / 2), *last, last.saturating_add(1)]
        });
        let spread = (0..=u32::MAX).step_by(65_521);
        for address in edges.chain(spread) {
            let allowed = Egress::Public.allows(Ipv4Addr::from_bits(address).into());
            assert_eq!(allowed, !is_listed(address), "{}", Ipv4Addr::from_bits(address));
        }
    }

    #[test]
    fn exceptions_stand_behind_what_is_never_and_before_what_is_private() {
        let exceptions = NetworkException::list("0.0.0.0/0,10.1.0.0/16:443").unwrap();
        let text = rules(&exceptions, &[Ipv4Addr::new(203, 1, 1, 1)]);
        let at = |part: &str| text.find(part).unwrap_or_else(|| panic!("{part}: {text}"));
        let places = [
            at("nfproto ipv6 reject"),
            at("daddr 169.254.0.0/16 reject"),
            at("daddr 255.255.255.255/32 reject"),
            at("daddr 0.0.0.0/0 accept"),
            at("daddr 10.1.0.0/16 tcp dport 443 accept"),
            at("daddr 10.0.0.0/8 reject"),
            at("daddr 203.1.1.1 reject"),
        ];
        assert!(places.is_sorted(), "{text}");
    }
}
