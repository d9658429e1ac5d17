//! What an experiment's metrics say. All work is done on the pool for what blocks, for a few
//! questions at a time; neither the actor nor the journal is asked.

use std::io;
use std::ops::ControlFlow;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Semaphore;

use super::actor::Shared;
use super::blocking::blocking;
use super::definition::DefinitionFile;
use super::error::ReadError;
use super::figures::Figures;
use super::folder;
use super::glance::Glances;
use super::log_figures::LogFigures;
use super::store::Store;
use crate::log::cursor::Met;
use crate::log::frozen::Frozen;
use crate::log::index::variant_key_of;
use crate::log::select::{Order, Selection};
use crate::log::view::LogView;
use crate::model::{Definition, DroppedCount, Slug};
use crate::stats::question::{QuestionError, Take};
use crate::stats::summary::Limits;
use crate::stats::{Answer, Entries, Question, Summary};

/// Questions at the same time whose answers are in the summaries.
const SUMMARIES_MAX: usize = 4;
/// Questions at the same time that read all entries: each may take
/// [`BYTES_MAX`](crate::stats::units::BYTES_MAX) of memory.
const SCANS_MAX: usize = 2;

/// How many questions are answered at the same time; further ones wait.
pub(super) struct Turns {
    summaries: Arc<Semaphore>,
    scans: Arc<Semaphore>,
}

impl Default for Turns {
    fn default() -> Self {
        Self {
            summaries: Arc::new(Semaphore::new(SUMMARIES_MAX)),
            scans: Arc::new(Semaphore::new(SCANS_MAX)),
        }
    }
}

/// What an experiment holds.
#[derive(Debug)]
pub struct Overview {
    /// What it is.
    pub definition: Definition,
    /// Its entries and their metrics, and the damage that was met.
    pub figures: Figures,
    /// What retention has dropped: they leave it out.
    pub dropped: DroppedCount,
}

/// A report, or several.
#[derive(Debug)]
pub struct Answered {
    /// They.
    pub answer: Answer,
    /// How many damaged places were met.
    pub damage_count: usize,
}

/// A log as it was when it was asked.
struct Asked {
    view: Arc<LogView>,
    kept: Arc<Mutex<LogFigures>>,
    shared: Arc<Shared>,
    /// Set by the first look at the log; the later ones see the same.
    frozen: Option<Frozen>,
    damage_count: usize,
    /// Whoever asked holds the other end.
    asker: Weak<()>,
}

impl Store {
    /// An experiment's definition, and the figures of all that is durable of its log.
    pub async fn overview(&self, slug: &Slug) -> Result<Overview, ReadError> {
        let asked = self.asked(slug).await?;
        let definition = self.definition(slug).await?;
        let ask = |mut asked: Asked| {
            let figures = asked.figures()?;
            let dropped = asked.view.dropped();
            let dropped = dropped.map_or_else(DroppedCount::default, |dropped| dropped.count());
            Ok::<_, ReadError>((figures, dropped))
        };
        let (figures, dropped) = in_turn(&self.turns.summaries, asked, ask).await??;
        Ok(Overview {
            definition,
            figures,
            dropped,
        })
    }

    /// The answer to a question about an experiment. Its definition is the experiment's, but for a unit
    /// that the question names itself, and its limits are the store's.
    pub async fn answer(
        &self,
        slug: &Slug,
        question: Question,
    ) -> Result<Answered, QuestionError<ReadError>> {
        let asked = self.asked(slug).await.map_err(QuestionError::Log)?;
        // Before the definition is read: what comes in between keeps nothing.
        let change_count = self.registry.with_glances(slug, Glances::change_count);
        let definition = self.definition(slug).await.map_err(QuestionError::Log)?;
        let is_by_own_unit = definition.unit.is_some()
            && question.definition.unit.is_none()
            && question.by.is_none();
        let mut question = question.about(definition);
        question.limits = self.shared.figure_limits;
        let turns = match question.is_summary_enough() {
            true => &self.turns.summaries,
            false => &self.turns.scans,
        };
        let ask = move |mut asked: Asked| {
            let answer = question.answer(&mut asked)?;
            Ok(Answered {
                answer,
                damage_count: asked.damage_count,
            })
        };
        let answered = in_turn(turns, asked, ask).await;
        let answered = answered.map_err(QuestionError::Log)??;
        if let (true, Some(change_count), Answer::Whole(report)) =
            (is_by_own_unit, change_count, &answered.answer)
        {
            let is_mismatch = report.sample_ratio.is_mismatch;
            self.registry.with_glances(slug, |glances| {
                glances.keep_unit_ratio(is_mismatch, change_count);
            });
        }
        Ok(answered)
    }

    async fn asked(&self, slug: &Slug) -> Result<Asked, ReadError> {
        let handle = self.handle(slug).await?;
        Ok(Asked {
            view: handle.view,
            kept: handle.figures,
            shared: self.shared.clone(),
            frozen: None,
            damage_count: 0,
            asker: Weak::new(),
        })
    }

    /// The definition, from its file: it is replaced whole.
    async fn definition(&self, slug: &Slug) -> Result<Definition, ReadError> {
        let dir = folder::experiment_dir(self.dir(), slug);
        let disk = self.shared.host.disk.clone();
        match blocking(move || DefinitionFile::read(&*disk, &dir)).await {
            Ok(file) => Ok(file.definition),
            // It was deleted meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Err(ReadError::UnknownExperiment)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Does `work` when it is its turn.
///
/// Cancellation: when the future is dropped, the work ends at the next entries that it would read.
async fn in_turn<T: Send + 'static>(
    turns: &Arc<Semaphore>,
    mut asked: Asked,
    work: impl FnOnce(Asked) -> T + Send + 'static,
) -> Result<T, ReadError> {
    let turn = turns.clone().acquire_owned().await;
    let turn = turn.map_err(|_| ReadError::ShuttingDown)?;
    let asker = Arc::new(());
    asked.asker = Arc::downgrade(&asker);
    let done = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work(asked)
    })
    .await;
    drop(asker);
    done.map_err(|panic| ReadError::Io(io::Error::other(panic)))
}

impl Asked {
    fn figures(&mut self) -> Result<Figures, ReadError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let frozen = self.view.frozen();
        let figures = kept.read(&frozen, &self.shared.host.disk, self.shared.figure_limits)?;
        let bytes = kept.bytes();
        drop(kept);
        self.shared.figures_memory.note(&self.kept, bytes);
        self.frozen = Some(frozen);
        self.damage_count = figures.damage_count;
        Ok(figures)
    }
}

impl Entries for Asked {
    type Error = ReadError;

    /// They are the store's limits: what is kept between two questions has them.
    fn summary(&mut self, _: Limits) -> Result<Summary, ReadError> {
        Ok(self.figures()?.summary)
    }

    fn scan(&mut self, take: &mut Take<'_>) -> Result<(), ReadError> {
        let frozen = self.frozen.get_or_insert_with(|| self.view.frozen());
        let all = Selection::default();
        let mut cursor = frozen.cursor(self.shared.host.disk.clone(), all, Order::OldestFirst);
        let mut damage_count = 0;
        while cursor.step(&mut |met| {
            match met {
                Met::Entry(entry) => {
                    let key = variant_key_of(entry.body);
                    take(&key, entry.received_at_ms, entry.body);
                }
                Met::Lost(_) => damage_count += 1,
            }
            ControlFlow::Continue(())
        })? {
            if self.asker.strong_count() == 0 {
                return Err(ReadError::ShuttingDown); // To nobody.
            }
        }
        self.damage_count = damage_count;
        Ok(())
    }
}
