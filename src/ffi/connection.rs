//! `udsipc_connection_*`, `udsipc_message_sequence`.

use super::guard::{Failure, guard, guard_or};
use super::handle::required;
use super::status::udsipc_status;
use crate::error::Error;
use crate::reader::Peer;

/// The connection on which a message came. Opaque, and valid only during the callback that gets it.
pub struct udsipc_connection<'call>(pub(super) &'call Peer<'call>);

/// A number that tells the connections of one reader apart.
///
/// Parameters:
///   connection  the argument of the callback
/// Returns: the number, unique among the connections of a reader; 0 if connection is NULL.
/// Threads: inside the callback. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_connection_id(connection: *const udsipc_connection<'_>) -> u64 {
    guard_or(0, || {
        // SAFETY: the caller passes NULL or what its callback was given, inside that callback.
        Ok(unsafe { connection.as_ref() }.ok_or(Failure::NullPointer("connection"))?.0.connection_id())
    })
}

/// The writer's process, user and group at the time of its connect (SO_PEERCRED).
///
/// Parameters:
///   connection  the argument of the callback
///   pid         where its process id is stored: 0 if it is in another pid namespace; the process may have ended, and its
///               id may be another process's by now
///   uid         where its effective user id is stored
///   gid         where its effective group id is stored
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER if any of the four is NULL; UDSIPC_ERR_IO.
/// Threads: inside the callback. Blocking: never.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_connection_credentials(
    connection: *const udsipc_connection<'_>,
    pid: *mut i32,
    uid: *mut u32,
    gid: *mut u32,
) -> udsipc_status {
    guard(|| {
        let (pid, uid, gid) = (required(pid, "pid")?, required(uid, "uid")?, required(gid, "gid")?);
        // SAFETY: the caller passes NULL or what its callback was given, inside that callback.
        let connection = unsafe { connection.as_ref() }.ok_or(Failure::NullPointer("connection"))?;
        let credentials = connection.0.credentials()?;
        // SAFETY: not NULL; writable by the caller's promise.
        unsafe {
            pid.write(credentials.pid.unwrap_or(0));
            uid.write(credentials.uid);
            gid.write(credentials.gid);
        }
        Ok(())
    })
}

/// Which writer is at the other end, if it takes part in acknowledged delivery. A writer has the same id on each of its
/// connections, as long as its handle lives, and no other writer has it; it is no proof of identity, so tell writers apart
/// by udsipc_connection_credentials and the id together. Together with udsipc_message_sequence it lets a consumer find a
/// message that is delivered again.
///
/// Parameters:
///   connection  the argument of the callback
///   id          where the 16 bytes of the id are stored
/// Returns: UDSIPC_OK; UDSIPC_ERR_NULL_POINTER if either is NULL; UDSIPC_ERR_NOT_ACKNOWLEDGED if the writer does not take
/// part, then id is left as it is.
/// Threads: inside the callback. Blocking: never.
#[must_use]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_connection_writer_id(
    connection: *const udsipc_connection<'_>,
    id: *mut u8,
) -> udsipc_status {
    guard(|| {
        let id = required(id, "id")?;
        // SAFETY: the caller passes NULL or what its callback was given, inside that callback.
        let connection = unsafe { connection.as_ref() }.ok_or(Failure::NullPointer("connection"))?;
        let writer = connection.0.writer_id().ok_or(Error::NotAcknowledged)?;
        // SAFETY: not NULL; the caller promises 16 writable bytes.
        unsafe { id.cast::<[u8; 16]>().write(writer) };
        Ok(())
    })
}

/// The sequence number of the message that the callback got: its place among all that its writer has accepted, from 1 on.
/// In a batch that of the first message; the others follow one by one. A message that is delivered again has the same
/// number, and one that the writer has given up leaves a gap.
///
/// Parameters:
///   connection  the argument of the callback
/// Returns: the number; 0 if the writer does not take part in acknowledged delivery, or connection is NULL.
/// Threads: inside the callback. Blocking: never.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn udsipc_message_sequence(connection: *const udsipc_connection<'_>) -> u64 {
    guard_or(0, || {
        // SAFETY: the caller passes NULL or what its callback was given, inside that callback.
        Ok(unsafe { connection.as_ref() }.ok_or(Failure::NullPointer("connection"))?.0.sequence().unwrap_or(0))
    })
}
