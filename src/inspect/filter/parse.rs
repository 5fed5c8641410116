//! The words of an expression, put together.

use std::{iter::Peekable, net::IpAddr, ops::Range, sync::Arc, vec::IntoIter};

use ipnet::IpNet;
use regex::{Regex, RegexBuilder};

use super::{
    FIELDS, Field, FilterError, Kind,
    lexer::{Token, TokenKind, tokens},
};

/// An expression.
#[derive(Clone, Debug)]
pub(super) enum Node {
    /// Each holds.
    All(Vec<Node>),
    /// One holds.
    Any(Vec<Node>),
    Not(Box<Node>),
    Test(Arc<Test>),
    /// What is settled already.
    Known(bool),
}

/// One question.
#[derive(Clone, Debug)]
pub(super) struct Test {
    pub(super) field: Field,
    pub(super) check: Check,
}

#[derive(Clone, Debug)]
pub(super) enum Check {
    /// Not zero, not empty, true.
    IsThere,
    /// The whole text, whatever its case.
    Is(String),
    /// There is none.
    IsNone,
    Matches(Regex),
    Within(IpNet),
    Number(Comparison, u64),
    /// Compared as text: as the transcript writes times, the earlier is the smaller.
    Time(Comparison, String),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    Less,
    AtMost,
    More,
    AtLeast,
}

impl Node {
    pub(super) fn test(field: Field, check: Check) -> Self {
        Self::Test(Arc::new(Test { field, check }))
    }

    /// Whether any of its tests is such.
    pub(super) fn asks(&self, is_such: &impl Fn(&Test) -> bool) -> bool {
        match self {
            Self::All(nodes) | Self::Any(nodes) => nodes.iter().any(|node| node.asks(is_such)),
            Self::Not(node) => node.asks(is_such),
            Self::Test(test) => is_such(test),
            Self::Known(_) => false,
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Node, FilterError> {
    let tokens = tokens(text)?;
    let mut parser = Parser { text, tokens: tokens.into_iter().peekable(), depth: 0 };
    let node = parser.any()?;
    match parser.tokens.next() {
        None => Ok(node),
        Some(token) => Err(parser.fault(token.place, "there is something behind the end of the expression", CONNECT)),
    }
}

/// `field` is this very text.
pub(super) fn is(field: Field, value: &str) -> Result<Node, FilterError> {
    let parser = Parser { text: value, tokens: Vec::new().into_iter().peekable(), depth: 0 };
    parser.test(field, 0..0, "=", value, 0..value.len())
}

const CONNECT: &str = "put `and` or `or` between two conditions, and quotes around a value with blanks or parentheses";
const SHAPE: &str = "a condition is `field operator value`, such as `verb = RETR`, or a field alone, such as `failed`";
/// Parentheses and `not`s within each other.
const DEEPEST: usize = 64;

struct Parser<'a> {
    text: &'a str,
    tokens: Peekable<IntoIter<Token<'a>>>,
    depth: usize,
}

impl Parser<'_> {
    fn any(&mut self) -> Result<Node, FilterError> {
        let first = self.all()?;
        let mut nodes = vec![first];
        while self.takes("or") {
            nodes.push(self.all()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::Any(nodes) })
    }

    fn all(&mut self) -> Result<Node, FilterError> {
        let first = self.single()?;
        let mut nodes = vec![first];
        while self.takes("and") {
            nodes.push(self.single()?);
        }
        Ok(if nodes.len() == 1 { nodes.remove(0) } else { Node::All(nodes) })
    }

    fn single(&mut self) -> Result<Node, FilterError> {
        self.depth += 1;
        let end = self.end();
        let place = self.tokens.peek().map_or(end, |token| token.place.clone());
        if self.depth > DEEPEST {
            return Err(self.fault(place, &format!("more than {DEEPEST} levels of parentheses and `not`"), "write it flatter"));
        }
        let node = if self.takes("not") {
            Node::Not(Box::new(self.single()?))
        } else if self.tokens.next_if(|token| token.kind == TokenKind::Open).is_some() {
            self.group(place)?
        } else {
            self.condition()?
        };
        self.depth -= 1;
        Ok(node)
    }

    fn group(&mut self, open: Range<usize>) -> Result<Node, FilterError> {
        let node = self.any()?;
        match self.tokens.next() {
            Some(Token { kind: TokenKind::Close, .. }) => Ok(node),
            Some(token) => Err(self.fault(token.place, "here `and`, `or` or a closing parenthesis should stand", CONNECT)),
            None => Err(self.fault(open, "this parenthesis is not closed", "put a `)` behind what belongs together")),
        }
    }

    fn condition(&mut self) -> Result<Node, FilterError> {
        let Some(token) = self.tokens.next() else {
            return Err(self.fault(self.end(), "here a condition is missing", SHAPE));
        };
        let TokenKind::Word(name) = token.kind else {
            return Err(self.fault(token.place, "here a field should stand", SHAPE));
        };
        let field = self.field(name, &token.place)?;
        let is_operator = |token: &Token<'_>| matches!(token.kind, TokenKind::Operator(_));
        let Some(Token { kind: TokenKind::Operator(operator), place: operator_place }) = self.tokens.next_if(is_operator) else {
            return Ok(Node::test(field, Check::IsThere));
        };
        match self.tokens.next() {
            Some(Token { kind: TokenKind::Word(value), place }) => self.test(field, operator_place, operator, value, place),
            Some(Token { kind: TokenKind::Quoted(value), place }) => self.test(field, operator_place, operator, &value, place),
            Some(token) => Err(self.fault(token.place, "here a value should stand", "put quotes around it")),
            None => Err(self.fault(self.end(), &format!("a value is missing behind `{operator}`"), SHAPE)),
        }
    }

    fn field(&self, name: &str, place: &Range<usize>) -> Result<Field, FilterError> {
        let lower = name.to_ascii_lowercase();
        if let Some(info) = FIELDS.iter().find(|info| info.name == lower) {
            return Ok(info.field);
        }
        let near = FIELDS.iter().map(|info| (strsim::damerau_levenshtein(info.name, &lower), info.name)).min();
        let hint = match near {
            Some((distance, name)) if distance <= 2 => format!("did you mean `{name}`?"),
            _ if lower == "&&" || lower == "||" => "write `and`, `or`, `not`".to_owned(),
            _ => format!("fields are {}", FIELDS.map(|info| info.name).join(", ")),
        };
        Err(self.fault(place.clone(), &format!("`{name}` is no field"), &hint))
    }

    fn test(
        &self,
        field: Field,
        operator_place: Range<usize>,
        operator: &str,
        value: &str,
        place: Range<usize>,
    ) -> Result<Node, FilterError> {
        let (kind, name) = (field.info().kind, field.info().name);
        let (positive, negated) = match operator {
            "!=" => ("=", true),
            "!~" => ("~", true),
            other => (other, false),
        };
        let comparison = match positive {
            "=" | "~" => Comparison::Equal,
            "<" => Comparison::Less,
            "<=" => Comparison::AtMost,
            ">" => Comparison::More,
            ">=" => Comparison::AtLeast,
            other => return Err(self.fault(operator_place, &format!("`{other}` is no operator"), OPERATORS)),
        };
        let is_text = matches!(kind, Kind::Text | Kind::Names | Kind::Address);
        let check = match (kind, positive) {
            (Kind::Flag, _) => return Err(self.fault(operator_place, &format!("`{name}` takes no value"), FLAG)),
            (_, "~") if is_text => Check::Matches(self.pattern(value, &place)?),
            (_, "=") if is_text => self.equals(kind, value, &place)?,
            _ if is_text || positive == "~" => {
                let (fits, hint) = if is_text { (TEXT, "text") } else { (NUMBER, "a number") };
                return Err(self.fault(
                    operator_place,
                    &format!("`{operator}` does not go with `{name}`, which is {hint}"),
                    fits,
                ));
            }
            (Kind::Time, _) => Check::Time(comparison, self.time(value, &place)?),
            _ => Check::Number(comparison, self.number(kind, value, &place)?),
        };
        let test = Node::test(field, check);
        Ok(if negated { Node::Not(Box::new(test)) } else { test })
    }

    fn equals(&self, kind: Kind, value: &str, place: &Range<usize>) -> Result<Check, FilterError> {
        if kind != Kind::Address {
            return Ok(if value.eq_ignore_ascii_case("none") { Check::IsNone } else { Check::Is(value.to_owned()) });
        }
        let network = value.parse().or_else(|_| value.parse::<IpAddr>().map(|address| IpNet::from(address.to_canonical())));
        let hint = "write an address such as 192.0.2.7, or a network such as 192.0.2.0/24";
        network.map(Check::Within).map_err(|_| self.fault(place.clone(), &format!("`{value}` is no address"), hint))
    }

    fn pattern(&self, value: &str, place: &Range<usize>) -> Result<Regex, FilterError> {
        let built = RegexBuilder::new(value).case_insensitive(true).size_limit(1 << 20).build();
        let why = |error: regex::Error| match error {
            regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
            other => other.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned(),
        };
        let hint = "put a backslash before characters that are to be taken as they are";
        built.map_err(|error| self.fault(place.clone(), &format!("`{value}` is no pattern: {}", why(error)), hint))
    }

    fn number(&self, kind: Kind, value: &str, place: &Range<usize>) -> Result<u64, FilterError> {
        let (number, what, hint) = match kind {
            Kind::Octets => (octets(value), "number of octets", "write a number, or one with a unit: `512`, `64KiB`, `10MB`"),
            Kind::Duration => (duration(value), "duration", "write a number and its unit: `250ms`, `5s`, `2h`"),
            _ => (value.parse().ok(), "number", "write digits alone"),
        };
        number.ok_or_else(|| self.fault(place.clone(), &format!("`{value}` is no {what}"), hint))
    }

    fn time(&self, value: &str, place: &Range<usize>) -> Result<String, FilterError> {
        const FORM: &[u8] = b"0000-00-00T00:00:00.000000Z";
        let fits =
            value.bytes().zip(FORM).all(|(octet, form)| if *form == b'0' { octet.is_ascii_digit() } else { octet == *form });
        if fits && value.len() <= FORM.len() && matches!(value.len(), 4 | 7 | 10 | 13 | 16 | 19..) {
            return Ok(value.to_owned());
        }
        let hint = "write a date, with or without a time, in UTC: `2026-11-23`, `2026-11-23T06:30`";
        Err(self.fault(place.clone(), &format!("`{value}` is no time"), hint))
    }

    fn takes(&mut self, keyword: &str) -> bool {
        let is_it = |token: &Token<'_>| matches!(token.kind, TokenKind::Word(word) if word.eq_ignore_ascii_case(keyword));
        self.tokens.next_if(is_it).is_some()
    }

    fn end(&self) -> Range<usize> {
        self.text.len()..self.text.len()
    }

    fn fault(&self, place: Range<usize>, message: &str, hint: &str) -> FilterError {
        FilterError::new(self.text, place, message.to_owned(), hint)
    }
}

const OPERATORS: &str = "operators are `=`, `!=`, `~` (pattern), `!~`, `<`, `<=`, `>`, `>=`";
const FLAG: &str = "write it alone, or behind `not`";
const TEXT: &str = "use `=`, `!=`, or, with a pattern, `~`, `!~`";
const NUMBER: &str = "use `=`, `!=`, `<`, `<=`, `>`, `>=`";

fn octets(text: &str) -> Option<u64> {
    text.parse::<bytesize::ByteSize>().ok().map(|size| size.as_u64())
}

/// In microseconds.
fn duration(text: &str) -> Option<u64> {
    u64::try_from(humantime::parse_duration(text).ok()?.as_micros()).ok()
}
