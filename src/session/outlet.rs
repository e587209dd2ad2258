//! The thread `outlet`: looks whether what the session is bound to is there, and listens anew when it is back.
//!
//! It owns the times of the looks. Torrents look for themselves at what it found; what must not be sent is not sent in any
//! case, as the sockets are bound.

use std::sync::Arc;
use std::time::Duration;

use super::STACK;
use super::reception::{Doors, Reception};
use crate::crew::NoThread;
use crate::net::{Closer, bind_listener};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);

/// Starts the thread, where there is anything to look for. It ends when `stop` is closed.
pub(super) fn start(reception: Reception, doors: Arc<Doors>, stop: Arc<Closer>) -> Result<(), NoThread> {
    if !reception.resources.outlet.may_close() {
        return Ok(());
    }
    let crew = Arc::clone(&reception.resources.crew);
    crew.spawn("outlet".into(), STACK, move || run(&reception, &doors, &stop))
}

fn run(reception: &Reception, doors: &Doors, stop: &Closer) {
    let resources = &reception.resources;
    let outlet = &resources.outlet;
    let mut listens_on = outlet.generation();
    while !stop.wait(EVERY) {
        outlet.look();
        if outlet.closed().is_some() || outlet.generation() == listens_on || resources.port == 0 {
            continue;
        }
        // The same port, which peers and trackers were told. The old sockets hold it until they are closed.
        doors.close();
        match bind_listener(outlet.bind(), resources.port..=resources.port) {
            Ok(listeners) => {
                listens_on = outlet.generation();
                if let Err(error) = reception.open(listeners, doors) {
                    log::error!("nobody is let in any more: {error}");
                }
            }
            Err(error) => log::warn!("cannot listen on port {} again yet: {error}", resources.port),
        }
    }
}
