//! Pure decisions: which piece next, whom to unchoke, how long to wait, whom to dial, whom to block, whom to trust.
//!
//! It owns the rules and their numbers. It refuses threads, sockets, clocks and randomness of its own: the time comes
//! in as `now`, and whoever makes a policy hands it a seeded generator. The same inputs give the same decisions, so
//! every rule here is tested on a fake clock.

mod addresses;
mod choker;
mod exchange;
mod filter;
mod limiter;
mod picker;
mod reputation;
mod source_limits;
mod superseed;
mod twins;
mod window;

pub use addresses::{
    AddressBook, DialLimits, Miss, Misses, Reach, Refused, Source, Sources, Surroundings, Swaps, canonical_priority,
};
pub use choker::{Candidate, Choker, Reciprocity, Role, SlotRule};
pub use exchange::{Frequency, Hearsay, News, Receiver, Told, Verdict, may_name};
pub use filter::{BadLine, BlocklistError, IpFilter, IpFilterBuilder, ListSummary};
pub use limiter::{Bucket, RateMeter};
pub use picker::{Mode, Picker, PieceState, Priority};
pub use reputation::{Deed, NotRecords, Record, Reputation, Standing};
pub(crate) use source_limits::SourceLimits;
pub use superseed::SuperSeeder;
pub use twins::{DOUBT, Made, Stays, which_stays, which_stays_at_last};
pub use window::{Pace, RequestWindow};
