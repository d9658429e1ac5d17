//! Letting local copies of archived segments go: their outlines stay, and the log stays as long as it was.

use std::io;
use std::path::Path;

use super::definition::DefinitionFile;
use super::folder::experiment_dir;
use super::store::Store;
use crate::log::outline::Outline;
use crate::log::segment::segment_path;

impl Store {
    /// Replaces the file of a sealed segment, which the caller has seen whole in the archive, by its outline.
    /// Says whether there was one: not once its experiment was deleted.
    ///
    /// The outline is durable before the file goes, and a start, a reader or a second call finds either of
    /// them. Neither the experiment's actor nor the journal is asked: nothing is written to a sealed segment.
    pub async fn let_go(&self, outline: &Outline) -> io::Result<bool> {
        // So that it isn't the next life's file of that name.
        let _catalogue = self.catalogue.lock().await;
        let header = &outline.header;
        let disk = self.disk();
        let dir = experiment_dir(self.dir(), &header.slug);
        let life = DefinitionFile::read(&*disk, &dir).and_then(|file| file.incarnation());
        match life {
            Ok(incarnation) if incarnation == header.incarnation => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        }
        let path: &Path = &segment_path(&dir, header.first_sequence);
        match outline.take_place(&*disk, path) {
            // Dropped meanwhile: the outline is covered by the mark, and unlinked by the next pass.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            done => done.map(|()| true),
        }
    }
}
