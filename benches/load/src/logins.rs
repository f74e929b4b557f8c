//! SCRAM logins in a tight loop on a few threads. The keys are derived once a thread, so that the loop costs less than
//! what it measures.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::frontend;
use support::message::{Message, Side};
use support::peer::Peer;
use support::wire::Target;

use crate::Result;
use crate::measure::{Timed, cpu_time, percentiles};
use crate::scram::ScramClient;

/// Logs in for this time, [`MOST`] times at most.
pub(crate) fn run(target: &Target, pid: Option<u32>, time: Duration) -> Result<Timed> {
    // Lets a pooler open its server connection, which the first client waits for.
    LoginLoop::new(target).once()?;
    let before = pid.map(cpu_time).transpose()?;
    let start = Instant::now();
    let begun = AtomicU32::new(0);
    let latencies = thread::scope(|scope| {
        let threads = [(); THREADS].map(|()| scope.spawn(|| login_until(target, start + time, &begun)));
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| "a thread panicked")?.map_err(|error| error.to_string())?);
        }
        Ok::<_, String>(all)
    })?;
    let elapsed = start.elapsed().as_secs_f64();
    let count = latencies.len() as f64;
    let used = pid.map(cpu_time).transpose()?.zip(before).map(|(after, before)| after - before);
    Ok(Timed {
        cpu: used.map(|used| used.as_secs_f64() / count * 1e6),
        rate: count / elapsed,
        latencies: percentiles(latencies).ok_or("not one login")?,
        count,
    })
}

/// Milliseconds of each login.
fn login_until(target: &Target, end: Instant, begun: &AtomicU32) -> std::result::Result<Vec<f64>, String> {
    let mut logins = LoginLoop::new(target);
    let mut latencies = Vec::new();
    while Instant::now() < end && begun.fetch_add(1, Ordering::Relaxed) < MOST {
        let start = Instant::now();
        logins.once().map_err(|error| error.to_string())?;
        latencies.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(latencies)
}

/// One client that logs in again and again.
pub(crate) struct LoginLoop<'a> {
    target: &'a Target,
    scram: ScramClient,
    startup: Vec<u8>,
    /// Nonces are this and a number: distinct, which is all that matters here.
    nonce: u64,
    count: u64,
}

impl LoginLoop<'_> {
    pub(crate) fn new(target: &Target) -> LoginLoop<'_> {
        let scram = ScramClient::new(target.password.as_deref().unwrap_or_default());
        let nonce = RandomState::new().build_hasher().finish();
        LoginLoop { target, scram, startup: target.startup(), nonce, count: 0 }
    }

    /// Connects, logs in up to ReadyForQuery and says Terminate. TLS is not resumed: each login has a handshake of its own.
    pub(crate) fn once(&mut self) -> Result<()> {
        let address = &self.target.address;
        let mut peer = Peer::new(match &self.target.tls {
            Some(tls) => tls.clone().alpn(&["postgresql"]).connect(address)?,
            None => address.connect()?,
        });
        self.count += 1;
        let nonce = format!("{:016x}{:016x}", self.nonce, self.count);
        peer.send(&self.startup)?;
        expect(&mut peer, SASL)?; // without channel binding, which PgBouncer does not have
        peer.send(&frontend::sasl_initial("SCRAM-SHA-256", ScramClient::first(&nonce).as_bytes()))?;
        let server_first = expect(&mut peer, SASL_CONTINUE)?;
        let answer = self.scram.answer(&nonce, std::str::from_utf8(&server_first)?)?;
        peer.send(&frontend::sasl_response(answer.client_final.as_bytes()))?;
        if expect(&mut peer, SASL_FINAL)? != answer.server_final.as_bytes() {
            return Err("the server does not know the password".into());
        }
        expect(&mut peer, OK)?;
        while read(&mut peer)?.tag != b'Z' {}
        peer.send(&frontend::terminate())?;
        Ok(())
    }
}

/// Reads an Authentication message of this kind: its data.
fn expect(peer: &mut Peer, kind: u32) -> Result<Vec<u8>> {
    let mut message = read(peer)?;
    if message.tag != b'R' || !message.body.starts_with(&kind.to_be_bytes()) {
        return Err(format!("not Authentication {kind} but {message:?}").into());
    }
    Ok(message.body.split_off(4))
}

fn read(peer: &mut Peer) -> Result<Message> {
    let message = peer.read_message(Side::Backend)?;
    match message.error() {
        Some(fields) => Err(format!("{fields:?}").into()),
        None => Ok(message),
    }
}

const OK: u32 = 0;
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;
const THREADS: usize = 4;
/// Each leaves a port behind that waits for a minute, of which there are 28,000.
const MOST: u32 = 20_000;
