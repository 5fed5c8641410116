//! The file → [`File`], with every fault and not only the first.
//!
//! serde stops at a fault. So the entry that it stopped at is noted and taken out of the parsed document, whose spans
//! stay as they were, and the rest is read again, until nothing is left to stop at.

use std::{collections::BTreeSet, fs, mem, ops::Range, path::Path};

use serde::Deserialize;
use toml::{
    Spanned,
    de::{DeArray, DeTable, DeValue, Deserializer},
};

use super::{
    fault::{Fault, Faults, Source, without_user_info},
    file::File,
};

/// What a file says, as far as it could be read.
pub(super) struct Reading {
    pub(super) source: Source,
    pub(super) file: File,
    pub(super) faults: Vec<Fault>,
    /// The names of the keys that were taken out. That these are missing is no fault of its own.
    pub(super) broken: BTreeSet<String>,
}

/// Reads a configuration file.
///
/// # Errors
///
/// When the file cannot be read, or is not TOML: then nothing further can be said of it.
pub(super) fn read(path: &Path) -> Result<Reading, Faults> {
    let text = fs::read_to_string(path).map_err(|error| {
        let message = format!("cannot read the configuration file `{}`: {error}", path.display());
        Faults(vec![Fault::new(message, "give its path with `--config` or in POPTAP_CONFIG")])
    })?;
    parse(Source { path: path.to_owned(), text })
}

/// Reads the text of a configuration file.
pub(super) fn parse(source: Source) -> Result<Reading, Faults> {
    let document = DeTable::parse(&source.text).map_err(|error| Faults(vec![to_fault(&source, &error)]))?;
    let (file, mut faults, broken) = read_all(&source, document.clone());
    faults.sort_by_key(|fault| fault.place.as_ref().map(|place| (place.line, place.column)));
    Ok(Reading { source, file, faults, broken })
}

fn read_all(source: &Source, mut document: Spanned<DeTable<'_>>) -> (File, Vec<Fault>, BTreeSet<String>) {
    let (mut faults, mut broken) = take_out_misshapen(source, document.get_mut());
    loop {
        let error = match File::deserialize(Deserializer::from(document.clone())) {
            Ok(file) => return (file, faults, broken),
            Err(error) => error,
        };
        let fault = to_fault(source, &error);
        // An unknown `[[section]]` is taken out element by element, and is one fault all the same.
        if !faults.contains(&fault) {
            faults.push(fault);
        }
        let removed = error.span().and_then(|span| take_out(document.get_mut(), &span));
        match removed {
            Some(key) => broken.insert(key),
            None => return (File::default(), faults, broken),
        };
    }
}

/// Takes out the sections that are not tables: serde would read an array as a table without keys.
fn take_out_misshapen(source: &Source, document: &mut DeTable<'_>) -> (Vec<Fault>, BTreeSet<String>) {
    let (mut faults, mut broken) = (Vec::new(), BTreeSet::new());
    let mut shape = |table: &mut DeTable<'_>, key: &str, header: &str| {
        let is_right = |value: &DeValue<'_>| if header.starts_with("[[") { is_list_of_tables(value) } else { value.is_table() };
        if let Some(value) = table.get(key).filter(|value| !is_right(value.get_ref())) {
            let fault =
                Fault::new(format!("`{key}` is not a section here"), format!("write `{header}`, and its keys on lines below"));
            faults.push(fault.at(Some(source.place(&value.span()))));
            broken.insert(key.to_owned());
            table.remove(key);
        }
    };
    for key in ["listener", "upstream", "rule"] {
        shape(document, key, &format!("[[{key}]]"));
    }
    for key in ["policy", "shield", "transcript", "limits", "timeouts", "log"] {
        shape(document, key, &format!("[{key}]"));
    }
    if let Some(DeValue::Table(transcript)) = document.get_mut("transcript").map(Spanned::get_mut) {
        for key in ["keep_events", "keep_sessions"] {
            shape(transcript, key, &format!("[transcript.{key}]"));
        }
    }
    if let Some(DeValue::Array(rules)) = document.get_mut("rule").map(Spanned::get_mut) {
        for rule in rules.iter_mut() {
            if let DeValue::Table(rule) = rule.get_mut() {
                shape(rule, "when", "[rule.when]");
            }
        }
    }
    (faults, broken)
}

fn is_list_of_tables(value: &DeValue<'_>) -> bool {
    value.as_array().is_some_and(|list| list.iter().all(|element| element.get_ref().is_table()))
}

/// Takes out the innermost entry at `span`, and tells its key.
fn take_out(table: &mut DeTable<'_>, span: &Range<usize>) -> Option<String> {
    let within = table.iter_mut().find_map(|(key, value)| take_out_of_value(key.get_ref(), value, span));
    if within.is_some() {
        return within;
    }
    let key = table.iter().find(|(key, value)| covers(&key.span(), span) || covers(&value.span(), span))?.0.get_ref().clone();
    table.remove(&*key);
    Some(key.into_owned())
}

fn take_out_of_value(key: &str, value: &mut Spanned<DeValue<'_>>, span: &Range<usize>) -> Option<String> {
    match value.get_mut() {
        DeValue::Table(table) => take_out(table, span),
        DeValue::Array(elements) => {
            let within = elements.iter_mut().find_map(|element| take_out_of_value(key, element, span));
            within.or_else(|| {
                let index = elements.iter().position(|element| covers(&element.span(), span))?;
                let kept = mem::replace(elements, DeArray::new()).into_iter().enumerate().filter(|(at, _)| *at != index);
                *elements = kept.map(|(_, element)| element).collect();
                Some(key.to_owned())
            })
        }
        _ => None,
    }
}

fn covers(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

fn to_fault(source: &Source, error: &toml::de::Error) -> Fault {
    let (message, hint) = match error.message().split_once('\n') {
        Some((message, hint)) => (message.to_owned(), Some(hint.replace('\n', ", "))),
        None => reword(error.message()),
    };
    let place = error.span().map(|span| source.place(&span));
    Fault { place, message: without_user_info(&message), hint: hint.map(|hint| without_user_info(&hint)) }
}

/// serde's words for an unknown key or value, with the nearest that exists as the hint.
fn reword(message: &str) -> (String, Option<String>) {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let kind = [("unknown field", "key"), ("unknown variant", "value")].into_iter().find(|(said, _)| message.starts_with(said));
    let (Some((_, kind)), Some(unknown)) = (kind, quoted.next()) else { return (message.to_owned(), None) };
    let known: Vec<_> = quoted.collect();
    let hint = match nearest(unknown, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known are `{}`", known.join("`, `")),
    };
    (format!("unknown {kind} `{unknown}`"), Some(hint))
}

/// The one of `known` that `word` is most likely a misspelling of.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let rated = known.map(|candidate| (strsim::jaro_winkler(word, candidate), candidate));
    rated.filter(|(likeness, _)| *likeness > 0.75).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> (Vec<String>, BTreeSet<String>) {
        let source = Source { path: "p.toml".into(), text: text.to_owned() };
        match parse(source) {
            Ok(reading) => (reading.faults.iter().map(ToString::to_string).collect(), reading.broken),
            Err(faults) => (faults.0.iter().map(ToString::to_string).collect(), BTreeSet::new()),
        }
    }

    #[test]
    fn every_fault_is_found_with_its_place() {
        let text = r#"
lisener = 5
[[listener]]
address = "imaps://127.0.0.1:995"
adress = "127.0.0.1:1"
allow_from = ["192.0.2.0/24", "bogus", "any", "192.0.2.0/40"]
[[listener]]
stls = "reject"
address = 2110
[transcript]
rotate_size = "0"
content = "lines:x"
compress = "yes"
[transcript.keep_events]
segments = 0
[limits]
connections = -1
[timeouts]
idle = """10
"""
drane = "5s"
"#;
        let (found, broken) = faults(text);
        let found: BTreeSet<&str> = found.iter().map(|fault| fault.lines().next().unwrap()).collect();
        let expected = BTreeSet::from([
            "p.toml:2:1: unknown key `lisener`",
            "p.toml:4:11: `imaps://` is not a scheme that poptap knows",
            "p.toml:5:1: unknown key `adress`",
            "p.toml:6:31: `bogus` is not a network",
            "p.toml:6:47: `192.0.2.0/40` is not a network",
            "p.toml:8:8: unknown value `reject`",
            "p.toml:9:11: invalid type: integer `2110`, expected an address such as \"127.0.0.1:1110\", or \"systemd:NAME\"",
            "p.toml:11:15: the size must be more than zero",
            "p.toml:12:11: `lines:x` is not a content policy",
            "p.toml:13:12: invalid type: string \"yes\", expected a boolean",
            "p.toml:15:12: invalid value: integer `0`, expected a nonzero u64",
            "p.toml:17:15: invalid value: integer `-1`, expected a nonzero usize",
            "p.toml:19:8: `10",
            "p.toml:21:1: unknown key `drane`",
        ]);
        assert_eq!(found, expected);
        assert!(broken.contains("address") && broken.contains("allow_from") && broken.contains("segments"));
    }

    #[test]
    fn what_was_misspelt_is_suggested() {
        let (found, _) = faults("[timeouts]\nidel = \"10m\"\n");
        assert_eq!(
            found,
            ["p.toml:2:1: unknown key `idel`\n     2 | idel = \"10m\"\n       | ^^^^\n  hint: did you mean `idle`?"]
        );
        let (found, _) = faults("[transcript]\non_full = \"wiat\"\n");
        assert!(found[0].ends_with("did you mean `wait`?"), "{found:?}");
        let (found, _) = faults("[log]\nzzz = 1\n");
        assert!(found[0].ends_with("known are `file`, `rotation`, `format`, `filter`"), "{found:?}");
        let (found, _) = faults("[[listner]]\nstls = \"pass\"\n[[listner]]\n");
        assert!(found.len() == 1 && found[0].ends_with("did you mean `listener`?"), "{found:?}");
    }

    #[test]
    fn a_section_of_the_wrong_kind_is_one_fault() {
        let text = "limits = [5, 6]
upstream = [['a']]
[listener]
address = '1'
[[log]]
format = 'json'
[transcript]
keep_events = 1
";
        let (found, broken) = faults(text);
        assert_eq!(found.len(), 5, "{found:?}");
        assert_eq!(broken, BTreeSet::from(["limits", "upstream", "listener", "log", "keep_events"].map(str::to_owned)));
        let listener = found.iter().find(|fault| fault.starts_with("p.toml:3:1: `listener` is not a section here")).unwrap();
        assert!(listener.ends_with("write `[[listener]]`, and its keys on lines below"), "{found:?}");
    }

    #[test]
    fn a_misspelt_section_is_one_fault_however_often_it_stands_there() {
        let (found, _) = faults("[[listner]]\naddress = '1'\n[[listner]]\naddress = '2'\n[limits]\nconections = 1\n");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found.iter().any(|fault| fault.starts_with("p.toml:1:3: unknown key `listner`")), "{found:?}");
    }

    #[test]
    fn broken_toml_is_one_fault_with_its_place() {
        let (found, _) = faults("[log]\nfile = poptap.log\n[[nonsense]]\n");
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].starts_with("p.toml:2:8: "), "{found:?}");
    }

    #[test]
    fn a_password_in_the_file_is_never_shown() {
        for text in [
            "[[upstream]]\nurl = \"pop3://joe:hunter2@mail\"\n",
            "upstream = \"pop3://joe:hunter2@mail\"\n",
            "upstream = 'joe:hunter2@mail'\n",
            "[[upstream]]\nurl = pop3://joe:hunter2@mail\n",
            "[[upstream]]\napop = \"pop3://joe:hunter2@mail\"\n",
            "[limits]\nconnections = \"joe:hunter2@mail\"\n",
            "[timeouts]\nidle = \"joe:hunter2@mail\"\n",
        ] {
            let (found, _) = faults(text);
            assert!(!found.is_empty() && !found.concat().contains("hunter2"), "{text}: {found:?}");
        }
    }
}
