//! Whole swarms on loopback: sessions among themselves, and sessions among peers that misbehave.

#[path = "../support/mod.rs"]
mod support;

mod callers;
mod exchange;
mod encryption;
mod explain;
mod files;
mod hostile;
mod limits;
mod paths;
mod reading;
mod sessions;
mod uneven;
mod uploads;
mod vices;
