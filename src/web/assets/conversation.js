// One session's records, as a strip of time and as lines. Whatever a client or a server said goes in as text.

import { shape } from "./plots.js";

/// Replies that took longer are marked, in microseconds.
const SLOW = 1_000_000;
/// Lines that are drawn at most; a browser bears no more with ease.
const LINES = 2000;

const [WIDTH, MIDDLE, FOOT] = [1000, 26, 52];

export function element(name, kind, text) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  if (text !== undefined) made.textContent = text;
  return made;
}

export function octets(count) {
  const units = [[1e9, "GB"], [1e6, "MB"], [1e3, "kB"]];
  const unit = units.find(([size]) => count >= size);
  return unit ? `${(count / unit[0]).toFixed(count / unit[0] < 10 ? 1 : 0)} ${unit[1]}` : `${count} B`;
}

function time(micros) {
  return micros < 1e6 ? `${(micros / 1e3).toFixed(1)} ms` : `${(micros / 1e6).toFixed(2)} s`;
}

/// What stands in a line of the protocol, or why nothing does.
function said(record) {
  if (record.text !== undefined) return [record.text + (record.cut ? "…" : ""), record.redacted ? ` <${record.redacted}, ${record.octets} octets>` : ""];
  return ["", `<withheld: ${record.redacted ?? "not kept"}, ${record.octets} octets>`];
}

/// How a record reads: who, what, a remark, and a class. Null for what has its place elsewhere.
function words(record) {
  switch (record.event) {
    case "opened": return ["--", "", `${record.client} → ${record.listener} → ${record.upstream}${record.credentials_revealed ? "; PASSWORDS ARE SHOWN" : ""}`];
    case "unreached": return ["!!", "", `${record.upstream} does not serve: ${record.detail}`, "anomaly"];
    case "reached": return ["--", "", `carried to ${record.upstream}${record.resting ? `, since not long ago there was no answer from ${record.resting.join(", ")}` : ""}`];
    case "tls": return ["--", "", `TLS with the ${record.hop === "client" ? "client" : "server"} (${record.mode}): ${record.version}, ${record.cipher}${record.subject ? `; certificate ${record.subject}` : ""}`];
    case "greeting": case "unsolicited": return ["S:", ...said(record), record.status === "-ERR" ? "err" : ""];
    case "command": return [record.own ? "P:" : "C:", ...said(record)];
    case "sasl": return [record.from === "client" ? "C:" : "S:", record.revealed ?? "", record.cancel ? "cancels the exchange" : `<SASL, ${record.octets} octets>`];
    case "reply": return [record.local ? "P:" : "S:", ...said(record), record.status === "-ERR" ? "err" : ""];
    case "content": return ["S:", "", `[${record.keyword}: ${record.lines} lines, ${octets(record.size)}${record.complete ? "" : ", cut off"}, ${time(record.total_us)}${record.sha256 ? `, sha256 ${record.sha256.slice(0, 8)}…` : ""}]${record.listing ? " " + record.listing.join(" | ") : ""}`, record.complete ? "" : "anomaly"];
    case "client-data": return ["C:", "", `[message: ${record.octets} octets${record.complete ? "" : ", cut off"}]`];
    case "decision": return ["--", "", `rule ${record.rule}: ${record.action}${record.enforced === false ? " (dry run)" : ""}${record.line ? `: ${record.line}` : ""}`];
    case "opaque": return ["--", "", `opaque from here on: ${record.explanation}`, "anomaly"];
    case "anomaly": return ["!!", "", `${record.id}: ${record.explanation}`, "anomaly"];
    case "gap": return ["!!", "", `${record.events} events are missing (${record.reason})`, "anomaly"];
    case "closed": return ["--", "", `closed by ${record.by} (${record.reason})${record.detail ? `: ${record.detail}` : ""}`];
    case "session": return ["==", "", record.verdict];
    default: return ["--", "", String(record.event)];
  }
}

/// Whether a record is one of something odd.
export function isOdd(record) {
  return record.event === "anomaly" || record.event === "opaque" || record.event === "gap" || (record.event === "content" && !record.complete);
}

/// Whether a reply stands right behind its command.
function isNext(record, before) {
  return before?.event === "command" && before.n === record.n;
}

function row(record, before) {
  const [who, text, remark, kind] = words(record);
  const made = element("li", kind || "");
  made.append(element("span", "at", `+${(record.at_us / 1e6).toFixed(3)}`), element("span", "who", who));
  const rest = element("span");
  if (text) rest.append(element("span", kind === "err" ? "err" : "", text));
  if (remark) rest.append(element("span", "remark", remark));
  if (record.event === "reply" && !isNext(record, before)) rest.append(element("span", "remark", `  ← ${record.keyword} (${record.n})`));
  if (record.latency_us >= SLOW) rest.append(element("span", "slow", `  (after ${time(record.latency_us)})`));
  made.append(rest);
  return made;
}

/// Time from left to right; commands above the line, replies below from command to answer, what is odd as a dot.
function strip(svg, records) {
  svg.setAttribute("viewBox", `0 0 ${WIDTH} 56`);
  svg.setAttribute("preserveAspectRatio", "none");
  const whole = Math.max(1, ...records.map((record) => record.at_us));
  const x = (at) => (at / whole) * (WIDTH - 4) + 2;
  const drawn = [shape("line", { class: "axis", x1: 0, x2: WIDTH, y1: MIDDLE, y2: MIDDLE })];
  const span = (kind, from, to, y, height, title) => {
    const bar = shape("rect", { class: kind, x: x(Math.max(0, from)), y, width: Math.max(x(to) - x(Math.max(0, from)), 2), height });
    bar.append(shape("title", {}, title));
    drawn.push(bar);
  };
  let slowest = 0;
  for (const record of records) {
    const at = record.at_us;
    if (record.event === "command") {
      const tick = shape("line", { class: "command", x1: x(at), x2: x(at), y1: 6, y2: MIDDLE });
      tick.append(shape("title", {}, record.keyword));
      drawn.push(tick);
    } else if (record.event === "reply") {
      slowest = Math.max(slowest, record.latency_us);
      span(record.status === "-ERR" ? "reply err" : "reply", at - record.latency_us, at, MIDDLE + 3, 9, `${record.keyword}: ${time(record.latency_us)}`);
    } else if (record.event === "content") {
      span("content", at - record.total_us, at, MIDDLE + 14, 9, `${record.keyword}: ${octets(record.size)} in ${time(record.total_us)}`);
    }
    if (isOdd(record)) span("anomaly", at, at, 0, FOOT, words(record)[2]);
  }
  svg.setAttribute("aria-label", `${time(whole)} in all; the slowest reply took ${time(slowest)}`);
  svg.replaceChildren(...drawn);
}

/// Draws all of it.
export function draw(places, session, records, note) {
  const shown = records.slice(-LINES);
  places.title.textContent = `Session ${session.id}`;
  places.about.textContent = [session.client, session.user ? `user ${session.user}` : "", session.upstream, session.verdict].filter(Boolean).join(" · ");
  places.note.textContent = [note, shown.length < records.length ? `The last ${LINES} of ${records.length} records are shown.` : ""].filter(Boolean).join(" ");
  strip(places.strip, shown);
  places.lines.replaceChildren(...shown.map((record, at) => row(record, shown[at - 1])));
}
