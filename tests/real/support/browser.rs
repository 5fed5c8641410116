//! Chromium without a window, driven by its `DevTools` protocol over two pipes: no port, and nobody else can drive it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::clients::isolated;
use super::process::{run, signal, wait};
use super::{PATIENCE, scratch};

/// A browser with one page; killed when dropped.
pub(crate) struct Browser {
    _scratch: TempDir,
    child: Option<Child>,
    to: File,
    from: Receiver<Value>,
    page: Option<String>,
    number: u64,
    /// Scripts that failed, dialogues that opened, and what a policy forbade.
    pub(crate) trouble: Vec<Value>,
}

impl Browser {
    /// Start one, in light or in dark, and open an address.
    pub(crate) fn open(address: &str) -> Self {
        let scratch = scratch();
        let path = |name: &str| scratch.path().join(name);
        run(Command::new("mkfifo").arg(path("in")).arg(path("out")));
        let mut shell = isolated("sh", scratch.path());
        // In a container there are no user namespaces for its own sandbox; what it opens is ours alone.
        let start = "exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
                     --disable-background-networking --user-data-dir=\"$1/profile\" --window-size=1400,1000 \
                     --remote-debugging-pipe about:blank 3<\"$1/in\" 4>\"$1/out\"";
        shell.args(["-c", start, "sh"]).arg(scratch.path());
        shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = shell.spawn().expect("start a shell");
        let to = File::options().write(true).open(path("in")).unwrap();
        let mut out = BufReader::new(File::open(path("out")).unwrap());
        let (sender, from) = mpsc::channel();
        thread::spawn(move || {
            let mut message = Vec::new();
            while out.read_until(0, &mut message).is_ok_and(|length| length > 0) {
                message.pop();
                let Ok(value) = serde_json::from_slice(&message) else { return };
                if sender.send(value).is_err() {
                    return;
                }
                message.clear();
            }
        });
        let mut browser = Self { _scratch: scratch, child: Some(child), to, from, page: None, number: 0, trouble: Vec::new() };
        browser.begin(address);
        browser
    }

    fn begin(&mut self, address: &str) {
        let target = self.ask("Target.createTarget", &json!({"url": "about:blank"}))["targetId"].clone();
        let page = self.ask("Target.attachToTarget", &json!({"targetId": target, "flatten": true}));
        self.page = Some(page["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page.enable", "Runtime.enable", "Log.enable"] {
            self.ask(domain, &json!({}));
        }
        self.go(address);
    }

    /// Open an address in the page.
    pub(crate) fn go(&mut self, address: &str) {
        self.ask("Page.navigate", &json!({"url": address}));
    }

    /// What a `DevTools` method returns.
    pub(crate) fn ask(&mut self, method: &str, parameters: &Value) -> Value {
        self.number += 1;
        let mut message = json!({"id": self.number, "method": method, "params": parameters});
        if let Some(page) = &self.page {
            message["sessionId"] = page.as_str().into();
        }
        self.to.write_all(format!("{message}\0").as_bytes()).unwrap();
        loop {
            let mut answer = self.from.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no answer to {message}"));
            if answer["id"] == self.number {
                assert!(answer.get("error").is_none(), "{message}: {answer}");
                return answer["result"].take();
            }
            let kind = answer["method"].as_str().unwrap_or_default();
            if ["Runtime.exceptionThrown", "Page.javascriptDialogOpening", "Log.entryAdded"].contains(&kind) {
                self.trouble.push(answer);
            }
        }
    }

    /// The value of an expression in the page.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let parameters = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut answer = self.ask("Runtime.evaluate", &parameters);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].take()
    }

    /// Wait until an expression is true in the page.
    pub(crate) fn until(&mut self, expression: &str) {
        let looks = format!(
            "new Promise((done) => {{ let looks = 0; const look = () => {{ let is = false; try {{ is = Boolean({expression}); }} \
             catch {{}} if (is || (looks += 1) > 1000) done(is); else setTimeout(look, 20); }}; look(); }})"
        );
        if self.eval(&looks) != true {
            let page = self.eval("document.body.innerText");
            panic!("never true: {expression}\n{}\n{:?}", page.as_str().unwrap_or_default(), self.trouble);
        }
    }

    /// Press a key.
    pub(crate) fn press(&mut self, key: &str) {
        let text = if key.chars().count() == 1 { key } else { "" };
        let code = match key {
            "Enter" => 13,
            "Escape" => 27,
            "ArrowDown" => 40,
            "ArrowUp" => 38,
            _ => 0,
        };
        let kind = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        for kind in [kind, "keyUp"] {
            self.ask("Input.dispatchKeyEvent", &json!({"type": kind, "key": key, "text": text, "windowsVirtualKeyCode": code}));
        }
    }

    /// Type a text where the focus is.
    pub(crate) fn enter(&mut self, text: &str) {
        self.ask("Input.insertText", &json!({"text": text}));
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(child) = self.child.take() {
            // It ends its own processes then.
            signal(child.id(), "TERM");
            wait(child);
        }
    }
}
