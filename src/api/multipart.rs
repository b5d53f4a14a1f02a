use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::{LengthRange, UploadConstraints};

/// One MiB, in bytes. Each part size is a whole number of MiB, so that the program `dd` can cut a file into parts.
pub const MIB: i64 = 1 << 20;
/// The smallest and the largest size of a part, in bytes. The last part can be smaller (Amazon S3 User Guide,
/// "Multipart upload limits").
const PART_BYTES: (i64, i64) = (5 * MIB, 5 << 30);
/// An upload has at most 500 parts. Each part has its own signed URL. A URL with a session token has about two
/// kilobytes, and all URLs must fit into a Secret of at most one MiB.
pub const MAX_PARTS: i64 = 500;
/// The default part size is 16 MiB. If an object would then have more than 100 parts, Valet makes the parts larger,
/// so that the object has at most 100 parts.
const DEFAULT_PARTS: (i64, i64) = (16 * MIB, 100);

/// How an object is divided into parts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Multipart {
    /// The size of every part except the last one, in bytes: a multiple of 1048576 (1 MiB), from 5242880 (5 MiB) to
    /// 5368709120 (5 GiB). An upload has at most 500 parts. If a part fails, the client sends the whole part again.
    /// upload.sh needs free disk space for one part. Default: the smallest number of whole MiB that gives at most 100
    /// parts, but at least 16 MiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    // The schema does not mark this field as nullable. Therefore the apiserver drops a null value, and CEL rules
    // never see null.
    #[schemars(with = "i64", range(min = 5_242_880_i64, max = 5_368_709_120_i64))]
    #[x_kube(validation = Rule::new("self % 1048576 == 0").message("spec.multipart.partSizeBytes is not a whole number of MiB; use a multiple of 1048576 bytes"))]
    pub part_size_bytes: Option<i64>,
}

/// The parts of a multipart upload. They depend only on immutable fields of the spec.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// Every part except the last one has this size, in bytes.
    pub part_bytes: i64,
    /// The allowed size of the whole object, in bytes.
    pub whole: LengthRange,
}

/// One part of a multipart upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// The part number. The first part has number 1.
    pub number: i64,
    /// The position of the part in the object, in bytes.
    pub offset: i64,
    /// The smallest and the largest allowed size of the part, in bytes. If only one size is possible, the two values
    /// are equal.
    pub size: LengthRange,
}

impl Multipart {
    /// Returns the parts of an upload with these constraints. Returns `None` if the constraints contain no maximum
    /// size.
    pub fn parts(&self, constraints: &UploadConstraints) -> Option<Parts> {
        let exact_size = |n| LengthRange { min: n, max: n };
        let whole = constraints
            .content_length
            .map(exact_size)
            .or(constraints.content_length_range)?;
        let part_bytes = self.part_size_bytes.unwrap_or_else(|| {
            let (least, parts) = DEFAULT_PARTS;
            let even = whole.max.div_euclid(parts * MIB) + i64::from(whole.max % (parts * MIB) > 0);
            even.saturating_mul(MIB).clamp(least, PART_BYTES.1)
        });
        // If the installed CRD is older than this program, the apiserver may have accepted a value outside the
        // allowed range.
        let part_bytes = part_bytes.clamp(1, PART_BYTES.1);
        Some(Parts { part_bytes, whole })
    }
}

impl Parts {
    /// Returns the largest possible number of parts. The number is at least one, because an empty object is one empty
    /// part.
    pub fn count(&self) -> i64 {
        (self.whole.max / self.part_bytes + i64::from(self.whole.max % self.part_bytes > 0)).max(1)
    }

    /// Returns the part with this number. The first part has number 1.
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

    /// Returns all parts in order. The iterator ends after [`MAX_PARTS`] + 1 parts, whatever the spec contains.
    pub fn all(&self) -> impl Iterator<Item = Part> + use<> {
        let parts = *self;
        (1..=self.count().min(MAX_PARTS + 1)).map(move |n| parts.part(n))
    }
}

impl Part {
    /// Returns the size of the part. Returns `None` if the part has more than one possible size.
    pub fn exact_size(&self) -> Option<i64> {
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
    fn part_sizes_are_exact_if_the_object_size_is_known() {
        let five = 5 * MIB;
        let sizes = |p: Parts| {
            p.all()
                .map(|part| (part.offset, part.size.min, part.size.max))
                .collect::<Vec<_>>()
        };
        // If the spec contains the exact size of the object, Valet knows the size of each part.
        assert_eq!(
            sizes(parts(Some(five), 12 * MIB, 12 * MIB)),
            [(0, five, five), (five, five, five), (2 * five, 2 * MIB, 2 * MIB)]
        );
        assert_eq!(sizes(parts(Some(five), five, five)), [(0, five, five)]);
        assert_eq!(
            sizes(parts(Some(five), five + 1, five + 1)),
            [(0, five, five), (five, 1, 1)]
        );
        // The spec contains a size range from 7 MiB to 12 MiB. Every allowed object fills the first part, so only the
        // first part has an exact size.
        assert_eq!(
            sizes(parts(Some(five), 7 * MIB, 12 * MIB)),
            [(0, five, five), (five, 2 * MIB, five), (2 * five, 0, 2 * MIB)]
        );
        assert_eq!(sizes(parts(Some(five), 0, 0)), [(0, 0, 0)]);
        assert_eq!(parts(Some(five), 7 * MIB, 12 * MIB).part(2).exact_size(), None);
    }

    #[test]
    fn default_part_size_grows_with_the_maximum_object_size() {
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
