//! Says which IP addresses and host names are not public.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Removes the square brackets from a host name that is an IPv6 address in brackets.
pub fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

pub fn is_local(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost")
}

/// Returns true if a resolver can read the host as an IP address in an unusual form, such as `127.1`, `0x7f.1` or
/// `2130706433` (URL Standard, "ends in a number"). The last part of a DNS name is never a number.
pub fn ends_in_a_number(host: &str) -> bool {
    let last = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let is_decimal = !last.is_empty() && last.bytes().all(|b| b.is_ascii_digit());
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    is_decimal || hex.is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// If an IPv6 address contains an IPv4 address, returns the IPv4 address. Otherwise returns the address without
/// changes. Four kinds of IPv6 addresses contain an IPv4 address: mapped (RFC 4291), NAT64 (RFC 6052), 6to4 (RFC
/// 3056) and ISATAP (RFC 5214).
pub fn plain(address: IpAddr) -> IpAddr {
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

/// Returns a text that says why an address is not public. A message contains this text after the word "because".
/// Returns `None` for a public address. The IANA registries of special-purpose addresses (RFC 6890) say which addresses
/// are not public.
pub fn class(address: IpAddr) -> Option<&'static str> {
    match plain(address) {
        IpAddr::V4(v4) => class_v4(v4),
        IpAddr::V6(v6) => class_v6(v6),
    }
}

fn class_v4(v4: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, d] = v4.octets();
    match (a, b, c) {
        // The IANA registries list this address as public. On an Azure virtual machine, however, the Azure host
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
            // A Teredo address contains an IPv4 address. The Teredo address does not count as public, even if this IPv4
            // address is public, because a Teredo relay decides which host receives the packets.
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
