//! The settings of `[pgbouncer]`, as one table.

mod table;

use std::fmt;
use std::time::Duration;

pub use crate::value::Unit;
pub use table::SETTINGS;

use crate::finding::Place;
use crate::value;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Its key in the file.
    pub name: &'static str,
    /// What its value looks like.
    pub kind: Kind,
    /// The built-in value as it would stand in the file. `None`: unset, which PgBouncer shows as NULL.
    pub default: Option<&'static str>,
    /// When a changed value takes effect.
    pub applies: Applies,
    /// How much of it works.
    pub status: Status,
    /// What it does, in a sentence.
    pub help: &'static str,
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// On or off; shown as 1 or 0.
    Bool,
    /// A whole number within bounds, both included.
    Int {
        /// What it counts.
        unit: Unit,
        /// Smallest value.
        min: i64,
        /// Largest value.
        max: i64,
    },
    /// Permission bits, octal with a leading 0; shown in decimal.
    Mode,
    /// A time, in seconds, fractions allowed.
    Seconds,
    /// A percentage, decimals allowed.
    Percent,
    /// Names separated by commas or blanks.
    List,
    /// Any text, the empty one included.
    Text,
    /// Text that is shown to nobody.
    Secret,
    /// One of these words, in any case; shown in lower case.
    Choice(&'static [&'static str]),
}

/// When a changed value takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applies {
    /// At the next start; a reload leaves it alone.
    Start,
    /// At the next start, though `SHOW CONFIG` reports it as changeable, as PgBouncer does.
    StartQuietly,
    /// At a reload.
    Reload,
}

/// How much of a setting works in this version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// All of it.
    Active,
    /// Accepted at any value and ignored; the text says why that does no harm.
    Harmless(&'static str),
    /// Only these values, as `SHOW CONFIG` renders them. Any other is refused, since it could not be honoured.
    Only(&'static [&'static str]),
}

/// What is shown in place of a secret.
pub const HIDDEN: &str = "(secret)";

impl Setting {
    /// Its row, if there is one of that name.
    pub fn find(name: &str) -> Option<&'static Setting> {
        position(name).map(|i| &SETTINGS[i])
    }

    /// What `SHOW CONFIG` says in its last column.
    pub fn changeable(&self) -> bool {
        self.applies != Applies::Start
    }

    /// As `SHOW CONFIG` and the log render a value of it: of a secret only whether there is one.
    fn shown(&self, value: &Value) -> Option<String> {
        match value {
            Value::Text(text) if self.kind == Kind::Secret && !text.is_empty() => Some(HIDDEN.to_owned()),
            value => value.show(),
        }
    }

    /// Reads a value as it stands in the file.
    ///
    /// # Errors
    /// What would have been right, as a phrase to follow "expected".
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        match self.kind {
            Kind::Bool => value::boolean(text).map(Value::Bool),
            Kind::Int { unit, min, max } => {
                value::integer(text, unit).filter(|int| (min..=max).contains(int)).map(Value::Int)
            }
            Kind::Mode => {
                value::integer(text, Unit::None).filter(|bits| (0..=0o7777).contains(bits)).map(Value::Int)
            }
            Kind::Seconds => value::duration(text).map(Value::Time),
            Kind::Percent => value::percent(text).map(|_| Value::Text(text.to_owned())),
            Kind::List | Kind::Text | Kind::Secret => Some(Value::Text(text.to_owned())),
            Kind::Choice(words) => words
                .iter()
                .find(|word| word.eq_ignore_ascii_case(text))
                .map(|word| Value::Text((*word).to_owned())),
        }
        .ok_or_else(|| self.kind.expected())
    }
}

impl Kind {
    fn expected(self) -> String {
        match self {
            Kind::Bool => "0 or 1, on or off".into(),
            Kind::Int { unit, min, max } => {
                let example = match unit {
                    Unit::None | Unit::Connections => "",
                    Unit::Bytes => " bytes, or with a unit such as 64MB",
                    Unit::Seconds => " seconds, or with a unit such as 5min",
                    Unit::Milliseconds => " milliseconds, or with a unit such as 30s",
                };
                format!("a whole number from {min} to {max}{example}")
            }
            Kind::Mode => "permission bits in octal, such as 0770".into(),
            Kind::Seconds => {
                "a time in seconds such as 30 or 1.5, or with a unit such as 5min or 500ms".into()
            }
            Kind::Percent => "a percentage from 0 to 100, decimals allowed".into(),
            Kind::List | Kind::Text | Kind::Secret => "text".into(),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
        }
    }
}

/// A setting's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// Not set, and no default.
    Null,
    /// On or off.
    Bool(bool),
    /// A number, in the setting's unit.
    Int(i64),
    /// A time.
    Time(Duration),
    /// Text, a list as written, or the word chosen.
    Text(String),
}

impl Value {
    /// As `SHOW CONFIG` renders it; `None` is NULL.
    pub fn show(&self) -> Option<String> {
        match self {
            Value::Null => None,
            Value::Bool(on) => Some(u8::from(*on).to_string()),
            Value::Int(int) => Some(int.to_string()),
            Value::Time(time) => Some(value::percent_g(time.as_secs_f64())),
            Value::Text(text) => Some(text.clone()),
        }
    }
}

/// The value of every setting, and where it was set. Some are secrets.
#[derive(Clone)]
pub struct Values {
    /// In the order of the table.
    values: Vec<(Value, Option<Place>)>,
}

/// A setting that has another value in the files than in effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The setting.
    pub name: &'static str,
    /// The value in effect, as `SHOW CONFIG` renders it; `None` is NULL.
    pub old: Option<String>,
    /// The value in the files.
    pub new: Option<String>,
    /// When that takes effect.
    pub applies: Applies,
}

/// Why a setting was not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetError {
    /// No such setting.
    Unknown,
    /// Not a value of this setting; what would be.
    Invalid {
        /// A phrase to follow "expected".
        expected: String,
    },
    /// A value that PgBouncer takes and this version cannot honour.
    NotImplemented {
        /// The values it can.
        implemented: &'static [&'static str],
    },
}

/// A row of `SHOW CONFIG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShowRow {
    /// Column `key`.
    pub key: &'static str,
    /// Column `value`; `None` is NULL.
    pub value: Option<String>,
    /// Column `default`; `None` is NULL.
    pub default: Option<&'static str>,
    /// Column `changeable`, `yes` or `no` there.
    pub changeable: bool,
}

impl fmt::Debug for Values {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.show().map(|row| (row.key, row.value))).finish()
    }
}

impl Default for Values {
    fn default() -> Values {
        Values { values: SETTINGS.iter().map(|setting| (default(setting), None)).collect() }
    }
}

impl Values {
    /// Changes a setting to a value as it would stand in the file.
    ///
    /// # Errors
    /// The setting keeps its value.
    pub fn set(&mut self, name: &str, text: &str, place: Option<&Place>) -> Result<(), SetError> {
        let i = position(name).ok_or(SetError::Unknown)?;
        let value = SETTINGS[i].parse(text).map_err(|expected| SetError::Invalid { expected })?;
        if let Status::Only(implemented) = SETTINGS[i].status
            && value.show().is_some_and(|shown| !implemented.contains(&shown.as_str()))
        {
            return Err(SetError::NotImplemented { implemented });
        }
        self.values[i] = (value, place.cloned());
        Ok(())
    }

    /// Back to the default for all settings that have one, as a section that starts again means it. Says whether a
    /// setting was lost by it.
    pub(crate) fn restart(&mut self) -> bool {
        let mut lost = false;
        for (setting, value) in SETTINGS.iter().zip(&mut self.values) {
            if setting.default.is_some() {
                lost |= value.1.is_some();
                *value = (default(setting), None);
            }
        }
        lost
    }

    /// Takes over from `running` what a reload leaves alone. Returns every difference.
    pub(crate) fn keep_fixed(&mut self, running: &Values) -> Vec<Change> {
        let mut changes = Vec::new();
        for (i, setting) in SETTINGS.iter().enumerate() {
            let (old, new) = (&running.values[i], &mut self.values[i]);
            // Where the file does not name the next one, this is only the name under which it was read.
            let meant = setting.name != "conffile" || new.1.is_some();
            if old.0 != new.0 && meant {
                let applies = setting.applies;
                let [was, is] = [&old.0, &new.0].map(|value| setting.shown(value));
                changes.push(Change { name: setting.name, old: was, new: is, applies });
                if applies != Applies::Reload {
                    *new = old.clone();
                }
            }
        }
        changes
    }

    /// The rows of `SHOW CONFIG`.
    pub fn show(&self) -> impl Iterator<Item = ShowRow> + '_ {
        SETTINGS.iter().zip(&self.values).map(|(setting, (value, _))| ShowRow {
            key: setting.name,
            value: setting.shown(value),
            default: setting.default,
            changeable: setting.changeable(),
        })
    }

    /// Where a setting was set; `None` where its default counts.
    pub(crate) fn place(&self, name: &str) -> Option<&Place> {
        self.values[position(name)?].1.as_ref()
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Value::Bool(true))
    }

    pub(crate) fn int(&self, name: &str) -> i64 {
        match self.get(name) {
            Value::Int(int) => *int,
            _ => 0,
        }
    }

    /// An integer setting as an unsigned number. The table's bounds make the conversion exact.
    pub(crate) fn count<T: TryFrom<i64> + Default>(&self, name: &str) -> T {
        T::try_from(self.int(name)).unwrap_or_default()
    }

    pub(crate) fn time(&self, name: &str) -> Duration {
        match self.get(name) {
            Value::Time(time) => *time,
            Value::Int(seconds) => Duration::from_secs(u64::try_from(*seconds).unwrap_or(0)),
            _ => Duration::ZERO,
        }
    }

    /// A limit of time, off at 0.
    pub(crate) fn time_limit(&self, name: &str) -> Option<Duration> {
        Some(self.time(name)).filter(|time| !time.is_zero())
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Value::Text(text) => text,
            _ => "",
        }
    }

    /// A text where the empty one means that there is none.
    pub(crate) fn text_if_any(&self, name: &str) -> Option<&str> {
        Some(self.text(name)).filter(|text| !text.is_empty())
    }

    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        value::list(self.text(name))
    }

    /// Whether a setting was changed from its default.
    pub(crate) fn is_default(&self, setting: &Setting) -> bool {
        *self.get(setting.name) == default(setting)
    }

    fn get(&self, name: &str) -> &Value {
        debug_assert!(position(name).is_some(), "no setting {name}");
        position(name).map_or(&Value::Null, |i| &self.values[i].0)
    }
}

fn position(name: &str) -> Option<usize> {
    SETTINGS.iter().position(|setting| setting.name == name)
}

/// A setting's value where no file sets it. Without a default in the table a number is 0 and anything else unset.
fn default(setting: &Setting) -> Value {
    let unset = || if matches!(setting.kind, Kind::Int { .. }) { Value::Int(0) } else { Value::Null };
    setting.default.and_then(|text| setting.parse(text).ok()).unwrap_or_else(unset)
}

#[cfg(test)]
mod tests;
