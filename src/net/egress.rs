use std::{
    error::Error as StdError,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, OnceLock},
};

use aws_smithy_runtime_api::client::{
    dns::{DnsFuture, ResolveDns, ResolveDnsError},
    http::SharedHttpClient,
};
use ipnet::IpNet;

use super::{client::Connections, dns::lookup};

/// The egress policy: it decides which addresses the stores of tenants can use. The policy permits public addresses
/// and the networks that the platform team allows. It never permits networks that the platform team denies.
///
/// Valet needs the policy because a user who can create an ObjectStore chooses where the operator sends requests. The
/// operator can reach addresses that a tenant cannot reach: its loopback address, the machine's metadata server, and
/// services of other teams.
///
/// All stores of tenants share the HTTP clients of the policy. Each client needs a few hundred kilobytes for
/// certificate authorities, and a tenant can create thousands of stores.
#[derive(Clone, Debug, Default)]
pub struct EgressPolicy {
    allowed: Arc<[IpNet]>,
    denied: Arc<[IpNet]>,
    /// This is true if the operator is allowed to send write requests to endpoints that tenants choose.
    may_change: bool,
    pub(super) clients: Arc<Clients>,
}

/// The shared HTTP clients that connect only to permitted addresses. Valet creates each client when it uses the
/// client for the first time.
#[derive(Default)]
pub(super) struct Clients {
    pub aws: OnceLock<SharedHttpClient>,
    /// The HTTP client for all requests that the AWS SDK does not send. It is `None` if the machine has no
    /// certificate authorities.
    pub plain: OnceLock<Option<Connections>>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clients")
    }
}

/// The error for an endpoint whose address is private, special or denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressDenied {
    host: String,
    /// If the host is an IP address, this value gives the reason as a clause. It is `None` if the host is a name.
    class: Option<&'static str>,
}

impl fmt::Display for EgressDenied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, class } = self;
        // If the host is a name, the message contains neither the address nor the kind of the address. Otherwise a
        // tenant could use the operator to resolve internal names.
        let why = class.unwrap_or("the host name resolves to an address that is not allowed");
        write!(
            f,
            "an ObjectStore is not allowed to use endpoint host {host}, because {why}; use a public endpoint or a ClusterObjectStore, or ask the platform team to allow the address (--allow-private-endpoints, --deny-endpoints)"
        )
    }
}

impl StdError for EgressDenied {}

impl EgressPolicy {
    /// Creates a policy that permits public addresses and the networks in `allowed`.
    pub fn new(allowed: impl Into<Arc<[IpNet]>>) -> Self {
        Self {
            allowed: allowed.into(),
            denied: Arc::default(),
            may_change: false,
            clients: Arc::default(),
        }
    }

    /// Denies these networks, even if they are public or the platform team allows them.
    #[must_use]
    pub fn denying(self, denied: impl Into<Arc<[IpNet]>>) -> Self {
        Self {
            denied: denied.into(),
            clients: Arc::default(),
            ..self
        }
    }

    /// Creates a policy that denies all addresses.
    pub fn nowhere() -> Self {
        let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let all: Vec<_> = all.into_iter().filter_map(|ip| IpNet::new(ip, 0).ok()).collect();
        Self::default().denying(all)
    }

    /// If `may_change` is true, the policy allows write requests to endpoints that tenants choose.
    pub fn changing(self, may_change: bool) -> Self {
        Self { may_change, ..self }
    }

    /// Returns true if the operator is allowed to send write requests to endpoints that tenants choose.
    pub fn may_change(&self) -> bool {
        self.may_change
    }

    /// Returns a copy of the policy without its HTTP clients. The HTTP clients contain this copy. A copy with the
    /// clients in it would create a reference cycle.
    pub(super) fn without_clients(&self) -> Self {
        Self {
            clients: Arc::default(),
            ..self.clone()
        }
    }

    /// Checks the host of an endpoint. If the host is a name, the method resolves the name. If the method cannot
    /// resolve the name, it returns no error, because nobody can connect to such a host.
    ///
    /// # Errors
    /// Returns [`EgressDenied`] if one of the host's addresses is not permitted.
    pub async fn check(&self, host: &str) -> Result<(), EgressDenied> {
        self.check_literal(host)?;
        let bare = bare(host);
        if bare.parse::<IpAddr>().is_ok() {
            return Ok(());
        }
        match lookup(bare).await {
            Ok(addresses) => self.permit(bare, addresses),
            Err(_) => Ok(()),
        }
    }

    /// Checks a host without a DNS lookup. The method checks IP addresses and special names such as `localhost`.
    /// Valet checks all remaining names later, when it resolves them.
    ///
    /// # Errors
    /// Returns [`EgressDenied`] if the address is not permitted.
    pub fn check_literal(&self, host: &str) -> Result<(), EgressDenied> {
        let bare = bare(host);
        let inward = |class| {
            Err(EgressDenied {
                host: bare.to_owned(),
                class: Some(class),
            })
        };
        match bare.parse::<IpAddr>() {
            Ok(address) => self.permit(bare, [address]),
            Err(_) if ends_in_a_number(bare) => {
                inward("the host ends with a number and can become an IP address together with a bucket name")
            }
            // The document "Special-Use Domain Names" (RFC 6761) defines the reserved names.
            Err(_) if is_local(bare) => {
                let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                match addresses.into_iter().any(|ip| self.permit(bare, [ip]).is_ok()) {
                    true => Ok(()),
                    false => inward("this host name always means a loopback address"),
                }
            }
            Err(_) => Ok(()),
        }
    }

    fn permit(&self, host: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), EgressDenied> {
        for address in addresses {
            let is_in = |nets: &[IpNet], address| nets.iter().any(|net| net.contains(&address));
            let class = if is_in(&self.denied, address) || is_in(&self.denied, plain(address)) {
                Some("the address is in a network that the platform team denied")
            } else {
                class(address).filter(|_| !is_in(&self.allowed, plain(address)))
            };
            if let Some(class) = class {
                return Err(EgressDenied {
                    host: host.to_owned(),
                    class: host.parse::<IpAddr>().is_ok().then_some(class),
                });
            }
        }
        Ok(())
    }
}

/// Removes the brackets from a host that is an IPv6 address.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_local(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// For each connection, the DNS resolver checks the addresses of the name again. The DNS records can change after an
/// earlier check.
impl ResolveDns for EgressPolicy {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let addresses = lookup(name).await.map_err(ResolveDnsError::new)?;
            self.permit(name, addresses.iter().copied())
                .map_err(ResolveDnsError::new)?;
            Ok(addresses)
        })
    }
}

/// Returns true if a resolver can read the host as an IP address in an unusual form, such as `127.1`, `0x7f.1` or
/// `2130706433` (URL Standard, "ends in a number"). The last part of a DNS name is never a number.
fn ends_in_a_number(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let is_decimal = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    is_decimal || hex.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Returns the IPv4 address that an IPv6 address contains. These kinds of IPv6 addresses contain an IPv4 address:
/// mapped (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC 3056) and ISATAP (RFC 5214).
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let of = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    if let Some(v4) = v6.to_ipv4_mapped() {
        IpAddr::V4(v4)
    } else if [a, b, c, d, e, f] == [0x64, 0xff9b, 0, 0, 0, 0] || (e & !0x200, f) == (0, 0x5efe) {
        of(g, h)
    } else if a == 0x2002 {
        of(b, c)
    } else {
        address
    }
}

/// Describes in a clause why an address is not public (IANA registries of special-purpose addresses, RFC 6890).
/// Returns `None` for a public address.
fn class(address: IpAddr) -> Option<&'static str> {
    match plain(address) {
        IpAddr::V4(v4) => class_v4(v4),
        IpAddr::V6(v6) => class_v6(v6),
    }
}

fn class_v4(v4: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, d] = v4.octets();
    match (a, b, c) {
        // The IANA registries list this address as public. On an Azure machine, however, the host of the machine
        // answers at this address and returns secrets.
        (168, 63, 129) if d == 16 => {
            Some("an Azure virtual machine reaches the services of its host at this address")
        }
        (127, ..) => Some("the address is a loopback address"),
        (169, 254, _) => Some("the address is link-local; cloud metadata servers have link-local addresses"),
        (10, ..) | (192, 168, _) | (172, 16..=31, _) => Some("the address is private"),
        (100, 64..=127, _) => {
            Some("the address is in the shared address space (100.64.0.0/10), which clouds use internally")
        }
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => Some("the address is reserved for documentation"),
        (0, ..) | (192, 0, 0) | (192, 88, 99) | (198, 18..=19, _) | (224..=255, ..) => {
            Some("the address is not public")
        }
        _ => None,
    }
}

fn class_v6(v6: Ipv6Addr) -> Option<&'static str> {
    if v6.is_loopback() {
        Some("the address is a loopback address")
    } else if v6.is_unicast_link_local() {
        Some("the address is link-local")
    } else if v6.is_unique_local() {
        Some("the address is private")
    } else {
        match v6.segments() {
            // A Teredo address contains an IPv4 address. A Teredo relay decides which host receives the packets.
            [0x2001, 0, ..] => Some("the address is a Teredo address"),
            [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => Some("the address is reserved for documentation"),
            // Public IPv6 addresses are in 2000::/3, but not in the protocol assignments 2001::/23. All remaining
            // addresses are special or unassigned.
            [0x2001, 0..=0x01ff, ..] => Some("the address is not public"),
            [first, ..] if first & 0xe000 != 0x2000 => Some("the address is not public"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn internal_networks_are_recognized_at_their_edges() {
        for (address, inward) in [
            ("126.255.255.255", false),
            ("127.0.0.0", true),
            ("127.255.255.255", true),
            ("128.0.0.0", false),
            ("9.255.255.255", false),
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("172.15.255.255", false),
            ("172.16.0.0", true),
            ("172.31.255.255", true),
            ("172.32.0.0", false),
            ("192.167.255.255", false),
            ("192.168.0.0", true),
            ("192.169.0.0", false),
            ("169.253.255.255", false),
            ("169.254.169.254", true),
            ("169.255.0.0", false),
            ("100.63.255.255", false),
            ("100.64.0.0", true),
            ("100.127.255.255", true),
            ("100.128.0.0", false),
            ("0.0.0.0", true),
            ("192.0.0.192", true),
            ("192.0.1.255", false),
            ("192.0.2.1", true),
            ("192.0.3.0", false),
            ("198.51.100.7", true),
            ("198.51.101.0", false),
            ("203.0.113.255", true),
            ("203.0.114.0", false),
            ("192.88.99.1", true),
            ("192.88.100.1", false),
            ("198.18.0.1", true),
            ("224.0.0.1", true),
            ("255.255.255.255", true),
            ("52.218.0.1", false),
            ("168.63.129.15", false),
            ("168.63.129.16", true),
            ("::ffff:168.63.129.16", true),
            ("::", true),
            ("::1", true),
            ("::ffff:127.0.0.1", true),
            ("::ffff:52.218.0.1", false),
            ("64:ff9b::169.254.169.254", true),
            ("64:ff9b::52.218.0.1", false),
            ("2002:7f00:1::", true),
            ("2002:34da:1::", false),
            ("fe80::1", true),
            ("fd00:ec2::254", true),
            ("fc00::1", true),
            ("ff02::1", true),
            ("2a05:d018::1", false),
            // The kinds of these IPv6 addresses are IPv4-compatible (deprecated), IPv4-translated, and local-use
            // NAT64 (RFC 8215).
            ("::127.0.0.1", true),
            ("::52.218.0.1", true),
            ("::ffff:0:127.0.0.1", true),
            ("64:ff9b:1::7f00:1", true),
            ("64:ff9b::1:34da:1", true),
            // These are 6to4 and ISATAP addresses. Each kind is tested with a private and a public IPv4 address
            // inside.
            ("2002:a00:1::1", true),
            ("2002:34da:1::1", false),
            ("2a05:d018::5efe:10.0.0.1", true),
            ("2a05:d018::200:5efe:10.0.0.1", true),
            ("2a05:d018::5efe:52.218.0.1", false),
            // These are the ranges for Teredo, protocol assignments and documentation. The test also contains the
            // addresses directly before and after these ranges.
            ("2001:0:4136:e378:8000:63bf:3fff:fdd2", true),
            ("2001::1", true),
            ("2001:2::1", true),
            ("2001:1ff:ffff::1", true),
            ("2001:200::1", false),
            ("2001:db7:ffff::1", false),
            ("2001:db8:64::7f00:1", true),
            ("2001:db9::1", false),
            ("3fff::1", true),
            ("3fff:fff::1", true),
            ("3fff:1000::1", false),
            ("4000::1", true),
            ("5f00::1", true),
            ("100::1", true),
        ] {
            let found = EgressPolicy::default().permit(address, [address.parse().unwrap()]);
            assert_eq!(found.is_err(), inward, "{address}");
        }
    }

    #[test]
    fn allowed_internal_networks_are_permitted() {
        let outward = EgressPolicy::new(["10.20.0.0/16".parse().unwrap(), "::1/128".parse().unwrap()]);
        for (address, allowed) in [
            ("10.20.0.1", true),
            ("::ffff:10.20.255.255", true),
            ("10.21.0.0", false),
            ("127.0.0.1", false),
            ("::1", true),
        ] {
            assert_eq!(
                outward.permit(address, [address.parse().unwrap()]).is_ok(),
                allowed,
                "{address}"
            );
        }
        // The policy refuses a host if at least one address of the host is not permitted.
        let both = ["52.218.0.1".parse().unwrap(), "10.0.0.1".parse().unwrap()];
        assert!(outward.permit("s3.example", both).is_err());
    }

    /// The policy refuses a denied network in every notation of its addresses, even if the platform team also allows
    /// the network.
    #[test]
    fn denied_network_is_refused_even_if_it_is_public_or_allowed() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let outward = EgressPolicy::new([net("10.20.0.0/16")]).denying([
            net("52.218.0.0/17"),
            net("10.20.30.0/24"),
            net("2a05:d018:64::/96"),
            net("64:ff9b::/96"),
        ]);
        for (address, allowed) in [
            ("52.218.127.255", false),
            ("52.218.128.0", true),
            ("::ffff:52.218.0.1", false),
            ("2002:34da:1::", false),
            ("10.20.29.255", true),
            ("10.20.30.1", false),
            ("::ffff:10.20.30.1", false),
            ("2a05:d018:64::7f00:1", false),
            ("2a05:d018:65::1", true),
            ("64:ff9b::808:808", false),
        ] {
            let found = outward.permit(address, [address.parse().unwrap()]);
            assert_eq!(found.is_ok(), allowed, "{address}");
        }
        for address in ["52.218.128.0", "2a05:d018::1", "127.0.0.1"] {
            assert!(
                EgressPolicy::nowhere()
                    .permit(address, [address.parse().unwrap()])
                    .is_err(),
                "{address}"
            );
        }
        assert!(
            outward.without_clients().check_literal("52.218.0.1").is_err(),
            "a copy of the policy without HTTP clients must deny the same addresses as the policy"
        );
    }

    /// A tenant must not be able to use the operator to resolve internal names.
    #[test]
    fn refusal_of_a_host_name_does_not_show_its_address() {
        let outward = EgressPolicy::default().denying(["52.218.0.0/16".parse::<IpNet>().unwrap()]);
        let said = |host: &str, address: &str| {
            outward
                .permit(host, [address.parse().unwrap()])
                .unwrap_err()
                .to_string()
        };
        let of = |address| said("db.internal.example", address);
        assert_eq!(of("10.0.0.1"), of("169.254.169.254"));
        assert_eq!(of("10.0.0.1"), of("52.218.0.1"));
        assert!(!of("10.0.0.1").contains("10.0.0.1"), "{}", of("10.0.0.1"));
        // If the user wrote an IP address, the message can contain this address, because the user already knows it.
        assert!(said("10.0.0.1", "10.0.0.1").contains("10.0.0.1, because the address is private"));
    }

    #[test]
    fn internal_hosts_are_refused_without_a_dns_lookup() {
        for (host, is_refused) in [
            ("localhost", true),
            ("LOCALHOST.", true),
            ("s3.localhost", true),
            ("169.254", true),
            ("0x7f.1", true),
            ("[::1]", true),
            ("localhost.example.com", false),
            ("s3.example.com", false),
            ("52.218.0.1", false),
        ] {
            assert_eq!(
                EgressPolicy::default().check_literal(host).is_err(),
                is_refused,
                "{host}"
            );
        }
        let allowed = ["127.0.0.0/8".parse::<IpNet>().unwrap(), "::1/128".parse().unwrap()];
        assert!(EgressPolicy::new(allowed).check_literal("localhost").is_ok());
    }

    #[tokio::test]
    async fn endpoint_host_in_any_notation_of_an_internal_ip_is_refused() {
        let outward = EgressPolicy::default();
        // A resolver reads each of these hosts as an IP address.
        for host in [
            "localhost",
            "127.1",
            "2130706433",
            "0x7f.1",
            "[::1]",
            "::1",
            "127.0.0.1",
        ] {
            assert!(outward.check(host).await.is_err(), "{host}");
        }
        assert_eq!(outward.check("no-such-host.invalid").await, Ok(()));
        assert_eq!(outward.check("52.218.0.1").await, Ok(()));
    }

    /// Two stores share one HTTP client. This saves memory.
    #[test]
    fn stores_with_the_same_egress_policy_share_an_http_client() {
        let outward = EgressPolicy::default();
        let _first = crate::net::client::Http::new(Some(outward.clone()));
        assert!(outward.clients.plain.get().is_some());
        let of_another = EgressPolicy::new(["10.0.0.0/8".parse().unwrap()]);
        assert!(
            of_another.clients.plain.get().is_none(),
            "two policies that allow different networks must not share an HTTP client"
        );
    }

    #[tokio::test]
    async fn resolved_address_is_checked_again_at_the_connection() {
        let error = EgressPolicy::default().resolve_dns("localhost").await.unwrap_err();
        let inward = StdError::source(&error).and_then(|e| e.downcast_ref::<EgressDenied>());
        assert!(inward.is_some(), "{error:?}");
    }
}
