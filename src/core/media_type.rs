//! Matches media types with the patterns in access rules.

/// Returns true if a media type matches a pattern such as `image/*`. The function ignores parameters and letter case
/// (RFC 9110, section 8.3.1).
///
/// A list of media types matches only the pattern `*/*`, because browsers use the last type of a list (Fetch
/// Standard, "extract a MIME type"). For example, browsers show an object with the type `image/png;a,text/html` as a
/// web page.
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
        Some(family) => is_one(media_type) && essence.split_once('/').is_some_and(|(f, _)| f == family),
        None => is_one(media_type) && essence == pattern,
    }
}

/// Returns true if the value is a single media type. A comma outside of a quoted string means that the value is a
/// list. The result is false for a quoted string without a closing quotation mark, because clients parse such a
/// string in different ways.
fn is_one(media_type: &str) -> bool {
    let (mut quoted, mut escaped) = (false, false);
    for c in media_type.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => return false,
            _ => {}
        }
    }
    !quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_match_without_their_parameters() {
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
            // Browsers use the last media type of a list.
            ("image/*", "image/png;a,text/html", false),
            ("image/png", "image/png; a=\"b\", text/html", false),
            ("image/png", "image/png; a=\"b\\\"\",text/html", false),
            ("image/png", "image/png; a=\"b, text/html", false),
            ("video/*", "video/mp4; codecs=\"avc1.42E01E, mp4a.40.2\"", true),
            ("*/*", "image/png;a,text/html", true),
        ] {
            assert_eq!(matches_type(pattern, media_type), matches, "{pattern} {media_type}");
        }
    }
}
