//! Who this job store is, where it keeps blobs.

use std::time::Duration;

use async_trait::async_trait;
use verbatim_core::ids::StoreId;
use verbatim_core::ports::ownership::{BlobOwner, Identity};
use verbatim_core::{ErrorKind, PortError};

use super::error::corrupt;
use super::{RedisStore, millis, scripts};

#[async_trait]
impl BlobOwner for RedisStore {
    async fn identity(&self) -> Result<Identity, PortError> {
        let (id, mark): (String, u64) = self.0.wire.link.run(&self.0.wire.call(&scripts::IDENTITY)).await?;
        if id.is_empty() {
            return Err(PortError::new(ErrorKind::Unavailable, "the job store is being made anew"));
        }
        Ok(Identity { id: StoreId::parse(&id).map_err(corrupt)?, mark })
    }

    async fn raise_mark(&self, above: u64) -> Result<u64, PortError> {
        let mut call = self.0.wire.call(&scripts::RAISE_MARK);
        call.arg(above);
        self.0.wire.link.run(&call).await
    }

    async fn take_sweep(&self, node: &str, turn: Duration) -> Result<bool, PortError> {
        let mut call = self.0.wire.call(&scripts::TAKE_SWEEP);
        call.arg(node).arg(millis(turn));
        let taken: u8 = self.0.wire.link.run(&call).await?;
        Ok(taken == 1)
    }

    async fn forbid_sweeps(&self, time: Duration) -> Result<(), PortError> {
        let mut call = self.0.wire.call(&scripts::FORBID_SWEEPS);
        call.arg(millis(time));
        self.0.wire.link.run(&call).await
    }
}
