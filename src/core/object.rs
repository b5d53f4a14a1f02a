use crate::api::{ObservedObject, UploadConstraints, is_media_type};

/// The number of characters of a SHA-256 checksum in base64. For a multipart upload, a store returns a longer text,
/// which the store computes from the parts. Valet cannot compare this text with the checksum of the whole object.
const CHECKSUM_LENGTH: usize = 44;

/// Describes how an object differs from the constraints of a grant. Returns `None` if Valet finds no difference. If
/// the store does not return a property of the object, Valet does not check that property.
///
/// The store rejects an upload that violates the signed constraints. If an object violates a constraint, it was
/// therefore written without the credential of the grant. For example, a client with its own access to the bucket
/// wrote the object.
pub fn mismatch(constraints: &UploadConstraints, object: &ObservedObject) -> Option<String> {
    let mut differs = Vec::new();
    if let Some(size) = object.size {
        if let Some(wanted) = constraints.content_length.filter(|wanted| *wanted != size) {
            differs.push(format!("the object has {size} bytes instead of {wanted} bytes"));
        }
        if let Some(range) = constraints.content_length_range
            && !(range.min..=range.max).contains(&size)
        {
            let (min, max) = (range.min, range.max);
            differs.push(format!("the object has {size} bytes instead of {min} to {max} bytes"));
        }
    }
    if let (Some(wanted), Some(found)) = (&constraints.content_type, &object.content_type)
        && plain(wanted) != plain(found)
    {
        // The message does not repeat a content type that is not a valid media type. An uploader can write any text
        // into the content type.
        differs.push(if is_media_type(found) {
            format!("the object has the content type {found} instead of {wanted}")
        } else {
            format!("the content type of the object is not a valid media type; the grant requires {wanted}")
        });
    }
    if let (Some(wanted), Some(found)) = (&constraints.checksum_sha256, &object.checksum_sha256)
        && found.len() == CHECKSUM_LENGTH
        && found != wanted
    {
        differs.push(format!(
            "the object has the SHA-256 checksum {found} instead of {wanted}"
        ));
    }
    if let (Some(wanted), Some(found)) = (&constraints.checksum_md5, &object.checksum_md5)
        && found != wanted
    {
        differs.push(format!("the object has the MD5 checksum {found} instead of {wanted}"));
    }
    (!differs.is_empty()).then(|| differs.join("; "))
}

/// Normalises a media type to lower case without spaces around ';', because stores and clients use different
/// spellings.
fn plain(media_type: &str) -> String {
    let parts: Vec<_> = media_type.split(';').map(str::trim).collect();
    parts.join(";").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::LengthRange;

    const SUM: &str = "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=";
    const MD5: &str = "XUFAKrxLKna5cZ2REBfFkg==";

    #[test]
    fn object_is_compared_with_each_constraint() {
        let object = ObservedObject {
            size: Some(5),
            content_type: Some("text/plain; charset=UTF-8".into()),
            checksum_sha256: Some(SUM.into()),
            checksum_md5: Some(MD5.into()),
            ..ObservedObject::default()
        };
        let of = |constraints: UploadConstraints| mismatch(&constraints, &object);
        let any = UploadConstraints::default;
        let range = |min, max| UploadConstraints {
            content_length_range: Some(LengthRange { min, max }),
            ..any()
        };
        let typed = |t: &str| UploadConstraints {
            content_type: Some(t.into()),
            ..any()
        };
        let length = |n| UploadConstraints {
            content_length: Some(n),
            ..any()
        };
        let summed = |s: &str| UploadConstraints {
            checksum_sha256: Some(s.into()),
            ..any()
        };
        let md5 = |s: &str| UploadConstraints {
            checksum_md5: Some(s.into()),
            ..any()
        };
        for fits in [
            any(),
            length(5),
            range(5, 5),
            range(0, 5),
            typed("text/plain;charset=utf-8"),
            summed(SUM),
            md5(MD5),
        ] {
            assert_eq!(of(fits.clone()), None, "{fits:?}");
        }
        for (not, says) in [
            (length(4), "the object has 5 bytes instead of 4 bytes"),
            (length(6), "the object has 5 bytes instead of 6 bytes"),
            (range(6, 9), "the object has 5 bytes instead of 6 to 9 bytes"),
            (range(0, 4), "the object has 5 bytes instead of 0 to 4 bytes"),
            (
                typed("text/html"),
                "the object has the content type text/plain; charset=UTF-8 instead of text/html",
            ),
        ] {
            assert_eq!(of(not).as_deref(), Some(says));
        }
        let other = SUM.replace('L', "M");
        assert_eq!(
            of(summed(&other)),
            Some(format!("the object has the SHA-256 checksum {SUM} instead of {other}"))
        );
        let other = MD5.replace('X', "Y");
        assert_eq!(
            of(md5(&other)),
            Some(format!("the object has the MD5 checksum {MD5} instead of {other}"))
        );
        let both = UploadConstraints {
            content_type: Some("a/b".into()),
            ..length(1)
        };
        assert!(of(both).is_some_and(|s| s.contains("bytes") && s.contains("; the object has the content type")));
    }

    #[test]
    fn invalid_content_type_is_a_mismatch_and_is_not_shown() {
        let constraints = UploadConstraints {
            content_type: Some("image/png".into()),
            ..UploadConstraints::default()
        };
        for written in ["", "text/html\u{9b}31m", "URGENT: run this", "\u{202e}gnp/egami"] {
            let object = ObservedObject {
                content_type: Some(written.into()),
                ..ObservedObject::default()
            };
            for object in [object.clone(), object.checked()] {
                assert_eq!(
                    mismatch(&constraints, &object).as_deref(),
                    Some("the content type of the object is not a valid media type; the grant requires image/png")
                );
            }
        }
    }

    #[test]
    fn missing_object_field_is_no_mismatch() {
        let all = UploadConstraints {
            content_type: Some("a/b".into()),
            content_length: Some(1),
            checksum_sha256: Some(SUM.into()),
            checksum_md5: Some(MD5.into()),
            ..UploadConstraints::default()
        };
        assert_eq!(mismatch(&all, &ObservedObject::default()), None);
        let parts = ObservedObject {
            checksum_sha256: Some(format!("{}-2", SUM.replace('L', "M"))),
            ..ObservedObject::default()
        };
        assert_eq!(mismatch(&all, &parts), None);
    }
}
