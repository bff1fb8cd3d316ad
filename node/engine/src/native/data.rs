//! The data of the requests that a pool has under way.
//!
//! - Each request has a place; the number of the place is its id in the store.
//! - Places are used again, with what they have allocated.
//! - A request is over when the store has completed it and no I/O has a part of its data.

use std::ops::Range;

use fathom_block::{Error, RequestId};
use fathom_lvs::Payloads;
use fathom_runtime::{Address, Buffer, Loan, Purpose, Shared};

use super::message::{Answer, Reply};

/// Where an answer goes.
pub(crate) enum Asker {
    /// To an actor.
    Actor(Address),
    /// To a thread.
    Thread(Reply),
}

struct Place {
    asker: Option<(Asker, RequestId)>,
    shared: Shared,
    result: Option<Result<(), Error>>,
}

/// The requests under way.
#[derive(Default)]
pub(crate) struct Requests {
    places: Vec<Place>,
    free: Vec<usize>,
}

/// A request that is over.
pub(crate) struct Over {
    pub(crate) asker: Asker,
    pub(crate) answer: Answer,
}

impl Requests {
    /// How many are under way.
    pub(crate) fn count(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Gives a request its place; returns its id in the store.
    pub(crate) fn begin(&mut self, asker: Asker, id: RequestId, data: Option<Buffer>) -> RequestId {
        let at = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place { asker: None, shared: Shared::default(), result: None });
            self.places.len() - 1
        });
        let place = &mut self.places[at];
        place.asker = Some((asker, id));
        if let Some(data) = data {
            place.shared.put(data);
        }
        RequestId(at as u64)
    }

    /// Lends a part of a request's data to an I/O.
    pub(crate) fn lend(&mut self, id: RequestId, range: Range<usize>, purpose: Purpose) -> Loan {
        self.place(id).shared.lend(range, purpose)
    }

    /// Takes a part back. If that ends the request, so be it.
    #[must_use]
    pub(crate) fn give_back(&mut self, id: RequestId, loan: Loan) -> Option<Over> {
        self.place(id).shared.give_back(loan);
        self.end(id)
    }

    /// A part of a read request's data, to be filled.
    pub(crate) fn part(&mut self, id: RequestId, range: Range<usize>) -> &mut [u8] {
        self.place(id).shared.bytes_mut(range)
    }

    /// The store has completed a request.
    #[must_use]
    pub(crate) fn complete(&mut self, id: RequestId, result: Result<(), Error>) -> Option<Over> {
        self.place(id).result = Some(result);
        self.end(id)
    }

    fn end(&mut self, id: RequestId) -> Option<Over> {
        let place = self.place(id);
        if !place.shared.is_whole() {
            return None;
        }
        let result = place.result.take()?;
        let (asker, id_there) = place.asker.take().expect("a request that is under way");
        let data = place.shared.take();
        self.free.push(index(id));
        Some(Over { asker, answer: Answer { id: id_there, result, data } })
    }

    fn place(&mut self, id: RequestId) -> &mut Place {
        &mut self.places[index(id)]
    }
}

impl Payloads for Requests {
    fn bytes(&self, id: RequestId) -> &[u8] {
        self.places[index(id)].shared.bytes()
    }
}

fn index(id: RequestId) -> usize {
    usize::try_from(id.0).expect("the number of a place")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_over_when_it_is_complete_and_whole() {
        let mut requests = Requests::default();
        let asker = || Asker::Actor(Address::OUTSIDE);
        let id = requests.begin(asker(), RequestId(77), Some(Buffer::zeroed(8192)));
        let one = requests.lend(id, 0..4096, Purpose::Fill);
        let two = requests.lend(id, 4096..8192, Purpose::Fill);
        assert!(requests.give_back(id, one).is_none());
        assert!(requests.complete(id, Err(Error::ReadFault)).is_none(), "the device has a part");
        let over = requests.give_back(id, two).expect("it is over");
        assert_eq!((over.answer.id, over.answer.result), (RequestId(77), Err(Error::ReadFault)));
        assert_eq!(over.answer.data.expect("it came with it").len(), 8192);
        assert_eq!(requests.count(), 0);
        let again = requests.begin(asker(), RequestId(78), None);
        assert_eq!(again, id, "its place is used again");
        assert!(requests.complete(again, Ok(())).expect("it is over").answer.data.is_none());
    }
}
