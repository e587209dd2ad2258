//! What a store in Redis can be told, and where it is.
//!
//! It owns the forms in which servers are named. It refuses to show a password: not in an error, and in no form for people.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use redis::{ConnectionInfo, IntoConnectionInfo};

/// How a tracker keeps its swarms in Redis.
#[derive(Clone, Debug)]
pub struct RedisConfig {
    /// Where it is.
    pub place: RedisPlace,
    /// A peer that does not announce for this long has gone; whole seconds. All trackers on one Redis say the same. Default:
    /// 45 min, half as much again as the usual interval.
    pub expiry: Duration,
    /// Peers that are remembered for one torrent; one more gets an answer but is given to nobody. How many torrents there can
    /// be is up to Redis (`maxmemory`). Default: 1,000,000.
    pub peers_per_torrent: usize,
    /// Connections to each server. Default: 2, so that one is read while Redis works for the other.
    pub connections: usize,
    /// How long a connection, or an answer, may take. Default: 2 s.
    pub timeout: Duration,
    /// While Redis does not answer, peers come from what it said last, for at most this long. Default: 5 min.
    pub recent_for: Duration,
    /// How many answers are kept for that, each of at most some 5 KB. Default: 10,000.
    pub recent: usize,
}

impl RedisConfig {
    /// What is usual.
    pub fn new(place: RedisPlace) -> Self {
        Self {
            place,
            expiry: Duration::from_secs(45 * 60),
            peers_per_torrent: 1_000_000,
            connections: 2,
            timeout: Duration::from_secs(2),
            recent_for: Duration::from_secs(5 * 60),
            recent: 10_000,
        }
    }
}

/// A Redis server, or some of the servers of a cluster.
///
/// `redis://[[USER]:PASSWORD@]HOST[:PORT][/DB]`, `rediss://` for TLS, or `redis+unix:///PATH[?db=DB&pass=PASSWORD]`. A
/// cluster is named by `redis+cluster://` (`rediss+cluster://`), or by several of these with commas between them; its other
/// servers are found by any of those. Shown without passwords.
#[derive(Clone)]
pub struct RedisPlace {
    pub(super) servers: Vec<ConnectionInfo>,
    pub(super) cluster: bool,
}

/// Why a text does not say where a Redis is.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisPlaceError {
    /// It is no URL of Redis.
    #[error("not a URL of Redis, such as redis://HOST:PORT: {0}")]
    Url(String),
    /// A cluster has no numbered databases.
    #[error("a Redis Cluster has only database 0")]
    Database,
    /// A cluster is reached by TCP.
    #[error("the servers of a Redis Cluster are not reached by Unix sockets")]
    Unix,
}

impl FromStr for RedisPlace {
    type Err = RedisPlaceError;

    fn from_str(text: &str) -> Result<Self, RedisPlaceError> {
        let urls: Vec<_> = text.split(',').map(str::trim).collect();
        let mut cluster = urls.len() > 1;
        let mut servers = Vec::new();
        for url in urls {
            let url = match url.split_once("+cluster://") {
                Some((scheme @ ("redis" | "rediss"), rest)) => {
                    cluster = true;
                    format!("{scheme}://{rest}")
                }
                _ => url.to_owned(),
            };
            // The reason alone: it does not repeat the URL.
            let info = url.into_connection_info().map_err(|error| RedisPlaceError::Url(reason(&error)))?;
            let tcp = info.tcp_settings().clone().set_nodelay(true);
            servers.push(info.set_tcp_settings(tcp));
        }
        if cluster && servers.iter().any(|server| server.redis_settings().db() != 0) {
            return Err(RedisPlaceError::Database);
        }
        if cluster && servers.iter().any(|server| matches!(server.addr(), redis::ConnectionAddr::Unix(_))) {
            return Err(RedisPlaceError::Unix);
        }
        Ok(Self { servers, cluster })
    }
}

impl fmt::Display for RedisPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, server) in self.servers.iter().enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            write!(f, "{comma}{}", server.addr())?;
        }
        Ok(())
    }
}

impl fmt::Debug for RedisPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisPlace({self}{})", if self.cluster { ", cluster" } else { "" })
    }
}

/// An error of the crate in words, without what it repeats of its input.
fn reason(error: &redis::RedisError) -> String {
    let text = error.to_string();
    let end = text.find(" - ").or_else(|| text.find(": ")).unwrap_or(text.len());
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> RedisPlace {
        text.parse().unwrap()
    }

    #[test]
    fn servers_are_named_by_urls() {
        assert_eq!(place("redis://127.0.0.1:7000/2").to_string(), "127.0.0.1:7000");
        assert_eq!(place("redis+unix:///run/redis.sock?db=1").to_string(), "/run/redis.sock");
        assert!(!place("redis://a").cluster);
        assert!(place("rediss+cluster://a:1").cluster);
        let cluster = place("redis://a:1, redis://b");
        assert_eq!((cluster.cluster, cluster.to_string().as_str()), (true, "a:1, b:6379"));
    }

    #[test]
    fn passwords_are_not_shown() {
        let place = place("redis://user:sesame@127.0.0.1:7000");
        assert_eq!(place.servers[0].redis_settings().password(), Some("sesame"));
        assert!(!format!("{place} {place:?} {:?}", RedisConfig::new(place.clone())).contains("sesame"));
        for wrong in ["http://:sesame@a", "redis://:sesame@a/x", "redis://:sesame@", "redis://:sesame@a:b", ":sesame"] {
            let error = wrong.parse::<RedisPlace>().unwrap_err();
            assert!(!format!("{error} {error:?}").contains("sesame"), "{error:?}");
        }
    }

    #[test]
    fn what_a_cluster_does_not_have_is_refused() {
        assert!(matches!("redis+cluster://a/1".parse::<RedisPlace>(), Err(RedisPlaceError::Database)));
        assert!(matches!("redis://a,redis+unix:///b".parse::<RedisPlace>(), Err(RedisPlaceError::Unix)));
    }
}
