//! Where the configuration comes from, and reading it again.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use admin::Configuration;
use pgbouncer_compat::settings::Values;
use pooler::control::Control;
use tracing::{error, warn};

use crate::logging::Log;

/// The files, and the settings that were last read from them.
pub(crate) struct Source {
    path: PathBuf,
    settings: Mutex<Values>,
    log: Arc<Log>,
}

impl Source {
    pub(crate) fn new(path: &Path, settings: Values, log: Arc<Log>) -> Source {
        Source { path: path.to_owned(), settings: Mutex::new(settings), log }
    }
}

impl Configuration for Source {
    /// Reads the files again. With a fault in them nothing changes.
    fn reload(&self, control: &Control) -> Result<(), String> {
        let loaded = pgbouncer_compat::load(&self.path).map_err(|faults| {
            faults.0.iter().for_each(|fault| error!("{fault}"));
            "config file loading failed".to_owned()
        });
        let mut loaded = loaded.inspect_err(|text| error!("{text}"))?;
        loaded.warnings.iter().for_each(|warning| warn!("{warning}"));
        if let Err(cause) = self.log.configure(&loaded.program) {
            error!("{cause}");
        }
        control.reload(loaded.config);
        let mut settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        for name in loaded.settings.keep_fixed(&settings) {
            warn!("{name} has changed in the file; the new value counts from the next start on");
        }
        *settings = loaded.settings;
        Ok(())
    }

    fn settings(&self) -> Values {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
