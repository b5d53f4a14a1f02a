use super::{AzureBlobStore, GcsStore, S3Store};

/// The settings of the provider that a store uses. A store uses exactly one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderConfig {
    /// The store is Amazon S3 or an S3-compatible store.
    S3(Box<S3Store>),
    /// The store is Azure Blob Storage.
    AzureBlob(Box<AzureBlobStore>),
    /// The store is Google Cloud Storage.
    Gcs(Box<GcsStore>),
}

impl ProviderConfig {
    /// Returns the settings of the only provider that is set. Returns `None` if the spec has no provider or more than
    /// one.
    pub(super) fn only(
        s3: Option<&S3Store>,
        azure_blob: Option<&AzureBlobStore>,
        gcs: Option<&GcsStore>,
    ) -> Option<Self> {
        match (s3, azure_blob, gcs) {
            (Some(s3), None, None) => Some(Self::S3(Box::new(s3.clone()))),
            (None, Some(azure), None) => Some(Self::AzureBlob(Box::new(azure.clone()))),
            (None, None, Some(gcs)) => Some(Self::Gcs(Box::new(gcs.clone()))),
            _ => None,
        }
    }
}
