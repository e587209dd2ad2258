//! What the tests with real programs, disks and networks are made of.
//!
//! - [`need`]: what has to be there, and how a test says that it is not.
//! - [`payload`]: torrents with bytes to compare. [`process`]: programs that are waited for by what they print.
//! - [`network`]: a network of its own for a test. [`links`]: two machines, and two ways between them. [`disk`]: a disk. [`ropewalk`]: the binary under test.
#![allow(dead_code, reason = "each test program uses its part of this")]

pub(crate) mod disk;
pub(crate) mod links;
pub(crate) mod need;
pub(crate) mod network;
pub(crate) mod payload;
pub(crate) mod process;
pub(crate) mod ropewalk;
