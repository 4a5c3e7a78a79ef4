//! What a person or a program reads: colour on a terminal, plain lines in a pipe, JSON on
//! request. Only data goes to stdout; progress and errors go to stderr.
#![expect(clippy::print_stderr, reason = "this is the one module that prints")]

use std::io::{IsTerminal, Write};
use std::sync::OnceLock;

use serde_json::Value;

use crate::error::Failure;

/// How this invocation prints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Style {
    pub(crate) json: bool,
    pub(crate) colour: bool,
    pub(crate) terminal: bool,
}

static STYLE: OnceLock<Style> = OnceLock::new();

/// Decides once how to print.
pub(crate) fn init(json: bool, no_colour: bool) {
    let terminal = std::io::stdout().is_terminal();
    let _ = STYLE.set(Style {
        json,
        colour: terminal && !no_colour,
        terminal,
    });
}

pub(crate) fn style() -> Style {
    *STYLE.get().unwrap_or(&Style {
        json: false,
        colour: false,
        terminal: false,
    })
}

fn paint(code: &str, text: &str) -> String {
    if style().colour {
        format!("\x1b[{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

pub(crate) fn bold(text: &str) -> String {
    paint("1", text)
}

pub(crate) fn dim(text: &str) -> String {
    paint("2", text)
}

pub(crate) fn green(text: &str) -> String {
    paint("32", text)
}

pub(crate) fn red(text: &str) -> String {
    paint("31", text)
}

pub(crate) fn yellow(text: &str) -> String {
    paint("33", text)
}

/// A state word in the colour that people expect.
pub(crate) fn state(word: &str) -> String {
    match word {
        "success" | "ready" | "current" | "champion" | "done" | "running" | "serving" => {
            green(word)
        }
        "failure" | "failed" | "error" | "refused" | "crashed" | "lost" | "timed_out" => red(word),
        "queued" | "pending" | "starting" | "probing" | "draining" | "paused" | "cancelled"
        | "superseded" | "skipped" | "held" => yellow(word),
        other => other.to_owned(),
    }
}

/// Prints a line of data. A reader that went away ends the program quietly.
pub(crate) fn line(text: impl AsRef<str>) {
    raw(&tame(text.as_ref()));
}

/// Prints what a program reads, every character as it is: JSON has its own escapes.
fn raw(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        #[expect(
            clippy::exit,
            reason = "nobody reads any more: `ondol events | head` must end"
        )]
        std::process::exit(0);
    }
}

/// Prints an API object as it came.
pub(crate) fn json(value: &Value) {
    raw(&serde_json::to_string_pretty(value).unwrap_or_default());
}

/// Prints an API object on one line, for streams.
pub(crate) fn json_line(value: &Value) {
    raw(&value.to_string());
}

/// A remark for the person, not for the program that reads stdout.
pub(crate) fn note(text: impl AsRef<str>) {
    eprintln!("{}", tame(text.as_ref()));
}

/// Prints a failure: what, why, and what to do.
pub(crate) fn failure(failure: &Failure) {
    if style().json {
        let body = serde_json::json!({
            "error": failure.message, "causes": failure.causes, "hint": failure.hint, "exit": failure.exit as u8,
        });
        eprintln!("{body}");
        return;
    }
    let red = std::io::stderr().is_terminal() && style().colour;
    let label = if red {
        "\x1b[31merror:\x1b[0m"
    } else {
        "error:"
    };
    eprintln!("{label} {}", tame(&failure.message));
    let mut last = failure.message.as_str();
    for cause in &failure.causes {
        if cause != last {
            eprintln!("  cause: {}", tame(cause));
        }
        last = cause;
    }
    if let Some(hint) = &failure.hint {
        eprintln!("hint: {}", tame(hint));
    }
}

/// Columns under headings, padded to the widest cell.
pub(crate) fn table(headings: &[&str], rows: &[Vec<String>]) {
    let width = |cell: &str| {
        strip(cell)
            .chars()
            .map(|c| if is_wide(c) { 2 } else { 1 })
            .sum::<usize>()
    };
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.len()).collect();
    for row in rows {
        for (index, cell) in row.iter().enumerate() {
            widths[index] = widths[index].max(width(cell));
        }
    }
    let render = |cells: &[String]| {
        let mut text = String::new();
        for (index, cell) in cells.iter().enumerate() {
            text.push_str(cell);
            if index + 1 < cells.len() {
                text.push_str(&" ".repeat(widths[index].saturating_sub(width(cell)) + 2));
            }
        }
        text.trim_end().to_owned()
    };
    let heads: Vec<String> = headings.iter().map(|heading| dim(heading)).collect();
    line(render(&heads));
    for row in rows {
        line(render(row));
    }
}

fn strip(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c == '\x1b' {
            for c in chars.by_ref() {
                if c.is_ascii_alphabetic() {
                    break;
                }
            }
        } else {
            plain.push(c);
        }
    }
    plain
}

/// Hangul and other East Asian letters fill two columns of a terminal.
fn is_wide(c: char) -> bool {
    matches!(c as u32, 0x1100..=0x115f | 0x2e80..=0xa4cf | 0xac00..=0xd7a3 | 0xf900..=0xfaff | 0xff00..=0xff60)
}

/// Characters that turn the direction of writing, so that a text reads as another one.
fn turns_around(c: char) -> bool {
    matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Everything that a person gets passes here, also through a pipe, whose end may be a terminal:
/// texts of others (subjects of commits, names, what a server answers) may carry orders to it. Only
/// colours are left, which are what Ondol itself adds.
fn tame(text: &str) -> String {
    let mut tamed = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let colour = rest.strip_prefix("\x1b[").and_then(|inside| {
            let end = inside.find(|c: char| !(c.is_ascii_digit() || c == ';'))?;
            inside[end..].starts_with('m').then_some(2 + end + 1)
        });
        let length = colour.unwrap_or(c.len_utf8());
        let order = c.is_control() && !matches!(c, '\n' | '\t') || turns_around(c);
        if colour.is_none() && order {
            tamed.push('\u{fffd}');
        } else {
            tamed.push_str(&rest[..length]);
        }
        rest = &rest[length..];
    }
    tamed
}

/// Text from a workload, without the control characters that could repaint a terminal.
pub(crate) fn printable(text: &str) -> String {
    if !style().terminal {
        return text.to_owned();
    }
    text.chars()
        .map(|c| {
            if c.is_control() && c != '\t' || turns_around(c) {
                '\u{fffd}'
            } else {
                c
            }
        })
        .collect()
}

/// Seconds as people say them.
pub(crate) fn seconds(value: f64) -> String {
    if value < 1.0 {
        format!("{:.0} ms", value * 1e3)
    } else if value < 60.0 {
        format!("{value:.1} s")
    } else if value < 3_600.0 {
        format!("{:.0} min {:02.0} s", (value / 60.0).floor(), value % 60.0)
    } else {
        format!(
            "{:.0} h {:02.0} min",
            (value / 3_600.0).floor(),
            (value % 3_600.0 / 60.0).floor()
        )
    }
}

/// Bytes as people say them, in powers of 1,024.
pub(crate) fn bytes(value: f64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut scaled = value;
    let mut unit = 0;
    while scaled >= 1_024.0 && unit + 1 < units.len() {
        scaled /= 1_024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{scaled:.0} B")
    } else {
        format!("{scaled:.1} {}", units[unit])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_well() {
        assert_eq!(seconds(0.25), "250 ms");
        assert_eq!(seconds(75.0), "1 min 15 s");
        assert_eq!(seconds(7_260.0), "2 h 01 min");
        assert_eq!(bytes(512.0), "512 B");
        assert_eq!(bytes(1_536.0), "1.5 KiB");
    }

    #[test]
    fn a_terminal_gets_no_orders_from_texts_of_others() {
        assert_eq!(
            tame("\x1b[31mred\x1b[0m 한글\n\tx"),
            "\x1b[31mred\x1b[0m 한글\n\tx"
        );
        for order in [
            "\x1b]52;c;cm0gLXJm\x07",
            "\x1b]8;;http://evil.example\x1b\\link",
            "\x1b[2J",
            "\x1b[1A\r",
            "\u{9b}31m",
            "\x1b",
            "\x1b[31",
            "a\x08b",
            "main\u{202e}gpj.exe",
            "\u{2066}a\u{2069}",
        ] {
            let tamed = tame(order);
            assert!(
                !tamed.contains([
                    '\x1b', '\u{9b}', '\x07', '\r', '\x08', '\u{202e}', '\u{2066}'
                ]),
                "{order:?}"
            );
        }
    }

    #[test]
    fn colours_do_not_count_as_width() {
        assert_eq!(strip("\x1b[32mok\x1b[0m"), "ok");
        assert!(is_wide('온') && !is_wide('o'));
    }
}
