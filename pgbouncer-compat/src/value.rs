//! The grammar of values: PgBouncer's (C integers, decimal seconds, booleans as integers) and, beyond it, units and
//! the words `on` and `off`.

use std::time::Duration;

/// What a number counts, which decides the units it may be written with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A plain number.
    None,
    /// Connections.
    Connections,
    /// Bytes; `B`, `kB`, `MB`, `GB`, powers of 1024.
    Bytes,
    /// Seconds; `us`, `ms`, `s`, `min`, `h`, `d`.
    Seconds,
    /// Milliseconds; the same units.
    Milliseconds,
}

impl Unit {
    /// The factor from a written unit to this one.
    fn factor(self, written: &str) -> Option<f64> {
        match self {
            Unit::None | Unit::Connections => None,
            Unit::Bytes => {
                let power =
                    ["b", "kb", "mb", "gb"].iter().position(|unit| unit.eq_ignore_ascii_case(written))?;
                Some(1024_f64.powi(i32::try_from(power).ok()?))
            }
            Unit::Seconds => seconds(written),
            Unit::Milliseconds => Some(seconds(written)? * 1e3),
        }
    }
}

fn seconds(unit: &str) -> Option<f64> {
    Some(match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "min" => 60.0,
        "h" => 3600.0,
        "d" => 86400.0,
        _ => return None,
    })
}

/// A whole number: C's bases (`0x1F`, `017`), or decimal with a unit (`64MB`) as long as nothing is left over.
pub(crate) fn integer(text: &str, unit: Unit) -> Option<i64> {
    c_integer(text).or_else(|| {
        let (number, factor) = with_unit(text, unit)?;
        let value = number * factor;
        let whole = value.round();
        // 2^53: beyond it, not every whole number has a float of its own.
        let exact = (value - whole).abs() < 1e-6 && whole.abs() < 9e15;
        #[expect(clippy::cast_possible_truncation, reason = "whole, and within the bound just tested")]
        exact.then_some(whole as i64)
    })
}

/// What `strtol(text, &end, 0)` accepts whole.
fn c_integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let (base, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let value = i64::from_str_radix(digits, base).ok()?;
    Some(if negative { -value } else { value })
}

/// Seconds, with a fraction if need be, kept to the microsecond; at most 68 years, so that adding it to a point in
/// time cannot overflow.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, factor) = with_unit(text, Unit::Seconds).or_else(|| Some((float(text)?, 1.0)))?;
    let seconds = number * factor;
    if !(0.0..=f64::from(i32::MAX)).contains(&seconds) {
        return None;
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "within the bound just tested"
    )]
    let micros = (seconds * 1e6).round() as u64;
    Some(Duration::from_micros(micros))
}

/// `1.5min` as (1.5, 60).
fn with_unit(text: &str, unit: Unit) -> Option<(f64, f64)> {
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor = unit.factor(&text[number.len()..])?;
    Some((float(number.trim_end())?, factor))
}

/// A decimal number; no `inf`, no `nan`.
fn float(text: &str) -> Option<f64> {
    let decimal = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    text.parse().ok().filter(|value: &f64| decimal && value.is_finite())
}

/// A percentage from 0 to 100, in millionths of the whole.
pub(crate) fn percent(text: &str) -> Option<u32> {
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    float(number)
        .filter(|percent| (0.0..=100.0).contains(percent))
        .map(|percent| (percent * 1e4).round() as u32)
}

/// Any integer but 0 is true; beyond PgBouncer, the words of `postgresql.conf`.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    let is_one_of = |words: [&str; 3]| words.iter().any(|word| word.eq_ignore_ascii_case(text));
    if is_one_of(["on", "yes", "true"]) {
        return Some(true);
    }
    if is_one_of(["off", "no", "false"]) {
        return Some(false);
    }
    c_integer(text).map(|value| value != 0)
}

/// Words separated by commas or blanks.
pub(crate) fn list(text: &str) -> Vec<String> {
    text.split([',', ' ', '\t']).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// C's `%g`: six significant digits, without trailing zeros.
pub(crate) fn percent_g(value: f64) -> String {
    let scientific = format!("{value:.5e}");
    let Some((digits, exponent)) = scientific.split_once('e') else { return scientific };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..6).contains(&exponent) {
        let decimals = usize::try_from(5 - exponent).unwrap_or(0);
        return without_trailing_zeros(&format!("{value:.decimals$}")).to_owned();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{}e{sign}{:02}", without_trailing_zeros(digits), exponent.abs())
}

fn without_trailing_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn integers() {
        for (text, unit, expected) in [
            ("0", Unit::None, Some(0)),
            ("10", Unit::None, Some(10)),
            ("+10", Unit::None, Some(10)),
            ("-1", Unit::None, Some(-1)),
            ("010", Unit::None, Some(8)),
            ("0777", Unit::None, Some(0o777)),
            ("0x1F", Unit::None, Some(31)),
            ("08", Unit::None, None),
            ("0x", Unit::None, None),
            ("--1", Unit::None, None),
            ("0x-1", Unit::None, None),
            ("", Unit::None, None),
            ("-", Unit::None, None),
            ("ten", Unit::None, None),
            ("1 2", Unit::None, None),
            ("10s", Unit::None, None),
            ("10s", Unit::Connections, None),
            ("99999999999999999999", Unit::None, None),
            ("64MB", Unit::Bytes, Some(64 << 20)),
            ("64 mb", Unit::Bytes, Some(64 << 20)),
            ("1.5kB", Unit::Bytes, Some(1536)),
            ("1.1kB", Unit::Bytes, None),
            ("2GB", Unit::Bytes, Some(2 << 30)),
            ("12B", Unit::Bytes, Some(12)),
            ("1e30GB", Unit::Bytes, None),
            ("64", Unit::Bytes, Some(64)),
            ("5min", Unit::Seconds, Some(300)),
            ("1d", Unit::Seconds, Some(86400)),
            ("500ms", Unit::Seconds, None),
            ("5000ms", Unit::Seconds, Some(5)),
            ("5s", Unit::Milliseconds, Some(5000)),
            ("5ms", Unit::Milliseconds, Some(5)),
            ("5", Unit::Milliseconds, Some(5)),
            ("5m", Unit::Seconds, None),
        ] {
            assert_eq!(integer(text, unit), expected, "{text:?} {unit:?}");
        }
    }

    #[test]
    fn durations() {
        for (text, expected) in [
            ("0", Some(0)),
            ("30", Some(30_000_000)),
            ("0.5", Some(500_000)),
            (".5", Some(500_000)),
            ("1e3", Some(1_000_000_000)),
            ("30s", Some(30_000_000)),
            ("5min", Some(300_000_000)),
            ("1.5 h", Some(5_400_000_000)),
            ("500ms", Some(500_000)),
            ("250us", Some(250)),
            ("0.0000004", Some(0)),
            ("-1", None),
            ("", None),
            ("s", None),
            ("inf", None),
            ("nan", None),
            ("1e99", None),
            ("3000000000", None),
            ("30 seconds", None),
            ("30sec", None),
        ] {
            assert_eq!(duration(text), expected.map(Duration::from_micros), "{text:?}");
        }
    }

    #[test]
    fn booleans() {
        for (text, expected) in [
            ("0", Some(false)),
            ("1", Some(true)),
            ("45", Some(true)),
            ("-1", Some(true)),
            ("0x0", Some(false)),
            ("on", Some(true)),
            ("Yes", Some(true)),
            ("TRUE", Some(true)),
            ("off", Some(false)),
            ("no", Some(false)),
            ("False", Some(false)),
            ("", None),
            ("y", None),
        ] {
            assert_eq!(boolean(text), expected, "{text:?}");
        }
    }

    #[test]
    fn lists() {
        assert_eq!(list(" a, b,,c d\te "), ["a", "b", "c", "d", "e"]);
        assert!(list("").is_empty());
    }

    #[test]
    fn percentages() {
        let cases =
            [("0", Some(0)), ("0.1", Some(1_000)), ("100", Some(1_000_000)), ("33.3333 %", Some(333_333))];
        let wrong = ["", "-1", "100.1", "ten", "nan", "5 per cent"].map(|text| (text, None));
        for (text, expected) in cases.into_iter().chain(wrong) {
            assert_eq!(percent(text), expected, "{text:?}");
        }
    }

    #[test]
    fn seconds_are_shown_as_c_shows_them() {
        for (value, expected) in [
            (0.0, "0"),
            (15.0, "15"),
            (0.5, "0.5"),
            (120.0, "120"),
            (3600.0, "3600"),
            (86400.0, "86400"),
            (999_999.0, "999999"),
            (1_000_000.0, "1e+06"),
            (1_234_567.0, "1.23457e+06"),
            (0.000_25, "0.00025"),
            (0.000_01, "1e-05"),
            (1.234_567, "1.23457"),
            (100_000.5, "100000"), // C rounds half to even in binary, as Rust does
        ] {
            assert_eq!(percent_g(value), expected);
        }
    }

    proptest! {
        #[test]
        fn any_text_is_judged(text in "\\PC*|[-+0-9a-zA-Z. ]*") {
            for unit in [Unit::None, Unit::Bytes, Unit::Seconds, Unit::Milliseconds] {
                integer(&text, unit);
            }
            duration(&text);
            boolean(&text);
            list(&text);
        }

        #[test]
        fn what_is_shown_is_read_again(micros in 0..2_000_000_000_u64) {
            let shown = percent_g(Duration::from_micros(micros).as_secs_f64());
            let again = duration(&shown).unwrap();
            prop_assert!(again.abs_diff(Duration::from_micros(micros)).as_micros() <= 5_000);
        }
    }
}
