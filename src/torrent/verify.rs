//! The verify workers: whole pieces in, verified pieces in the files out.
//!
//! One thread per core for the whole process, each with nothing that lasts. Whatever the number of peers, no more than
//! these touch a file. A worker hashes side by side what is waiting and what comes within a moment: while pieces come
//! quickly the batches fill, and at rest nothing waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::config::ResourceConfig;
use crate::crew::{Crew, NoThread};
use crate::hash::{Backend, VerifiedPiece, sha1_many};
use crate::peer::{Activity, Audit, Buffer, Contents, Fact, FullPiece, PeerKey, Processor};

/// Whole pieces that wait for a worker. A peer whose piece finds no room waits; the in-flight budget bounds the bytes.
const QUEUE: usize = 16;
/// A worker's stack: hashing and copying need little.
const STACK: usize = 128 * 1024;

/// How long a worker waits for pieces to hash side by side, at the most. Only where they come so quickly that this pays.
const GATHER: Duration = Duration::from_millis(8);
/// How often a worker notes its processor time.
const LOOK: Duration = Duration::from_millis(100);
/// How much the newest measure of the interval between pieces counts in the mean.
const NEWEST: f64 = 0.3;

/// Starts the workers; they end when the last sender is gone.
pub(crate) fn start(crew: &Crew, config: &ResourceConfig) -> Result<Sender<FullPiece>, NoThread> {
    let (queue, pieces) = bounded::<FullPiece>(QUEUE);
    // One worker at a time takes pieces, so that they do not share out what is quicker together.
    let (pass, turn) = bounded(1);
    pass.send(Intake::new(pieces, config.hashing)).ok();
    for number in 0..config.workers.max(1) {
        let (pass, turn) = (pass.clone(), turn.clone());
        crew.spawn(format!("verify-{number}"), STACK, move || run(&turn, &pass))?;
    }
    Ok(queue)
}

/// Takes its turn at the intake, passes it on, and works.
fn run(turn: &Receiver<Intake>, pass: &Sender<Intake>) {
    let processor = Processor::new(LOOK, Instant::now());
    while let Ok(mut intake) = turn.recv() {
        let (pieces, backend) = (intake.gather(), intake.backend);
        // Whoever is next finds the end too. There is one intake and room for it: this never waits.
        pass.send(intake).ok();
        if pieces.is_empty() {
            return;
        }
        let (queued, workers) = (processor.queued(), pieces.first().map(|full| Arc::clone(&full.context.workers)));
        verify(backend, pieces.into_iter());
        processor.note(Instant::now());
        if let Some(workers) = workers {
            workers.add(Activity::Processor, processor.queued().saturating_sub(queued));
        }
    }
}

/// The receiving end of the queue, which goes from worker to worker, and how quickly pieces come.
struct Intake {
    pieces: Receiver<FullPiece>,
    backend: Backend,
    last: Option<Instant>,
    /// The mean time between two pieces, in seconds.
    interval: f64,
}

impl Intake {
    fn new(pieces: Receiver<FullPiece>, backend: Backend) -> Self {
        Self { pieces, backend, last: None, interval: f64::INFINITY }
    }

    /// The next pieces: what waits, and where they come quickly, what comes within a moment. Empty at the end.
    fn gather(&mut self) -> Vec<FullPiece> {
        let Ok(first) = self.pieces.recv() else { return Vec::new() };
        let lanes = self.backend.lanes();
        let mut taken = vec![first];
        taken.extend(self.pieces.try_iter().take(lanes - 1));
        let missing = (lanes - taken.len()) as f64;
        if missing > 0.0 && self.interval * self.backend.fewest() as f64 <= GATHER.as_secs_f64() {
            // One pause for all of them: to be woken for each would cost more than is gained.
            std::thread::sleep(GATHER.min(Duration::from_secs_f64(self.interval * missing)));
            taken.extend(self.pieces.try_iter().take(lanes - taken.len()));
        }
        self.note(taken.len(), Instant::now());
        taken
    }

    /// Takes down how many pieces came since the last time.
    fn note(&mut self, count: usize, now: Instant) {
        if let Some(last) = self.last.replace(now) {
            // After a pause one long interval must not hide for long that they come quickly.
            let interval = ((now - last) / count as u32).min(GATHER).as_secs_f64();
            let before = if self.interval.is_finite() { self.interval } else { interval };
            self.interval = before + (interval - before) * NEWEST;
        }
    }
}

/// Hashes the pieces, then stores and reports one after the other.
fn verify(backend: Backend, pieces: impl Iterator<Item = FullPiece>) {
    let mut blocks_of = Vec::new();
    let taken = pieces.filter_map(|full| {
        let Contents { blocks, senders } = full.piece.take()?;
        blocks_of.push(blocks);
        Some((full, senders))
    });
    let taken: Vec<(FullPiece, Vec<PeerKey>)> = taken.collect();
    let checks = taken.iter().zip(blocks_of).map(|((full, _), blocks)| {
        let index = full.piece.index();
        (index, blocks, full.context.metainfo.piece_hash(index))
    });
    let mut last = Instant::now();
    let results = VerifiedPiece::check_many(backend, checks.collect());
    // They were hashed side by side, each for a share of the time.
    let hashing = last.elapsed() / taken.len().max(1) as u32;
    last += hashing * taken.len() as u32;
    for (result, (full, senders)) in results.into_iter().zip(&taken) {
        let fact = settle(backend, full, senders, result);
        let now = Instant::now();
        full.context.workers.add(Activity::Hashing, hashing);
        full.context.workers.add(Activity::Storing, now.saturating_duration_since(last));
        last = now;
        (full.context.facts)(fact);
    }
}

fn settle(
    backend: Backend,
    full: &FullPiece,
    senders: &[PeerKey],
    result: Result<VerifiedPiece<Buffer>, Vec<Buffer>>,
) -> Fact {
    let piece = Arc::clone(&full.piece);
    match result {
        Ok(verified) => match full.context.storage().write_piece(&verified) {
            Ok(()) => {
                let audit = piece.is_audited().then(|| audit(backend, &verified.into_blocks(), senders));
                Fact::Stored { piece, from: chief(senders), audit }
            }
            Err(error) => Fact::NotStored { piece, error },
        },
        Err(blocks) => Fact::Corrupt { piece, audit: audit(backend, &blocks, senders) },
    }
}

/// Whoever sent most of the blocks.
fn chief(senders: &[PeerKey]) -> Option<PeerKey> {
    let first = *senders.first()?;
    if senders.iter().all(|&sender| sender == first) {
        return Some(first);
    }
    let mut blocks = HashMap::new();
    senders.iter().for_each(|&sender| *blocks.entry(sender).or_insert(0) += 1);
    blocks.into_iter().max_by_key(|&(_, count)| count).map(|(sender, _)| sender)
}

fn audit(backend: Backend, blocks: &[Buffer], senders: &[PeerKey]) -> Audit {
    let each: Vec<&[Buffer]> = blocks.chunks(1).collect();
    Audit { blocks: senders.iter().copied().zip(sha1_many(backend, &each)).collect() }
}

#[cfg(test)]
mod tests {
    use super::{PeerKey, chief};

    #[test]
    fn the_chief_sender_of_a_piece_sent_most_of_its_blocks() {
        assert_eq!(chief(&[]), None);
        assert_eq!(chief(&[PeerKey(1)]), Some(PeerKey(1)));
        assert_eq!(chief(&[1, 2, 2, 3, 3, 3, 2, 2].map(PeerKey)), Some(PeerKey(2)));
    }
}
