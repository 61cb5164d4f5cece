//! Text from files on its way to a terminal.

use std::borrow::Cow;

/// One line of text: whatever would move the cursor, change colours, end the line or reorder what stands around it is
/// escaped.
pub fn plain(text: &str) -> Cow<'_, str> {
    escaped(text, acts)
}

/// As [`plain`], but text of several lines keeps them.
pub fn plain_lines(text: &str) -> Cow<'_, str> {
    escaped(text, |c| c != '\n' && acts(c))
}

/// Control characters, separators of lines, and those that turn the direction of writing.
fn acts(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escaped(text: &str, hidden: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&hidden) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if hidden(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_on_a_terminal_is_escaped() {
        let hostile = "a\x1b[2J\rb\nc\u{202e}d\u{7f} é 語";
        assert_eq!(plain(hostile), "a\\u{1b}[2J\\rb\\nc\\u{202e}d\\u{7f} é 語");
        assert_eq!(plain_lines("a\x07\nb"), "a\\u{7}\nb");
        assert!(matches!(plain("input_ids"), Cow::Borrowed("input_ids")));
    }
}
