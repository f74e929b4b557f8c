//! Sockets: one stream type for every transport, and socket options.

mod conversation;
pub(crate) mod sockopt;
mod stream;

pub(crate) use conversation::Conversation;
pub use stream::Peer;
pub(crate) use stream::{Stream, Watch};
