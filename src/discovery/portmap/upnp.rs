//! The Internet gateway devices of UPnP: found by SSDP, described in XML, asked by SOAP.
//!
//! It owns the words. A gateway is not trusted: its description and its actions are where it answered from and nowhere
//! else, nothing is redirected, no answer may be larger than [`MAX_ANSWER`], and of XML only the text between two tags of a
//! name is read.

use std::net::{IpAddr, Ipv4Addr};

use url::{Host, Url};

use super::Transport;

/// The longest description or answer, in bytes.
pub(super) const MAX_ANSWER: u64 = 256 << 10;

/// What is looked for: gateways of both versions.
pub(super) const TARGETS: [&str; 2] =
    ["urn:schemas-upnp-org:device:InternetGatewayDevice:1", "urn:schemas-upnp-org:device:InternetGatewayDevice:2"];

/// The services that map ports, the best first.
const SERVICES: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];

/// Where to ask for mappings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) kind: &'static str,
    pub(super) control: Url,
}

/// What is asked of a gateway.
#[derive(Clone, Copy, Debug)]
pub(super) enum Action {
    /// `lease` in seconds; 0 is for ever.
    Add {
        transport: Transport,
        outside: u16,
        inside: u16,
        client: Ipv4Addr,
        lease: u32,
    },
    Delete {
        transport: Transport,
        outside: u16,
    },
    Address,
}

/// The datagram that looks for gateways.
pub(super) fn search(target: &str, group: &str) -> Vec<u8> {
    format!("M-SEARCH * HTTP/1.1\r\nHOST: {group}\r\nMAN: \"ssdp:discover\"\r\nMX: 1\r\nST: {target}\r\n\r\n")
        .into_bytes()
}

/// The description that an answer to [`search`] names, if it is where the answer came from.
pub(super) fn location(datagram: &[u8], from: IpAddr) -> Option<Url> {
    let text = std::str::from_utf8(datagram).ok()?;
    let mut lines = text.lines();
    let status = lines.next()?;
    if !status.starts_with("HTTP/1.") || status.split(' ').nth(1) != Some("200") {
        return None;
    }
    let headers = lines.filter_map(|line| line.split_once(':'));
    let mut locations = headers.filter(|(name, _)| name.trim().eq_ignore_ascii_case("location"));
    let url = Url::parse(locations.next()?.1.trim()).ok()?;
    is_at(&url, from).then_some(url)
}

/// The best service of a description.
pub(super) fn service(description: &str, location: &Url, from: IpAddr) -> Option<Service> {
    let base = element(description, "URLBase").and_then(|base| Url::parse(&unescaped(base)).ok());
    let base = base.filter(|base| is_at(base, from)).unwrap_or_else(|| location.clone());
    let services: Vec<_> = elements(description, "service").collect();
    SERVICES.iter().find_map(|kind| {
        let service = services.iter().find(|service| element(service, "serviceType") == Some(kind))?;
        let control = base.join(&unescaped(element(service, "controlURL")?)).ok()?;
        is_at(&control, from).then_some(Service { kind, control })
    })
}

impl Action {
    /// Its name, as the header `SOAPAction` has it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Add { .. } => "AddPortMapping",
            Self::Delete { .. } => "DeletePortMapping",
            Self::Address => "GetExternalIPAddress",
        }
    }

    /// The body of the request.
    pub(super) fn encode(&self, kind: &str) -> String {
        let name = self.name();
        let arguments = match self {
            Self::Add { transport, outside, inside, client, lease } => format!(
                "<NewRemoteHost></NewRemoteHost><NewExternalPort>{outside}</NewExternalPort>\
                 <NewProtocol>{transport}</NewProtocol><NewInternalPort>{inside}</NewInternalPort>\
                 <NewInternalClient>{client}</NewInternalClient><NewEnabled>1</NewEnabled>\
                 <NewPortMappingDescription>ropewalk</NewPortMappingDescription>\
                 <NewLeaseDuration>{lease}</NewLeaseDuration>"
            ),
            Self::Delete { transport, outside } => format!(
                "<NewRemoteHost></NewRemoteHost><NewExternalPort>{outside}</NewExternalPort>\
                 <NewProtocol>{transport}</NewProtocol>"
            ),
            Self::Address => String::new(),
        };
        format!(
            "<?xml version=\"1.0\"?>\r\n<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
             s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body><u:{name} xmlns:u=\"{kind}\">\
             {arguments}</u:{name}></s:Body></s:Envelope>\r\n"
        )
    }
}

/// The address in an answer to [`Action::Address`].
pub(super) fn address(answer: &str) -> Option<Ipv4Addr> {
    element(answer, "NewExternalIPAddress")?.parse().ok()
}

/// The number of an error in an answer.
pub(super) fn error_code(answer: &str) -> Option<u16> {
    element(answer, "errorCode")?.parse().ok()
}

/// Whether a URL is plain HTTP on this very machine.
fn is_at(url: &Url, ip: IpAddr) -> bool {
    let host = match url.host() {
        Some(Host::Ipv4(host)) => IpAddr::V4(host),
        Some(Host::Ipv6(host)) => IpAddr::V6(host),
        _ => return false,
    };
    url.scheme() == "http" && host == ip && url.username().is_empty() && url.password().is_none()
}

/// The text of the first element of a name, whatever its prefix and attributes.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    elements(xml, name).next()
}

/// The texts of the elements of a name, in order; those within one of the same name are not found.
fn elements<'a>(xml: &'a str, name: &str) -> impl Iterator<Item = &'a str> {
    let mut rest = xml;
    std::iter::from_fn(move || {
        loop {
            let (closes, tag, after) = next_tag(rest)?;
            rest = after;
            if closes || tag != name {
                continue;
            }
            let content = rest;
            loop {
                let before = rest;
                let (closes, tag, after) = next_tag(rest)?;
                rest = after;
                if closes && tag == name {
                    let start = before.find('<').map_or(0, |at| content.len() - before.len() + at);
                    return content.get(..start).map(str::trim);
                }
            }
        }
    })
}

/// The next tag: whether it closes an element, its name without prefix, and what follows it.
fn next_tag(xml: &str) -> Option<(bool, &str, &str)> {
    let (_, after) = xml.split_once('<')?;
    let (tag, after) = after.split_once('>')?;
    let (closes, tag) = tag.strip_prefix('/').map_or((false, tag), |tag| (true, tag));
    let name = tag.split(|c: char| c.is_whitespace() || c == '/').next().unwrap_or_default();
    Some((closes, name.rsplit(':').next().unwrap_or(name), after))
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&apos;", "'").replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 168, 1, 1));

    fn answer(location: &str) -> Vec<u8> {
        format!("HTTP/1.1 200 OK\r\nST: x\r\nLocation: {location}\r\nUSN: y\r\n\r\n").into_bytes()
    }

    fn described(kind: &str, control: &str) -> String {
        format!(
            "<?xml version=\"1.0\"?><root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device><serviceList><service>\
             <serviceType>urn:schemas-upnp-org:service:Layer3Forwarding:1</serviceType><controlURL>/no</controlURL>\
             </service></serviceList><deviceList><device><serviceList><service>\n<serviceType>{kind}</serviceType>\n\
             <controlURL> {control} </controlURL></service></serviceList></device></deviceList></device></root>"
        )
    }

    #[test]
    fn a_description_is_only_looked_for_where_the_answer_came_from() {
        let good = location(&answer("http://192.168.1.1:5000/root.xml"), HERE).unwrap();
        assert_eq!(good.path(), "/root.xml");
        for bad in [
            "http://192.168.1.2/x",
            "https://192.168.1.1/x",
            "http://gateway/x",
            "file:///etc/passwd",
            "http://a@192.168.1.1/x",
            "nonsense",
            "",
        ] {
            assert_eq!(location(&answer(bad), HERE), None, "{bad}");
        }
        assert_eq!(location(b"NOTIFY * HTTP/1.1\r\nLocation: http://192.168.1.1/x\r\n\r\n", HERE), None);
        assert_eq!(location(b"\xff\xff", HERE), None);
    }

    #[test]
    fn the_service_that_maps_ports_is_found_and_must_be_at_the_gateway() {
        let location = Url::parse("http://192.168.1.1:5000/root.xml").unwrap();
        for kind in SERVICES {
            let found = service(&described(kind, "/ctl?a=1&amp;b=2"), &location, HERE).unwrap();
            assert_eq!((found.kind, found.control.as_str()), (kind, "http://192.168.1.1:5000/ctl?a=1&b=2"));
        }
        assert_eq!(service(&described(SERVICES[1], "http://192.168.1.9/ctl"), &location, HERE), None);
        assert_eq!(service(&described("urn:other", "/ctl"), &location, HERE), None);
        assert_eq!(service("<service><serviceType>", &location, HERE), None);
        let elsewhere = format!("<URLBase>http://10.0.0.1/</URLBase>{}", described(SERVICES[1], "ctl"));
        assert_eq!(service(&elsewhere, &location, HERE).unwrap().control.host_str(), Some("192.168.1.1"));
    }

    #[test]
    fn answers_are_read() {
        let body = "<s:Body><u:GetExternalIPAddressResponse xmlns:u=\"x\">\
                    <NewExternalIPAddress>203.0.113.7</NewExternalIPAddress></u:GetExternalIPAddressResponse></s:Body>";
        assert_eq!(address(body), Some([203, 0, 113, 7].into()));
        assert_eq!(error_code("<detail><UPnPError><errorCode>725</errorCode></UPnPError></detail>"), Some(725));
        assert_eq!((address(""), error_code("<errorCode>x</errorCode>")), (None, None));
    }

    proptest! {
        #[test]
        fn anything_is_read_without_a_panic(xml in "(<|>|/|service|serviceType|controlURL|errorCode|:| |x|&amp;|ü){0,80}") {
            let location = Url::parse("http://192.168.1.1/").unwrap();
            let _ = (service(&xml, &location, HERE), address(&xml), error_code(&xml));
        }
    }
}
