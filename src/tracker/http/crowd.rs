//! How many connections there are, in all and from each address: a bound on both.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::tracker::config::{RequestLimits, customer};

/// Everybody who is connected.
#[derive(Debug)]
pub(super) struct Crowd {
    most: usize,
    most_from_one: usize,
    /// All threads take it when a connection begins and when it ends.
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: usize,
    by_customer: HashMap<IpAddr, usize>,
}

/// One connection's part of the bound, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    /// `None` for a proxy, which speaks for many.
    customer: Option<IpAddr>,
}

impl Crowd {
    pub(super) fn new(limits: &RequestLimits) -> Arc<Self> {
        let (most, most_from_one) = (limits.connections, limits.connections_per_address);
        Arc::new(Self { most, most_from_one, counts: Mutex::default() })
    }

    /// A place for one more; `None` where there is none.
    pub(super) fn enter(self: &Arc<Self>, from: IpAddr, is_proxy: bool) -> Option<Place> {
        let customer = (!is_proxy).then(|| customer(from));
        let counts = &mut *self.counts.lock();
        if counts.all >= self.most {
            return None;
        }
        if let Some(customer) = customer {
            let count = counts.by_customer.entry(customer).or_default();
            if *count >= self.most_from_one {
                return None;
            }
            *count += 1;
        }
        counts.all += 1;
        Some(Place { crowd: self.clone(), customer })
    }

    pub(super) fn len(&self) -> usize {
        self.counts.lock().all
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let counts = &mut *self.crowd.counts.lock();
        counts.all -= 1;
        let Some(Entry::Occupied(mut entry)) = self.customer.map(|customer| counts.by_customer.entry(customer)) else {
            return;
        };
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crowd() -> Arc<Crowd> {
        Crowd::new(&RequestLimits { connections: 4, connections_per_address: 2, ..RequestLimits::default() })
    }

    fn enter(crowd: &Arc<Crowd>, from: &str) -> Option<Place> {
        crowd.enter(from.parse().unwrap(), false)
    }

    #[test]
    fn one_address_gets_so_many_places_and_all_get_so_many() {
        let crowd = crowd();
        let first = [enter(&crowd, "192.0.2.1").unwrap(), enter(&crowd, "192.0.2.1").unwrap()];
        assert!(enter(&crowd, "192.0.2.1").is_none());
        let second = [enter(&crowd, "2001:db8::1").unwrap(), enter(&crowd, "2001:db8::2").unwrap()];
        assert!(enter(&crowd, "192.0.2.3").is_none());
        assert_eq!(crowd.len(), 4);
        drop((first, second));
        assert_eq!(crowd.len(), 0);
        assert!(crowd.counts.lock().by_customer.is_empty());
        assert!(enter(&crowd, "192.0.2.1").is_some());
    }

    #[test]
    fn a_proxy_is_bounded_by_the_sum_alone() {
        let crowd = crowd();
        let places: Vec<_> = (0..5).filter_map(|_| crowd.enter("192.0.2.1".parse().unwrap(), true)).collect();
        assert_eq!(places.len(), 4);
    }
}
