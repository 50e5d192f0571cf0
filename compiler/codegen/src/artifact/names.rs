//! Identifiers for inputs and outputs in C and Rust.

/// Letters, digits and underscores; not empty, not starting with a digit.
pub(super) fn identifier(name: &str) -> String {
    let mut id: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if id.is_empty() || id.starts_with(|c: char| c.is_ascii_digit()) {
        id.insert(0, '_');
    }
    id
}

/// Words that Rust keeps for itself.
const RUST_WORDS: &[&str] = &[
    "as", "async", "await", "break", "const", "continue", "crate", "dyn", "else", "enum", "extern", "false", "fn", "for", "gen",
    "if", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return", "self", "static", "struct",
    "super", "trait", "true", "type", "unsafe", "use", "where", "while", "abstract", "become", "box", "do", "final", "macro",
    "override", "priv", "try", "typeof", "unsized", "virtual", "yield", "_",
];

/// Field names: lower case, different from each other.
pub(super) fn fields<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut fields: Vec<String> = Vec::new();
    for name in names {
        let mut field = identifier(name).to_ascii_lowercase();
        if RUST_WORDS.contains(&field.as_str()) {
            field.push('_');
        }
        let mut candidate = field.clone();
        let mut n = 2;
        while fields.contains(&candidate) {
            candidate = format!("{field}_{n}");
            n += 1;
        }
        fields.push(candidate);
    }
    fields
}

/// A line of text that may stand in a comment of either language.
pub(super) fn comment(text: &str) -> String {
    text.replace("*/", "* /").replace("/*", "/ *").chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_rust_identifiers() {
        let names = ["input:0", "Input_0", "type", "3", "", "images"];
        assert_eq!(fields(names.into_iter()), ["input_0", "input_0_2", "type_", "_3", "__", "images"].map(String::from));
    }

    #[test]
    fn comments_cannot_be_left() {
        assert_eq!(comment("a */ b\n/* c"), "a * / b / * c");
    }
}
