//! What became of `--map-port`, told once and whenever it changes.

use ropewalk::{MapState, Session};
use serde_json::json;

use super::json::Json;
use super::screen::Screen;

/// What was told last.
#[derive(Default)]
pub struct Outside(Option<MapState>);

impl Outside {
    pub fn look(&mut self, session: &Session, screen: &Screen, json: &Json) {
        let now = session.port_mapping();
        if self.0.as_ref() == Some(&now) {
            return;
        }
        match &now {
            MapState::Mapped { external, protocol } => {
                json.event("mapped", json!({ "external": external.to_string(), "protocol": protocol.name() }));
                if !json.is_wanted() {
                    screen.note(&format!("peers can call {external}, which the gateway passes on ({protocol})"));
                }
            }
            MapState::Asking => {
                json.event("mapping", json!({ "port": session.port() }));
                if !json.is_wanted() {
                    screen.note(&format!(
                        "asking the gateway to pass port {} on, by PCP, NAT-PMP or UPnP: 10 seconds where none answers",
                        session.port()
                    ));
                }
            }
            MapState::Pointless(why) => {
                json.event("not-mapped", json!({ "error": why }));
                if !json.is_wanted() {
                    screen.note(&format!("--map-port does nothing here: {why}"));
                }
            }
            MapState::Failed(why) => {
                json.event("not-mapped", json!({ "error": &**why }));
                if !json.is_wanted() {
                    screen.note(&format!(
                        "the port is not mapped: {why}; it is tried again, and port {} can be opened by hand in the \
                         gateway's settings",
                        session.port()
                    ));
                }
            }
            _ => {}
        }
        self.0 = Some(now);
    }
}
