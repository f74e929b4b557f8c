//! Connections: one stream type for every transport, with TLS or without, and socket options.

mod conversation;
mod peer;
mod socket;
pub(crate) mod sockopt;
mod stream;
pub(crate) mod tls;
mod watch;

pub(crate) use conversation::Conversation;
pub use peer::Peer;
pub(crate) use socket::Socket;
pub(crate) use stream::Stream;
pub(crate) use watch::Watch;
