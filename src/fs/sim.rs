//! A simulated disk. (being written)
