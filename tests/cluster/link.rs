//! A link between a node and a NATS server, which can be cut: nothing passes any more, and nobody is told.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

#[derive(Default)]
struct State {
    is_cut: Mutex<bool>,
    healed: Condvar,
}

/// The link. What was on its way when it was cut arrives when it is healed.
pub struct Link {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Link {
    pub fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State::default());
        let shared = state.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let state = shared.clone();
                std::thread::spawn(move || {
                    state.wait_until_whole();
                    let Ok(far) = TcpStream::connect(target) else {
                        return;
                    };
                    let ends = (near.try_clone().unwrap(), far.try_clone().unwrap());
                    let other = state.clone();
                    std::thread::spawn(move || other.carry(ends.1, ends.0));
                    state.carry(near, far);
                });
            }
        });
        Self { address, state }
    }

    pub fn cut(&self) {
        *self.state.is_cut.lock().unwrap() = true;
    }

    pub fn heal(&self) {
        *self.state.is_cut.lock().unwrap() = false;
        self.state.healed.notify_all();
    }
}

impl State {
    fn wait_until_whole(&self) {
        let is_cut = self.is_cut.lock().unwrap();
        drop(self.healed.wait_while(is_cut, |is_cut| *is_cut).unwrap());
    }

    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = from.read(&mut buffer).unwrap_or(0);
            self.wait_until_whole();
            if read == 0 || to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        // One that is closed already needs no more.
        let _closed = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}
