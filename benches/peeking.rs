//! How often experiments without a difference are called different, when one looks after each entry
//! from the 100th on: by the always-valid interval, and by Welch's p-value below 0.05.
//! `cargo bench --bench peeking`; the same seed gives the same counts.

#![allow(clippy::expect_used)]

use trialog::stats::sequence::errors_allowed;
use trialog::stats::significance::{Estimate, welch};

const EXPERIMENTS: u64 = 10_000;
const ENTRIES: u64 = 10_000;
const FIRST_LOOK: u64 = 100;
const ALPHA: f64 = 0.05;
const SEED: u64 = 20_261_125;

fn main() {
    // `cargo test` runs benches once to see that they work; this one takes a minute.
    let experiments = if std::env::args().any(|argument| argument == "--bench") {
        EXPERIMENTS
    } else {
        20
    };
    // What the interval may reach, for each number of entries.
    let reaches: Vec<f64> = (0..=ENTRIES)
        .map(|count| errors_allowed(count, ALPHA))
        .collect();
    println!(
        "{experiments} experiments without a difference, looked at after each entry from the \
         {FIRST_LOOK}th to the {ENTRIES}th; seed {SEED}"
    );
    println!(
        "{:>22} {:>14} {:>14}",
        "values", "always valid", "Welch p < 5 %"
    );
    for kind in [
        Kind::Normal,
        Kind::OneInTen,
        Kind::OneInHundred,
        Kind::LogNormal,
        Kind::NormalTenth,
    ] {
        let mut crossed = (0_u64, 0_u64);
        for experiment in 0..experiments {
            let (always, once) = run(kind, experiment, &reaches);
            crossed.0 += u64::from(always);
            crossed.1 += u64::from(once);
        }
        let percent = |count: u64| 100.0 * count as f64 / experiments as f64;
        let (always, once) = (percent(crossed.0), percent(crossed.1));
        println!("{:>22} {always:>12.2} % {once:>12.2} %", kind.words());
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Normal,
    OneInTen,
    OneInHundred,
    LogNormal,
    NormalTenth,
}

impl Kind {
    fn words(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::OneInTen => "1 in 10",
            Self::OneInHundred => "1 in 100",
            Self::LogNormal => "log-normal (sigma 1)",
            Self::NormalTenth => "normal, split 90/10",
        }
    }

    fn draw(self, rng: &mut fastrand::Rng) -> f64 {
        match self {
            Self::Normal | Self::NormalTenth => normal(rng),
            Self::OneInTen => f64::from(rng.u32(0..10) == 0),
            Self::OneInHundred => f64::from(rng.u32(0..100) == 0),
            Self::LogNormal => normal(rng).exp(),
        }
    }

    /// The chance of the second variant.
    fn share(self) -> f64 {
        match self {
            Self::NormalTenth => 0.1,
            _ => 0.5,
        }
    }
}

/// A standard normal number, by Marsaglia's polar method.
fn normal(rng: &mut fastrand::Rng) -> f64 {
    loop {
        let (x, y) = (rng.f64() * 2.0 - 1.0, rng.f64() * 2.0 - 1.0);
        let square = x * x + y * y;
        if square > 0.0 && square < 1.0 {
            return x * (-2.0 * square.ln() / square).sqrt();
        }
    }
}

/// Mean and variance, one value after the other.
#[derive(Default)]
struct Running {
    count: u64,
    mean: f64,
    squares: f64,
}

impl Running {
    fn add(&mut self, value: f64) {
        self.count += 1;
        let before = value - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (value - self.mean);
    }

    fn estimate(&self) -> Estimate {
        let count = self.count as f64;
        Estimate {
            mean: self.mean,
            variance: self.squares / (count - 1.0) / count,
            count: self.count,
        }
    }
}

/// Whether the always-valid interval ever left out zero, and whether Welch's p-value ever was
/// below α.
fn run(kind: Kind, experiment: u64, reaches: &[f64]) -> (bool, bool) {
    let mut rng = fastrand::Rng::with_seed(SEED ^ (experiment << 32));
    let (mut control, mut other) = (Running::default(), Running::default());
    let (mut always, mut once) = (false, false);
    for (reach, count) in reaches.iter().skip(1).zip(1..) {
        let is_other = rng.f64() < kind.share();
        let side = if is_other { &mut other } else { &mut control };
        side.add(kind.draw(&mut rng));
        // The report's own least counts.
        if count < FIRST_LOOK || control.count.min(other.count) < 10 {
            continue;
        }
        let (control, other) = (control.estimate(), other.estimate());
        let variance = control.variance + other.variance;
        let errors = (other.mean - control.mean).abs() / variance.sqrt();
        always |= errors > *reach;
        // Fewer than 1.9 errors are never significant: that spares most of the p-values.
        if !once && errors > 1.9 {
            once = welch(control, other, 1.0 - ALPHA).is_some_and(|found| found.p_value < ALPHA);
        }
        if always && once {
            break;
        }
    }
    (always, once)
}
