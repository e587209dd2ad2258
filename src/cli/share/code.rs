//! A link as a QR code in a terminal, two modules in each character.
//!
//! It owns how large a code may be. Light is drawn and dark is left out, as most terminals are dark; colours say the same
//! where there are any, so that the code is dark on light on every terminal, with the light margin that readers want.

use qrcode::{Color, EcLevel, QrCode};

/// The light margin, in modules: as it should be, and as readers make do with.
const MARGINS: [usize; 2] = [4, 2];
/// White on black, whatever the terminal takes for its own.
const COLOURS: (&str, &str) = ("\x1b[38;5;231;48;5;16m", "\x1b[0m");

/// How much can be seen at once, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    pub columns: usize,
    pub rows: usize,
}

/// A code that fits.
#[derive(Debug, PartialEq, Eq)]
pub struct Drawing {
    /// Its lines, the last one ended, too.
    pub text: String,
    /// Which of the links it holds.
    pub link: usize,
}

/// Draws the first of the links whose code fits, all of which lead to the same; those to the end are shorter and shorter.
/// Without a room every code fits. The error is the room that the smallest would take; `None` where there is no code at
/// all, since the links are too long.
pub fn draw(links: &[String], room: Option<Room>, colours: bool) -> Result<Drawing, Option<Room>> {
    let mut least: Option<Room> = None;
    for (link, text) in links.iter().enumerate() {
        // The more can be wrong with a picture of it the better, as long as it is seen whole.
        for level in [EcLevel::M, EcLevel::L] {
            let Ok(code) = QrCode::with_error_correction_level(text, level) else { continue };
            for margin in MARGINS {
                let side = code.width() + 2 * margin;
                let needed = Room { columns: side, rows: side.div_ceil(2) };
                if room.is_none_or(|room| room.columns >= needed.columns && room.rows >= needed.rows) {
                    return Ok(Drawing { text: picture(&code, margin, colours), link });
                }
                least = Some(least.filter(|least| least.columns <= needed.columns).unwrap_or(needed));
            }
        }
    }
    Err(least)
}

fn picture(code: &QrCode, margin: usize, colours: bool) -> String {
    let (width, modules) = (code.width(), code.to_colors());
    let is_light = |x: usize, y: usize| {
        let inside = |at: usize| at.checked_sub(margin).filter(|&at| at < width);
        inside(x).zip(inside(y)).is_none_or(|(x, y)| modules[y * width + x] == Color::Light)
    };
    let side = width + 2 * margin;
    let (before, after) = if colours { COLOURS } else { ("", "") };
    let mut text = String::new();
    for y in (0..side).step_by(2) {
        text += before;
        text.extend((0..side).map(|x| match (is_light(x, y), is_light(x, y + 1)) {
            (true, true) => '█',
            (true, false) => '▀',
            (false, true) => '▄',
            (false, false) => ' ',
        }));
        text += after;
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{COLOURS, Room, draw};

    /// What a reader sees on a dark screen, with black around it.
    fn read(text: &str) -> String {
        let lines: Vec<Vec<char>> = text
            .lines()
            .map(|line| line.trim_start_matches(COLOURS.0).trim_end_matches(COLOURS.1).chars().collect())
            .collect();
        let (scale, around) = (4, 8);
        let (width, height) = (lines[0].len() * scale + 2 * around, lines.len() * 2 * scale + 2 * around);
        let mut image = rqrr::PreparedImage::prepare_from_greyscale(width, height, |x, y| {
            let at = |at: usize| at.checked_sub(around).map(|at| at / scale);
            let Some((x, y)) = at(x).zip(at(y)) else { return 0 };
            let drawn = lines.get(y / 2).and_then(|line| line.get(x));
            let is_light = drawn.is_some_and(|&drawn| drawn == '█' || drawn == if y % 2 == 0 { '▀' } else { '▄' });
            if is_light { 255 } else { 0 }
        });
        let grids = image.detect_grids();
        assert_eq!(grids.len(), 1, "one code in\n{text}");
        grids[0].decode().unwrap().1
    }

    fn links() -> Vec<String> {
        let hash = "magnet:?xt=urn:btih:0123456789abcdef0123456789abcdef01234567";
        let trackers: String = (1..5).map(|n| format!("&tr=http%3A%2F%2F192.168.100.{n}%3A6969%2Fannounce")).collect();
        vec![format!("{hash}&dn=holiday{trackers}"), format!("{hash}&tr=udp%3A%2F%2F192.168.100.1%3A6969")]
    }

    #[test]
    fn a_reader_reads_what_was_drawn_with_colours_and_without() {
        for colours in [true, false] {
            let drawing = draw(&links(), None, colours).unwrap();
            assert_eq!((read(&drawing.text), drawing.link), (links()[0].clone(), 0));
            assert_eq!(drawing.text.contains('\x1b'), colours);
        }
    }

    #[test]
    fn a_low_terminal_gets_the_shorter_link_whole_and_a_lower_one_nothing() {
        let room = Room { columns: 80, rows: 21 };
        let drawing = draw(&links(), Some(room), false).unwrap();
        assert_eq!((read(&drawing.text), drawing.link), (links()[1].clone(), 1));
        let lines: Vec<_> = drawing.text.lines().collect();
        assert!(lines.len() <= room.rows && lines.iter().all(|line| line.chars().count() <= room.columns));

        let needed = draw(&links(), Some(Room { rows: 20, ..room }), false).unwrap_err().unwrap();
        assert_eq!(needed, Room { columns: 41, rows: 21 });
        assert!(draw(&links(), Some(Room { columns: 40, ..room }), false).is_err());
        assert!(draw(&links(), Some(needed), false).is_ok());
    }

    #[test]
    fn what_no_code_holds_is_not_drawn() {
        assert_eq!(draw(&["x".repeat(3000)], None, false), Err(None));
    }
}
