//! Why a node's loop ends by itself; the process ends with it.

use crate::ids::LogId;
use crate::storage::StorageError;
use crate::transport::socket::TransportError;

/// Why a loop ended by itself. The process ends with it.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The first failed write or fsync: what the page cache holds can no longer be trusted.
    #[error("the store failed, so this node stops: {0}")]
    Storage(#[from] StorageError),
    /// The mesh could not be set up.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The runtime or the thread could not be made.
    #[error("the consensus thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
    /// The leader knows entries as committed that this node acknowledged and no longer has.
    #[error(
        "this node lost entries that it had acknowledged (the leader has {0} committed): its disk did not \
         keep what it flushed; replace the disk, wipe the data directory and add the node again"
    )]
    LostData(LogId),
}
