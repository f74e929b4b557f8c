//! What a client costs that waits.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use support::frontend;
use support::wire::{Client, LoginError, Target};

use crate::Result;
use crate::measure::Memory;

/// Opens clients that log in, run one query and wait. Bytes a client by which the pooler grew.
pub(crate) fn run(target: &Target, pid: u32, clients: u32) -> Result<Memory> {
    // The first ones pay for pools, a server connection and whatever else is made once.
    let _first: Vec<Client> = open(target, FIRST)?;
    let before = settled(pid)?;
    let _clients = open(target, clients)?;
    let after = settled(pid)?;
    let each = |before: f64, after: f64| (after - before) / f64::from(clients);
    Ok(Memory { rss: each(before.rss, after.rss), pss: each(before.pss, after.pss) })
}

fn open(target: &Target, count: u32) -> Result<Vec<Client>> {
    (0..count).map(|_| open_one(target)).collect()
}

fn open_one(target: &Target) -> Result<Client> {
    let mut client = Client::try_login(target).map_err(|error| match error {
        LoginError::Refused(fields) => format!("{fields:?}"),
        LoginError::Io(error) => error.to_string(),
    })?;
    client.peer().send(&frontend::query("SELECT 1"))?;
    loop {
        let message = client.try_read()?;
        if let Some(fields) = message.error() {
            return Err(io::Error::other(format!("{fields:?}")).into());
        }
        if message.tag == b'Z' {
            return Ok(client);
        }
    }
}

/// Memory once it has stopped changing, at the latest after [`PATIENCE`].
fn settled(pid: u32) -> Result<Memory> {
    let end = Instant::now() + PATIENCE;
    let mut last = Memory::of(pid)?;
    loop {
        thread::sleep(Duration::from_millis(300));
        let now = Memory::of(pid)?;
        if now.rss == last.rss || Instant::now() > end {
            return Ok(now);
        }
        last = now;
    }
}

const FIRST: u32 = 50;
const PATIENCE: Duration = Duration::from_secs(5);
