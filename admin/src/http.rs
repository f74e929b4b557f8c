//! Metrics, health checks and the dashboard over HTTP, for those who have no console at hand: machines and eyes.
//!
//! All of it runs on the main thread's event loop, and what takes longer than a moment beside it, never on a worker:
//! a scrape delays no query. It is read-only but for who knows `http_admin_token` (`orders`).

mod details;
pub(crate) mod health;
mod orders;
mod routes;
mod state;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pooler::control::Control;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{info, warn};

use crate::console::AdminConsole;
use routes::Site;

/// Connections at once. More are closed as they come: clients need the descriptors.
const MOST_CONNECTIONS: usize = 48;
/// A request's head must be there within this time, the next one's on the same connection as well.
const HEAD_WITHIN: Duration = Duration::from_secs(15);
/// A connection lasts no longer; who does not take its answer is cut off then.
const LONGEST: Duration = Duration::from_secs(300);
/// Bytes of a request's head.
const LARGEST_HEAD: usize = 16 << 10;
/// How often the settings are looked at, and whether servers are back.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How often an address that could not be had is tried again: a process that is being replaced may still have it.
const TRY_AGAIN: Duration = Duration::from_millis(200);

/// Serves for as long as it is polled, wherever `http_listen` says at the moment.
pub async fn serve(control: Control, console: Arc<AdminConsole>) {
    let site = Arc::new(Site::new(control.clone(), console));
    let room = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut tasks = JoinSet::new();
    tasks.spawn(look_for_servers(control.clone()));
    let mut bound: BTreeMap<String, AbortHandle> = BTreeMap::new();
    let mut complained: Vec<String> = Vec::new();
    loop {
        let wanted = control.config().http.listen.clone();
        bound.retain(|address, task| {
            let keep = wanted.contains(address);
            if !keep {
                info!("http: no longer listening on {address}");
                task.abort();
            }
            keep
        });
        complained.retain(|address| wanted.contains(address));
        for address in wanted {
            if bound.contains_key(&address) {
                continue;
            }
            match bind(&address) {
                Ok((listener, local)) => {
                    info!("http: listening on http://{local}/");
                    complained.retain(|known| *known != address);
                    bound.insert(address, tasks.spawn(accept(listener, site.clone(), room.clone())));
                }
                Err(error) if !complained.contains(&address) => {
                    warn!("http: cannot listen on {address}: {error}; trying again");
                    complained.push(address);
                }
                Err(_) => {}
            }
        }
        tokio::time::sleep(if complained.is_empty() { LOOK_AGAIN } else { TRY_AGAIN }).await;
    }
}

/// A server that is back is found even if no client comes, because this process says that it is not ready.
async fn look_for_servers(control: Control) {
    loop {
        tokio::time::sleep(LOOK_AGAIN).await;
        if !control.config().http.listen.is_empty() {
            control.look_again().await;
        }
    }
}

/// `*` is every address of both families, where there are both.
fn bind(address: &str) -> io::Result<(TcpListener, SocketAddr)> {
    let socket = match address.strip_prefix("*:") {
        Some(port) => std::net::TcpListener::bind(format!("[::]:{port}"))
            .or_else(|_| std::net::TcpListener::bind(format!("0.0.0.0:{port}")))?,
        None => std::net::TcpListener::bind(&*address.to_socket_addrs()?.collect::<Vec<_>>())?,
    };
    socket.set_nonblocking(true)?;
    let listener = TcpListener::from_std(socket)?;
    let local = listener.local_addr()?;
    Ok((listener, local))
}

/// Takes connections until it is aborted, and those it has taken with it.
async fn accept(listener: TcpListener, site: Arc<Site>, room: Arc<Semaphore>) {
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await; // no descriptors left
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let Ok(place) = room.clone().try_acquire_owned() else { continue };
        let site = site.clone();
        connections.spawn(async move {
            let _place = place;
            let _ = tokio::time::timeout(LONGEST, converse(stream, site)).await;
        });
    }
}

async fn converse(stream: TcpStream, site: Arc<Site>) -> Result<(), hyper::Error> {
    let local = stream.local_addr().is_ok_and(|address| address.ip().to_canonical().is_loopback());
    let answer = service_fn(move |request| {
        let site = site.clone();
        async move { Ok::<_, std::convert::Infallible>(site.answer(request, local).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WITHIN)
        .max_buf_size(LARGEST_HEAD)
        .serve_connection(TokioIo::new(stream), answer)
        .await
}
