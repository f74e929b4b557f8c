//! `SET` of the console: what was read, with one setting changed, judged as a whole like a file.

use std::path::Path;

use super::{Draft, Loaded, advice_not_implemented};
use crate::finding::{Finding, Place, Report, did_you_mean};
use crate::settings::{Applies, SETTINGS, SetError, Setting, Values};

/// Why a setting keeps its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotSet {
    /// What is wrong.
    pub what: String,
    /// What to do; may be empty.
    pub advice: String,
}

impl Draft {
    /// What is to be in effect when one of the settings in effect is changed. `path` is the file that was read.
    ///
    /// # Errors
    /// Nothing changes.
    pub fn set(&self, path: &Path, running: &Values, name: &str, value: &str) -> Result<Loaded, NotSet> {
        if Setting::find(name).is_some_and(|setting| setting.applies != Applies::Reload) {
            let what = format!("{name} cannot be changed while the program runs");
            return Err(NotSet { what, advice: "Set it in the file, and restart.".into() });
        }
        let mut draft = Draft { settings: running.clone(), ..self.clone() };
        draft.settings.set(name, value, Some(&set_place())).map_err(|error| not_set(name, value, error))?;
        let mut report = Report::default();
        let loaded = draft.resolve(path, &|path| std::fs::read(path), &mut report);
        match report.faults.into_iter().next() {
            Some(fault) => Err(NotSet { what: fault.message, advice: fault.advice }),
            None => Ok(Loaded { draft: self.clone(), unusable_tls: report.tls_faults, ..loaded }),
        }
    }
}

impl Loaded {
    /// The same with what was `SET` before and stays: settings that have no default, unless the files set them.
    pub fn keeping(mut self, path: &Path, was_set: &[(String, String)]) -> Loaded {
        for (name, value) in was_set {
            let stays = Setting::find(name).is_some_and(|setting| setting.default.is_none());
            if stays && self.settings.place(name).is_none() {
                match self.draft.set(path, &self.settings, name, value) {
                    Ok(kept) => {
                        self.changes.retain(|change| change.name != name);
                        self.warnings.extend(kept.unusable_tls);
                        self = Loaded {
                            warnings: self.warnings,
                            changes: self.changes,
                            unusable_tls: Vec::new(),
                            ..kept
                        };
                    }
                    Err(NotSet { what, advice }) => {
                        let message = format!("{name} does not keep the value that was set: {what}");
                        self.warnings.push(Finding { place: set_place(), message, advice });
                    }
                }
            }
        }
        self
    }
}

/// Where such a value stands.
fn set_place() -> Place {
    Place { file: Path::new("SET").into(), line: None }
}

fn not_set(name: &str, value: &str, error: SetError) -> NotSet {
    match error {
        SetError::Unknown => NotSet {
            what: format!("unknown parameter: {name}"),
            advice: did_you_mean(name, SETTINGS.iter().map(|setting| setting.name)),
        },
        SetError::Invalid { expected } => NotSet {
            what: format!("invalid value \"{value}\" for parameter {name}"),
            advice: format!("expected {expected}"),
        },
        SetError::NotImplemented { implemented } => NotSet {
            what: format!("{name} = {value} is not implemented in this version"),
            advice: advice_not_implemented(name, implemented),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load_from;

    const INI: &str = "[databases]\na = host=h pool_size=3\n[pgbouncer]\nlisten_addr = ::1\nauth_type = trust\nverbose = 1\n";

    fn loaded() -> Loaded {
        load_from(Path::new("x.ini"), &|_| Ok(INI.into())).unwrap()
    }

    fn set(name: &str, value: &str) -> Result<Loaded, NotSet> {
        let loaded = loaded();
        loaded.draft.set(Path::new("x.ini"), &loaded.settings, name, value)
    }

    #[test]
    fn one_setting_changes_and_the_rest_stays() {
        let first = set("default_pool_size", "7").unwrap();
        assert_eq!(first.config.sizes.size.map(usize::from), Some(7));
        let both = first.draft.set(Path::new("x.ini"), &first.settings, "query_timeout", "1.5").unwrap();
        assert_eq!(both.config.sizes.size.map(usize::from), Some(7));
        assert_eq!(both.config.times.query.map(|time| time.as_millis()), Some(1500));
        assert_eq!(both.config.databases["a"].pool_size.flatten().map(usize::from), Some(3));
        assert_eq!(set("verbose", "2").unwrap().program.verbose, Some(2));
        assert_eq!(set("conffile", "y.ini").unwrap().program.conffile, Path::new("y.ini"));
    }

    #[test]
    fn what_is_refused_and_why() {
        let what = |name: &str, value: &str| set(name, value).map(drop).unwrap_err();
        let unknown = what("verbos", "1");
        assert_eq!(
            (unknown.what.as_str(), unknown.advice.as_str()),
            ("unknown parameter: verbos", "did you mean verbose?")
        );
        let bad = what("query_timeout", "soon");
        assert!(bad.what.starts_with("invalid value \"soon\" for parameter query_timeout"), "{bad:?}");
        assert!(bad.advice.starts_with("expected a time"), "{bad:?}");
        assert!(what("listen_port", "1").what.contains("while the program runs"));
    }

    #[test]
    fn what_has_no_default_outlives_a_reload() {
        let was_set = [("default_pool_size", "7"), ("auth_dbname", "x"), ("verbose", "3")];
        let was_set = was_set.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let after = loaded().keeping(Path::new("x.ini"), &was_set);
        assert_eq!(after.config.sizes.size.map(usize::from), Some(20), "has a default");
        assert_eq!(after.settings.text("auth_dbname"), "x");
        assert_eq!(after.program.verbose, Some(1), "the file sets it");
    }
}
