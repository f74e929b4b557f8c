use std::io;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use crate::config::SocketOptions;

/// What a connection has before anything is applied to it: an accepted one has the options of its listening socket.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Inherited {
    nodelay: bool,
    keepalive: bool,
}

impl Inherited {
    /// What those have that are accepted from this listening socket.
    ///
    /// # Errors
    /// It is no TCP socket.
    pub(crate) fn from_listener(listener: SockRef<'_>) -> io::Result<Inherited> {
        Ok(Inherited { nodelay: listener.tcp_nodelay()?, keepalive: listener.keepalive()? })
    }
}

/// Has connections inherit the options that nearly all of them need, which is two system calls less for each. Only before the
/// socket listens: what waits to be accepted has the options of the moment at which it connected.
pub(crate) fn bequeath(listener: SockRef<'_>, options: &SocketOptions) -> io::Result<()> {
    listener.set_tcp_nodelay(true)?;
    listener.set_keepalive(options.keepalive)
}

/// Applies the configured options to a TCP connection of either side. `TCP_NODELAY` is always on: a pooler sends
/// whole turns, and waiting for more would only delay them.
pub(crate) fn apply(socket: SockRef<'_>, options: &SocketOptions, inherited: Inherited) -> io::Result<()> {
    if !inherited.nodelay {
        socket.set_tcp_nodelay(true)?;
    }
    if options.keepalive != inherited.keepalive {
        socket.set_keepalive(options.keepalive)?;
    }
    let times = options.keepidle.or(options.keepintvl).or(options.keepcnt);
    if options.keepalive && times.is_some() {
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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const ON: SocketOptions = SocketOptions {
        keepalive: true,
        keepcnt: None,
        keepidle: None,
        keepintvl: None,
        buffer: None,
        user_timeout: None,
    };
    const OFF: SocketOptions = SocketOptions { keepalive: false, ..ON };

    /// `TCP_NODELAY` and `SO_KEEPALIVE` of a connection accepted from there, before and after options are applied.
    fn accepted(listener: &TcpListener, options: &SocketOptions) -> [(bool, bool); 2] {
        let inherited = Inherited::from_listener(SockRef::from(listener)).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (connection, _) = listener.accept().unwrap();
        let socket = SockRef::from(&connection);
        let has = || (socket.tcp_nodelay().unwrap(), socket.keepalive().unwrap());
        let before = has();
        apply(SockRef::from(&connection), options, inherited).unwrap();
        [before, has()]
    }

    #[test]
    fn accepted_connections_have_the_options_whoever_bound_the_socket() {
        let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(accepted(&stranger, &ON), [(false, false), (true, true)]);
        let own = TcpListener::bind("127.0.0.1:0").unwrap();
        bequeath(SockRef::from(&own), &ON).unwrap();
        assert_eq!(accepted(&own, &ON), [(true, true); 2]);
        assert_eq!(accepted(&own, &OFF), [(true, true), (true, false)], "a reload has turned it off");
    }
}
