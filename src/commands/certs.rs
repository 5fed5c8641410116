//! `poptap certs`: an authority of one's own, and certificates for servers that it vouches for.

mod name;
mod pair;

use std::path::Path;

use time::{OffsetDateTime, macros::format_description};

use self::{name::Name, pair::Pair};
use super::{Failure, exit, print, warn};
use crate::{
    cli::{CertsCaArgs, CertsCommand, CertsIssueArgs},
    escape::escape,
    tls::{Authority, AuthorityError, Validity},
};

pub(super) fn certs(command: &CertsCommand) -> Result<(), Failure> {
    match command {
        CertsCommand::Ca(args) => ca(args),
        CertsCommand::Issue(args) => issue(args),
    }
}

fn ca(args: &CertsCaArgs) -> Result<(), Failure> {
    let name = common_name(&args.name)?;
    let pair = Pair::within(&args.out, "ca");
    pair.must_be_free()?;
    let validity = Validity::days(args.days);
    let authority = Authority::valid(name, validity)
        .map_err(|error| Failure::new(exit::SOFTWARE, format!("cannot make an authority: {error}")))?;
    pair.write(&authority.pem(), &authority.key_pem())?;
    let (cert, key) = (word(&pair.cert), word(&pair.key));
    print(&format!(
        "wrote {cert}: the authority `{name}`, valid until {until}; clients have to trust it\n\
         wrote {key}: its key, readable by you alone; whoever has it can be any server for those who trust {cert}\n\n\
         next, a certificate for a server, with the names and addresses that clients know it by:\n  \
         poptap certs issue pop.example.net --ca {cert}{elsewhere}\n",
        until = date(validity.to),
        elsewhere = beside(&args.out),
    ))
}

fn issue(args: &CertsIssueArgs) -> Result<(), Failure> {
    let (names, first) = names(&args.names)?;
    let pair = place(args, &first);
    pair.must_be_free()?;
    let ca_key = args.ca_key.clone().unwrap_or_else(|| args.ca.with_extension("key"));
    let authority = Authority::load(&args.ca, &ca_key).map_err(|error| unusable(&error))?;
    let (validity, shortened) = within(&authority, args.days);
    let listed: Vec<&str> = names.iter().map(Name::as_str).collect();
    let issued = authority
        .issue(&listed, validity)
        .map_err(|error| Failure::new(exit::SOFTWARE, format!("cannot issue for {}: {error}", listed.join(", "))))?;
    pair.write(&issued.chain_pem, &issued.key_pem())?;
    for name in names.iter().filter(|name| name.is_too_wide()) {
        warn(&format!("most clients refuse `{name}`, as they would `*.com`: give the names themselves, or one label more"));
    }
    let until = format!("{}{}", date(validity.to), if shortened { ", when the authority ends" } else { "" });
    print(&told(&pair, &listed, &until, &first, &args.ca))
}

fn told(pair: &Pair, names: &[&str], until: &str, first: &Name, ca: &Path) -> String {
    let (cert, key, ca) = (word(&pair.cert), word(&pair.key), word(ca));
    let (names, host) = (names.join(", "), in_url(&first.example()));
    format!(
        "wrote {cert}: for {names}, valid until {until}\n\
         wrote {key}: its key, readable by you alone\n\n\
         next, a listener with it, in front of the server URL, and a client that trusts the authority:\n  \
         poptap run URL --listen pop3s://:995 --cert {cert} --key {key}\n  \
         curl --cacert {ca} pop3s://{host}\n"
    )
}

/// What fits into a certificate (RFC 5280, appendix A.1: ub-common-name).
fn common_name(name: &str) -> Result<&str, Failure> {
    if (1..=64).contains(&name.chars().count()) && !name.chars().any(char::is_control) {
        return Ok(name);
    }
    let hint = "give it 1 to 64 characters, none of them a control character";
    Err(Failure::new(exit::USAGE, format!("cannot call an authority `{}`\n  hint: {hint}", escape(name.as_bytes()))))
}

/// The names in the order in which they were typed, none of them twice; and the first.
fn names(typed: &[String]) -> Result<(Vec<Name>, Name), Failure> {
    let mut names: Vec<Name> = Vec::new();
    for text in typed {
        let name = Name::parse(text)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let first = names.first().cloned().ok_or_else(|| Failure::new(exit::USAGE, "a certificate needs a name"))?;
    Ok((names, first))
}

fn place(args: &CertsIssueArgs, first: &Name) -> Pair {
    match (&args.cert, &args.key) {
        (Some(cert), Some(key)) => Pair { cert: cert.clone(), key: key.clone() },
        _ => Pair::within(&args.out, &first.file_name()),
    }
}

/// As long as was asked for, but not beyond the authority's own end; and whether that made it shorter.
fn within(authority: &Authority, days: u32) -> (Validity, bool) {
    let asked = Validity::days(days);
    let to = asked.to.min(authority.not_after());
    (Validity { to, ..asked }, to < asked.to)
}

fn unusable(error: &AuthorityError) -> Failure {
    let hint = "`poptap certs ca` makes an authority; `--ca FILE` and `--ca-key FILE` name one";
    Failure::new(exit::CONFIG, format!("{error}\n  hint: {hint}"))
}

fn date(moment: OffsetDateTime) -> String {
    // Neither the year nor the form can make this fail.
    moment.format(format_description!("[year]-[month]-[day]")).unwrap_or_default()
}

/// The flag that puts further files beside these.
fn beside(out: &Path) -> String {
    if out == Path::new(".") { String::new() } else { format!(" --out {}", word(out)) }
}

/// A path as one word of a shell's.
fn word(path: &Path) -> String {
    let path = path.to_string_lossy();
    let plain = |letter: char| letter.is_alphanumeric() || "/._-+,:@%".contains(letter);
    if path.chars().all(plain) { path.into_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

fn in_url(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}
