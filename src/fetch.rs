//! A file from the web, such as a .torrent, over the same way out as everything else.
//!
//! It owns how long that may take and how much may come. What the bytes are is the caller's.

use std::io;
use std::time::Duration;

use crate::config::Bind;
use crate::discovery::direct_agent;
use crate::discovery::interrupt::Interrupt;

/// How long a fetch may take in all.
const WHOLE: Duration = Duration::from_secs(120);
/// How long until a server is connected to, and then until it begins to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why nothing was fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchError {
    /// The server answered with another status than success.
    #[error("the server says {code} {reason}")]
    Status {
        /// The number.
        code: u16,
        /// What it stands for.
        reason: &'static str,
    },
    /// There is more than was allowed.
    #[error("it is larger than {0} bytes")]
    TooLarge(u64),
    /// The server took too long.
    #[error("the server does not answer")]
    TimedOut,
    /// The name is not known.
    #[error("there is no such host")]
    NoSuchHost,
    /// The system says no, or what is bound to is gone.
    #[error("{0}")]
    Io(#[source] io::Error),
    /// Something else about the URL, the exchange or its encryption.
    #[error("{0}")]
    Exchange(String),
}

/// The body of an http or https URL, at most `most` bytes. Waits for the network, for up to two minutes.
///
/// With `bind` nothing is sent any other way, and no proxy is used; without it the proxy of the environment is.
pub fn fetch(url: &str, bind: Option<&Bind>, most: u64) -> Result<Vec<u8>, FetchError> {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(WHOLE))
        .timeout_connect(Some(PATIENCE))
        .timeout_recv_response(Some(PATIENCE))
        .user_agent(concat!("ropewalk/", env!("CARGO_PKG_VERSION")));
    let agent = match bind {
        Some(_) => direct_agent(config.proxy(None).build(), bind, &Interrupt::new()),
        None => ureq::Agent::new_with_config(config.build()),
    };
    let mut response = agent.get(url).call().map_err(|error| of(error, most))?;
    let status = response.status();
    if !status.is_success() {
        let reason = status.canonical_reason().unwrap_or("an unknown status");
        return Err(FetchError::Status { code: status.as_u16(), reason });
    }
    // A body that just fills the limit of ureq is refused, as its end is not seen.
    response.body_mut().with_config().limit(most.saturating_add(1)).read_to_vec().map_err(|error| of(error, most))
}

fn of(error: ureq::Error, most: u64) -> FetchError {
    match error {
        ureq::Error::BodyExceedsLimit(_) => FetchError::TooLarge(most),
        ureq::Error::Timeout(_) => FetchError::TimedOut,
        ureq::Error::HostNotFound => FetchError::NoSuchHost,
        ureq::Error::ConnectionFailed => FetchError::Io(io::ErrorKind::ConnectionRefused.into()),
        ureq::Error::Io(error) => match error.downcast::<ureq::Error>() {
            Ok(inner) => of(inner, most),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => FetchError::TimedOut,
            Err(error) => FetchError::Io(error),
        },
        other => FetchError::Exchange(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::{Bind, FetchError, fetch};

    /// The URL of a server that answers once with this.
    fn serve(answer: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut heard = Vec::new();
            while !heard.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).unwrap();
                heard.push(byte[0]);
            }
            stream.write_all(answer.as_bytes()).unwrap();
        });
        url
    }

    #[test]
    fn a_bound_fetch_brings_the_body_and_no_more_than_allowed() {
        let local = Bind::Addr([127, 0, 0, 1].into());
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        assert_eq!(fetch(&serve(answer), Some(&local), 5).unwrap(), b"hello");
        assert!(matches!(fetch(&serve(answer), Some(&local), 4), Err(FetchError::TooLarge(4))));
        let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
        assert!(matches!(
            fetch(&serve(missing), Some(&local), 4),
            Err(FetchError::Status { code: 404, reason: "Not Found" })
        ));
    }

    #[test]
    fn what_is_bound_to_and_not_there_is_said_and_nothing_is_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let url = format!("http://{}/x", listener.local_addr().unwrap());
        let error = fetch(&url, Some(&Bind::Interface("no-such-if".into())), 100).unwrap_err();
        assert!(error.to_string().contains("no-such-if"), "{error}");
        assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    }
}
