use super::{AzureBlobStore, GcsStore, S3Store};

/// The settings of the one provider that a store uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderConfig {
    /// Amazon S3 or an S3-compatible store.
    S3(Box<S3Store>),
    /// Azure Blob Storage.
    AzureBlob(Box<AzureBlobStore>),
    /// Google Cloud Storage.
    Gcs(Box<GcsStore>),
}

impl ProviderConfig {
    /// The provider that is set; `None` if no provider or more than one is set.
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

    /// The field of the store's spec that contains these settings.
    pub fn field(&self) -> &'static str {
        match self {
            Self::S3(_) => "s3",
            Self::AzureBlob(_) => "azureBlob",
            Self::Gcs(_) => "gcs",
        }
    }

    /// The name of the bucket (Azure: the container). Notifications of the store contain this name.
    pub fn bucket(&self) -> &str {
        match self {
            Self::S3(s3) => &s3.bucket,
            Self::AzureBlob(azure) => &azure.container,
            Self::Gcs(gcs) => &gcs.bucket,
        }
    }
}
