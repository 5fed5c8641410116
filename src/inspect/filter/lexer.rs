//! An expression, cut into words.

use std::{borrow::Cow, ops::Range};

use super::FilterError;

/// A piece of an expression, and the octets that it stands in.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token<'a> {
    pub(super) kind: TokenKind<'a>,
    pub(super) place: Range<usize>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum TokenKind<'a> {
    Open,
    Close,
    /// `=`, `!=`, `~`, `!~`, `<`, `<=`, `>`, `>=`, or a run of these that is none.
    Operator(&'a str),
    Word(&'a str),
    /// What stood in quotes.
    Quoted(Cow<'a, str>),
}

/// Cuts an expression.
pub(super) fn tokens(text: &str) -> Result<Vec<Token<'_>>, FilterError> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = text[at..].chars().next() {
        if first.is_whitespace() {
            at += first.len_utf8();
            continue;
        }
        let (kind, length) = token(text, at, first)?;
        tokens.push(Token { kind, place: at..at + length });
        at += length;
    }
    Ok(tokens)
}

fn token(text: &str, at: usize, first: char) -> Result<(TokenKind<'_>, usize), FilterError> {
    let rest = &text[at..];
    let run = |belongs: fn(char) -> bool| &rest[..rest.find(|character| !belongs(character)).unwrap_or(rest.len())];
    Ok(match first {
        '(' => (TokenKind::Open, 1),
        ')' => (TokenKind::Close, 1),
        '"' | '\'' => return quoted(text, at, first),
        _ if is_operator(first) => {
            let operator = run(is_operator);
            (TokenKind::Operator(operator), operator.len())
        }
        _ => {
            let word = run(is_word);
            (TokenKind::Word(word), word.len())
        }
    })
}

/// A text in quotes; a backslash takes the quote that follows for a character.
fn quoted(text: &str, at: usize, quote: char) -> Result<(TokenKind<'_>, usize), FilterError> {
    let inside = &text[at + 1..];
    let mut escaped = false;
    for (place, character) in inside.char_indices() {
        match character {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if character == quote => {
                let content = &inside[..place];
                let plain = format!("\\{quote}");
                let content =
                    if content.contains(&plain) { content.replace(&plain, &quote.to_string()).into() } else { content.into() };
                return Ok((TokenKind::Quoted(content), place + 2));
            }
            _ => {}
        }
    }
    let message = format!("the text in quotes has no end: there is no second {quote}");
    Err(FilterError::new(text, at..text.len(), message, "close the quotes; within them, a backslash stands before a quote"))
}

fn is_operator(character: char) -> bool {
    matches!(character, '=' | '!' | '~' | '<' | '>')
}

fn is_word(character: char) -> bool {
    !character.is_whitespace() && !is_operator(character) && !matches!(character, '(' | ')' | '"' | '\'')
}
