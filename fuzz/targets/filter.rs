//! An expression of any text: it is refused at a column that it has, or it can be asked of a session.
#![no_main]

use libfuzzer_sys::fuzz_target;
use poptap::inspect::filter::{Exchange, Facts, Filter};

fuzz_target!(|text: &str| match Filter::parse(text) {
    Ok(filter) => {
        let exchange =
            Exchange { n: 3, verb: "RETR", line: Some("RETR 1"), status: "+OK", reply: None, latency_us: Some(5), size: Some(9) };
        let facts = Facts::default();
        let alone = filter.holds(&facts, Some(&exchange));
        assert_eq!(filter.given(&facts).holds_for(Some(&exchange)), alone, "asked in two steps");
        if let Some(settled) = filter.settled(&facts) {
            assert_eq!(settled, alone, "settled by the session alone");
        }
    }
    Err(fault) => {
        assert!((1..=text.chars().count() + 1).contains(&fault.column()), "column {}", fault.column());
        assert!(!fault.to_string().contains(|character: char| character.is_control() && character != '\n'));
    }
});
