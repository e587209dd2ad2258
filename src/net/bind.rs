//! Where sockets are made: all of them, by [`dialling`], [`listening`] and [`multicast`], on the one way out that
//! [`Bind`] allows.
//!
//! It owns what "bound" means. A socket is bound to an address, so that it has the right source, and on Linux to the
//! interface that has the address (`SO_BINDTODEVICE`), so that the kernel sends by no other, whatever its routes say: an
//! address alone outlives the link, and a packet with its source would leave by the default route. It refuses to make a
//! socket where that is not possible. A socket that is bound so does not reach the same machine under the address of an
//! interface other than loopback.
//!
//! What it cannot bind is the system's name service, which asks in its own way.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::atomic::{AtomicBool, Ordering};

use if_addrs::{IfAddr, get_if_addrs};
use socket2::{Domain, InterfaceIndexOrAddress, Protocol, Socket, Type};

use crate::config::Bind;

/// Why there is no way out that may be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// No interface has this name.
    #[error("there is no network interface {name} (there are: {others})")]
    NoInterface {
        /// As it was asked for.
        name: String,
        /// Those that there are, with commas.
        others: String,
    },
    /// The interface is there and cannot be used.
    #[error("the network interface {0} is down")]
    Down(String),
    /// The interface has no address.
    #[error("the network interface {0} has no IP address")]
    NoAddress(String),
    /// The interface, or the address that was asked for, is not of the family that is needed.
    #[error("{bind} has no {} address", if *.v6 { "IPv6" } else { "IPv4" })]
    NoFamily {
        /// What was asked for.
        bind: Bind,
        /// The family that is needed: IPv6, or else IPv4.
        v6: bool,
    },
    /// No interface has this address.
    #[error("no network interface has the address {0}")]
    NoSuchAddress(IpAddr),
    /// The kernel does not let this process bind to an interface.
    #[error("the system does not allow to bind to the network interface {0}, which takes Linux 5.7 or CAP_NET_RAW")]
    NotAllowed(String),
    /// The interfaces could not be listed.
    #[error("cannot list the network interfaces: {0}")]
    System(io::Error),
}

/// An interface that may be used, with its addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) index: u32,
    /// The source of what leaves by it.
    pub(crate) v4: Option<Ipv4Addr>,
    pub(crate) v6: Option<Ipv6Addr>,
}

/// A TCP or UDP socket to connect to `to`, or to send there, from the right place.
pub(crate) fn dialling(bind: Option<&Bind>, to: SocketAddr, kind: Type) -> io::Result<Socket> {
    match bind {
        None => new(Domain::for_address(to), kind),
        Some(bind) => bound(bind, to.is_ipv6(), None, kind),
    }
}

/// A TCP or UDP socket on `port` (0: any) of one family, for others to reach. Unbound it is on every address.
///
/// TCP may take a port that an earlier run left in `TIME_WAIT`.
pub(crate) fn listening(bind: Option<&Bind>, v6: bool, port: u16, kind: Type) -> io::Result<Socket> {
    match bind {
        Some(bind) => bound(bind, v6, Some(port), kind),
        None => {
            let any = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
            on(SocketAddr::new(any, port), None, kind, true)
        }
    }
}

/// The interfaces that lead to neighbours, loopback and point-to-point ones left out, as far as `bind` allows them.
pub(crate) fn neighbourhoods(bind: Option<&Bind>) -> Result<Vec<Interface>, BindError> {
    let way = bind.map_or(Ok(None), look)?;
    let any = bind.and_then(|bind| if let Bind::Addr(ip) = bind { Some(ip.is_ipv6()) } else { None });
    let all = interfaces().map_err(BindError::System)?.into_iter().filter(|listed| listed.up && listed.has_neighbours);
    let allowed = all.filter_map(|Listed { interface, .. }| match (&way, any) {
        (Some(way), _) => (interface.index == way.index).then(|| way.clone()),
        (None, Some(true)) => Some(Interface { v4: None, ..interface }),
        (None, Some(false)) => Some(Interface { v6: None, ..interface }),
        (None, None) => Some(interface),
    });
    Ok(allowed.collect())
}

/// A UDP socket that hears what is sent to `group` by one interface, and sends there: to no further than the next router.
/// Others may listen on the same port. It does not block.
pub(crate) fn multicast(bind: Option<&Bind>, interface: &Interface, group: SocketAddr) -> io::Result<Socket> {
    let socket = new(Domain::for_address(group), Type::DGRAM)?;
    socket.set_reuse_address(true)?;
    if let Some(bind) = bind {
        hold_to(&socket, &interface.name, matches!(bind, Bind::Interface(_)))?;
    }
    match group.ip() {
        IpAddr::V4(ip) => {
            let from = interface.v4.ok_or(io::ErrorKind::AddrNotAvailable)?;
            // Bound to the group, so that nothing is heard but what is sent to it, by this interface alone.
            socket.bind(&group.into())?;
            #[cfg(target_os = "linux")]
            socket.set_multicast_all_v4(false)?;
            socket.join_multicast_v4_n(&ip, &InterfaceIndexOrAddress::Index(interface.index))?;
            socket.set_multicast_if_v4(&from)?;
            socket.set_multicast_ttl_v4(1)?;
            socket.set_multicast_loop_v4(true)?;
        }
        IpAddr::V6(ip) => {
            socket.set_only_v6(true)?;
            socket.bind(&SocketAddrV6::new(ip, group.port(), 0, interface.index).into())?;
            #[cfg(target_os = "linux")]
            socket.set_multicast_all_v6(false)?;
            socket.join_multicast_v6(&ip, interface.index)?;
            socket.set_multicast_if_v6(interface.index)?;
            socket.set_multicast_hops_v6(1)?;
            socket.set_multicast_loop_v6(true)?;
        }
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Whether there is a way out, and which; `None` where nothing is asked for and the system chooses.
pub(crate) fn look(bind: &Bind) -> Result<Option<Interface>, BindError> {
    match bind {
        Bind::Addr(ip) if ip.is_unspecified() => Ok(None),
        Bind::Addr(ip) => {
            let all = get_if_addrs().map_err(BindError::System)?;
            // All of 127.0.0.0/8 is the loopback interface's, which lists one.
            let has = |there: &if_addrs::Interface| {
                there.ip() == *ip || (ip.is_ipv4() && ip.is_loopback() && there.ip().is_ipv4() && there.is_loopback())
            };
            let found = all.iter().find(|there| has(there)).ok_or(BindError::NoSuchAddress(*ip))?;
            if !found.is_oper_up() {
                return Err(BindError::Down(found.name.clone()));
            }
            let index = found.index.unwrap_or(0);
            let (v4, v6) = match ip {
                IpAddr::V4(ip) => (Some(*ip), None),
                IpAddr::V6(ip) => (None, Some(*ip)),
            };
            Ok(Some(Interface { name: found.name.clone(), index, v4, v6 }))
        }
        Bind::Interface(name) => {
            let all = interfaces().map_err(BindError::System)?;
            match all.into_iter().find(|listed| listed.interface.name == *name) {
                Some(Listed { interface, up: true, .. }) => Ok(Some(interface)),
                Some(_) => Err(BindError::Down(name.clone())),
                None if exists(name) => Err(BindError::NoAddress(name.clone())),
                None => {
                    let others = interfaces().map_err(BindError::System)?;
                    let others: Vec<_> = others.into_iter().map(|listed| listed.interface.name).collect();
                    Err(BindError::NoInterface { name: name.clone(), others: others.join(", ") })
                }
            }
        }
    }
}

/// Whether an error says that what we are bound to is gone, so that the other side is not to blame.
pub(crate) fn is_cut_off(error: &io::Error) -> bool {
    source(error).is_some_and(|error| !matches!(error, BindError::NoFamily { .. }))
}

/// Whether an error says that what we are bound to has no address of the family.
pub(crate) fn is_no_family(error: &io::Error) -> bool {
    source(error).is_some_and(|error| matches!(error, BindError::NoFamily { .. }))
}

fn source(error: &io::Error) -> Option<&BindError> {
    error.get_ref().and_then(|inner| inner.downcast_ref())
}

impl Bind {
    /// Whether it can be bound to now.
    pub fn check(&self) -> Result<(), BindError> {
        look(self).map(drop)
    }
}

impl From<BindError> for io::Error {
    fn from(error: BindError) -> Self {
        Self::new(io::ErrorKind::AddrNotAvailable, error)
    }
}

/// An interface that has an address.
struct Listed {
    interface: Interface,
    up: bool,
    /// It is neither loopback nor leads to a single other end.
    has_neighbours: bool,
}

fn interfaces() -> io::Result<Vec<Listed>> {
    let mut found: Vec<Listed> = Vec::new();
    for there in get_if_addrs()? {
        let at = found.iter().position(|listed| listed.interface.name == there.name).unwrap_or_else(|| {
            let interface = Interface { name: there.name.clone(), index: there.index.unwrap_or(0), v4: None, v6: None };
            found.push(Listed { interface, up: there.is_oper_up(), has_neighbours: !there.is_p2p() });
            found.len() - 1
        });
        found[at].has_neighbours &= !there.is_loopback();
        let interface = &mut found[at].interface;
        match there.addr {
            IfAddr::V4(addr) => drop(interface.v4.get_or_insert(addr.ip)),
            // One that the whole world can answer to comes before one of the site, and that before one of the link.
            IfAddr::V6(addr) if interface.v6.is_none_or(|best| rank(addr.ip) < rank(best)) => {
                interface.v6 = Some(addr.ip);
            }
            IfAddr::V6(_) => {}
        }
    }
    Ok(found)
}

fn rank(ip: Ipv6Addr) -> u8 {
    if ip.is_unicast_link_local() { 2 } else { u8::from(ip.is_unique_local()) }
}

/// A socket on the way out that `bind` allows, or none at all. With a port it is one to listen on.
fn bound(bind: &Bind, v6: bool, port: Option<u16>, kind: Type) -> io::Result<Socket> {
    let no_family = || BindError::NoFamily { bind: bind.clone(), v6 };
    let Some(interface) = look(bind)? else {
        let Bind::Addr(ip) = bind else { unreachable!("only an address can be unspecified") };
        if ip.is_ipv6() != v6 {
            return Err(no_family().into());
        }
        return on(SocketAddr::new(*ip, port.unwrap_or(0)), None, kind, port.is_some());
    };
    let ip = if v6 { interface.v6.map(IpAddr::V6) } else { interface.v4.map(IpAddr::V4) };
    let ip = ip.ok_or_else(no_family)?;
    on(interface.socket_addr(ip, port.unwrap_or(0)), Some((&interface, bind)), kind, port.is_some())
}

/// A socket on a local address, and with it on an interface.
fn on(addr: SocketAddr, interface: Option<(&Interface, &Bind)>, kind: Type, listens: bool) -> io::Result<Socket> {
    let socket = new(Domain::for_address(addr), kind)?;
    if addr.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    #[cfg(unix)]
    if listens && kind == Type::STREAM {
        socket.set_reuse_address(true)?;
    }
    if let Some((interface, bind)) = interface {
        hold_to(&socket, &interface.name, matches!(bind, Bind::Interface(_)))?;
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}

/// Keeps what is sent, and what is heard, to an interface. Where that is not allowed and not `strict`ly needed, the address
/// alone has to do.
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn hold_to(socket: &Socket, interface: &str, strict: bool) -> io::Result<()> {
    /// Said once.
    static SAID: AtomicBool = AtomicBool::new(false);
    match socket.bind_device(Some(interface.as_bytes())) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let error = BindError::NotAllowed(interface.to_owned());
            if strict {
                return Err(error.into());
            }
            if !SAID.swap(true, Ordering::Relaxed) {
                log::warn!("{error}: sockets are bound to the address alone");
            }
            Ok(())
        }
        // It was there a moment ago.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Err(BindError::Down(interface.to_owned()).into()),
        result => result,
    }
}

/// Elsewhere the address has to do.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn hold_to(_: &Socket, _: &str, _: bool) -> io::Result<()> {
    Ok(())
}

fn new(domain: Domain, kind: Type) -> io::Result<Socket> {
    let protocol = if kind == Type::STREAM { Protocol::TCP } else { Protocol::UDP };
    Socket::new(domain, kind, Some(protocol))
}

/// Whether there is an interface of this name, with or without addresses.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn exists(name: &str) -> bool {
    let socket = new(Domain::IPV4, Type::DGRAM);
    socket.is_ok_and(|socket| rustix::net::netdevice::name_to_index(&socket, name).is_ok())
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn exists(_: &str) -> bool {
    false
}

impl Interface {
    /// A local address of this interface, with the scope that one of the link alone needs.
    fn socket_addr(&self, ip: IpAddr, port: u16) -> SocketAddr {
        match ip {
            IpAddr::V6(v6) if v6.is_unicast_link_local() => SocketAddrV6::new(v6, port, 0, self.index).into(),
            ip => SocketAddr::new(ip, port),
        }
    }
}
