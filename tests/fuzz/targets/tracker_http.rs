//! What clients send to a tracker over HTTP: requests end where they end, and whatever they ask, the answer is bencode that
//! a client understands.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ropewalk::bencode;
use ropewalk::fuzzing::tracker_requests;

fuzz_target!(|data: &[u8]| {
    for behind_proxy in [false, true] {
        let (len, answers) = tracker_requests(data, behind_proxy);
        assert!(len <= data.len() && answers.len() <= len);
        for answer in answers {
            let (_, rest) =
                bencode::decode(&answer).unwrap_or_else(|error| panic!("{error}: {}", answer.escape_ascii()));
            assert!(rest.is_empty(), "{}", answer.escape_ascii());
        }
    }
});
