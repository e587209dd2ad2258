//! Lists of addresses that others keep, and the file of what is remembered of peers: bounded, and blocking what they say.
#![no_main]

use std::time::{Duration, UNIX_EPOCH};

use libfuzzer_sys::fuzz_target;
use ropewalk::policy::{BlocklistError, IpFilter, Reputation};

fuzz_target!(|data: &[u8]| {
    let mut builder = IpFilter::builder();
    match builder.read(data) {
        Ok(list) => {
            let filter = builder.build();
            assert!(filter.len() as u64 <= list.ranges && (list.ranges == 0) == filter.is_empty());
            assert_eq!(list.bad > 0, list.first_bad.is_some());
        }
        Err(error) => {
            assert!(builder.build().is_empty(), "nothing of a broken list is blocked");
            if let BlocklistError::NotAList { lines, first } = error {
                assert!(lines >= first.number.min(1) && !first.text.chars().any(char::is_control));
            }
        }
    }
    let now = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(known) = Reputation::decode(text, 8, now)
    {
        assert!(known.len() <= 8);
        let text = known.encode(now);
        let again = Reputation::decode(&text, 8, now).expect("what was encoded");
        assert_eq!(again.encode(now), text);
    }
});
