//! Where the configuration comes from, and reading it again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use admin::Configuration;
use pgbouncer_compat::settings::{Applies, Values};
use pgbouncer_compat::{Faults, Loaded};
use pooler::control::Control;
use pooler::reload::{Change, Effect, Plan};
use tracing::{error, info, warn};

use crate::logging::Log;

/// The files, and the settings that were last read from them.
pub(crate) struct Source {
    read: Mutex<Read>,
    log: Arc<Log>,
}

struct Read {
    /// What the next reload reads.
    path: PathBuf,
    settings: Values,
}

impl Source {
    pub(crate) fn new(path: &Path, settings: Values, log: Arc<Log>) -> Source {
        Source { read: Mutex::new(Read { path: path.to_owned(), settings }), log }
    }

    fn read(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Configuration for Source {
    /// Reads the files again. With a fault in them nothing changes.
    fn reload(&self, control: &Control) -> Result<(), String> {
        let mut read = self.read();
        let loaded = pgbouncer_compat::reload(&read.path, &read.settings).map_err(|faults| {
            faults.0.iter().for_each(|fault| error!("{fault}"));
            error!("config file loading failed");
            faults.to_string()
        })?;
        loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
        if let Some(verbose) = loaded.program.verbose {
            self.log.set_verbosity(verbose);
        }
        if let Err(cause) = self.log.reopen(loaded.program.logfile.as_deref()) {
            error!("{cause}");
        }
        let changes = of_settings(&loaded);
        let plan = control.reload(loaded.config);
        changes.iter().chain(&plan.0).for_each(tell);
        *read = Read { path: loaded.program.conffile, settings: loaded.settings };
        Ok(())
    }

    fn plan(&self, control: &Control, file: Option<&Path>) -> Result<Plan, String> {
        let (path, settings) = {
            let read = self.read();
            (file.unwrap_or(&read.path).to_owned(), read.settings.clone())
        };
        let loaded = pgbouncer_compat::reload(&path, &settings);
        let loaded = loaded.map_err(|faults: Faults| faults.to_string())?;
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
