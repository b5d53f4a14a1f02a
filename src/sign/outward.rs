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

use super::{http::Connections, names::lookup};

/// Where tenants' endpoints may lead: to public addresses, and into the networks that the platform names.
///
/// Whoever may create an ObjectStore chooses where the operator sends requests. From inside, the operator reaches what
/// a tenant does not: its own loopback, the metadata service of the machine, other teams' services.
///
/// All tenants' stores share the clients that lead there: each has some hundred kilobytes of certificate authorities, and who
/// may make one store may make thousands.
#[derive(Clone, Debug, Default)]
pub struct Outward {
    allowed: Arc<[IpNet]>,
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
    address: Option<IpAddr>,
    class: &'static str,
}

impl fmt::Display for Inward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, address, class } = self;
        match address.filter(|_| host.parse::<IpAddr>().is_err()) {
            None => write!(f, "the endpoint {host} is {class}")?,
            Some(address) => write!(
                f,
                "the endpoint's host {host} has the address {address}, which is {class}"
            )?,
        }
        f.write_str(", where an ObjectStore may not lead; use a public endpoint, or ask the platform team to allow the network (--allow-private-endpoints) or to make a ClusterObjectStore")
    }
}

impl StdError for Inward {}

impl Outward {
    /// Besides public addresses, those in these networks are allowed.
    pub fn new(allowed: impl Into<Arc<[IpNet]>>) -> Self {
        Self {
            allowed: allowed.into(),
            clients: Arc::default(),
        }
    }

    /// The same for the clients themselves, which must not hold each other.
    pub(super) fn without_clients(&self) -> Self {
        Self::new(self.allowed.clone())
    }

    /// Whether a host, as it stands in an endpoint, may be asked. A name is looked up for that; one that is not known
    /// now leads nowhere.
    ///
    /// # Errors
    /// [`Inward`], if one of its addresses lies inwards.
    pub async fn check(&self, host: &str) -> Result<(), Inward> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            Ok(address) => self.permit(bare, [address]),
            Err(_) if ends_in_a_number(bare) => Err(Inward {
                host: bare.to_owned(),
                address: None,
                class: "half an address, which with a bucket's name before it can be a whole one",
            }),
            Err(_) => match lookup(bare).await {
                Ok(addresses) => self.permit(bare, addresses),
                Err(_) => Ok(()),
            },
        }
    }

    /// The same of a host that is an address: nobody looks that up. One that is a name is left to whoever does.
    ///
    /// # Errors
    /// [`Inward`].
    pub fn check_literal(&self, host: &str) -> Result<(), Inward> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        match bare.parse::<IpAddr>() {
            Ok(address) => self.permit(bare, [address]),
            Err(_) => Ok(()),
        }
    }

    fn permit(&self, host: &str, addresses: impl IntoIterator<Item = IpAddr>) -> Result<(), Inward> {
        for address in addresses {
            if let Some(class) = class(address)
                && !self.allowed.iter().any(|net| net.contains(&plain(address)))
            {
                return Err(Inward {
                    host: host.to_owned(),
                    address: Some(address),
                    class,
                });
            }
        }
        Ok(())
    }
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

/// The IPv4 address behind an IPv6 one that stands for it: mapped (RFC 4291), by NAT64 (RFC 6052) or by 6to4 (RFC 3056).
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let [a, b, c, d, .., g, h] = v6.segments();
    let of = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)));
    if let Some(v4) = v6.to_ipv4_mapped() {
        IpAddr::V4(v4)
    } else if [a, b, c, d] == [0x64, 0xff9b, 0, 0] {
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
        (0, ..) | (192, 0, 0) | (198, 18..=19, _) | (224..=255, ..) => Some("no public address"),
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
    // Global unicast is 2000::/3; all else is special or not given out.
    } else if v6.segments()[0] & 0xe000 != 0x2000 {
        Some("no public address")
    } else {
        None
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
            ("192.0.2.1", false),
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
        let error = outward.permit("s3.example", both).unwrap_err().to_string();
        assert!(
            error.contains("s3.example has the address 10.0.0.1, which is a private address"),
            "{error}"
        );
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
        let _first = crate::sign::http::Http::new(Some(outward.clone()));
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
