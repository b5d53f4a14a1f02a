/// Whether a media type matches a pattern such as `image/*`. Types are compared without their parameters and
/// without regard to case (RFC 9110, section 8.3.1).
pub fn matches_type(pattern: &str, media_type: &str) -> bool {
    let essence = media_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let pattern = pattern.to_ascii_lowercase();
    match pattern.strip_suffix("/*") {
        Some("*") => true,
        Some(family) => essence.split_once('/').is_some_and(|(f, _)| f == family),
        None => essence == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_match_by_essence() {
        for (pattern, media_type, matches) in [
            ("image/png", "image/png", true),
            ("image/png", "IMAGE/PNG", true),
            ("image/png", "image/png; q=1", true),
            ("image/*", "image/svg+xml", true),
            ("image/*", "images/png", false),
            ("image/*", "imag/png", false),
            ("*/*", "text/plain", true),
            ("text/plain", "text/plainer", false),
            ("text/plain", "text/plain;charset=utf-8", true),
            ("image/*", "text/html; image/png", false),
        ] {
            assert_eq!(matches_type(pattern, media_type), matches, "{pattern} {media_type}");
        }
    }
}
