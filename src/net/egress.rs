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

/// Where tenants' endpoints may lead: to public addresses, and into the networks that the platform allows; never into those that
/// it denies.
///
/// Whoever may create an ObjectStore chooses where the operator sends requests. From inside, the operator reaches what
/// a tenant does not: its own loopback, the metadata service of the machine, other teams' services.
///
/// All tenants' stores share the clients that lead there: each has some hundred kilobytes of certificate authorities, and who
/// may make one store may make thousands.
#[derive(Clone, Debug, Default)]
pub struct Outward {
    allowed: Arc<[IpNet]>,
    denied: Arc<[IpNet]>,
    /// Whether requests that change something may be sent, too.
    may_change: bool,
    pub(super) clients: Arc<Clients>,
}

/// The clients that connect only to where requests may go, once they are needed.
#[derive(Default)]
pub(super) struct Clients {
    /// The AWS SDK's.
    pub aws: OnceLock<SharedHttpClient>,
    /// That of everything else; none, on a machine without certificate authorities.
    pub plain: OnceLock<Option<Connections>>,
}

impl fmt::Debug for Clients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clients")
    }
}

/// An endpoint that leads inwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inward {
    host: String,
    /// What kind of address the host is, if it is one; of a name nothing is told.
    class: Option<&'static str>,
}

impl fmt::Display for Inward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, class } = self;
        match class {
            Some(class) => write!(f, "the endpoint {host} is {class}")?,
            // Neither the address nor what kind of one it is: whoever has no pod here could look internal names up by it.
            None => write!(f, "the endpoint's host {host} leads to an address")?,
        }
        f.write_str(", where an ObjectStore may not lead; use a public endpoint, or ask the platform team to allow the network (--allow-private-endpoints, --deny-endpoints) or to make a ClusterObjectStore")
    }
}

impl StdError for Inward {}

impl Outward {
    /// Besides public addresses, those in these networks are allowed.
    pub fn new(allowed: impl Into<Arc<[IpNet]>>) -> Self {
        Self {
            allowed: allowed.into(),
            denied: Arc::default(),
            may_change: false,
            clients: Arc::default(),
        }
    }

    /// The same without these networks, whatever else allows them.
    #[must_use]
    pub fn denying(self, denied: impl Into<Arc<[IpNet]>>) -> Self {
        Self {
            denied: denied.into(),
            clients: Arc::default(),
            ..self
        }
    }

    /// To no address at all.
    pub fn nowhere() -> Self {
        let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let all: Vec<_> = all.into_iter().filter_map(|ip| IpNet::new(ip, 0).ok()).collect();
        Self::default().denying(all)
    }

    /// The same, and requests that change something may be sent there, if `may_change`.
    pub fn changing(self, may_change: bool) -> Self {
        Self { may_change, ..self }
    }

    /// Whether requests that change something may be sent to an endpoint that a tenant chose.
    pub fn may_change(&self) -> bool {
        self.may_change
    }

    /// The same for the clients themselves, which must not hold each other.
    pub(super) fn without_clients(&self) -> Self {
        Self {
            clients: Arc::default(),
            ..self.clone()
        }
    }

    /// Whether a host, as it stands in an endpoint, may be asked. A name is looked up for that; one that is not known
    /// now leads nowhere.
    ///
    /// # Errors
    /// [`Inward`], if one of its addresses lies inwards.
    pub async fn check(&self, host: &str) -> Result<(), Inward> {
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

    /// The same without a lookup: of a host that is an address, or that says by itself where it leads. Any other name is left
    /// to whoever looks it up.
    ///
    /// # Errors
    /// [`Inward`].
    pub fn check_literal(&self, host: &str) -> Result<(), Inward> {
        let bare = bare(host);
        let inward = |class| {
            Err(Inward {
                host: bare.to_owned(),
                class: Some(class),
            })
        };
        match bare.parse::<IpAddr>() {
            Ok(address) => self.permit(bare, [address]),
            Err(_) if ends_in_a_number(bare) => {
                inward("half an address, which with a bucket's name before it can be a whole one")
            }
            // "Special-Use Domain Names" (RFC 6761).
            Err(_) if is_local(bare) => {
                let addresses = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
                match addresses.into_iter().any(|ip| self.permit(bare, [ip]).is_ok()) {
                    true => Ok(()),
                    false => inward("a loopback address"),
                }
            }
            Err(_) => Ok(()),
        }
    }

    fn permit(&self, host: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), Inward> {
        for address in addresses {
            let is_in = |nets: &[IpNet], address| nets.iter().any(|net| net.contains(&address));
            let class = if is_in(&self.denied, address) || is_in(&self.denied, plain(address)) {
                Some("in a network that the platform team has denied")
            } else {
                class(address).filter(|_| !is_in(&self.allowed, plain(address)))
            };
            if let Some(class) = class {
                return Err(Inward {
                    host: host.to_owned(),
                    class: host.parse::<IpAddr>().is_ok().then_some(class),
                });
            }
        }
        Ok(())
    }
}

/// A host without the brackets that it has in an address.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_local(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Looks names up when a connection is made, too: a name may have another address by then.
impl ResolveDns for Outward {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let addresses = lookup(name).await.map_err(ResolveDnsError::new)?;
            self.permit(name, addresses.iter().copied())
                .map_err(ResolveDnsError::new)?;
            Ok(addresses)
        })
    }
}

/// Whether a host is read as an address although it is none as it should be written: `127.1`, `0x7f.1`, `2130706433` (URL
/// Standard, "ends in a number"). No name ends so.
fn ends_in_a_number(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let is_decimal = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    is_decimal || hex.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The IPv4 address behind an IPv6 one that stands for it: mapped (RFC 4291), by NAT64 (RFC 6052), by 6to4 (RFC 3056) or by
/// ISATAP (RFC 5214).
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

/// What an address is, if it is not a public one (the IANA registries of special-purpose addresses, RFC 6890).
fn class(address: IpAddr) -> Option<&'static str> {
    match plain(address) {
        IpAddr::V4(v4) => class_v4(v4),
        IpAddr::V6(v6) => class_v6(v6),
    }
}

fn class_v4(v4: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, d] = v4.octets();
    match (a, b, c) {
        // A public one by its number; from a machine in Azure it leads to that machine's host, and to its secrets.
        (168, 63, 129) if d == 16 => Some("the address at which Azure's machines find their host"),
        (127, ..) => Some("a loopback address"),
        (169, 254, _) => Some("a link-local address, where clouds keep their metadata"),
        (10, ..) | (192, 168, _) | (172, 16..=31, _) => Some("a private address"),
        (100, 64..=127, _) => Some("a shared address, as carriers and clouds use inside"),
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => Some("an address for documentation"),
        (0, ..) | (192, 0, 0) | (192, 88, 99) | (198, 18..=19, _) | (224..=255, ..) => Some("no public address"),
        _ => None,
    }
}

fn class_v6(v6: Ipv6Addr) -> Option<&'static str> {
    if v6.is_loopback() {
        Some("a loopback address")
    } else if v6.is_unicast_link_local() {
        Some("a link-local address")
    } else if v6.is_unique_local() {
        Some("a private address")
    } else {
        match v6.segments() {
            // An IPv4 address is in it, and whoever runs the relay decides what is behind it.
            [0x2001, 0, ..] => Some("a Teredo address"),
            [0x2001, 0x0db8, ..] | [0x3fff, 0..=0x0fff, ..] => Some("an address for documentation"),
            // Global unicast is 2000::/3, less what is set aside for protocols (2001::/23); all else is special or not given out.
            [0x2001, 0..=0x01ff, ..] => Some("no public address"),
            [first, ..] if first & 0xe000 != 0x2000 => Some("no public address"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inward_and_outward_at_the_edges() {
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
            // Compatible (deprecated), translated, and NAT64 for one's own network (RFC 8215).
            ("::127.0.0.1", true),
            ("::52.218.0.1", true),
            ("::ffff:0:127.0.0.1", true),
            ("64:ff9b:1::7f00:1", true),
            ("64:ff9b::1:34da:1", true),
            // 6to4 and ISATAP, of a private address and of a public one.
            ("2002:a00:1::1", true),
            ("2002:34da:1::1", false),
            ("2a05:d018::5efe:10.0.0.1", true),
            ("2a05:d018::200:5efe:10.0.0.1", true),
            ("2a05:d018::5efe:52.218.0.1", false),
            // Teredo, whatever it carries; protocols; documentation; the edges between.
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
            let found = Outward::default().permit(address, [address.parse().unwrap()]);
            assert_eq!(found.is_err(), inward, "{address}");
        }
    }

    #[test]
    fn what_the_platform_allows() {
        let outward = Outward::new(["10.20.0.0/16".parse().unwrap(), "::1/128".parse().unwrap()]);
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
        // One address that leads inwards is enough.
        let both = ["52.218.0.1".parse().unwrap(), "10.0.0.1".parse().unwrap()];
        assert!(outward.permit("s3.example", both).is_err());
    }

    /// What is denied stays denied, in each spelling of the address and whatever allows it.
    #[test]
    fn denied_network_is_refused_although_it_is_public_or_allowed() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let outward = Outward::new([net("10.20.0.0/16")]).denying([
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
                Outward::nowhere().permit(address, [address.parse().unwrap()]).is_err(),
                "{address}"
            );
        }
        assert!(
            outward.without_clients().check_literal("52.218.0.1").is_err(),
            "its clients deny it, too"
        );
    }

    /// A name is not looked up for whoever has no resolver here.
    #[test]
    fn refusal_of_a_name_tells_nothing_of_its_address() {
        let outward = Outward::default().denying(["52.218.0.0/16".parse::<IpNet>().unwrap()]);
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
        // Who writes an address knows it.
        assert!(said("10.0.0.1", "10.0.0.1").contains("10.0.0.1 is a private address"));
    }

    #[test]
    fn names_that_say_where_they_lead_need_no_lookup() {
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
            assert_eq!(Outward::default().check_literal(host).is_err(), is_refused, "{host}");
        }
        let allowed = ["127.0.0.0/8".parse::<IpNet>().unwrap(), "::1/128".parse().unwrap()];
        assert!(Outward::new(allowed).check_literal("localhost").is_ok());
    }

    #[tokio::test]
    async fn hosts_as_they_stand_in_endpoints() {
        let outward = Outward::default();
        // Spellings that resolvers take for addresses.
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

    /// What one store's client takes of memory is taken once.
    #[test]
    fn stores_share_what_connects() {
        let outward = Outward::default();
        let _first = crate::net::client::Http::new(Some(outward.clone()));
        assert!(outward.clients.plain.get().is_some());
        let of_another = Outward::new(["10.0.0.0/8".parse().unwrap()]);
        assert!(of_another.clients.plain.get().is_none(), "which leads elsewhere");
    }

    #[tokio::test]
    async fn a_connection_is_checked_again() {
        let error = Outward::default().resolve_dns("localhost").await.unwrap_err();
        let inward = StdError::source(&error).and_then(|e| e.downcast_ref::<Inward>());
        assert!(inward.is_some(), "{error:?}");
    }
}
