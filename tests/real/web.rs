//! The live page in a browser: what it shows by itself, and what hostile mail cannot do to it.

use std::net::SocketAddr;

use crate::support::browser::Browser;
use crate::support::clients::Client;
use crate::support::dovecot::{Dovecot, Mode};
use crate::support::proxy::Proxy;
use crate::support::relay::Relay;
use crate::support::wire::Wire;

/// Sets a mark where any of it is taken for more than text.
const HOSTILE: &str = "<script>window.hit=1</script><img src=x onerror=window.hit=2>";

fn page(proxy: &mut Proxy) -> String {
    let line = proxy.said("/?token=");
    line[line.find("http://").unwrap()..].trim().to_owned()
}

fn fetch(address: SocketAddr) {
    assert!(Client::Curl.fetch(address).len() > 3);
}

#[test]
fn a_session_appears_is_filtered_and_opened() {
    let dovecot = Dovecot::start();
    let mut proxy = Proxy::start_with(&dovecot, Mode::Implicit, &["--web", "127.0.0.1:0"]);
    let mut browser = Browser::open(&page(&mut proxy));
    browser.until("document.getElementById('state').textContent === 'live'");
    assert_eq!(browser.eval("location.search"), "", "the token is gone from the address");
    assert_eq!(browser.eval("document.cookie"), "", "scripts do not see the cookie");
    fetch(proxy.address());
    browser.until("[...document.querySelectorAll('#sessions tr')].some((row) => row.textContent.includes('complete: '))");
    assert_eq!(browser.eval("document.getElementById('empty').hidden"), true);
    let shown = "document.querySelectorAll('#sessions tr:not([hidden])').length";
    let all = browser.eval(shown).as_u64().unwrap();
    assert!(all >= 1);

    browser.press("/");
    browser.enter("user = nobody");
    browser.until(&format!("{shown} === 0"));
    assert_eq!(browser.eval("document.getElementById('hits').textContent"), format!("0 of {all}"));
    browser.press("Escape");
    browser.until(&format!("{shown} === {all}"));
    browser.press("/");
    browser.enter("user ~ TIM and");
    browser.until("document.getElementById('hits').textContent.startsWith('column ')");
    browser.enter(" verb = RETR and status = +OK");
    browser.until(&format!("document.getElementById('hits').className === '' && {shown} > 0"));

    browser.press("ArrowDown");
    browser.until("document.activeElement.tagName === 'TR'");
    browser.press("Enter");
    browser.until("document.getElementById('lines').textContent.includes('QUIT')");
    let lines = browser.eval("document.getElementById('lines').innerText");
    for expected in ["AUTH", "octets>", "TLS with the server (implicit)", "sha256"] {
        assert!(lines.as_str().unwrap().contains(expected), "{expected} in {lines}");
    }
    assert!(browser.eval("document.querySelectorAll('#strip .command').length").as_u64() > Some(3));
    assert!(browser.eval("document.querySelectorAll('#strip .reply').length").as_u64() > Some(3));
    for (plot, word) in [("latency", "replies"), ("tls", "TLSv1.3"), ("sessions", "in the last second")] {
        let said = browser.eval(&format!("document.getElementById('plot-{plot}').getAttribute('aria-label')"));
        assert!(said.as_str().unwrap().contains(word), "{plot}: {said}");
    }
    browser.press("Escape");
    browser.until("document.getElementById('conversation').hidden && document.activeElement.tagName === 'TR'");

    // Light and dark differ, and nothing else was asked for.
    let colour = "getComputedStyle(document.documentElement).backgroundColor";
    let mut colours = Vec::new();
    for scheme in ["light", "dark"] {
        let features = serde_json::json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.ask("Emulation.setEmulatedMedia", &features);
        colours.push(browser.eval(colour));
    }
    assert_ne!(colours[0], colours[1]);
    assert!(browser.trouble.is_empty(), "{:?}", browser.trouble);
}

/// Who opens the page when the trouble is over still sees it.
#[test]
fn the_page_begins_with_what_ended_before() {
    let dovecot = Dovecot::start();
    let mut proxy = Proxy::start_with(&dovecot, Mode::Implicit, &["--web", "127.0.0.1:0"]);
    let url = page(&mut proxy);
    let ended = "[...document.querySelectorAll('#sessions tr')].some((row) => row.textContent.includes('complete: '))";
    let mut first = Browser::open(&url);
    first.until("document.getElementById('state').textContent === 'live'");
    fetch(proxy.address());
    first.until(ended);
    // The summary is in the file when the next one looks.
    while first.eval("fetch('/api/recent').then((answer) => answer.text()).then((text) => text.includes('complete: '))") != true {
    }
    drop(first);

    let mut browser = Browser::open(&url);
    browser.until(ended);
    let said = |browser: &mut Browser, id: &str| {
        browser.eval(&format!("document.getElementById('{id}').textContent")).as_str().unwrap().to_owned()
    };
    browser.until("document.getElementById('window').textContent.includes('read from the transcript')");
    assert!(said(&mut browser, "window").starts_with("0 sessions since the page was opened"));
    assert_eq!(said(&mut browser, "covers"), "");
    let shown = "document.querySelectorAll('#sessions tr:not([hidden])').length";
    browser.press("/");
    browser.enter("not verb = XYZZY");
    browser.until("document.getElementById('covers').textContent.includes('that is not everything')");
    browser.until(&format!("{shown} === 0"));
    browser.press("Escape");
    browser.until(&format!("{shown} > 0 && document.getElementById('covers').textContent === ''"));
    browser.eval("document.querySelector('#sessions tr').click()");
    browser.until("document.getElementById('lines').textContent.includes('QUIT')");
    // What comes now stands above.
    let last = browser.eval("document.querySelector('#sessions tr').children[1].textContent");
    fetch(proxy.address());
    browser.until(&format!("document.querySelector('#sessions tr').children[1].textContent !== {last}"));
    assert!(browser.trouble.is_empty(), "{:?}", browser.trouble);
}

#[test]
fn hostile_mail_is_shown_and_does_nothing() {
    let dovecot = Dovecot::start();
    let hostile = format!(
        "From: \"{HOSTILE}\" <eve@example.com>\nTo: {HOSTILE}\nSubject: {HOSTILE}\nMessage-ID: <{HOSTILE}@example.com>\n\
         Content-Type: text/html\nX-{HOSTILE}: x\n\n{HOSTILE}\n"
    );
    std::fs::write(dovecot.maildir().join("new/1900000000.M0P1.localhost"), hostile).unwrap();
    let relay = Relay::start_with(dovecot.plain(), |octets| {
        let text = String::from_utf8_lossy(&octets).into_owned();
        if text.contains("Logged in.") { text.replace("Logged in.", HOSTILE).into_bytes() } else { octets }
    });
    let options = ["--web", "127.0.0.1:0", "--content", "full"];
    let mut proxy = Proxy::start_towards(&format!("pop3://{}", relay.address()), dovecot.authority(), &options);
    let mut browser = Browser::open(&page(&mut proxy));
    browser.until("document.getElementById('state').textContent === 'live'");
    let mut wire = Wire::log_in(proxy.address());
    wire.ask(&format!("LIST {HOSTILE}"));
    wire.ask(&format!("TOP {HOSTILE}"));
    wire.ask_for_body("RETR 13");
    wire.quit();
    let mut wire = Wire::connect(proxy.address());
    wire.ask(&format!("USER {HOSTILE}"));
    wire.quit();
    browser.until("document.querySelectorAll('#sessions tr').length === 2 && !document.querySelector('tr.going')");
    browser.until("document.getElementById('sessions').innerText.includes('<script>')");
    for row in [0, 1] {
        browser.eval(&format!("document.querySelectorAll('#sessions tr')[{row}].click()"));
        browser.until("document.getElementById('lines').innerText.includes('<script>window.hit=1</script>')");
    }
    assert_eq!(browser.eval("window.hit ?? 'nothing'"), "nothing");
    assert_eq!(browser.eval("document.querySelectorAll('img, iframe, object, embed').length"), 0);
    assert_eq!(browser.eval("document.scripts.length"), 1);
    assert!(browser.trouble.is_empty(), "{:?}", browser.trouble);
    // What would happen without all that care: the policy stops it.
    let careless = "new Promise((done) => { const note = document.getElementById('note'); \
                    note.innerHTML = '<img src=x onerror=\"window.hit=3\">'; \
                    note.firstChild.addEventListener('error', () => done(window.hit ?? 'nothing')); })";
    assert_eq!(browser.eval(careless), "nothing");
}
