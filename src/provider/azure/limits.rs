//! The limits of Azure Blob Storage and of the signatures that Valet makes for it.

use jiff::SignedDuration;

/// The maximum lifetime of a SAS, in seconds: 7 days. Azure sets this limit for user delegation keys ("Create a user
/// delegation SAS"). Valet also applies the limit to a SAS that the account key signs.
pub const MAX_EXPIRATION_SECONDS: i64 = 604_800;
/// The maximum size of a blob that is uploaded with one PUT request is 5000 MiB (Azure Storage documentation, "Put
/// Blob", version 2019-12-12 or later).
pub const MAX_PUT_BYTES: i64 = 5000 << 20;
/// The maximum length of a blob name is 1024 characters ("Naming and referencing containers, blobs, and metadata").
/// Valet counts bytes, which is the stricter limit.
pub const MAX_KEY_BYTES: usize = 1024;
/// The start time of a SAS is 15 minutes before the time of signing. Otherwise Azure would reject the SAS while
/// Azure's clock is behind the operator's clock ("Best practices when using SAS").
pub const BACK_DATED: SignedDuration = SignedDuration::from_mins(15);
/// The lifetime of a SAS that authorizes a request of the operator itself.
pub const OWN: SignedDuration = SignedDuration::from_mins(15);

/// The name of the blob that probes use.
pub const PROBE_BLOB: &str = "valet-probe";
