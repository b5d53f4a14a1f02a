//! Creates the keys and certificates of the control plane with openssl.

use std::{net::Ipv4Addr, process::Command, time::Duration};

use crate::{Result, Scratch, process};

/// Creates a CA, the certificate of an apiserver at `address`, a client certificate for requests of the apiserver to
/// kubelets, and the key that signs service account tokens. The keys are elliptic curve keys, because RSA keys make
/// openssl and every handshake much slower.
pub(crate) fn make(scratch: &Scratch, address: Ipv4Addr) -> Result<()> {
    openssl(
        scratch,
        "ecparam -name prime256v1 -genkey -noout -out service-account.key",
    )?;
    make_authority(scratch, address)
}

/// Replaces all keys and certificates except the key of service account tokens.
pub(crate) fn make_authority(scratch: &Scratch, address: Ipv4Addr) -> Result<()> {
    // 10.96.0.1 is the address of the Service `kubernetes`, which pods use for the apiserver.
    scratch.write(
        "tls.ext",
        format!(
            "subjectAltName=IP:{address},IP:10.96.0.1,DNS:localhost,DNS:kubernetes.default.svc\n\
             basicConstraints=critical,CA:FALSE\n"
        ),
    )?;
    scratch.write("client.ext", "extendedKeyUsage=clientAuth\n")?;
    let request = "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    let sign = "x509 -req -days 30 -CA ca.crt -CAkey ca.key -CAcreateserial";
    for line in [
        format!("{request} -x509 -days 30 -subj /CN=valet-test-ca -keyout ca.key -out ca.crt"),
        format!("{request} -subj /CN=kube-apiserver -keyout tls.key -out tls.csr"),
        format!("{sign} -in tls.csr -extfile tls.ext -out tls.crt"),
        format!("{request} -subj /O=system:masters/CN=kube-apiserver -keyout client.key -out client.csr"),
        format!("{sign} -in client.csr -extfile client.ext -out client.crt"),
    ] {
        openssl(scratch, &line)?;
    }
    Ok(())
}

fn openssl(scratch: &Scratch, line: &str) -> Result<()> {
    let mut command = process::clean(Command::new("openssl"));
    command.current_dir(scratch.path()).args(line.split(' '));
    process::run_ok(command, &[], Duration::from_secs(30))?;
    Ok(())
}

pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let number = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for digit in 0..4 {
            let at = (number >> (18 - 6 * digit)) & 63;
            text.push(if digit > chunk.len() {
                '='
            } else {
                char::from(DIGITS[at as usize])
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn base64_follows_rfc_4648() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
        ] {
            assert_eq!(super::base64(plain.as_bytes()), coded);
        }
    }
}
