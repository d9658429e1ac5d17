//! The way of bytes to a server: a socket, or TLS over one. Whether it waits is up to the socket.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Where a server is, and how it is spoken to.
#[derive(Debug, Clone)]
pub struct Address {
    pub socket: SocketAddr,
    pub tls: Option<Tls>,
}

/// Whom a server must show itself to be.
#[derive(Debug, Clone)]
pub struct Tls {
    pub config: Arc<ClientConfig>,
    pub name: ServerName<'static>,
}

/// A connection.
pub enum Wire<S: Read + Write> {
    Plain(S),
    Tls(Box<StreamOwned<ClientConnection, S>>),
}

impl Address {
    /// One that speaks no TLS.
    pub fn plain(socket: SocketAddr) -> Self {
        Self { socket, tls: None }
    }

    /// Connects and shakes hands; each wait, later ones too, has this limit.
    pub fn connect(&self, timeout: Duration) -> io::Result<Wire<TcpStream>> {
        let stream = TcpStream::connect_timeout(&self.socket, timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(timeout))?;
        stream.set_write_timeout(Some(timeout))?;
        let Some(Tls { config, name }) = &self.tls else {
            return Ok(Wire::Plain(stream));
        };
        let connection = ClientConnection::new(config.clone(), name.clone());
        let mut stream = StreamOwned::new(connection.map_err(io::Error::other)?, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Wire::Tls(Box::new(stream)))
    }
}

impl Wire<TcpStream> {
    /// The same connection for a poll, never waiting from here on.
    pub fn into_polled(self) -> io::Result<Wire<mio::net::TcpStream>> {
        let polled = |stream: TcpStream| {
            stream.set_nonblocking(true)?;
            io::Result::Ok(mio::net::TcpStream::from_std(stream))
        };
        Ok(match self {
            Self::Plain(stream) => Wire::Plain(polled(stream)?),
            Self::Tls(stream) => {
                let (connection, stream) = stream.into_parts();
                Wire::Tls(Box::new(StreamOwned::new(connection, polled(stream)?)))
            }
        })
    }
}

impl<S: Read + Write> Wire<S> {
    /// What it goes over.
    pub fn socket(&mut self) -> &mut S {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(stream) => &mut stream.sock,
        }
    }

    /// Whether a read that gives less than was asked for says that nothing more has come: of TLS it gives
    /// what one record has.
    pub fn tells_end(&self) -> bool {
        matches!(self, Self::Plain(_))
    }
}

impl<S: Read + Write> Read for Wire<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buf),
            Self::Tls(stream) => stream.read(buf),
        }
    }
}

impl<S: Read + Write> Write for Wire<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    /// Of TLS: what was taken and has not gone yet.
    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
