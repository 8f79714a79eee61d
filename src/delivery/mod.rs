//! What two libudsipc peers say to each other beside the stream of frames, so that nothing is lost when a reader is killed.
//!
//! 1. A writer that wants acknowledgement binds its socket to a [name](name::WriterName) before it connects. A reader of another kind
//!    takes no notice of it.
//! 2. To a peer with such a name, and to no other, a reader sends [records](record::Record): one when it accepts the connection, with
//!    the place of the connection's slot in its ledger, and one before it closes it.
//! 3. The slot (`sys::ledger`) says how far the reader's callbacks have come, also after the reader's death.
//!
//! Pure: no I/O, no clock.

pub(crate) mod name;
pub(crate) mod record;
