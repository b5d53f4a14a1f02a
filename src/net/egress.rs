//! The egress rules: they decide which addresses the stores of tenants can use.

use std::{
    error::Error as StdError,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns, ResolveDnsError};
use ipnet::IpNet;

use super::{
    address::{bare, class, ends_in_a_number, is_local, plain},
    dns::lookup,
};

/// The networks that the stores of tenants can use: public addresses and the networks that the platform team allows,
/// except the networks that the platform team denies.
#[derive(Clone, Debug, Default)]
pub struct EgressRules {
    allowed: Arc<[IpNet]>,
    denied: Arc<[IpNet]>,
}

/// The error for an endpoint whose address is private, special or denied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressDenied {
    host: String,
    /// The reason why the address is not permitted, for example "the address is private". The reason is `None` if the
    /// address comes from a DNS lookup.
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

impl EgressRules {
    /// Creates rules that permit public addresses and the networks in `allowed`.
    pub fn new(allowed: impl Into<Arc<[IpNet]>>) -> Self {
        Self {
            allowed: allowed.into(),
            denied: Arc::default(),
        }
    }

    /// Denies these networks, even if they are public or the platform team allows them.
    #[must_use]
    pub fn denying(self, denied: impl Into<Arc<[IpNet]>>) -> Self {
        Self {
            denied: denied.into(),
            ..self
        }
    }

    /// Creates rules that deny all addresses.
    pub fn deny_all() -> Self {
        let all = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
        let all: Vec<_> = all.into_iter().filter_map(|ip| IpNet::new(ip, 0).ok()).collect();
        Self::default().denying(all)
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
            Err(_) if ends_in_a_number(bare) => inward(
                "the host ends with a number, and a resolver can read such a host as an IP address, with or without a bucket name in front of the host",
            ),
            // RFC 6761 ("Special-Use Domain Names") reserves `localhost` and all names below it for loopback addresses.
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

/// For each connection, the DNS resolver checks the addresses of the name again. The DNS records can change after an
/// earlier check.
impl ResolveDns for EgressRules {
    fn resolve_dns<'a>(&'a self, name: &'a str) -> DnsFuture<'a> {
        DnsFuture::new(async move {
            let addresses = lookup(name).await.map_err(ResolveDnsError::new)?;
            self.permit(name, addresses.iter().copied())
                .map_err(ResolveDnsError::new)?;
            Ok(addresses)
        })
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
            // These IPv6 addresses contain an IPv4 address. They are IPv4-compatible addresses (deprecated),
            // IPv4-translated addresses and local-use NAT64 addresses (RFC 8215).
            ("::127.0.0.1", true),
            ("::52.218.0.1", true),
            ("::ffff:0:127.0.0.1", true),
            ("64:ff9b:1::7f00:1", true),
            ("64:ff9b::1:34da:1", true),
            // These are 6to4 and ISATAP addresses. An address of these two kinds contains an IPv4 address. The test
            // uses private and public IPv4 addresses.
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
            let found = EgressRules::default().permit(address, [address.parse().unwrap()]);
            assert_eq!(found.is_err(), inward, "{address}");
        }
    }

    #[test]
    fn allowed_internal_networks_are_permitted() {
        let egress = EgressRules::new(["10.20.0.0/16".parse().unwrap(), "::1/128".parse().unwrap()]);
        for (address, allowed) in [
            ("10.20.0.1", true),
            ("::ffff:10.20.255.255", true),
            ("10.21.0.0", false),
            ("127.0.0.1", false),
            ("::1", true),
        ] {
            assert_eq!(
                egress.permit(address, [address.parse().unwrap()]).is_ok(),
                allowed,
                "{address}"
            );
        }
        // The policy refuses a host if at least one address of the host is not permitted.
        let both = ["52.218.0.1".parse().unwrap(), "10.0.0.1".parse().unwrap()];
        assert!(egress.permit("s3.example", both).is_err());
    }

    /// The policy refuses a denied network in every notation of its addresses, even if the platform team also allows
    /// the network.
    #[test]
    fn denied_network_is_refused_even_if_it_is_public_or_allowed() {
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        let egress = EgressRules::new([net("10.20.0.0/16")]).denying([
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
            let found = egress.permit(address, [address.parse().unwrap()]);
            assert_eq!(found.is_ok(), allowed, "{address}");
        }
        for address in ["52.218.128.0", "2a05:d018::1", "127.0.0.1"] {
            assert!(
                EgressRules::deny_all()
                    .permit(address, [address.parse().unwrap()])
                    .is_err(),
                "{address}"
            );
        }
        assert!(
            egress.clone().check_literal("52.218.0.1").is_err(),
            "a copy of the rules must deny the same addresses as the original rules"
        );
    }

    /// A tenant must not be able to use the operator to resolve internal names.
    #[test]
    fn refusal_of_a_host_name_does_not_show_its_address() {
        let egress = EgressRules::default().denying(["52.218.0.0/16".parse::<IpNet>().unwrap()]);
        let said =
            |host: &str, address: &str| egress.permit(host, [address.parse().unwrap()]).unwrap_err().to_string();
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
                EgressRules::default().check_literal(host).is_err(),
                is_refused,
                "{host}"
            );
        }
        let allowed = ["127.0.0.0/8".parse::<IpNet>().unwrap(), "::1/128".parse().unwrap()];
        assert!(EgressRules::new(allowed).check_literal("localhost").is_ok());
    }

    #[tokio::test]
    async fn endpoint_host_in_any_notation_of_an_internal_ip_is_refused() {
        let egress = EgressRules::default();
        // The system's DNS resolver converts each of these hosts into an internal IP address.
        for host in [
            "localhost",
            "127.1",
            "2130706433",
            "0x7f.1",
            "[::1]",
            "::1",
            "127.0.0.1",
        ] {
            assert!(egress.check(host).await.is_err(), "{host}");
        }
        assert_eq!(egress.check("no-such-host.invalid").await, Ok(()));
        assert_eq!(egress.check("52.218.0.1").await, Ok(()));
    }

    #[tokio::test]
    async fn resolved_address_is_checked_again_at_the_connection() {
        let error = EgressRules::default().resolve_dns("localhost").await.unwrap_err();
        let inward = StdError::source(&error).and_then(|e| e.downcast_ref::<EgressDenied>());
        assert!(inward.is_some(), "{error:?}");
    }
}
