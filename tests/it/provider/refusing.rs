//! Addresses where nobody answers: one that refuses, one that never completes a connection.

use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};

/// A port that is taken and does not listen: every connection is refused.
pub struct Refusing {
    address: SocketAddr,
    _socket: OwnedFd,
}

impl Refusing {
    /// Takes a port.
    pub fn start() -> Self {
        let (socket, address) = taken_port();
        Self {
            address,
            _socket: socket,
        }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// A port whose queue is full: connections to it hang.
pub struct Deaf {
    address: SocketAddr,
    _socket: OwnedFd,
    _queued: Vec<TcpStream>,
}

impl Deaf {
    /// Takes a port and fills its queue.
    pub fn start() -> Self {
        let (socket, address) = taken_port();
        listen(&socket, 0).expect("listen");
        let mut queued = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
            queued.push(stream);
            assert!(queued.len() < 20, "the queue of the deaf port never fills");
        }
        Self {
            address,
            _socket: socket,
            _queued: queued,
        }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

fn taken_port() -> (OwnedFd, SocketAddr) {
    let descriptor = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
    let any: SocketAddrV4 = "127.0.0.1:0".parse().expect("an address");
    bind(&descriptor, &any).expect("a port");
    let address = getsockname(&descriptor).expect("its address");
    let address = SocketAddrV4::try_from(address).expect("an IPv4 address");
    (descriptor, SocketAddr::V4(address))
}
