//! Sockets on glommio: the only place of this crate that does I/O.
//!
//! Reads wait on the ring. Writes are tried at once with `sendmsg` from wherever the bytes are, because an answer that
//! fits the socket buffer (nearly all do) then costs one system call and no task switch; only a full socket waits for
//! writability on the ring.

#![allow(unsafe_code)]

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::{TcpListener, TcpStream};
use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, IoSlice},
    net::SocketAddr,
    os::fd::{AsRawFd, FromRawFd, IntoRawFd, RawFd},
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

/// Connections that wait in the kernel to be accepted; the standard library's 128 are few when all clients of a server come
/// back at once. The kernel lowers it to `net.core.somaxconn`.
const WAITING_CONNECTIONS_MAX: libc::c_int = 4096;

/// A listening socket. Binding fails when the port is taken: unlike glommio's own listener it does not set
/// `SO_REUSEPORT` unless asked to.
pub struct Listener {
    inner: TcpListener,
    local: SocketAddr,
}

impl Listener {
    /// Binds and listens. Must be called on an executor.
    pub fn bind(address: SocketAddr) -> io::Result<Listener> {
        Self::from_std(std::net::TcpListener::bind(address)?)
    }

    /// Takes over a bound socket. Must be called on an executor.
    pub fn from_std(listener: std::net::TcpListener) -> io::Result<Listener> {
        let local = listener.local_addr()?;
        // SAFETY: a call on a descriptor that `listener` keeps open; it only changes the queue's length.
        if unsafe { libc::listen(listener.as_raw_fd(), WAITING_CONNECTIONS_MAX) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is a listening socket whose ownership moves into the glommio listener.
        let inner = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
        Ok(Listener { inner, local })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    pub async fn accept(&self) -> io::Result<Socket> {
        let stream = self.inner.accept().await.map_err(io::Error::from)?;
        let fd = stream.as_raw_fd();
        // SAFETY: fcntl on a descriptor that `stream` keeps open.
        unsafe {
            libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC);
        }
        stream.set_nodelay(true).map_err(io::Error::from)?;
        Ok(Socket {
            fd,
            stream: Rc::new(RefCell::new(stream)),
        })
    }
}

/// A connected socket, shared by the task that reads it and whoever writes to it.
#[derive(Clone)]
pub struct Socket {
    fd: RawFd,
    stream: Rc<RefCell<TcpStream>>,
}

impl Socket {
    /// Opens a connection. Must be called on an executor.
    pub async fn connect(address: SocketAddr, timeout: Duration) -> io::Result<Socket> {
        let stream = TcpStream::connect_timeout(address, timeout)
            .await
            .map_err(io::Error::from)?;
        stream.set_nodelay(true).map_err(io::Error::from)?;
        Ok(Socket {
            fd: stream.as_raw_fd(),
            stream: Rc::new(RefCell::new(stream)),
        })
    }

    pub fn peer_addr(&self) -> Option<SocketAddr> {
        self.stream.borrow().peer_addr().ok()
    }

    /// Waits for bytes; 0 at the end of the stream.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        poll_fn(|context| Pin::new(&mut *self.stream.borrow_mut()).poll_read(context, &mut *buffer))
            .await
    }

    /// Waits for bytes and hands them to `take`; 0 at the end of the stream. The buffer is borrowed only while the
    /// socket is polled, so that connections can share it.
    pub async fn read_with(
        &self,
        buffer: &RefCell<Vec<u8>>,
        mut take: impl FnMut(&[u8]),
    ) -> io::Result<usize> {
        poll_fn(|context| {
            let mut buffer = buffer.borrow_mut();
            let polled = Pin::new(&mut *self.stream.borrow_mut()).poll_read(context, &mut buffer);
            if let Poll::Ready(Ok(count)) = polled {
                take(&buffer[..count]);
            }
            polled
        })
        .await
    }

    /// Sends what the socket buffer takes now; `None` when it is full.
    pub fn try_send(&self, buffers: &[IoSlice<'_>]) -> io::Result<Option<usize>> {
        loop {
            // SAFETY: `msghdr` is plain data, valid when zeroed.
            let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
            message.msg_iov = buffers.as_ptr() as *mut libc::iovec;
            message.msg_iovlen = buffers.len().min(libc::UIO_MAXIOV as usize);
            // SAFETY: IoSlice has the layout of iovec, the slices outlive the call, and `self.stream` keeps the
            // descriptor open.
            let sent = unsafe {
                libc::sendmsg(self.fd, &message, libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
            };
            if sent >= 0 {
                return Ok(Some(sent as usize));
            }
            let error = io::Error::last_os_error();
            match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(None),
                io::ErrorKind::Interrupted => continue,
                _ => return Err(error),
            }
        }
    }

    /// Waits until the socket takes bytes again and sends some of `bytes`.
    pub async fn send_some(&self, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|context| Pin::new(&mut *self.stream.borrow_mut()).poll_write(context, bytes)).await
    }

    /// Ends both directions at once; a pending read returns. Dropping alone would leave the socket open until the
    /// executor's next turn.
    pub fn shutdown(&self) {
        // SAFETY: the descriptor is kept open by `self.stream`; an error means that the peer was faster.
        unsafe {
            libc::shutdown(self.fd, libc::SHUT_RDWR);
        }
    }

    /// Sends FIN; what the peer still sends can be read.
    pub fn shutdown_write(&self) {
        // SAFETY: as in `shutdown`.
        unsafe {
            libc::shutdown(self.fd, libc::SHUT_WR);
        }
    }
}
