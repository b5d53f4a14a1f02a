//! An HTTP proxy as in a company network. It supports only `CONNECT`.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

use crate::{Context, Result};

/// A CONNECT request that the proxy received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connect {
    /// The requested address, `HOST:PORT`.
    pub to: String,
    /// The value of the header `Proxy-Authorization`.
    pub authorization: Option<String>,
}

/// A proxy on a loopback port. It runs until the process ends.
pub struct Proxy {
    port: u16,
    asked: Arc<Mutex<Vec<Connect>>>,
}

impl Proxy {
    /// Starts a proxy. A request for the first address of a detour is connected to the second address, so that a host
    /// is reachable only through the proxy. All other requests are connected to the requested address.
    ///
    /// # Errors
    /// Returns an error if there is no free port.
    pub fn start(detours: Vec<(String, String)>) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").context("a port for a proxy")?;
        let port = listener.local_addr().context("the proxy's port")?.port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (seen, detours) = (asked.clone(), Arc::new(detours));
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (seen, detours) = (seen.clone(), detours.clone());
                // Errors of a connection only end this connection.
                thread::spawn(move || tunnel(client, &detours, &seen));
            }
        });
        Ok(Self { port, asked })
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The requests that the proxy has received.
    pub fn asked(&self) -> Vec<Connect> {
        self.asked.lock().expect("no thread panics").clone()
    }
}

fn tunnel(client: TcpStream, detours: &[(String, String)], seen: &Mutex<Vec<Connect>>) -> io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut authorization = None;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let header = header.trim_end();
        if header.is_empty() {
            break;
        }
        if let Some((name, value)) = header.split_once(": ")
            && name.eq_ignore_ascii_case("proxy-authorization")
        {
            authorization = Some(value.to_owned());
        }
    }
    let mut client = client;
    let Some(to) = line.strip_prefix("CONNECT ").and_then(|l| l.split(' ').next()) else {
        return client.write_all(b"HTTP/1.1 405 Method Not Allowed\r\ncontent-length: 0\r\n\r\n");
    };
    let to = to.to_owned();
    let detour = detours.iter().find(|(from, _)| *from == to);
    let address = detour.map_or(to.clone(), |(_, there)| there.clone());
    seen.lock()
        .expect("no thread panics")
        .push(Connect { to, authorization });
    let Ok(server) = TcpStream::connect(address) else {
        return client.write_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n");
    };
    client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    let (mut up, mut down) = (server.try_clone()?, server);
    let back = thread::spawn(move || {
        let end = io::copy(&mut down, &mut client);
        let _ = client.shutdown(Shutdown::Both);
        end
    });
    // The reader can already hold bytes that arrived with the request.
    io::copy(&mut reader, &mut up)?;
    up.shutdown(Shutdown::Write)?;
    let _ = back.join();
    Ok(())
}
