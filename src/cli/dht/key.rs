//! Key files: the secret of an author of items, 64 hexadecimal digits and a line end.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::cli::exit::{Code, failed, io_text};
use crate::cli::words::shown;

/// The secret key in a file, which is made, with a new key, where there is none.
pub fn of(path: &Path) -> anyhow::Result<[u8; 32]> {
    let wrong = |text: String| failed(Code::BadInput, format!("{}: {text}", shown(path)));
    match std::fs::read_to_string(path) {
        Ok(text) => read(text.trim()).ok_or_else(|| {
            wrong("not a key file, which has 64 hexadecimal digits; name another file to have one made".into())
        }),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let secret = new_secret().map_err(|error| wrong(io_text(&error)))?;
            // Nobody else may read it, from the first moment.
            let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
            let written = file.and_then(|mut file| writeln!(file, "{}", digits(&secret)));
            written.map_err(|error| failed(Code::Disk, format!("cannot make {}: {}", shown(path), io_text(&error))))?;
            Ok(secret)
        }
        Err(error) => Err(wrong(io_text(&error))),
    }
}

/// 32 bytes as people write them.
pub fn read(text: &str) -> Option<[u8; 32]> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let bytes = pairs.iter().map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok());
    bytes.collect::<Option<Vec<u8>>>()?.try_into().ok()
}

/// The same the other way round.
pub fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// From the system: a key that can be guessed is none.
fn new_secret() -> std::io::Result<[u8; 32]> {
    let mut secret = [0; 32];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut secret)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::{digits, of, read};

    #[test]
    fn a_key_is_made_once_and_only_its_owner_can_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("my.key");
        let secret = of(&path).unwrap();
        assert_eq!(of(&path).unwrap(), secret);
        assert_ne!(of(&folder.path().join("other.key")).unwrap(), secret);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "no key").unwrap();
        assert!(of(&path).is_err());
    }

    #[test]
    fn keys_are_read_as_they_are_written() {
        let key: [u8; 32] = std::array::from_fn(|at| at as u8 * 8);
        assert_eq!(read(&digits(&key)), Some(key));
        for wrong in ["", "00", &"0".repeat(63), &"0".repeat(65), &"+0".repeat(32), &"é".repeat(32)] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
