//! Requests that are answered together: announces by one call of the store, everything else at once. It owns the buffers that
//! answers are written in, in the order of their requests, and refuses to know connections by more than a number.

use std::mem::take;
use std::time::Instant;

use super::pages::{Page, Pages};
use super::reply::{self, Announced, OK, Status};
use super::request::{Ending, Form, Head, Query, RequestError};
use crate::metainfo::InfoHash;
use crate::tracker::service::{Refusal, Service};
use crate::tracker::statistics::{Counter, Tally, Transport};
use crate::tracker::store::{Announce, Reply};

/// The most announces that the store is asked about at once.
const MOST: usize = 256;

/// Bytes of answers that are not sent yet.
const FULL: usize = 1 << 20;

const TEXT: &str = "text/plain";

/// What is said where there is no page.
const NO_PAGE: &[u8] = b"There is nothing here. See /, /stats.json or /metrics.\n";

/// See the module.
#[derive(Default)]
pub(super) struct Batch {
    announces: Vec<Announce>,
    /// How each of them is to be answered, and whose it is.
    asked: Vec<Asked>,
    /// Answers, and where those of a connection end in them.
    out: Vec<u8>,
    parts: Vec<Part>,
    tally: Tally,
    // What is used again and again, so that nothing is allocated.
    body: Vec<u8>,
    reply: Reply,
    torrents: Vec<InfoHash>,
}

struct Asked {
    number: u32,
    form: Form,
    ending: Ending,
}

/// Answers to one connection.
struct Part {
    number: u32,
    end: usize,
}

impl Batch {
    /// Takes a request from the connection with this number, to answer it now or later.
    pub(super) fn take(&mut self, number: u32, head: &Head<'_>, service: &Service, now: Instant) {
        let limits = &service.config.limits;
        let Some(path) = service.access.endpoint(head.path) else {
            self.refuse(number, service.refused(Refusal::Key, head.client, now), head.ending, service, now);
            return;
        };
        let head = &Head { path, ..*head };
        match head.query(&mut self.torrents, limits.scrape, |asked| service.wanted(asked)) {
            Ok(Query::Announce(announce, form)) => match service.admit(&announce, now) {
                Ok(()) => {
                    if self.announces.len() == MOST {
                        self.answer(service, now);
                    }
                    self.announces.push(announce);
                    self.asked.push(Asked { number, form, ending: head.ending });
                }
                Err(refusal) => self.refuse(number, refusal, head.ending, service, now),
            },
            Ok(Query::Scrape) => self.scrape(number, head, service, now),
            Err(error) => self.fail(number, error, head.ending, service, now),
        }
    }

    /// Answers a request for a page, or what is none.
    pub(super) fn page(&mut self, number: u32, head: &Head<'_>, pages: &mut Pages, service: &Service, now: Instant) {
        match Page::at(head.path) {
            Some(page) => {
                self.answer(service, now);
                self.body.clear();
                pages.write(page, service, now, &mut self.body);
                self.respond(number, OK, page.kind(), head.ending);
            }
            // For people, who do not read what clients do.
            None => {
                self.answer(service, now);
                self.tally.count(Counter::Malformed);
                self.body.clear();
                self.body.extend_from_slice(NO_PAGE);
                self.respond(number, reply::status(RequestError::Path), TEXT, head.ending);
            }
        }
    }

    /// Answers what is no request, or asks for nothing that there is.
    pub(super) fn fail(&mut self, number: u32, error: RequestError, ending: Ending, service: &Service, now: Instant) {
        self.answer(service, now);
        self.tally.count(Counter::Malformed);
        self.body.clear();
        reply::failure(&mut self.body, error, None);
        self.respond(number, reply::status(error), TEXT, ending);
    }

    /// Has the store answer what waits for it.
    pub(super) fn answer(&mut self, service: &Service, now: Instant) {
        if !self.announces.is_empty() {
            let Self { announces, asked, out, parts, tally, body, reply, .. } = self;
            service.store.announce(announces, now, reply, &mut |at, result| {
                let Asked { number, form, ending } = asked[at];
                body.clear();
                match result {
                    Ok(reply) => {
                        tally.count(Counter::Announces);
                        let client = announces[at].addr.ip();
                        let interval = reply.again.unwrap_or(service.config.interval);
                        let announced = Announced { interval, client, form };
                        reply::announced(body, &announced, reply);
                    }
                    Err(unavailable) => {
                        tally.count(Counter::Unavailable);
                        reply::failure(body, unavailable, Some(unavailable.retry));
                    }
                }
                reply::response(out, OK, TEXT, body, ending);
                mark(parts, number, out.len());
            });
            self.announces.clear();
            self.asked.clear();
        }
    }

    /// Whether answers should be sent before there are more of them.
    pub(super) fn is_full(&self) -> bool {
        self.out.len() >= FULL
    }

    /// Whether there is anything to be sent.
    pub(super) fn is_answered(&self) -> bool {
        !self.parts.is_empty()
    }

    /// Gives all answers, connection by connection, to `send`. The buffer is kept.
    pub(super) fn send(&mut self, service: &Service, mut send: impl FnMut(u32, &[u8])) {
        let mut begin = 0;
        for Part { number, end } in self.parts.drain(..) {
            send(number, &self.out[begin..end]);
            begin = end;
        }
        // A full scrape should not hold its memory for ever.
        if self.out.capacity() > 8 * FULL {
            self.out = Vec::new();
            self.body = Vec::new();
        }
        self.out.clear();
        service.statistics.add(Transport::Http, &mut self.tally);
    }

    fn scrape(&mut self, number: u32, head: &Head<'_>, service: &Service, now: Instant) {
        // Announces of the same connection come first.
        self.answer(service, now);
        let mut torrents = take(&mut self.torrents);
        let full = torrents.is_empty();
        let most = service.config.limits.full_scrape;
        if full && most == 0 {
            self.fail(number, RequestError::FullScrape, head.ending, service, now);
            return;
        }
        if let Err(refusal) = service.admit_scrape(head.client, &mut torrents, now) {
            self.refuse(number, refusal, head.ending, service, now);
            return;
        }
        self.body.clear();
        let scraped = if full {
            service.store.all(most, now).map(|mut all| {
                all.retain(|(info_hash, _)| service.access.allows(info_hash));
                all.sort_unstable_by(|(one, _), (other, _)| one.as_bytes().cmp(other.as_bytes()));
                reply::scraped(&mut self.body, all);
            })
        } else {
            let counts = service.store.scrape(&torrents, now);
            counts.map(|counts| reply::scraped(&mut self.body, torrents.iter().copied().zip(counts)))
        };
        match scraped {
            Ok(()) => self.tally.count(Counter::Scrapes),
            Err(unavailable) => {
                self.tally.count(Counter::Unavailable);
                reply::failure(&mut self.body, &unavailable, Some(unavailable.retry));
            }
        }
        self.torrents = torrents;
        self.respond(number, OK, TEXT, head.ending);
    }

    fn refuse(&mut self, number: u32, refusal: Refusal, ending: Ending, service: &Service, now: Instant) {
        self.answer(service, now);
        self.tally.count(refusal.counter());
        let retry = if let Refusal::TooOften { retry } = refusal { Some(retry) } else { None };
        self.body.clear();
        reply::failure(&mut self.body, refusal, retry);
        self.respond(number, OK, TEXT, ending);
    }

    /// Answers with the body that has been put together.
    fn respond(&mut self, number: u32, status: Status, kind: &str, ending: Ending) {
        reply::response(&mut self.out, status, kind, &self.body, ending);
        mark(&mut self.parts, number, self.out.len());
    }
}

/// Takes note that what is written up to `end` is for this connection.
fn mark(parts: &mut Vec<Part>, number: u32, end: usize) {
    match parts.last_mut() {
        Some(last) if last.number == number => last.end = end,
        _ => parts.push(Part { number, end }),
    }
}
