//! What is kept of an order beside the volume's key: its URL, and the TXT records that were
//! published for it, each before it was, so that a later process can go on with the one and take
//! away the others.

use std::io;
use std::sync::{Mutex, MutexGuard};

use url::Url;

use crate::issuer::{HandleStore, TxtRecord};
use crate::sync::lock;

/// The journal of one volume.
#[derive(Debug)]
pub(super) struct Journal<'a> {
    store: &'a dyn HandleStore,
    kept: Mutex<Kept>,
}

#[derive(Clone, Debug, Default)]
struct Kept {
    order: Option<Url>,
    records: Vec<TxtRecord>,
}

/// Older ones were long taken away.
const MOST_RECORDS: usize = 64;

impl<'a> Journal<'a> {
    /// What earlier attempts wrote. What cannot be read was not written here.
    pub(super) fn load(store: &'a dyn HandleStore) -> Self {
        let text = store.load().unwrap_or_default();
        let mut lines = text.lines();
        let order = lines.next().and_then(|line| line.parse().ok());
        let records = lines.filter_map(|line| serde_json::from_str(line).ok()).collect();
        Self { store, kept: Mutex::new(Kept { order, records }) }
    }

    /// The URL of the last order.
    pub(super) fn order(&self) -> Option<Url> {
        self.kept().order.clone()
    }

    /// Every record that may be there.
    pub(super) fn records(&self) -> Vec<TxtRecord> {
        self.kept().records.clone()
    }

    /// Writes down that there is an order.
    pub(super) fn begin(&self, order: &Url) -> io::Result<()> {
        self.change(|kept| kept.order = Some(order.clone()))
    }

    /// Writes down that there will be a record.
    pub(super) fn add(&self, record: &TxtRecord) -> io::Result<()> {
        self.change(|kept| {
            kept.records.retain(|other| other != record);
            kept.records.push(record.clone());
            let excess = kept.records.len().saturating_sub(MOST_RECORDS);
            kept.records.drain(..excess);
        })
    }

    fn change(&self, change: impl FnOnce(&mut Kept)) -> io::Result<()> {
        let mut kept = self.kept();
        change(&mut kept);
        let mut text = kept.order.as_ref().map(Url::to_string).unwrap_or_default();
        for record in &kept.records {
            text.push('\n');
            text += &serde_json::to_string(record)?;
        }
        self.store.save(&text)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        // A panic between two assignments leaves nothing half done.
        lock(&self.kept)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::issuer::HandleInMemory;

    fn record(value: &str) -> TxtRecord {
        TxtRecord {
            host: "www.example.com".to_owned(),
            name: "_acme-challenge.www.example.com".to_owned(),
            zone: "example.com".to_owned(),
            value: value.to_owned(),
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let store = HandleInMemory::default();
        let journal = Journal::load(&store);
        assert_eq!((journal.order(), journal.records()), (None, Vec::new()));
        journal.add(&record("early")).unwrap();
        let url: Url = "https://ca.example/order/1".parse().unwrap();
        journal.begin(&url).unwrap();
        journal.add(&record("one\n\"two\"")).unwrap();
        journal.add(&record("early")).unwrap();
        let later = Journal::load(&store);
        assert_eq!(later.order(), Some(url));
        assert_eq!(later.records(), [record("one\n\"two\""), record("early")]);
        for number in 0..100 {
            later.add(&record(&number.to_string())).unwrap();
        }
        assert_eq!(Journal::load(&store).records().len(), MOST_RECORDS);
    }

    #[test]
    fn rubbish_is_passed_over() {
        for text in ["", "\n", "no url\n{}", "https://ca.example/1\n{\"a\": 1}\nx"] {
            let store = HandleInMemory::default();
            store.save(text).unwrap();
            assert!(Journal::load(&store).records().is_empty(), "{text}");
        }
    }
}
