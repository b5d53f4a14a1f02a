//! The operator's own identities. Stores without a credentials Secret use them.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex},
};

use tokio::sync::OnceCell;

use super::lock::lock;

/// The identities of the operator itself, at most one of each type. A provider reads its identity when a store needs
/// it for the first time. All stores share these identities.
#[derive(Default)]
pub struct Environment {
    cells: Mutex<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Environment")
    }
}

impl Environment {
    /// Returns the identity of type `T`. Only the first call runs `read`. All further calls return the result of the
    /// first call.
    pub(super) async fn identity<T, F>(&self, read: impl FnOnce() -> F) -> T
    where
        T: Clone + Send + Sync + 'static,
        F: Future<Output = T>,
    {
        let cell = {
            let mut cells = lock(&self.cells);
            let cell = cells
                .entry(TypeId::of::<T>())
                .or_insert_with(|| Arc::new(OnceCell::<T>::new()));
            cell.clone().downcast::<OnceCell<T>>()
        };
        match cell {
            Ok(cell) => cell.get_or_init(read).await.clone(),
            // This case does not occur, because the map stores each cell under the type that the cell contains.
            Err(_) => read().await,
        }
    }
}

/// The reason why Valet cannot sign with only the credentials in the environment, without a network request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NoLocalCredentials {
    /// The environment contains no credentials.
    Nothing,
    /// The credentials come from a service or program outside the environment. The string names this service or
    /// program, or the setting that selects it. An error message begins with this string.
    Elsewhere(String),
    /// Valet cannot use the configured credentials. The string contains the reason. An error message contains this
    /// string after a colon.
    Unusable(&'static str),
}
