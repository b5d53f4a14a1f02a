//! Free loopback ports, and a minimal HTTP client for servers on this machine.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::Mutex,
    time::Duration,
};

use crate::{Context, Error, Result};

/// Ports that this process has already used.
static TAKEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Returns a loopback port on which nothing listens, and which this process has not used before.
///
/// The port is outside the range that the kernel uses for outgoing connections. Inside this range, a client that
/// repeatedly connects to a stopped server can get this port as its own source port and connect to itself. Then the
/// server cannot start again.
///
/// Another process can still take the port before the server listens, so code that starts a server must retry.
///
/// # Errors
/// Returns an error if there is no free port.
pub fn free_port() -> Result<u16> {
    let mut taken = TAKEN.lock().unwrap_or_else(|poison| poison.into_inner());
    let outgoing = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let first_outgoing: u16 = outgoing
        .split_whitespace()
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(32768);
    let range = if first_outgoing > 21_000 {
        20_000..first_outgoing
    } else {
        // The kernel's range is larger than usual, so any port can conflict.
        20_000..60_000
    };
    let width = u32::from(range.end - range.start);
    // Parallel runs start their search at different ports.
    let start = random_u32()? % width;
    for offset in 0..width {
        let port = range.start + u16::try_from((start + offset) % width).expect("below the width of a range of u16");
        if !taken.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            taken.insert(port);
            return Ok(port);
        }
    }
    Err(Error::new("no free port on 127.0.0.1"))
}

fn random_u32() -> Result<u32> {
    let mut bytes = [0; 4];
    random(&mut bytes)?;
    Ok(u32::from_ne_bytes(bytes))
}

fn random(bytes: &mut [u8]) -> Result<()> {
    fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(bytes))
        .context("cannot read /dev/urandom")
}

/// Returns `bytes` random bytes in hexadecimal, for passwords in a test.
///
/// # Errors
/// Returns an error if the system has no source of random numbers.
pub fn random_hex(bytes: usize) -> Result<String> {
    let mut buffer = vec![0; bytes];
    random(&mut buffer)?;
    Ok(buffer.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Whether a server accepts connections on a loopback port.
pub fn listens(port: u16) -> bool {
    listens_at(Ipv4Addr::LOCALHOST, port)
}

/// As [`listens`], for an address of this machine.
pub fn listens_at(address: Ipv4Addr, port: u16) -> bool {
    TcpStream::connect_timeout(&SocketAddr::from((address, port)), Duration::from_secs(1)).is_ok()
}

/// Sends `GET http://127.0.0.1:PORT/PATH` and returns the status code and the body. The timeout is 10 s without a
/// byte.
///
/// # Errors
/// Returns an error if there is no response, or no HTTP response.
pub fn http_get(port: u16, path: &str) -> Result<(u16, String)> {
    http_get_at(Ipv4Addr::LOCALHOST, port, path)
}

/// As [`http_get`], for an address of this machine.
///
/// # Errors
/// As [`http_get`].
pub fn http_get_at(address: Ipv4Addr, port: u16, path: &str) -> Result<(u16, String)> {
    let at = SocketAddr::from((address, port));
    let what = format!("GET http://{at}{path}");
    let mut stream = TcpStream::connect_timeout(&at, Duration::from_secs(1)).context(&what)?;
    let silence = Some(Duration::from_secs(10));
    stream.set_read_timeout(silence).context(&what)?;
    stream.set_write_timeout(silence).context(&what)?;
    // HTTP/1.0 has no chunked bodies, so the response ends when the connection is closed.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {at}\r\n\r\n").context(&what)?;
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).context(&what)?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text
        .split_once("\r\n\r\n")
        .context(format_args!("{what}: no HTTP answer"))?;
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse().ok())
        .context(format_args!("{what}: no HTTP status in {head:?}"))?;
    Ok((status, body.to_owned()))
}
