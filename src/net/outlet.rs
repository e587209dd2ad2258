//! Whether sockets can leave the one way that they may, as of the last look.
//!
//! It owns what is known of that. It refuses to time the looks, which the session does, and to keep anything from being
//! sent: the sockets themselves are bound.

use std::sync::Arc;

use parking_lot::Mutex;

use super::bind::{BindError, Interface, look};
use crate::config::Bind;

/// The way out of a session.
pub(crate) struct Outlet {
    bind: Option<Bind>,
    /// Written by the thread that looks, read by anyone.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Why nothing can be sent.
    closed: Option<Arc<str>>,
    way: Option<Interface>,
    generation: u64,
}

impl Outlet {
    /// Open unless the first look says otherwise.
    pub(crate) fn new(bind: Option<Bind>) -> Result<Self, BindError> {
        let way = bind.as_ref().map_or(Ok(None), look)?;
        Ok(Self { bind, state: Mutex::new(State { way, ..State::default() }) })
    }

    /// What everything is bound to.
    pub(crate) fn bind(&self) -> Option<&Bind> {
        self.bind.as_ref()
    }

    /// Why nothing can be sent now, in words for a person; `None` where it can.
    pub(crate) fn closed(&self) -> Option<Arc<str>> {
        self.state.lock().closed.clone()
    }

    /// Changes whenever sockets made before are of no use any more: the interface came back, or has another address.
    pub(crate) fn generation(&self) -> u64 {
        self.state.lock().generation
    }

    /// Whether it has to be looked at again and again. The loopback interface stays.
    pub(crate) fn may_close(&self) -> bool {
        match &self.bind {
            None => false,
            Some(Bind::Addr(ip)) => !ip.is_loopback() && !ip.is_unspecified(),
            Some(Bind::Interface(_)) => true,
        }
    }

    /// Looks. `true` says that something changed.
    pub(crate) fn look(&self) -> bool {
        // Nothing is held while the system is asked.
        let found = self.bind.as_ref().map_or(Ok(None), look);
        let mut state = self.state.lock();
        match found {
            Ok(way) if state.closed.is_none() && state.way == way => false,
            Ok(way) => {
                log::info!("sockets can be bound to {} again", self.name());
                *state = State { closed: None, way, generation: state.generation + 1 };
                true
            }
            Err(error) => {
                let text = error.to_string();
                let changed = state.closed.as_deref() != Some(&text);
                if changed {
                    log::warn!("{text}: nothing is sent until that changes");
                    state.closed = Some(text.into());
                }
                changed
            }
        }
    }

    fn name(&self) -> String {
        self.bind.as_ref().map_or_else(String::new, Bind::to_string)
    }
}

#[cfg(test)]
mod tests {
    use super::{Bind, Outlet};

    #[test]
    fn what_is_not_there_is_no_way_out() {
        let name = "no-such-if";
        let error = Outlet::new(Some(Bind::Interface(name.into()))).map(drop).unwrap_err();
        assert!(error.to_string().contains(name), "{error}");
        // An address for documentation (RFC 5737), which nobody has.
        assert!(Outlet::new(Some(Bind::Addr([192, 0, 2, 77].into()))).is_err());
    }

    #[test]
    fn loopback_is_open_and_does_not_change() {
        let outlet = Outlet::new(Some(Bind::Addr([127, 9, 9, 9].into()))).unwrap();
        assert!(!outlet.may_close());
        assert!(!outlet.look());
        assert_eq!((outlet.closed(), outlet.generation()), (None, 0));
    }
}
