use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{LengthRange, UploadConstraints};

/// One MiB: sizes of parts are whole ones, so that `dd` cuts a file at them.
pub const MIB: i64 = 1 << 20;
/// The smallest part but the last, and the largest (Amazon S3 User Guide, "Multipart upload limits").
const PART_BYTES: (i64, i64) = (5 * MIB, 5 << 30);
/// The most parts of one upload. Each has a URL of its own; with a session's token in it such a URL has some two
/// kilobytes, and a Secret holds one MiB of them.
pub const MAX_PARTS: i64 = 500;
/// What parts have at least, and how many there are at most, where the spec does not say: a part that has to be sent again
/// is then a hundredth of the whole.
const DEFAULT_PARTS: (i64, i64) = (16 * MIB, 100);

/// How an upload is cut into parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Multipart {
    /// The size of every part but the last, in bytes: a multiple of 1048576 (1 MiB), from 5242880 (5 MiB) to 5368709120 (5
    /// GiB). There are at most 500 parts. A part that fails is sent again whole, and upload.sh keeps one on disk at a time.
    /// Default: 16 MiB, or the whole number of MiB that makes 100 parts, if that is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // Not nullable: the apiserver drops a null, and no rule meets one.
    #[schemars(with = "i64", range(min = 5_242_880_i64, max = 5_368_709_120_i64))]
    #[x_kube(validation = Rule::new("self % 1048576 == 0").message("multipart.partSizeBytes is no whole number of MiB; make it a multiple of 1048576"))]
    pub part_size_bytes: Option<i64>,
}

/// The parts that an upload has or may have: a function of the spec alone, which cannot change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The size of every part but the last, in bytes.
    pub part_bytes: i64,
    /// What the whole may have, in bytes.
    pub whole: LengthRange,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// From 1.
    pub number: i64,
    /// Where in the object it begins, in bytes.
    pub offset: i64,
    /// What it may have, in bytes. Both ends are the same where the whole's size leaves no choice.
    pub size: LengthRange,
}

impl Multipart {
    /// The parts of an upload with these constraints; `None` if they do not say how large it may become.
    pub fn parts(&self, constraints: &UploadConstraints) -> Option<Parts> {
        let exactly = |n| LengthRange { min: n, max: n };
        let whole = constraints
            .content_length
            .map(exactly)
            .or(constraints.content_length_range)?;
        let part_bytes = self.part_size_bytes.unwrap_or_else(|| {
            let (least, parts) = DEFAULT_PARTS;
            let even = whole.max.div_euclid(parts * MIB) + i64::from(whole.max % (parts * MIB) > 0);
            even.saturating_mul(MIB).clamp(least, PART_BYTES.1)
        });
        // A schema that is older than this program may have let anything through.
        let part_bytes = part_bytes.clamp(1, PART_BYTES.1);
        Some(Parts { part_bytes, whole })
    }
}

impl Parts {
    /// How many there are at most; at least one, for an empty object is one empty part.
    pub fn count(&self) -> i64 {
        (self.whole.max / self.part_bytes + i64::from(self.whole.max % self.part_bytes > 0)).max(1)
    }

    /// The one of this number, from 1.
    pub fn part(&self, number: i64) -> Part {
        let offset = (number - 1).saturating_mul(self.part_bytes);
        let of = |whole: i64| whole.saturating_sub(offset).clamp(0, self.part_bytes);
        Part {
            number,
            offset,
            size: LengthRange {
                min: of(self.whole.min),
                max: of(self.whole.max),
            },
        }
    }

    /// All of them, in order; no more than [`MAX_PARTS`] and one, whatever the spec says.
    pub fn all(&self) -> impl Iterator<Item = Part> + use<> {
        let parts = *self;
        (1..=self.count().min(MAX_PARTS + 1)).map(move |n| parts.part(n))
    }
}

impl Part {
    /// Its size, where there is only one that it may have.
    pub fn exactly(&self) -> Option<i64> {
        (self.size.min == self.size.max).then_some(self.size.max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(part: Option<i64>, min: i64, max: i64) -> Parts {
        let constraints = UploadConstraints {
            content_length_range: Some(LengthRange { min, max }),
            ..UploadConstraints::default()
        };
        Multipart { part_size_bytes: part }.parts(&constraints).unwrap()
    }

    #[test]
    fn sizes_of_parts() {
        let five = 5 * MIB;
        let sizes = |p: Parts| {
            p.all()
                .map(|part| (part.offset, part.size.min, part.size.max))
                .collect::<Vec<_>>()
        };
        // Of a size that is known, each part's is.
        assert_eq!(
            sizes(parts(Some(five), 12 * MIB, 12 * MIB)),
            [(0, five, five), (five, five, five), (2 * five, 2 * MIB, 2 * MIB)]
        );
        assert_eq!(sizes(parts(Some(five), five, five)), [(0, five, five)]);
        assert_eq!(
            sizes(parts(Some(five), five + 1, five + 1)),
            [(0, five, five), (five, 1, 1)]
        );
        // Of a range, those that it certainly fills.
        assert_eq!(
            sizes(parts(Some(five), 7 * MIB, 12 * MIB)),
            [(0, five, five), (five, 2 * MIB, five), (2 * five, 0, 2 * MIB)]
        );
        assert_eq!(sizes(parts(Some(five), 0, 0)), [(0, 0, 0)]);
        assert_eq!(parts(Some(five), 7 * MIB, 12 * MIB).part(2).exactly(), None);
    }

    #[test]
    fn sizes_by_default() {
        let of = |max: i64| {
            let p = parts(None, 0, max);
            (p.part_bytes / MIB, p.count())
        };
        assert_eq!(of(0), (16, 1));
        assert_eq!(of(1), (16, 1));
        assert_eq!(of(1 << 30), (16, 64));
        assert_eq!(of(1600 * MIB), (16, 100));
        assert_eq!(of(1600 * MIB + 1), (17, 95));
        assert_eq!(of(10 << 30), (103, 100));
        assert_eq!(of(500 << 30), (5120, 100));
        assert_eq!(of(2500 << 30), (5120, 500));
        assert_eq!(of((2500 << 30) + 1), (5120, 501));
        assert_eq!(parts(None, 0, i64::MAX).all().count(), 501);
    }
}
