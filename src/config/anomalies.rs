//! What becomes of anomalies, and when a reply is slow.

use std::{fmt, str::FromStr, time::Duration};

use super::{fault::Malformed, reading::nearest};
use crate::anomaly::{Anomaly, Chosen};

/// What is watched for in sessions beyond what is recorded of them anyway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Anomalies {
    /// Those for which a session is closed.
    pub strict: Chosen,
    /// A command that waits for its reply for so long has a slow one.
    pub slow_reply: Duration,
}

impl Default for Anomalies {
    /// No session is closed, and ten seconds are long.
    fn default() -> Self {
        Self { strict: Chosen::default(), slow_reply: Duration::from_secs(10) }
    }
}

impl FromStr for Anomaly {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        Self::of(text).ok_or_else(|| {
            let hint = match nearest(text, Self::ALL.into_iter().map(Self::id)) {
                Some(near) => format!("did you mean `{near}`?"),
                None => "docs/anomalies.md lists them, such as `bare-lf`".to_owned(),
            };
            Malformed::new(format!("`{text}` is not an anomaly"), hint)
        })
    }
}

impl fmt::Display for Anomaly {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_and_the_nearest_is_named() {
        for anomaly in Anomaly::ALL {
            assert_eq!(anomaly.to_string().parse::<Anomaly>(), Ok(anomaly));
        }
        for (text, hint) in
            [("bare_lf", "did you mean `bare-lf`?"), ("size-difers", "did you mean `size-differs`?"), ("", "lists them")]
        {
            let refused = text.parse::<Anomaly>().unwrap_err();
            assert!(refused.hint.contains(hint) && refused.message.contains("is not an anomaly"), "{refused}");
        }
    }
}
