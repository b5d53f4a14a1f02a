//! Compares the uploaded parts of a multipart upload with the parts that the object needs.

use crate::{api::Parts, core::multipart_upload::ArrivedPart};

/// The result of a comparison between the uploaded parts and the expected parts of a multipart upload.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Assembled {
    /// At least one expected part is missing.
    Waiting,
    /// The store cannot assemble the object from the uploaded parts. The text says why, and what the user can do.
    Flawed(String),
    /// The parts form the complete object.
    Whole(Vec<ArrivedPart>),
}

/// Compares the uploaded parts with the expected parts. The first part that is shorter than the part size is the last
/// part of the object. If no part is shorter, the object consists of all expected parts. Valet therefore does not
/// need to know the size of the object before the upload.
pub(super) fn assemble(parts: &Parts, arrived: &[ArrivedPart]) -> Assembled {
    let (mut whole, mut bytes) = (Vec::new(), 0_i64);
    for part in parts.all() {
        let number = part.number;
        let Some(uploaded) = arrived.iter().find(|uploaded| uploaded.number == number) else {
            return Assembled::Waiting;
        };
        if uploaded.size > part.size.max {
            let why = format!(
                "part {number} has {size} bytes, but at most {max} bytes are allowed; upload part {number} again",
                size = uploaded.size,
                max = part.size.max
            );
            return Assembled::Flawed(why);
        }
        whole.push(uploaded.clone());
        bytes = bytes.saturating_add(uploaded.size);
        let is_short = uploaded.size < parts.part_bytes;
        if number < parts.count() && !is_short {
            continue;
        }
        // Clients upload parts in parallel, so a part with a higher number can arrive before a part with a lower
        // number.
        let beyond = arrived
            .iter()
            .any(|other| other.number > number && other.number <= parts.count());
        return if beyond {
            Assembled::Flawed(format!(
                "part {number} has {size} bytes, but only the last part can be shorter than {part_bytes} bytes; upload part {number} again, or create a new grant",
                size = uploaded.size,
                part_bytes = parts.part_bytes
            ))
        } else if bytes < parts.whole.min {
            Assembled::Flawed(format!(
                "part {number} has {size} bytes, so the object would have {bytes} bytes, but it must have at least {min} bytes; upload part {number} again",
                size = uploaded.size,
                min = parts.whole.min
            ))
        } else {
            Assembled::Whole(whole)
        };
    }
    Assembled::Waiting
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::LengthRange;

    const MIB: i64 = 1 << 20;

    fn assembled(range: (i64, i64), sizes: &[(i64, i64)]) -> Assembled {
        let parts = Parts {
            part_bytes: 5 * MIB,
            whole: LengthRange {
                min: range.0,
                max: range.1,
            },
        };
        assemble(&parts, &uploaded(sizes))
    }

    fn uploaded(sizes: &[(i64, i64)]) -> Vec<ArrivedPart> {
        let part = |(number, size): &(i64, i64)| ArrivedPart {
            number: *number,
            size: *size,
            e_tag: format!("\"{number}\""),
        };
        sizes.iter().map(part).collect()
    }

    fn flaw(range: (i64, i64), sizes: &[(i64, i64)]) -> String {
        match assembled(range, sizes) {
            Assembled::Flawed(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn object_of_known_size_is_complete_with_exactly_its_parts() {
        let exact = (12 * MIB, 12 * MIB);
        let all = [(1, 5 * MIB), (2, 5 * MIB), (3, 2 * MIB)];
        for some in [&all[..0], &all[..1], &all[..2], &all[1..]] {
            assert_eq!(assembled(exact, some), Assembled::Waiting, "{some:?}");
        }
        assert_eq!(assembled(exact, &all), Assembled::Whole(uploaded(&all)));
        // The parts can arrive in any order. Valet ignores a part if its number is higher than the number of the last
        // expected part.
        let others = [(4, 9), (3, 2 * MIB), (2, 5 * MIB), (1, 5 * MIB)];
        assert_eq!(assembled(exact, &others), Assembled::Whole(uploaded(&all)));
        assert_eq!(
            assembled((5 * MIB, 5 * MIB), &all[..1]),
            Assembled::Whole(uploaded(&all[..1]))
        );
        assert_eq!(assembled((0, 0), &[(1, 0)]), Assembled::Whole(uploaded(&[(1, 0)])));
        for (sizes, says) in [
            (
                &[(1, 5 * MIB + 1)][..],
                "part 1 has 5242881 bytes, but at most 5242880 bytes are allowed",
            ),
            (
                &[(1, 5 * MIB - 1)],
                "part 1 has 5242879 bytes, so the object would have 5242879 bytes, but it must have at least 12582912 bytes",
            ),
            (
                &[(1, 5 * MIB - 1), (2, 5 * MIB)],
                "part 1 has 5242879 bytes, but only the last part can be shorter than 5242880 bytes",
            ),
            (
                &[(1, 5 * MIB), (2, 5 * MIB), (3, 2 * MIB + 1)],
                "part 3 has 2097153 bytes, but at most 2097152 bytes are allowed",
            ),
            (
                &[(1, 5 * MIB), (2, 5 * MIB), (3, 2 * MIB - 1)],
                "part 3 has 2097151 bytes, so the object would have 12582911 bytes, but it must have at least 12582912 bytes",
            ),
        ] {
            let why = flaw(exact, sizes);
            assert!(why.starts_with(says), "{why}");
        }
    }

    #[test]
    fn object_with_a_size_range_is_complete_after_a_short_part() {
        let range = (6 * MIB, 12 * MIB);
        let whole = |sizes: &[(i64, i64)]| {
            assert_eq!(assembled(range, sizes), Assembled::Whole(uploaded(sizes)), "{sizes:?}")
        };
        // The last part can be empty or shorter than the part size. Its number can be the highest number that the
        // grant allows.
        whole(&[(1, 5 * MIB), (2, MIB)]);
        whole(&[(1, 5 * MIB), (2, 5 * MIB), (3, 0)]);
        whole(&[(1, 5 * MIB), (2, 5 * MIB), (3, 2 * MIB)]);
        assert_eq!(assembled(range, &[(1, 5 * MIB), (2, 5 * MIB)]), Assembled::Waiting);
        assert!(
            flaw(range, &[(1, 5 * MIB), (2, MIB - 1)])
                .contains("6291455 bytes, but it must have at least 6291456 bytes")
        );
        assert!(flaw(range, &[(1, 5 * MIB), (2, 5 * MIB), (3, 2 * MIB + 1)]).contains("at most 2097152"));
        assert!(flaw(range, &[(1, 5 * MIB), (2, MIB), (3, 0)]).contains("only the last part can be shorter"));
    }
}
