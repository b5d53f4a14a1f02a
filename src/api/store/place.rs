use super::{AzureBlobStore, GcsStore, S3Store};

/// Where a store is: the settings of its one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Amazon S3, or a store that speaks its protocol.
    S3(Box<S3Store>),
    /// Azure Blob Storage.
    AzureBlob(Box<AzureBlobStore>),
    /// Google Cloud Storage.
    Gcs(Box<GcsStore>),
}

impl Place {
    /// The one that is set; `None` if none is, or several are.
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

    /// The field of the store's spec that it stands in.
    pub fn field(&self) -> &'static str {
        match self {
            Self::S3(_) => "s3",
            Self::AzureBlob(_) => "azureBlob",
            Self::Gcs(_) => "gcs",
        }
    }

    /// The bucket, or what the provider calls so, by whose name its notifications speak of it.
    pub fn bucket(&self) -> &str {
        match self {
            Self::S3(s3) => &s3.bucket,
            Self::AzureBlob(azure) => &azure.container,
            Self::Gcs(gcs) => &gcs.bucket,
        }
    }
}
