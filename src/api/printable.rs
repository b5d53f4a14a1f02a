use std::borrow::Cow;

/// The maximum length, in bytes, of the message of a condition and of the note of an event. Kubernetes has this limit
/// for events (events.k8s.io/v1).
pub const MAX_MESSAGE_BYTES: usize = 1024;
/// A shortened text ends with this character.
const ELLIPSIS: &str = "…";

/// Makes a text safe to show. The result has at most [`MAX_MESSAGE_BYTES`] bytes, is on one line, and contains no
/// invisible characters. The function escapes invisible characters, and characters that change how the rest of the
/// text looks, in the form `\u{9b}`.
///
/// Use this function for condition messages, event notes and log fields that contain text from outside Valet. A
/// store, an object of a second tenant or a webhook can contain such text.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_MESSAGE_BYTES && text.chars().all(is_visible) {
        return Cow::Borrowed(text);
    }
    // The loop remembers where to cut the text so that the ellipsis fits. Therefore it can stop as soon as the result
    // is too long.
    let (mut shown, most) = (String::new(), MAX_MESSAGE_BYTES - ELLIPSIS.len());
    let mut fits_without = None;
    for c in text.chars() {
        if shown.len() <= most {
            fits_without = Some(shown.len());
        }
        if is_visible(c) {
            shown.push(c);
        } else {
            shown.extend(c.escape_unicode());
        }
        if shown.len() > MAX_MESSAGE_BYTES {
            shown.truncate(fits_without.unwrap_or_default());
            shown.push_str(ELLIPSIS);
            break;
        }
    }
    Cow::Owned(shown)
}

/// Returns true if a character is visible and does not change how the characters after it look.
///
/// The function returns false for these characters: control characters (C0, C1), line and paragraph separators, text
/// direction characters, characters without width, all characters of the Unicode category "format", and
/// noncharacters.
fn is_visible(c: char) -> bool {
    !c.is_control()
        && !matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}' | '\u{890}' | '\u{891}'
            | '\u{8e2}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
            | '\u{fdd0}'..='\u{fdef}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}'
            | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1345f}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
        // The last two code points of each plane are noncharacters.
        && u32::from(c) & 0xfffe != 0xfffe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_text_is_unchanged() {
        for text in [
            "",
            "spec.key: 'tenants/é/日本' is outside",
            "cafe\u{301}",
            "שלום",
            "a\"b\\c",
        ] {
            assert_eq!(printable(text), text);
        }
        let full = "é".repeat(MAX_MESSAGE_BYTES / 2);
        assert_eq!(printable(&full), full);
    }

    #[test]
    fn invisible_characters_are_escaped_with_their_code_point() {
        for (text, shown) in [
            ("a\nb", "a\\u{a}b"),
            ("text/html\u{9b}31m", "text/html\\u{9b}31m"),
            ("\u{202e}gnp.exe", "\\u{202e}gnp.exe"),
            ("a\u{200b}b\u{feff}", "a\\u{200b}b\\u{feff}"),
            ("\u{7f}\u{85}\u{2066}", "\\u{7f}\\u{85}\\u{2066}"),
            ("\u{e0041}\u{1fffe}", "\\u{e0041}\\u{1fffe}"),
        ] {
            assert_eq!(printable(text), shown);
        }
    }

    #[test]
    fn long_text_is_truncated_between_characters() {
        for (text, most) in [
            ("é".repeat(513), 1024),
            ("x".repeat(1025), 1024),
            (format!("{}\u{202e}", "x".repeat(1020)), 1023),
            ("\u{9b}".repeat(400_000), 1024),
            ("日".repeat(1000), 1023),
        ] {
            let shown = printable(&text);
            assert!(shown.ends_with('…') && shown.len() <= most, "{} bytes", shown.len());
            assert!(shown.len() > MAX_MESSAGE_BYTES - 10, "{} bytes", shown.len());
        }
    }

    /// For any input, the result is short and contains only visible characters. A second call of the function does
    /// not change the result.
    #[test]
    fn any_input_becomes_a_short_visible_text() {
        // The random number generator (SplitMix64) is deterministic, so that each run of the test uses the same
        // texts.
        let mut state = 7_u64;
        let mut random = move || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        for round in 0..4000_u64 {
            let length = random() % if round % 10 == 0 { 5000 } else { 40 };
            let text: String = match round % 3 {
                0 => {
                    let bytes: Vec<u8> = (0..length).map(|_| (random() % 256) as u8).collect();
                    String::from_utf8_lossy(&bytes).into_owned()
                }
                1 => (0..length)
                    .filter_map(|_| char::from_u32((random() % 0x3000) as u32))
                    .collect(),
                _ => (0..length)
                    .filter_map(|_| char::from_u32((random() % 0x11_0000) as u32))
                    .collect(),
            };
            let shown = printable(&text);
            assert!(shown.len() <= MAX_MESSAGE_BYTES, "{} bytes", shown.len());
            for c in shown.chars() {
                let is_format = ('\u{200b}'..='\u{200f}').contains(&c) || ('\u{202a}'..='\u{202e}').contains(&c);
                assert!(!c.is_control() && !is_format && c != '\u{feff}', "{c:?}");
            }
            assert_eq!(printable(&shown), shown);
        }
    }
}
