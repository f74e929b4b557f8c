//! A loopback network of a test's own, from which packets can vanish.

use std::process::Command;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use nix::sched::{CloneFlags, unshare};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace with nothing but a loopback interface. What is bound, connected or started inside
/// [`Network::run`] is part of it for good; Unix sockets lead in and out.
#[derive(Debug)]
pub struct Network {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    /// `None`, and a line that says why, where such a thing can't be had: it takes root's rights and the program `ip`.
    pub fn new() -> Option<Network> {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (tell, told) = mpsc::channel();
        let thread = thread::spawn(move || {
            let made = unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|error| error.to_string())
                .and_then(|()| switch(true));
            let works = made.is_ok();
            tell.send(made).expect("the test waits");
            if works {
                inbox.iter().for_each(|job| job());
            }
        });
        match told.recv().expect("an answer") {
            Ok(()) => Some(Network { jobs: Some(jobs), thread: Some(thread) }),
            Err(why) => {
                eprintln!("skipped: no network of its own: {why}");
                None
            }
        }
    }

    /// Does something inside, and waits for it.
    #[track_caller]
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, told) = mpsc::channel();
        let job: Job = Box::new(move || drop(tell.send(work())));
        self.jobs.as_ref().expect("it is there").send(job).expect("its thread runs");
        told.recv().expect("what ran inside has failed")
    }

    /// From now on every packet is lost, without a word to its sender.
    pub fn lose_packets(&self) {
        self.run(|| switch(false)).expect("switch it off");
    }

    /// Packets arrive again.
    pub fn heal(&self) {
        self.run(|| switch(true)).expect("switch it on");
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn switch(on: bool) -> Result<(), String> {
    let output = Command::new("ip").args(["link", "set", "lo", if on { "up" } else { "down" }]).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}
