//! Whole swarms on loopback: sessions among themselves, and sessions among peers that misbehave.

#[path = "../support/mod.rs"]
mod support;

mod callers;
mod encryption;
mod exchange;
mod explain;
mod files;
mod hostile;
mod limits;
mod look;
mod magnets;
mod paths;
mod reading;
mod sessions;
mod trust;
mod uneven;
mod uploads;
mod utp;
mod vices;
