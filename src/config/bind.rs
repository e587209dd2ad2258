//! The one way out that a person allows: an address of this machine, or a network interface.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

/// The longest name of an interface, in bytes (`IFNAMSIZ` less its final zero, on Linux).
const MAX_NAME: usize = 15;

/// What every socket of a session is bound to. Where it is gone, nothing is sent at all.
///
/// It is read from text: an IP address, or else the name of an interface.
///
/// ```
/// use ropewalk::Bind;
///
/// assert_eq!("192.0.2.7".parse(), Ok(Bind::Addr([192, 0, 2, 7].into())));
/// assert_eq!("wg0".parse(), Ok(Bind::Interface("wg0".into())));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Bind {
    /// This address, and on Linux the interface that has it; 0.0.0.0 and :: are any address of their family.
    Addr(IpAddr),
    /// The interface of this name, and its address of each family.
    Interface(String),
}

/// Why a text is neither an address nor an interface.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is neither an IP address nor the name of a network interface, which has 1 to {MAX_NAME} bytes without \
     spaces, / and :"
)]
pub struct BindSyntax(String);

impl Bind {
    /// Whether an address of this family can be reached at all; what an interface has is only known once it is used.
    pub fn may_reach(&self, addr: &SocketAddr) -> bool {
        match self {
            Self::Addr(ip) => ip.is_ipv4() == addr.is_ipv4(),
            Self::Interface(_) => true,
        }
    }
}

impl FromStr for Bind {
    type Err = BindSyntax;

    fn from_str(text: &str) -> Result<Self, BindSyntax> {
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Self::Addr(ip.to_canonical()));
        }
        let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':');
        if text.is_empty() || text.len() > MAX_NAME || text == "." || text == ".." || text.contains(bad) {
            return Err(BindSyntax(text.chars().take(64).collect()));
        }
        Ok(Self::Interface(text.to_owned()))
    }
}

impl From<IpAddr> for Bind {
    fn from(ip: IpAddr) -> Self {
        Self::Addr(ip)
    }
}

impl From<Ipv4Addr> for Bind {
    fn from(ip: Ipv4Addr) -> Self {
        Self::Addr(ip.into())
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Addr(ip) => ip.fmt(f),
            Self::Interface(name) => name.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Bind;

    #[test]
    fn an_address_is_an_address_and_anything_else_a_name() {
        for (text, expected) in [
            ("127.0.0.1", Some(Bind::Addr([127, 0, 0, 1].into()))),
            ("::1", Some(Bind::Addr("::1".parse().unwrap()))),
            ("::ffff:192.0.2.1", Some(Bind::Addr([192, 0, 2, 1].into()))),
            ("tun0", Some(Bind::Interface("tun0".into()))),
            ("enp0s31f6.100", Some(Bind::Interface("enp0s31f6.100".into()))),
            ("", None),
            ("..", None),
            ("a/b", None),
            ("eth 0", None),
            ("fe80::1%eth0", None),
            ("0123456789abcdef", None),
        ] {
            assert_eq!(text.parse().ok(), expected, "{text:?}");
        }
    }
}
