//! Opens listening sockets, and says what to do when one cannot be opened.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::holder;

/// Connections that the kernel keeps until they are accepted; it cuts this to its own limit.
const BACKLOG: i32 = 65_535;

/// Silence after which the kernel asks whether a peer still lives.
const TCP_KEEPALIVE: Duration = Duration::from_mins(1);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The text is no address.
    #[error("`{address}` is not an address to listen on; write `host:port`, `:8080` or `[::]:8080`")]
    NotAnAddress {
        /// What was given.
        address: String,
    },
    /// The host has no address.
    #[error("`{address}` cannot be listened on: the host was not found: {source}")]
    UnknownHost {
        /// What was given.
        address: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// Somebody listens there already.
    #[error("`{address}`: address already in use{holder}; stop that process or choose another address")]
    InUse {
        /// What was given.
        address: String,
        /// Who holds it, beginning with a space, or nothing.
        holder: String,
    },
    /// The process may not listen there.
    #[error(
        "`{address}`: permission denied; ports below 1024 need root or `CAP_NET_BIND_SERVICE`, or choose a \
         port above 1023"
    )]
    PermissionDenied {
        /// What was given.
        address: String,
    },
    /// Anything else.
    #[error("`{address}` cannot be listened on: {source}")]
    Other {
        /// What was given.
        address: String,
        /// What the system said.
        source: io::Error,
    },
}

/// Opens a listening socket on `address`: `host:port`, `:port` for all interfaces, `[::]:port`.
/// With port 0 the system chooses; `local_addr` tells which.
///
/// # Errors
/// The address is none, is taken, or is not ours to take.
pub fn bind(address: &str) -> Result<TcpListener, BindError> {
    let mut last = None;
    for candidate in candidates(address)? {
        match open(candidate) {
            Ok(listener) => return Ok(listener),
            Err(error) => last = Some((candidate, error)),
        }
        // only a machine without IPv6 is a reason to try IPv4 instead
        if let Some((_, error)) = &last
            && !is_missing_family(error)
        {
            break;
        }
    }
    Err(match last {
        Some((candidate, error)) => explain(address, candidate, error),
        None => BindError::NotAnAddress {
            address: address.to_owned(),
        },
    })
}

/// The socket addresses that `address` may mean, best first.
fn candidates(address: &str) -> Result<Vec<SocketAddr>, BindError> {
    let not_an_address = || BindError::NotAnAddress {
        address: address.to_owned(),
    };
    let (host, port) = address.rsplit_once(':').ok_or_else(not_an_address)?;
    let port: u16 = port.parse().map_err(|_| not_an_address())?;
    if host.is_empty() {
        return Ok(vec![
            SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
            SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
        ]);
    }
    if let Ok(exact) = address.parse() {
        return Ok(vec![exact]);
    }
    if host.contains([':', '[', ']', '/']) {
        return Err(not_an_address());
    }
    let found = (host, port)
        .to_socket_addrs()
        .map_err(|source| BindError::UnknownHost {
            address: address.to_owned(),
            source,
        })?;
    let (mut first, then): (Vec<_>, Vec<_>) = found.partition(SocketAddr::is_ipv4);
    first.extend(then);
    Ok(first)
}

fn open(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv6() {
        AddressFamily::INET6
    } else {
        AddressFamily::INET
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if address.ip() == Ipv6Addr::UNSPECIFIED {
        sockopt::set_ipv6_v6only(&socket, false)?;
    }
    // accepted sockets inherit these
    sockopt::set_tcp_nodelay(&socket, true)?;
    sockopt::set_socket_keepalive(&socket, true)?;
    sockopt::set_tcp_keepidle(&socket, TCP_KEEPALIVE)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

fn is_missing_family(error: &io::Error) -> bool {
    use rustix::io::Errno;
    [Errno::AFNOSUPPORT, Errno::ADDRNOTAVAIL, Errno::PROTONOSUPPORT]
        .iter()
        .any(|errno| error.raw_os_error() == Some(errno.raw_os_error()))
}

fn explain(address: &str, tried: SocketAddr, source: io::Error) -> BindError {
    let address = address.to_owned();
    match source.kind() {
        io::ErrorKind::AddrInUse => {
            let holder =
                holder::of_port(tried.port()).map_or_else(String::new, |holder| format!(" by {holder}"));
            BindError::InUse { address, holder }
        }
        io::ErrorKind::PermissionDenied => BindError::PermissionDenied { address },
        _ => BindError::Other { address, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    #[test]
    fn port_0_tells_the_real_port() {
        let listener = bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert_ne!(address.port(), 0);
        TcpStream::connect(address).unwrap();
    }

    #[test]
    fn a_bare_port_listens_on_all_interfaces() {
        let listener = bind(":0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(address.ip().is_unspecified());
        TcpStream::connect((Ipv4Addr::LOCALHOST, address.port())).unwrap();
        if address.is_ipv6() {
            TcpStream::connect((Ipv6Addr::LOCALHOST, address.port())).unwrap();
        }
    }

    #[test]
    fn a_name_is_resolved() {
        let listener = bind("localhost:0").unwrap();
        assert!(listener.local_addr().unwrap().ip().is_loopback());
    }

    #[test]
    fn a_taken_port_names_the_address_and_its_holder() {
        let holder = bind("127.0.0.1:0").unwrap();
        let address = holder.local_addr().unwrap().to_string();
        let message = bind(&address).unwrap_err().to_string();
        assert!(message.contains("address already in use"), "{message}");
        assert!(message.contains(&address), "{message}");
        if cfg!(target_os = "linux") {
            assert!(
                message.contains(&format!("pid {}", std::process::id())),
                "{message}"
            );
        }
    }

    #[test]
    fn a_forbidden_port_says_what_to_do() {
        let denied = io::Error::from(io::ErrorKind::PermissionDenied);
        let message = explain(":80", SocketAddr::from(([0, 0, 0, 0], 80)), denied).to_string();
        assert!(message.contains("permission denied"), "{message}");
        assert!(message.contains("CAP_NET_BIND_SERVICE"), "{message}");
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for address in [
            "",
            "8080",
            "host",
            "host:port",
            "::8080",
            "[::]",
            "1.2.3.4:99999",
            "unix:/run/x",
        ] {
            let error = bind(address).unwrap_err();
            assert!(
                matches!(error, BindError::NotAnAddress { .. }),
                "{address}: {error}"
            );
        }
    }

    #[test]
    fn accepted_sockets_have_no_delay() {
        let listener = bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(false).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        assert!(socket.nodelay().unwrap());
    }
}
