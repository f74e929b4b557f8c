//! Where the configuration comes from, reading it again, and changing a setting of it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use admin::Configuration;
use pgbouncer_compat::settings::{Applies, Values};
use pgbouncer_compat::{Draft, Faults, Finding, Loaded, NotSet, Program};
use pooler::control::Control;
use pooler::reload::{Change, Effect, Plan};
use tracing::{error, info, warn};

use crate::logging::Log;

/// The files, and what is in effect of them.
pub(crate) struct Source {
    read: Mutex<Read>,
    log: Arc<Log>,
}

struct Read {
    /// What the next reload reads.
    path: PathBuf,
    draft: Draft,
    settings: Values,
    /// By `SET`, name and value.
    was_set: Vec<(String, String)>,
}

impl Read {
    /// What a reload of this file would put into effect.
    fn again(&self, path: &Path) -> Result<Loaded, Faults> {
        Ok(pgbouncer_compat::reload(path, &self.settings)?.keeping(path, &self.was_set))
    }
}

impl Source {
    pub(crate) fn new(path: &Path, draft: Draft, settings: Values, log: Arc<Log>) -> Source {
        let read = Read { path: path.to_owned(), draft, settings, was_set: Vec::new() };
        Source { read: Mutex::new(read), log }
    }

    fn read(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn apply_to_log(&self, program: &Program) {
        if let Err(cause) = self.log.configure(program) {
            error!("{cause}");
        }
    }
}

impl Configuration for Source {
    /// Reads the files again. With a fault in them nothing changes.
    fn reload(&self, control: &Control) -> Result<(), String> {
        let mut read = self.read();
        let loaded = read.again(&read.path).map_err(|faults| {
            faults.0.iter().for_each(|fault| error!("{fault}"));
            error!("config file loading failed");
            faults.to_string()
        })?;
        loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
        self.apply_to_log(&loaded.program);
        let changes = of_settings(&loaded);
        let Loaded { config, program, settings, draft, .. } = loaded;
        let plan = control.reload(config);
        changes.iter().chain(&plan.0).for_each(tell);
        let was_set = std::mem::take(&mut read.was_set);
        *read = Read { path: program.conffile, draft, settings, was_set };
        Ok(())
    }

    fn set(&self, control: &Control, key: &str, value: &str) -> Result<Vec<Finding>, NotSet> {
        let mut read = self.read();
        let loaded = read.draft.set(&read.path, &read.settings, key, value)?;
        loaded.unusable_tls.iter().for_each(|fault| warn!("{fault}"));
        self.apply_to_log(&loaded.program);
        control.reload(loaded.config);
        read.path = loaded.program.conffile;
        read.settings = loaded.settings;
        read.was_set.retain(|(name, _)| name != key);
        read.was_set.push((key.to_owned(), value.to_owned()));
        Ok(loaded.unusable_tls)
    }

    fn plan(&self, control: &Control, file: Option<&Path>) -> Result<Plan, String> {
        let loaded = {
            let read = self.read();
            read.again(file.unwrap_or(&read.path)).map_err(|faults| faults.to_string())?
        };
        let mut changes = of_settings(&loaded);
        changes.extend(control.plan(&loaded.config).0);
        Ok(Plan(changes))
    }

    fn settings(&self) -> Values {
        self.read().settings.clone()
    }
}

/// Changes of settings, which the pooler does not know by name.
fn of_settings(loaded: &Loaded) -> Vec<Change> {
    let change = |change: &pgbouncer_compat::settings::Change| Change {
        kind: "setting",
        name: change.name.to_owned(),
        key: "",
        old: change.old.clone(),
        new: change.new.clone(),
        effect: if change.applies == Applies::Reload { Effect::Now } else { Effect::NextStart },
    };
    loaded.changes.iter().map(change).collect()
}

fn tell(change: &Change) {
    match change.effect {
        Effect::NextStart => {
            warn!("{} has changed in the file; the new value counts from the next start on", change.name);
        }
        _ => info!("reload: {change}"),
    }
}
