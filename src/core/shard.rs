//! Divides the stores among several operator deployments.

use aws_lc_rs::digest::{SHA256, digest};

use super::store_id::StoreId;

/// The maximum number of shards. Each shard watches all grants, so each shard costs the apiserver a copy of every event.
pub const MOST_SHARDS: u16 = 16;

/// One of several operator deployments that divide the stores among themselves. A shard serves the stores that a hash
/// assigns to it, and all grants of these stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    index: u16,
    count: u16,
}

impl Default for Shard {
    /// Returns the only shard of an operator that serves all stores.
    fn default() -> Self {
        Self { index: 0, count: 1 }
    }
}

impl Shard {
    /// Creates the shard with the number `index` of `count` shards. The numbers begin at 0.
    ///
    /// # Errors
    ///
    /// Returns a message that names the flag, the problem and the remedy.
    pub fn new(index: u16, count: u16) -> Result<Self, String> {
        if !(1..=MOST_SHARDS).contains(&count) {
            return Err(format!(
                "--shards: {count} is not a number from 1 to {MOST_SHARDS}; set --shards to the number of operator deployments that divide the stores"
            ));
        }
        if index >= count {
            return Err(format!(
                "--shard: there is no shard {index} with --shards={count}, because the numbers of the shards begin at 0; set --shard to a number from 0 to {last}, or raise --shards",
                last = count - 1
            ));
        }
        Ok(Self { index, count })
    }

    /// Returns the number of this shard. The numbers begin at 0.
    pub fn index(self) -> u16 {
        self.index
    }

    /// Returns the number of shards.
    pub fn count(self) -> u16 {
        self.count
    }

    /// Returns true if there are no other shards.
    pub fn is_only(self) -> bool {
        self.count == 1
    }

    /// Returns true if this shard serves the objects that belong to no known store. For example, these are the grants
    /// whose store cannot be parsed.
    pub fn serves_rest(self) -> bool {
        self.index == 0
    }

    /// Returns true if this shard serves the store and its grants.
    pub fn serves(self, id: &StoreId) -> bool {
        self.is_only() || assigned(id, self.count) == self.index
    }

    /// Returns the other shards.
    pub fn others(self) -> impl Iterator<Item = Self> {
        let Self { index, count } = self;
        let others = (0..count).filter(move |other| *other != index);
        others.map(move |index| Self { index, count })
    }
}

/// Returns the number of the shard that serves a store. Each shard has a weight for the store, and the shard with the
/// highest weight serves the store (rendezvous hashing). A new shard therefore takes over stores, but no store moves
/// between the other shards.
fn assigned(id: &StoreId, count: u16) -> u16 {
    let (kind, namespace, name) = id;
    let heaviest = (0..count).max_by_key(|index| {
        // All versions of Valet must compute the same weight, because two versions run at the same time during an
        // upgrade. No part contains a `/`, so different stores have different texts.
        let text = format!("{kind}/{namespace}/{name}/{index}", kind = kind.as_str());
        let weight = digest(&SHA256, text.as_bytes());
        <[u8; 32]>::try_from(weight.as_ref()).ok()
    });
    heaviest.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::StoreKind;

    fn store(name: &str) -> StoreId {
        (StoreKind::ClusterObjectStore, String::new(), name.to_owned())
    }

    fn names() -> impl Iterator<Item = StoreId> {
        (0..1000).map(|n| store(&format!("store-{n}")))
    }

    /// If these numbers change, two versions of Valet assign a store to different shards. During an upgrade, nobody
    /// would then serve the store. `printf ClusterObjectStore//media/0 | sha256sum` prints the weight of shard 0.
    #[test]
    fn assignment_of_a_store_never_changes() {
        let own = (StoreKind::ObjectStore, "web".to_owned(), "media".to_owned());
        let shards = |id: &StoreId| [2, 3, 4, 8, 16].map(|count| assigned(id, count));
        assert_eq!(shards(&store("media")), [1, 1, 3, 4, 4]);
        assert_eq!(shards(&store("logs")), [0, 2, 2, 4, 4]);
        assert_eq!(shards(&store("a")), [0, 2, 2, 2, 10]);
        assert_eq!(shards(&own), [1, 1, 3, 3, 3]);
    }

    #[test]
    fn exactly_one_shard_serves_each_store() {
        for count in 1..=MOST_SHARDS {
            let shards: Vec<_> = (0..count).map(|index| Shard::new(index, count).unwrap()).collect();
            for id in names().take(50) {
                assert_eq!(shards.iter().filter(|shard| shard.serves(&id)).count(), 1, "{id:?}");
            }
        }
        assert!(names().all(|id| Shard::default().serves(&id)));
    }

    #[test]
    fn stores_are_divided_evenly() {
        for count in 2..=MOST_SHARDS {
            let mut stores = vec![0_usize; usize::from(count)];
            names().for_each(|id| stores[usize::from(assigned(&id, count))] += 1);
            let fair = 1000 / usize::from(count);
            // The standard deviation of one number is at most the square root of `fair`.
            let most = 4 * fair.isqrt() + 1;
            assert!(stores.iter().all(|n| n.abs_diff(fair) <= most), "{count}: {stores:?}");
        }
    }

    #[test]
    fn new_shard_takes_stores_and_moves_no_other() {
        for count in 1..MOST_SHARDS {
            let moved: Vec<_> = names()
                .filter_map(|id| {
                    let (before, after) = (assigned(&id, count), assigned(&id, count + 1));
                    (before != after).then_some(after)
                })
                .collect();
            assert!(
                moved.iter().all(|after| *after == count),
                "a store moved between two old shards"
            );
            let fair = 1000 / usize::from(count + 1);
            assert!(
                moved.len().abs_diff(fair) <= 4 * fair.isqrt(),
                "{count}: {}",
                moved.len()
            );
        }
    }

    #[test]
    fn invalid_shards_are_refused_with_a_remedy() {
        assert_eq!(Shard::new(0, 1).unwrap(), Shard::default());
        assert!(Shard::new(15, 16).is_ok());
        let error = |index, count| Shard::new(index, count).unwrap_err();
        assert_eq!(
            error(2, 2),
            "--shard: there is no shard 2 with --shards=2, because the numbers of the shards begin at 0; set --shard to a number from 0 to 1, or raise --shards"
        );
        assert!(error(0, 0).starts_with("--shards: 0 is not a number from 1 to 16; set --shards"));
        assert!(error(0, 17).starts_with("--shards: 17 is not a number from 1 to 16"));
    }

    #[test]
    fn other_shards_are_all_shards_except_this_one() {
        let others: Vec<_> = Shard::new(1, 3).unwrap().others().map(Shard::index).collect();
        assert_eq!(others, [0, 2]);
        assert_eq!(Shard::default().others().count(), 0);
    }
}
