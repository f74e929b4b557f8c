//! Stub until the console is written.
use pooler::console::{Console, Rights};
use pooler::control::Control;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
/// Reading the configuration again, and what it says.
pub trait Configuration: Send + Sync {
    /// Reads the files again.
    ///
    /// # Errors
    /// A fault in them.
    fn reload(&self, control: &Control) -> Result<(), String>;
    /// The settings.
    fn settings(&self) -> pgbouncer_compat::settings::Values;
}
/// The console.
pub struct AdminConsole;
impl AdminConsole {
    /// Makes one.
    pub fn new(_: Arc<dyn Configuration>) -> AdminConsole {
        AdminConsole
    }
}
impl Console for AdminConsole {
    fn execute<'a>(
        &'a self,
        _: &'a Control,
        _: &'a str,
        _: Rights,
    ) -> Pin<Box<dyn Future<Output = Vec<u8>> + 'a>> {
        Box::pin(async { Vec::new() })
    }
    fn version(&self) -> String {
        "1.25.2/bouncer".into()
    }
}
