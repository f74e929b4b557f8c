//! Keys, as they are pressed, from the terminal that the program runs in.

use std::fs::{File, OpenOptions};
use std::io::{self, IsTerminal, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::unistd::{getpgrp, tcgetpgrp};
use tokio::time::sleep;

/// Nobody notices that a key takes so long.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// The terminal, which gives out keys one by one and shows none until this is dropped. Ctrl-C stays a signal.
pub(super) struct Keys {
    terminal: File,
    before: Termios,
}

impl Keys {
    /// `None`: there is no terminal to read from and write to, or another program has it.
    pub(super) fn open() -> Option<Keys> {
        if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
            return None;
        }
        // Opened anew: standard output may be the same description, and must not become non-blocking.
        let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open("/dev/tty").ok()?;
        if tcgetpgrp(&file).ok()? != getpgrp() {
            return None; // in the background, where whoever changes the terminal is stopped
        }
        let before = tcgetattr(&file).ok()?;
        let mut raw = before.clone();
        raw.local_flags.remove(LocalFlags::ICANON | LocalFlags::ECHO);
        tcsetattr(&file, SetArg::TCSANOW, &raw).ok()?;
        Some(Keys { terminal: file, before })
    }

    /// The next one.
    ///
    /// # Errors
    /// The terminal is gone.
    pub(super) async fn next(&mut self) -> io::Result<u8> {
        let mut key = [0];
        loop {
            match self.terminal.read(&mut key) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => return Ok(key[0]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(BETWEEN_LOOKS).await,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before); // it may be gone
    }
}
