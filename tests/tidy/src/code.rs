//! What of a Rust file is code: its text with comments and literals blanked.
//!
//! Invariants:
//! - every line of the source is a line of the code, so line numbers agree;
//! - what is blanked becomes spaces, so words never run into each other.
//!
//! Source: The Rust Reference, "Comments" and "Tokens".

use std::ops::Range;

const TEST_ITEM: &str = "#[cfg(test)]";

/// The code of a Rust file, without the content of comments, strings and characters.
#[derive(Clone, Debug)]
pub struct Code {
    text: String,
}

impl Code {
    /// Blanks the comments and literals of `source`.
    pub fn of(source: &str) -> Self {
        let mut text = String::with_capacity(source.len());
        let mut rest = source;
        while let Some(next) = rest.chars().next() {
            let in_word = text.chars().next_back().is_some_and(is_word);
            let length = comment_length(rest)
                .or_else(|| if in_word { None } else { raw_string_length(rest) })
                .or_else(|| string_length(rest))
                .or_else(|| character_length(rest));
            let (taken, left) = rest.split_at(length.unwrap_or(next.len_utf8()));
            if length.is_some() {
                text.extend(taken.chars().map(blank));
            } else {
                text.push_str(taken);
            }
            rest = left;
        }
        Self { text }
    }

    /// The same code with every item under `#[cfg(test)]` blanked too.
    pub fn without_tests(&self) -> Self {
        let mut text = self.text.clone();
        while let Some(start) = text.find(TEST_ITEM) {
            let end = start + TEST_ITEM.len() + item_length(&text[start + TEST_ITEM.len()..]);
            let blanked: String = text[start..end].chars().map(blank).collect();
            text.replace_range(start..end, &blanked);
        }
        Self { text }
    }

    /// The blanked text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The line, from 1, in which the byte at `offset` stands.
    pub fn line_of(&self, offset: usize) -> usize {
        self.text[..offset].matches('\n').count() + 1
    }

    /// Where `word` stands as a whole word: `mod` is not in `module` nor in `mod_a`.
    pub fn occurrences<'a>(&'a self, word: &'a str) -> impl Iterator<Item = Range<usize>> + 'a {
        self.text.match_indices(word).map(|(start, word)| start..start + word.len()).filter(
            |range| {
                let before = self.text[..range.start].chars().next_back();
                let after = self.text[range.end..].chars().next();
                !before.is_some_and(is_word) && !after.is_some_and(is_word)
            },
        )
    }
}

/// Whether `c` can stand in an identifier.
pub fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn blank(c: char) -> char {
    if c == '\n' { '\n' } else { ' ' }
}

/// Bytes of the comment that `rest` begins with, up to its line's end or its last `*/`.
fn comment_length(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if !rest.starts_with("/*") {
        return None;
    }
    let mut depth = 0_usize;
    let mut position = 0;
    while position < rest.len() {
        let here = &rest.as_bytes()[position..];
        if here.starts_with(b"/*") {
            depth += 1;
            position += 2;
        } else if here.starts_with(b"*/") {
            depth -= 1;
            position += 2;
            if depth == 0 {
                return Some(position);
            }
        } else {
            position += 1;
        }
    }
    Some(rest.len())
}

/// Bytes of the raw string (`r"`, `br#"`, `cr"`) that `rest` begins with.
fn raw_string_length(rest: &str) -> Option<usize> {
    let after_prefix = rest.strip_prefix(['b', 'c']).unwrap_or(rest).strip_prefix('r')?;
    let after_hashes = after_prefix.trim_start_matches('#');
    let body = after_hashes.strip_prefix('"')?;
    let hashes = &after_prefix[..after_prefix.len() - after_hashes.len()];
    let closing = format!("\"{hashes}");
    let body_length = body.find(&closing).map_or(body.len(), |end| end + closing.len());
    Some(rest.len() - body.len() + body_length)
}

/// Bytes of the string that `rest` begins with.
fn string_length(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('"')?;
    Some(1 + escaped_length(body, '"'))
}

/// Bytes of the character that `rest` begins with; a lifetime or label is not one.
fn character_length(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix('\'')?;
    let first = body.chars().next()?;
    let is_character = first == '\\' || body[first.len_utf8()..].starts_with('\'');
    is_character.then(|| 1 + escaped_length(body, '\''))
}

/// Bytes of `body` up to and with the first `closing` that no backslash escapes.
fn escaped_length(body: &str, closing: char) -> usize {
    let mut characters = body.char_indices();
    while let Some((position, c)) = characters.next() {
        if c == '\\' {
            characters.next();
        } else if c == closing {
            return position + c.len_utf8();
        }
    }
    body.len()
}

/// Bytes of the item that `rest` begins with: to its `;`, or to the `}` that closes its body.
fn item_length(rest: &str) -> usize {
    let mut depth = 0_i32;
    for (position, c) in rest.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            return position;
        }
        if depth == 0 && (c == ';' || c == '}') {
            return position + 1;
        }
    }
    rest.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(source: &str) -> Vec<String> {
        let code = Code::of(source);
        code.text().split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn comments_are_blanked_to_their_end() {
        assert_eq!(words("a // b\nc"), ["a", "c"]);
        assert_eq!(words("a /* b /* c */ d */ e"), ["a", "e"]);
        assert_eq!(words("a /* never closed"), ["a"]);
    }

    #[test]
    fn strings_are_blanked_with_their_escapes() {
        assert_eq!(words(r#"a "b \" c" d"#), ["a", "d"]);
        assert_eq!(words(r##"a r#"b " c"# d"##), ["a", "d"]);
        assert_eq!(words(r#"a br"\" d"#), ["a", "d"]);
        assert_eq!(words("a \"// b\" c"), ["a", "c"]);
    }

    #[test]
    fn characters_are_blanked_and_lifetimes_stay() {
        assert_eq!(words("a '\"' b '\\'' c"), ["a", "b", "c"]);
        assert_eq!(words("fn f<'a>(x: &'a str)"), ["fn", "f<'a>(x:", "&'a", "str)"]);
    }

    #[test]
    fn raw_identifiers_are_code() {
        assert_eq!(words("r#type r#\"b\"#"), ["r#type"]);
    }

    #[test]
    fn line_numbers_survive_a_literal_of_several_lines() {
        let code = Code::of("a\n\"b\nc\" /*\n*/ needle");
        let found = code.occurrences("needle").next().expect("the word is code");
        assert_eq!(code.line_of(found.start), 4);
    }

    #[test]
    fn a_word_is_found_only_whole() {
        let code = Code::of("module mod_a mod a_mod");
        let starts: Vec<usize> = code.occurrences("mod").map(|place| place.start).collect();
        assert_eq!(starts, [13]);
    }

    #[test]
    fn test_items_are_blanked_and_their_neighbours_stay() {
        let source = "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { [0; 4] } }\nfn c() {}\n\
                      #[cfg(test)]\nmod more;\nfn d() {}";
        let code = Code::of(source).without_tests();
        let left: Vec<&str> = code.text().split_whitespace().collect();
        assert_eq!(left, ["fn", "a()", "{}", "fn", "c()", "{}", "fn", "d()", "{}"]);
        assert_eq!(code.text().lines().count(), source.lines().count());
    }

    #[test]
    fn a_test_field_ends_with_its_struct() {
        let code = Code::of("struct A { #[cfg(test)] b: u8, }\nfn c() {}").without_tests();
        assert!(code.text().ends_with("}\nfn c() {}"));
    }
}
