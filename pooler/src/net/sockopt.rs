use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::config::SocketOptions;

/// Applies the configured options to a TCP connection of either side. `TCP_NODELAY` is always on: a pooler sends
/// whole turns, and waiting for more would only delay them.
pub(crate) fn apply(socket: SockRef<'_>, options: &SocketOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if options.keepalive {
        let mut keepalive = TcpKeepalive::new();
        if let Some(idle) = options.keepidle {
            keepalive = keepalive.with_time(Duration::from_secs(idle.into()));
        }
        if let Some(interval) = options.keepintvl {
            keepalive = keepalive.with_interval(Duration::from_secs(interval.into()));
        }
        if let Some(count) = options.keepcnt {
            keepalive = keepalive.with_retries(count);
        }
        socket.set_tcp_keepalive(&keepalive)?;
    }
    if let Some(bytes) = options.buffer {
        socket.set_send_buffer_size(bytes as usize)?;
        socket.set_recv_buffer_size(bytes as usize)?;
    }
    if let Some(ms) = options.user_timeout {
        socket.set_tcp_user_timeout(Some(Duration::from_millis(ms.into())))?;
    }
    Ok(())
}
