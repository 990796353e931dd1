//! Ports of programs that must be told where they listen before they do.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

/// Below those that the system gives out by itself, to listeners and connections.
const FIRST: u16 = 20_000;
const COUNT: u16 = 8_000;

/// Where a program of this test will listen. No other test on this machine is given the
/// address until this one ends: it holds the UDP port of the same number.
pub fn reserved() -> SocketAddr {
    let begin = rand::random_range(0..COUNT);
    let addresses = (0..COUNT).map(|n| {
        let port = FIRST + (begin + n) % COUNT;
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    });
    let mut free = addresses.filter(|address| {
        let Ok(held) = UdpSocket::bind(address) else {
            return false;
        };
        // It may be of a program that is none of ours.
        let is_free = TcpListener::bind(address).is_ok();
        if is_free {
            // A test is a process, and lets go of it with its end.
            std::mem::forget(held);
        }
        is_free
    });
    free.next().expect("an address that nobody has")
}
