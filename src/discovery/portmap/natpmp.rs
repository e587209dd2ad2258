//! NAT-PMP (RFC 6886) and PCP (RFC 6887) as bytes: requests to a gateway and its answers, UDP, port 5351, big endian.
//!
//! ```text
//! NAT-PMP  0 | 0                                              the outside address?
//!          0 | 1 UDP, 2 TCP | 0 0 | inside port | wanted outside port | lifetime
//! answer   0 | 128 + operation | result | epoch | address,  or  inside port | outside port | lifetime
//!
//! PCP MAP  2 | 1 | 0 0 | lifetime | our address (16)
//!          nonce (12) | 6 TCP, 17 UDP | 0 0 0 | inside port | wanted outside port | wanted address (16)
//! answer   2 | 129 | 0 | result | lifetime | epoch | 0 (12) | nonce and so on, as granted
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Transport;
use crate::wire::{Reader, Truncated};

/// The port of gateways.
pub(super) const PORT: u16 = 5351;
/// No answer is longer than this (RFC 6887, 7).
pub(super) const MAX_DATAGRAM: usize = 1100;

const PCP_VERSION: u8 = 2;
const NATPMP_VERSION: u8 = 0;
const RESPONSE: u8 = 128;
const MAP: u8 = 1;

/// A mapping to ask for; a lifetime of 0 deletes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct MapRequest {
    pub(super) transport: Transport,
    pub(super) inside: u16,
    /// What is wanted; the gateway may give another.
    pub(super) outside: u16,
    /// In seconds.
    pub(super) lifetime: u32,
}

/// What a gateway granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    pub(super) outside: u16,
    /// `None` where another question has to be asked.
    pub(super) address: Option<IpAddr>,
    /// In seconds.
    pub(super) lifetime: u32,
    /// Seconds since the gateway forgot all mappings.
    pub(super) epoch: u32,
}

/// Why a datagram brings no mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum AnswerError {
    /// It is the answer to something else, or none: the right one may follow.
    #[error("not the answer")]
    Other,
    /// It does not speak this version of the protocol.
    #[error("the gateway does not speak this protocol")]
    Version,
    /// It says no.
    #[error("the gateway refuses: {}", meaning(*.0))]
    Refused(u8),
}

impl From<Truncated> for AnswerError {
    fn from(_: Truncated) -> Self {
        Self::Other
    }
}

impl MapRequest {
    pub(super) fn encode_natpmp(&self) -> Vec<u8> {
        let operation = if self.transport == Transport::Udp { 1 } else { 2 };
        let mut bytes = vec![NATPMP_VERSION, operation, 0, 0];
        bytes.extend(self.inside.to_be_bytes());
        // A deletion names no port outside (RFC 6886, 3.4).
        bytes.extend(if self.lifetime == 0 { 0 } else { self.outside }.to_be_bytes());
        bytes.extend(self.lifetime.to_be_bytes());
        bytes
    }

    pub(super) fn decode_natpmp(&self, datagram: &[u8]) -> Result<Granted, AnswerError> {
        let operation = if self.transport == Transport::Udp { 1 } else { 2 };
        let mut reader = Reader::new(datagram);
        let epoch = natpmp_head(&mut reader, operation)?;
        let inside = u16::from_be_bytes(reader.array()?);
        let outside = u16::from_be_bytes(reader.array()?);
        let lifetime = u32::from_be_bytes(reader.array()?);
        if inside != self.inside || (outside == 0 && self.lifetime > 0) {
            return Err(AnswerError::Other);
        }
        Ok(Granted { outside, address: None, lifetime, epoch })
    }

    pub(super) fn encode_pcp(&self, ours: IpAddr, nonce: [u8; 12]) -> Vec<u8> {
        let mut bytes = vec![PCP_VERSION, MAP, 0, 0];
        bytes.extend(self.lifetime.to_be_bytes());
        bytes.extend(sixteen(ours));
        bytes.extend(nonce);
        bytes.extend([protocol(self.transport), 0, 0, 0]);
        bytes.extend(self.inside.to_be_bytes());
        bytes.extend(self.outside.to_be_bytes());
        // Any address of the family (RFC 6887, 11.1).
        let any = if ours.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        bytes.extend(sixteen(any));
        bytes
    }

    pub(super) fn decode_pcp(&self, datagram: &[u8], nonce: [u8; 12]) -> Result<Granted, AnswerError> {
        let mut reader = Reader::new(datagram);
        let [version, operation] = reader.array()?;
        if version != PCP_VERSION {
            // A gateway of before answers in its own version (RFC 6886, 3.5).
            return Err(if operation >= RESPONSE { AnswerError::Version } else { AnswerError::Other });
        }
        let [_, result] = reader.array()?;
        if operation != RESPONSE + MAP {
            return Err(AnswerError::Other);
        }
        let lifetime = u32::from_be_bytes(reader.array()?);
        let epoch = u32::from_be_bytes(reader.array()?);
        reader.take(12)?;
        let same = reader.array::<12>()? == nonce && reader.array::<4>()?[0] == protocol(self.transport);
        let inside = u16::from_be_bytes(reader.array()?);
        let outside = u16::from_be_bytes(reader.array()?);
        let address = Ipv6Addr::from(reader.array::<16>()?);
        match result {
            _ if !same || inside != self.inside => Err(AnswerError::Other),
            0 if outside == 0 && self.lifetime > 0 => Err(AnswerError::Other),
            0 => Ok(Granted { outside, address: Some(IpAddr::V6(address).to_canonical()), lifetime, epoch }),
            1 => Err(AnswerError::Version),
            other => Err(AnswerError::Refused(other)),
        }
    }
}

/// The question for the address outside.
pub(super) const ADDRESS_REQUEST: [u8; 2] = [NATPMP_VERSION, 0];

/// The answer to [`ADDRESS_REQUEST`].
pub(super) fn decode_address(datagram: &[u8]) -> Result<Ipv4Addr, AnswerError> {
    let mut reader = Reader::new(datagram);
    natpmp_head(&mut reader, 0)?;
    Ok(reader.array::<4>()?.into())
}

/// Checks what all answers of NAT-PMP begin with, and gives the epoch.
fn natpmp_head(reader: &mut Reader<'_>, operation: u8) -> Result<u32, AnswerError> {
    let [version, answered] = reader.array()?;
    let result = u16::from_be_bytes(reader.array()?);
    match (version, result) {
        (NATPMP_VERSION, 1) => return Err(AnswerError::Version),
        (NATPMP_VERSION, _) if answered != RESPONSE + operation => return Err(AnswerError::Other),
        (NATPMP_VERSION, 0) => {}
        (NATPMP_VERSION, code) => return Err(AnswerError::Refused(code.min(u16::from(u8::MAX)) as u8)),
        _ => return Err(AnswerError::Version),
    }
    Ok(u32::from_be_bytes(reader.array()?))
}

fn sixteen(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn protocol(transport: Transport) -> u8 {
    if transport == Transport::Udp { 17 } else { 6 }
}

/// The codes of both protocols that a person can make something of; those up to 5 are alike in NAT-PMP.
fn meaning(code: u8) -> String {
    match code {
        2 => "it is not allowed".into(),
        3 => "it has no connection, or does not understand".into(),
        4 | 8 => "it has no room for more".into(),
        5 => "it does not do that".into(),
        code => format!("code {code}"),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REQUEST: MapRequest = MapRequest { transport: Transport::Tcp, inside: 6881, outside: 6881, lifetime: 7200 };
    const NONCE: [u8; 12] = *b"twelve bytes";

    #[test]
    fn requests_are_laid_out_as_the_rfcs_have_them() {
        assert_eq!(REQUEST.encode_natpmp(), [0, 2, 0, 0, 0x1a, 0xe1, 0x1a, 0xe1, 0, 0, 0x1c, 0x20]);
        let bytes = REQUEST.encode_pcp([192, 168, 1, 2].into(), NONCE);
        assert_eq!(bytes.len(), 60);
        assert_eq!(bytes[..8], [2, 1, 0, 0, 0, 0, 0x1c, 0x20]);
        assert_eq!(bytes[8..24], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 168, 1, 2]);
        assert_eq!(bytes[24..36], NONCE);
        assert_eq!(bytes[36..44], [6, 0, 0, 0, 0x1a, 0xe1, 0x1a, 0xe1]);
        assert_eq!(bytes[44..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    }

    #[test]
    fn answers_are_read_and_those_of_others_are_not_taken_for_ours() {
        let answer = [0, 130, 0, 0, 0, 0, 0, 9, 0x1a, 0xe1, 0x20, 0, 0, 0, 0x0e, 0x10];
        let granted = Granted { outside: 0x2000, address: None, lifetime: 3600, epoch: 9 };
        assert_eq!(REQUEST.decode_natpmp(&answer), Ok(granted));
        let udp = MapRequest { transport: Transport::Udp, ..REQUEST };
        assert_eq!(udp.decode_natpmp(&answer), Err(AnswerError::Other));
        assert_eq!(REQUEST.decode_natpmp(&answer[..15]), Err(AnswerError::Other));
        assert_eq!(REQUEST.decode_natpmp(&[0, 130, 0, 2]), Err(AnswerError::Refused(2)));
        assert_eq!(decode_address(&[0, 128, 0, 0, 0, 0, 0, 9, 203, 0, 113, 7]), Ok([203, 0, 113, 7].into()));

        let mut answer = REQUEST.encode_pcp([203, 0, 113, 7].into(), NONCE);
        (answer[1], answer[11]) = (129, 9);
        answer[44..].copy_from_slice(&sixteen([203, 0, 113, 7].into()));
        let granted = Granted { outside: 6881, address: Some([203, 0, 113, 7].into()), lifetime: 7200, epoch: 9 };
        assert_eq!(REQUEST.decode_pcp(&answer, NONCE), Ok(granted));
        assert_eq!(REQUEST.decode_pcp(&answer, [0; 12]), Err(AnswerError::Other));
        answer[3] = 8;
        assert_eq!(REQUEST.decode_pcp(&answer, NONCE), Err(AnswerError::Refused(8)));
        assert_eq!(REQUEST.decode_pcp(&[0, 129, 0, 1, 0, 0, 0, 0], NONCE), Err(AnswerError::Version));
    }

    proptest! {
        #[test]
        fn anything_is_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..70)) {
            let _ = REQUEST.decode_natpmp(&bytes);
            let _ = REQUEST.decode_pcp(&bytes, NONCE);
            let _ = decode_address(&bytes);
        }
    }
}
