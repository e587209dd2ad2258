//! Mapping ports at small gateways of the tests' own, on loopback: ones that do as they are asked, and ones that do not.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::asker::Via;
use super::natpmp::Granted;
use super::{Held, MapProtocol, MapState, PortMapSetup, PortMapper, Transport, has_restarted};
use crate::config::{Bind, PortMapConfig};

const PATIENCE: Duration = Duration::from_secs(30);
const PORT: u16 = 6881;
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// A mapper at work.
struct Mapper {
    handle: PortMapper,
    mapped: Receiver<SocketAddr>,
    thread: Option<JoinHandle<()>>,
}

impl Mapper {
    /// With a gateway for PCP and NAT-PMP, and one for UPnP; nobody is at the address that stands for none.
    fn start(gateway: Option<SocketAddr>, search: Option<SocketAddr>, lifetime: u64) -> Self {
        let nobody = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (sender, mapped) = unbounded();
        let (handle, thread) = PortMapper::new(PortMapSetup {
            config: PortMapConfig {
                enabled: true,
                gateway: Some(gateway.unwrap_or(nobody)),
                search: search.unwrap_or(nobody),
                lifetime: Duration::from_secs(lifetime),
            },
            bind: Some(Bind::Addr([127, 0, 0, 1].into())),
            port: PORT,
            transports: vec![Transport::Tcp, Transport::Udp],
            grace: Duration::from_secs(2),
            mapped: Box::new(move |addr| sender.send(addr).unwrap_or_default()),
        });
        Self { handle, mapped, thread: Some(thread::spawn(move || thread.run())) }
    }

    fn mapped(&self) -> (SocketAddr, MapProtocol) {
        let told = self.mapped.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{:?}", self.handle.state()));
        let MapState::Mapped { external, protocol } = self.handle.state() else { panic!("{:?}", self.handle.state()) };
        assert_eq!(told, external);
        (external, protocol)
    }

    fn failure(&self) -> String {
        let begun = Instant::now();
        loop {
            match self.handle.state() {
                MapState::Failed(why) => return why.to_string(),
                state => assert!(state == MapState::Asking && begun.elapsed() < PATIENCE, "{state:?}"),
            }
            thread::yield_now();
        }
    }

    fn stop(&mut self) {
        self.handle.stop();
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Mapper {
    fn drop(&mut self) {
        self.handle.stop();
        self.thread.take().map(JoinHandle::join);
    }
}

/// A gateway that answers datagrams by a function, and what it was asked.
fn udp_gateway(answer: impl Fn(&[u8]) -> Option<Vec<u8>> + Send + 'static) -> (SocketAddr, Receiver<Vec<u8>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let (sender, asked) = unbounded();
    thread::spawn(move || {
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            if let Some(answer) = answer(&buffer[..length]) {
                socket.send_to(&answer, from).unwrap();
            }
            if sender.send(buffer[..length].to_vec()).is_err() {
                return;
            }
        }
    });
    (addr, asked)
}

fn next(asked: &Receiver<Vec<u8>>, wanted: impl Fn(&[u8]) -> bool) -> Vec<u8> {
    loop {
        let request = asked.recv_timeout(PATIENCE).unwrap();
        if wanted(&request) {
            return request;
        }
    }
}

/// Grants what PCP asks for, at this epoch.
fn pcp(request: &[u8], epoch: u32) -> Option<Vec<u8>> {
    let mut answer = request.to_vec();
    (answer[1], answer[3]) = (129, 0);
    answer[8..12].copy_from_slice(&epoch.to_be_bytes());
    answer[12..24].fill(0);
    answer[44..].copy_from_slice(&OUTSIDE.to_ipv6_mapped().octets());
    Some(answer)
}

/// NAT-PMP that grants another port, and knows nothing of PCP.
fn nat_pmp(request: &[u8]) -> Option<Vec<u8>> {
    match request {
        [0, 0] => Some([&[0, 128, 0, 0, 0, 0, 0, 1][..], &OUTSIDE.octets()].concat()),
        [0, operation, 0, 0, a, b, _, _, lifetime @ ..] => {
            Some([&[0, 128 + operation, 0, 0, 0, 0, 0, 1, *a, *b, 0x30, 0x39][..], lifetime].concat())
        }
        _ => Some(vec![0, 128, 0, 1, 0, 0, 0, 1]),
    }
}

#[test]
fn pcp_maps_renews_and_deletes_in_the_end() {
    let (gateway, asked) = udp_gateway(|request| pcp(request, 7));
    let mut mapper = Mapper::start(Some(gateway), None, 1);
    assert_eq!(mapper.mapped(), (SocketAddr::from((OUTSIDE, PORT)), MapProtocol::Pcp));
    for (transport, number) in [(Transport::Tcp, 6), (Transport::Udp, 17), (Transport::Tcp, 6), (Transport::Udp, 17)] {
        let request = next(&asked, |_| true);
        assert_eq!((request[36], &request[4..8]), (number, &[0, 0, 0, 1][..]), "{transport}");
    }
    mapper.stop();
    let tcp = next(&asked, |request| request[4..8] == [0; 4]);
    let udp = next(&asked, |request| request[4..8] == [0; 4]);
    assert_eq!((tcp[36], udp[36]), (6, 17));
    // Each has the nonce of what it deletes, or the gateway would not.
    assert_eq!(tcp[24..36], udp[24..36]);
}

#[test]
fn a_gateway_without_pcp_is_asked_by_nat_pmp_and_may_give_another_port() {
    let (gateway, asked) = udp_gateway(nat_pmp);
    let mut mapper = Mapper::start(Some(gateway), None, 1);
    assert_eq!(mapper.mapped(), (SocketAddr::from((OUTSIDE, 12345)), MapProtocol::NatPmp));
    next(&asked, |request| request[..] == [0, 2, 0, 0, 0x1a, 0xe1, 0x1a, 0xe1, 0, 0, 0, 1]);
    // The renewal is for the port that was given.
    next(&asked, |request| request[..] == [0, 2, 0, 0, 0x1a, 0xe1, 0x30, 0x39, 0, 0, 0, 1]);
    mapper.stop();
    next(&asked, |request| request[..] == [0, 2, 0, 0, 0x1a, 0xe1, 0, 0, 0, 0, 0, 0]);
    next(&asked, |request| request[..] == [0, 1, 0, 0, 0x1a, 0xe1, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_gateway_that_restarts_is_asked_for_all_mappings_anew() {
    let epoch = std::sync::atomic::AtomicU32::new(100_000);
    let restarts = move |request: &[u8]| pcp(request, epoch.swap(0, std::sync::atomic::Ordering::SeqCst));
    let (gateway, asked) = udp_gateway(restarts);
    let mapper = Mapper::start(Some(gateway), None, 1);
    mapper.mapped();
    let protocols: Vec<u8> = (0..4).map(|_| next(&asked, |_| true)[36]).collect();
    assert_eq!(protocols, [6, 17, 6, 17]);

    let granted = |epoch| Granted { outside: PORT, address: None, lifetime: 3600, epoch };
    let since = Instant::now();
    let held = Held { via: Via::Pcp(gateway), granted: vec![(Transport::Tcp, granted(1000))], since };
    let later = since + Duration::from_secs(800);
    assert!(!has_restarted(&held, &granted(1800), later) && !has_restarted(&held, &granted(1700), later));
    assert!(has_restarted(&held, &granted(1600), later) && has_restarted(&held, &granted(3), later));
}

#[test]
fn a_refusal_is_said_and_so_is_silence() {
    let (gateway, _asked) = udp_gateway(|request| {
        let mut answer = pcp(request, 1).filter(|_| request[0] == 2)?;
        answer[3] = 2;
        Some(answer)
    });
    assert!(Mapper::start(Some(gateway), None, 60).failure().contains("it is not allowed"));
    assert_eq!(Mapper::start(None, None, 60).failure(), "no gateway answers");
}

#[test]
fn a_stop_does_not_wait_for_a_gateway_that_says_nothing() {
    let (gateway, asked) = udp_gateway(|_| None);
    let mut mapper = Mapper::start(Some(gateway), None, 60);
    next(&asked, |_| true);
    let begun = Instant::now();
    mapper.stop();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
}

/// A gateway of UPnP whose web server answers by a function of the head and the body; what its web server was asked.
fn upnp_gateway(
    location: Option<&'static str>,
    answer: impl Fn(&str, &str) -> String + Send + 'static,
) -> (SocketAddr, Receiver<String>) {
    let server = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = format!("http://{}/root.xml", server.local_addr().unwrap());
    let location = location.map_or(own, str::to_owned);
    let (search, _) = udp_gateway(move |request| {
        assert!(request.starts_with(b"M-SEARCH * HTTP/1.1\r\n"));
        Some(format!("HTTP/1.1 200 OK\r\nLOCATION: {location}\r\n\r\n").into_bytes())
    });
    let (sender, asked) = unbounded();
    thread::spawn(move || {
        for stream in server.incoming() {
            serve(stream.unwrap(), &answer, &sender);
        }
    });
    (search, asked)
}

fn serve(mut stream: TcpStream, answer: &dyn Fn(&str, &str) -> String, asked: &Sender<String>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head).is_ok_and(|length| length > 0) {}
    let length = |line: &str| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok();
    let mut body = vec![0; head.lines().find_map(length).unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    let body = String::from_utf8(body).unwrap();
    // The client may hang up where it has had enough.
    let _ = stream.write_all(answer(&head, &body).as_bytes());
    let _ = asked.send(body);
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

fn description() -> String {
    let service =
        "<serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType><controlURL>/ctl</controlURL>";
    http("200 OK", &format!("<root><device><service>{service}</service></device></root>"))
}

fn well(head: &str, _: &str) -> String {
    match () {
        () if head.starts_with("GET /root.xml ") => description(),
        () if !head.starts_with("POST /ctl ") => http("404 Not Found", ""),
        () if head.contains("#GetExternalIPAddress\"") => {
            http("200 OK", &format!("<r><NewExternalIPAddress>{OUTSIDE}</NewExternalIPAddress></r>"))
        }
        () => http("200 OK", "<r/>"),
    }
}

fn refused(code: u16) -> String {
    http("500 Internal Server Error", &format!("<s:Fault><errorCode>{code}</errorCode></s:Fault>"))
}

fn until(asked: &Receiver<String>, part: &str) -> String {
    loop {
        let body = asked.recv_timeout(PATIENCE).unwrap();
        if body.contains(part) {
            return body;
        }
    }
}

#[test]
fn upnp_maps_renews_and_deletes_in_the_end() {
    let (search, asked) = upnp_gateway(None, well);
    let mut mapper = Mapper::start(None, Some(search), 1);
    assert_eq!(mapper.mapped(), (SocketAddr::from((OUTSIDE, PORT)), MapProtocol::Upnp));
    let add = until(&asked, "AddPortMapping");
    for part in ["<NewInternalClient>127.0.0.1<", "<NewExternalPort>6881<", "<NewProtocol>TCP<", "<NewLeaseDuration>1<"]
    {
        assert!(add.contains(part), "{part}: {add}");
    }
    until(&asked, "<NewProtocol>UDP<");
    until(&asked, "<NewProtocol>TCP<");
    mapper.stop();
    assert!(until(&asked, "DeletePortMapping").contains("<NewProtocol>TCP<"));
    assert!(until(&asked, "DeletePortMapping").contains("<NewProtocol>UDP<"));
}

#[test]
fn upnp_takes_another_port_and_a_lease_for_ever_where_it_must() {
    let (search, asked) = upnp_gateway(None, |head, body| match () {
        () if body.contains("<NewExternalPort>6881<") => refused(718),
        () if body.contains("AddPortMapping") && !body.contains("<NewLeaseDuration>0<") => refused(725),
        () => well(head, body),
    });
    let mapper = Mapper::start(None, Some(search), 60);
    let (external, _) = mapper.mapped();
    assert!(external.port() >= 1024 && external.port() != PORT, "{external}");
    until(&asked, "<NewLeaseDuration>0<");
}

#[test]
fn hostile_gateways_are_given_up_and_lead_nowhere_else() {
    let elsewhere = TcpListener::bind("127.0.0.2:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let there = format!("http://{}/root.xml", elsewhere.local_addr().unwrap());
    let redirect = format!("HTTP/1.1 302 Found\r\nLocation: {there}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    let control = description().replace("/ctl", &there);
    let control = http("200 OK", control.split_once("\r\n\r\n").unwrap().1);
    let giant = http("200 OK", &"<service>".repeat(1 << 20));
    for answer in [redirect, control, giant, "garbage\r\n\r\n".into(), http("200 OK", "<service><serviceType>")] {
        let (search, _asked) = upnp_gateway(None, move |_, _| answer.clone());
        assert_eq!(Mapper::start(None, Some(search), 60).failure(), "no gateway answers");
    }
    let (search, _asked) = upnp_gateway(Some(Box::leak(there.into_boxed_str())), well);
    assert_eq!(Mapper::start(None, Some(search), 60).failure(), "no gateway answers");
    // No: with words, and with nonsense.
    for (answer, why) in [(refused(606), "606"), (http("500 Oh", "what?"), "makes no sense")] {
        let (search, _asked) = upnp_gateway(None, move |head, body| match head.starts_with("GET ") {
            true => well(head, body),
            false => answer.clone(),
        });
        let failure = Mapper::start(None, Some(search), 60).failure();
        assert!(failure.contains(why), "{failure}");
    }
    let (gateway, _asked) = udp_gateway(|_| Some(vec![0xff; 1500]));
    assert!(Mapper::start(Some(gateway), None, 60).failure().contains("gateway"));
    assert_eq!(elsewhere.accept().unwrap_err().kind(), io::ErrorKind::WouldBlock);
}
