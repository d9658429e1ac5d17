//! Work that blocks, on the pool for it.

use std::io;

/// Does `work` where it holds nobody up. A panic of it becomes an I/O error.
pub(super) async fn blocking<T, E>(
    work: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, E>
where
    T: Send + 'static,
    E: From<io::Error> + Send + 'static,
{
    spawned(work)
        .await
        .unwrap_or_else(|panic| Err(panic.into()))
}

/// As [`blocking`], of work that can't fail but by a panic.
pub(super) async fn spawned<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> io::Result<T> {
    #[cfg(all(test, feature = "nats"))]
    if in_place::IS_ASKED_FOR.get() {
        return Ok(work());
    }
    let spawned = tokio::task::spawn_blocking(work).await;
    spawned.map_err(io::Error::other)
}

/// For simulations on one thread, whose order of events a seed must give.
#[cfg(all(test, feature = "nats"))]
pub(crate) mod in_place {
    use std::cell::Cell;

    std::thread_local! {
        pub(super) static IS_ASKED_FOR: Cell<bool> = const { Cell::new(false) };
    }

    /// From now on, what this thread asks for is done at once, on itself.
    pub(crate) fn ask_for() {
        IS_ASKED_FOR.set(true);
    }
}
