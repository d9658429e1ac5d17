//! The memory for figures that are kept between two questions, over all experiments.

use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};

use super::log_figures::LogFigures;

/// What one experiment's figures count at least.
const BYTES_MIN: usize = 4 << 10;

/// Bounds what is kept. Where that is too much, those go that nobody has asked for the longest: their
/// next question reads the footers again.
pub struct FiguresMemory {
    bytes_max: usize,
    /// Those asked for last are last.
    kept: Mutex<Vec<Kept>>,
}

struct Kept {
    /// Of an actor that may have left: its figures have gone with it then.
    figures: Weak<Mutex<LogFigures>>,
    bytes: usize,
}

impl FiguresMemory {
    /// At most about so many bytes.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            kept: Mutex::default(),
        }
    }

    /// About how many bytes are kept.
    pub fn used(&self) -> usize {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.iter()
            .filter(|one| one.figures.strong_count() > 0)
            .map(|one| one.bytes)
            .sum()
    }

    /// Notes what was just asked for, whose lock the caller doesn't hold any more.
    pub fn note(&self, asked: &Arc<Mutex<LogFigures>>, bytes: usize) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = Arc::downgrade(asked);
        kept.retain(|one| one.figures.strong_count() > 0 && !one.figures.ptr_eq(&asked));
        kept.push(Kept {
            figures: asked,
            bytes: bytes.max(BYTES_MIN),
        });
        let mut used: usize = kept.iter().map(|one| one.bytes).sum();
        let mut too_many = 0;
        for one in &*kept {
            if used <= self.bytes_max {
                break;
            }
            used -= one.bytes;
            too_many += 1;
        }
        let forgotten: Vec<_> = kept.drain(..too_many).collect();
        drop(kept);
        for figures in forgotten.iter().filter_map(|one| one.figures.upgrade()) {
            match figures.try_lock() {
                Ok(mut figures) => *figures = LogFigures::default(),
                Err(TryLockError::Poisoned(poisoned)) => {
                    *poisoned.into_inner() = LogFigures::default();
                }
                // Somebody asks for them now, and will note that.
                Err(TryLockError::WouldBlock) => {}
            }
        }
    }
}
