//! The default gateway for IPv4, which is the one to ask.
//!
//! It owns the reading of the kernel's table of routes, on Linux. Elsewhere it knows none: a gateway is given by hand there,
//! or found by UPnP.

#[cfg(any(target_os = "linux", test))]
use std::net::Ipv4Addr;
use std::net::SocketAddr;

#[cfg(target_os = "linux")]
use super::natpmp;
use crate::config::Bind;
#[cfg(target_os = "linux")]
use crate::net::bind;

/// The default gateway for IPv4, of the interface that we are bound to if we are.
#[cfg(target_os = "linux")]
pub(super) fn default_gateway(bind: Option<&Bind>) -> Option<SocketAddr> {
    let way = bind.map_or(Ok(None), bind::look).ok()?;
    // Of the thread's own network: another thread may be in another one.
    let table = std::fs::read_to_string("/proc/thread-self/net/route").ok()?;
    let gateway = gateway_in(&table, way.as_ref().map(|way| way.name.as_str()))?;
    Some(SocketAddr::new(gateway.into(), natpmp::PORT))
}

#[cfg(not(target_os = "linux"))]
pub(super) fn default_gateway(_: Option<&Bind>) -> Option<SocketAddr> {
    None
}

/// The gateway of the default route with the least metric. Addresses are in hexadecimal, in the processor's order.
#[cfg(any(target_os = "linux", test))]
fn gateway_in(table: &str, interface: Option<&str>) -> Option<Ipv4Addr> {
    const HAS_GATEWAY: u32 = 2;
    let routes = table.lines().skip(1).filter_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [name, "00000000", gateway, flags, _, _, metric, "00000000", ..] = fields[..] else { return None };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let gateway = Ipv4Addr::from(u32::from_str_radix(gateway, 16).ok()?.to_ne_bytes());
        let usable = flags & HAS_GATEWAY != 0 && interface.is_none_or(|wanted| wanted == name);
        usable.then_some((metric.parse::<u32>().ok()?, gateway))
    });
    routes.min().map(|(_, gateway)| gateway)
}

#[cfg(test)]
mod tests {
    use super::gateway_in;

    #[test]
    fn the_default_gateway_is_read_from_the_routes_of_the_kernel() {
        let gateway = |ip: [u8; 4]| format!("{:08X}", u32::from_ne_bytes(ip));
        let table = format!(
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
             wlan0\t00000000\t{}\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
             eth0\t00000000\t{}\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
             tun0\t00000000\t00000000\t0001\t0\t0\t50\t00000000\t0\t0\t0\n\
             eth0\t0000A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\nnonsense\n",
            gateway([10, 0, 0, 1]),
            gateway([192, 168, 0, 1]),
        );
        assert_eq!(gateway_in(&table, None), Some([192, 168, 0, 1].into()));
        assert_eq!(gateway_in(&table, Some("wlan0")), Some([10, 0, 0, 1].into()));
        assert_eq!(gateway_in(&table, Some("tun0")), None);
    }
}
