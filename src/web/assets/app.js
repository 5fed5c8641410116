// Sessions as they happen. A window of them is kept; what a client or a server said only ever becomes text.

import { draw, element, isOdd, octets } from "./conversation.js";
import { LATENCIES, latencies, timeline, versions } from "./plots.js";

/// Sessions that are kept, records of one, and records of all.
const [SESSIONS, RECORDS, ALL_RECORDS] = [500, 1000, 50_000];
/// Seconds that the plots look back.
const SECONDS = 120;
/// Milliseconds between two drawings.
const PAUSE = 250;

const place = (id) => document.getElementById(id);
const sessions = new Map();
/// Sessions that ended before the page was opened and are kept; the row of the newest of them.
let [earlier, newestEarlier] = [0, null];
let [seen, hidden, kept, paused, open, chosen, drawing] = [0, 0, 0, false, null, null, null];
const begun = new Map(), moved = new Map();
const latency = new Array(LATENCIES.length + 1).fill(0);
const tls = { client: {}, server: {} };

// ── what comes ──

function take(record) {
  const session = sessions.get(record.session) ?? add(record);
  session.dirty = true;
  session.judged = -1;
  if (record.event === "session") finish(session, record);
  else update(session, record);
  if (isOdd(record)) session.odd = true;
  if (session.records.length < RECORDS && kept < ALL_RECORDS) {
    session.records.push(record);
    kept += 1;
  } else session.partial = true;
  if (open === session) session.changed = true;
}

function add(record) {
  const session = blank(record);
  sessions.set(session.id, session);
  seen += 1;
  if (record.event === "opened") count(begun, record.time, 1);
  forget();
  return session;
}

function blank(record) {
  return { id: record.session, start: record.time, client: "", user: "", upstream: "", verdict: "", commands: 0, errors: 0, octets: 0,
    records: [], odd: false, over: false, partial: record.event !== "opened", dirty: true };
}

/// Sessions that ended before the page was opened, the oldest first: all that passes is newer.
function begin(records) {
  const known = [...sessions.values()];
  sessions.clear();
  for (const record of records) {
    const session = known.find((other) => other.id === record.session) ?? Object.assign(blank(record), { early: true });
    if (session.over) continue;
    Object.assign(session, { dirty: true, judged: -1 });
    summarise(session, record);
    if (!session.early) continue;
    session.records.push(record);
    sessions.set(session.id, session);
    earlier += 1;
    kept += 1;
  }
  for (const session of known) sessions.set(session.id, session);
  forget();
}

function update(session, record) {
  switch (record.event) {
    case "reached": session.upstream = record.upstream; break;
    case "opened": Object.assign(session, { client: record.client, listener: record.listener, upstream: record.upstream, revealed: record.credentials_revealed }); break;
    case "command":
      if (!record.own) session.commands += 1;
      session.octets += record.octets;
      if (record.user) session.user = record.user;
      break;
    case "sasl": if (record.user) session.user = record.user; break;
    case "reply": {
      session.octets += record.octets;
      if (record.status === "-ERR") session.errors += 1;
      const at = LATENCIES.findIndex((end) => record.latency_us <= end * 1000);
      if (!record.local) latency[at < 0 ? LATENCIES.length : at] += 1;
      break;
    }
    case "content": session.octets += record.octets; break;
    case "gap": session.partial = true; break;
  }
}

function finish(session, record) {
  summarise(session, record);
  count(moved, record.time, session.octets);
  const spoken = (hop, version = "none") => { tls[hop][version] = (tls[hop][version] ?? 0) + 1; };
  spoken("client", record.client_tls);
  if (record.upstream_octets > 0) spoken("server", record.upstream_tls);
}

function summarise(session, record) {
  Object.assign(session, { over: true, summary: record, start: record.start, client: record.client, user: record.user ?? "", upstream: record.upstream,
    verdict: record.verdict, commands: record.commands, errors: record.errors, octets: record.client_octets + record.upstream_octets });
  session.bad = record.reason !== "quit" || record.errors > 0;
  session.odd = session.odd || record.opaque !== undefined || record.events_lost > 0;
}

function count(where, stamp, by) {
  const second = Math.floor(Date.parse(stamp) / 1000);
  where.set(second, (where.get(second) ?? 0) + by);
  if (where.size > 4 * SECONDS) where.delete(where.keys().next().value);
}

/// The oldest that is over goes first; one that is being looked at stays.
function forget() {
  while (sessions.size > SESSIONS) {
    let oldest = null;
    for (const session of sessions.values()) {
      if (session === open) continue;
      oldest ??= session;
      if (session.over) { oldest = session; break; }
    }
    kept -= oldest.records.length;
    oldest.row?.remove();
    sessions.delete(oldest.id);
    if (chosen === oldest) chosen = null;
  }
}

// ── the filter ──

// poptap judges: it has the language of `sessions grep`. A session is asked about again when it has changed.
const filter = { text: "", version: 0, wrong: null, exchanges: false, asking: false };

/// Whether a session is shown.
function matches(session) {
  return !filter.text || filter.wrong !== null || session.holds === filter.version;
}

function search(text) {
  Object.assign(filter, { text: text.trim(), version: filter.version + 1, wrong: null, exchanges: false });
  redraw(true);
  judge();
}

async function judge() {
  if (!filter.text || filter.wrong || filter.asking) return;
  const { text, version, exchanges } = filter;
  const asked = [...sessions.values()].filter((session) => session.judged !== version);
  if (!asked.length && version > 0 && filter.read === version) return;
  asked.forEach((session) => { session.judged = version; });
  filter.asking = true;
  try {
    const about = asked.map((session) => ({ facts: facts(session), exchanges: exchanges ? said(session) : [] }));
    const answer = await fetch("/api/filter", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify({ filter: text, sessions: about }) });
    if (!answer.ok) throw new Error(await answer.text());
    const judged = await answer.json();
    if (version === filter.version) heard(judged, asked, version);
  } catch (error) {
    if (version === filter.version) filter.wrong = { column: 0, message: `the filter could not be asked: ${error.message}`, hint: "" };
  } finally {
    filter.asking = false;
  }
  redraw(true);
  if (version !== filter.version) judge();
}

function heard(judged, asked, version) {
  filter.read = version;
  if (judged.wrong) filter.wrong = judged.wrong;
  else if (judged.exchanges && !filter.exchanges) {
    // Then more has to be told.
    filter.exchanges = true;
    asked.forEach((session) => { session.judged = -1; });
    setTimeout(judge);
  } else asked.forEach((session, at) => { session.holds = judged.holds[at] ? version : -1; });
}

/// What is known of a session as a whole: its summary, or as much of one as there is.
function facts(session) {
  return session.summary ?? { v: 1, event: "opened", session: session.id, time: session.start, client: session.client, listener: session.listener ?? "",
    upstream: session.upstream, user: session.user || null };
}

/// Its commands with their replies.
function said(session) {
  const exchanges = new Map();
  for (const record of session.records) {
    if (record.event === "command") exchanges.set(record.n, { n: record.n, verb: record.keyword, line: record.text, status: "" });
    const exchange = exchanges.get(record.n);
    if (!exchange) continue;
    if (record.event === "reply") Object.assign(exchange, { status: record.status, reply: record.text, latency_us: record.latency_us });
    if (record.event === "content") exchange.size = record.size;
  }
  return [...exchanges.values()];
}

// ── drawing ──

function schedule() {
  drawing ??= setTimeout(() => { drawing = null; if (!paused) redraw(); }, PAUSE);
}

function redraw(all = false) {
  let hits = 0;
  for (const session of sessions.values()) {
    if (session.dirty || all) {
      if (session.dirty) fill(session);
      session.row.hidden = !matches(session);
      session.dirty = false;
    }
    hits += session.row.hidden ? 0 : 1;
  }
  place("empty").hidden = sessions.size > 0;
  tell(hits);
  const lost = hidden ? ` ${hidden} records were not sent to this page: it is given so many a second and no more. What is drawn of them is a sample; the transcript has them all.` : "";
  const before = earlier ? ` ${earlier} that ended before that were read from the transcript.` : "";
  place("window").textContent = `${seen} sessions since the page was opened; the newest ${SESSIONS} are kept.${before}${lost}`;
  plots();
  if (open?.changed) show(open);
  judge();
}

/// How many are meant, or what is wrong with the filter.
function tell(hits) {
  const { text, wrong } = filter;
  place("hits").textContent = !text ? "" : wrong ? `${wrong.column ? `column ${wrong.column}: ` : ""}${wrong.message}${wrong.hint ? ` (${wrong.hint})` : ""}` : `${hits} of ${sessions.size}`;
  place("hits").className = wrong ? "wrong" : "";
  // What is asked about commands is answered from what has come, and nothing else.
  const partial = [...sessions.values()].filter((session) => session.partial).length;
  const how = partial ? `of ${partial} of ${sessions.size} sessions that is not everything; \`poptap sessions grep\` reads the transcript` : "of each session here that is everything so far";
  place("covers").textContent = filter.exchanges && text && !wrong ? `The filter looks into the commands that this page was sent: ${how}.` : "";
  place("filter").setAttribute("aria-invalid", String(wrong !== null && text !== ""));
}

function plots() {
  const now = Math.floor(Date.now() / 1000);
  const line = (from) => Array.from({ length: SECONDS }, (_, at) => from.get(now - SECONDS + 1 + at) ?? 0);
  timeline(place("plot-sessions"), line(begun), "sessions");
  timeline(place("plot-octets"), line(moved), "octets");
  latencies(place("plot-latency"), latency);
  versions(place("plot-tls"), Object.entries(tls));
}

function fill(session) {
  if (!session.row) {
    session.row = element("tr");
    session.row.tabIndex = -1;
    session.row.append(...Array.from({ length: 7 }, (_, at) => element("td", at === 4 || at === 5 ? "number" : "")));
    session.row.addEventListener("click", () => { choose(session); look(session); });
    session.row.addEventListener("focus", () => choose(session));
    if (!session.early) place("sessions").prepend(session.row);
    else {
      // Below all that passed since, and above those before it.
      if (newestEarlier?.isConnected) newestEarlier.before(session.row); else place("sessions").append(session.row);
      newestEarlier = session.row;
    }
    if (!chosen || session.early && chosen.early && !open) choose(session);
  }
  const verdict = (session.odd ? "⚠ " : "") + (session.over ? session.verdict : "going on");
  const texts = [session.start.slice(11, 19), session.id, session.client, session.user, String(session.commands), octets(session.octets), verdict];
  texts.forEach((text, at) => { const cell = session.row.children[at]; if (cell.textContent !== text) cell.textContent = text; });
  session.row.className = session.over ? (session.odd ? "odd" : session.bad ? "bad" : "") : "going";
}

// ── one session ──

const places = Object.fromEntries(["title", "about", "strip", "note", "lines"].map((id) => [id, place(id)]));

function show(session) {
  session.changed = false;
  // The store's records, and behind them what has passed since.
  const last = session.stored?.at(-1);
  const newer = last ? session.records.filter((record) => record.at_us > last.at_us) : session.records;
  draw(places, session, [...(session.stored ?? []), ...newer], session.note ?? "");
}

async function look(session) {
  open = session;
  place("conversation").hidden = false;
  show(session);
  place("conversation").focus();
  if (session.over && !session.partial && session.records.length >= session.commands && hidden === 0) return;
  try {
    const answer = await fetch(`/api/session/${encodeURIComponent(session.id)}?since=${encodeURIComponent(session.start)}`);
    if (answer.ok) {
      const { records, cut } = await answer.json();
      session.stored = records;
      session.note = cut ? "It is longer than this page shows: `poptap sessions show` has the rest." : "";
    } else session.note = `The transcript does not help: ${await answer.text()}.`;
  } catch {
    session.note = "poptap does not answer.";
  }
  if (open === session) show(session);
}

function shut() {
  open = null;
  place("conversation").hidden = true;
  chosen?.row?.focus();
}

function choose(session) {
  if (chosen?.row) { chosen.row.setAttribute("aria-selected", "false"); chosen.row.tabIndex = -1; }
  chosen = session;
  chosen.row.setAttribute("aria-selected", "true");
  chosen.row.tabIndex = 0;
}

/// The next row that is shown, in this direction.
function step(direction) {
  let row = chosen?.row ?? place("sessions").firstElementChild;
  if (!row) return;
  do row = row[direction]; while (row?.hidden);
  row?.focus();
}

// ── the keyboard ──

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const writing = event.target === place("filter");
  if (event.key === "Escape") { if (writing) { place("filter").value = ""; search(""); event.target.blur(); } else shut(); }
  else if (writing) { if (event.key === "ArrowDown") { event.preventDefault(); (chosen?.row.hidden === false ? chosen.row : document.querySelector("#sessions tr:not([hidden])"))?.focus(); } }
  else if (event.key === "/") { event.preventDefault(); place("filter").focus(); }
  else if (event.key === "ArrowDown" || event.key === "j") { event.preventDefault(); step("nextElementSibling"); }
  else if (event.key === "ArrowUp" || event.key === "k") { event.preventDefault(); step("previousElementSibling"); }
  else if (event.key === "Enter" && event.target.tagName === "TR" && chosen) look(chosen);
  else if (event.key === "p") pause();
});
place("search").addEventListener("submit", (event) => event.preventDefault());
place("filter").addEventListener("input", () => search(place("filter").value));
place("close").addEventListener("click", shut);
place("pause").addEventListener("click", pause);

function pause() {
  paused = !paused;
  place("pause").setAttribute("aria-pressed", String(paused));
  if (!paused) redraw();
}

// ── the stream ──

// Asked once the stream is there, so that nothing falls between the two.
async function early() {
  try {
    const answer = await fetch("/api/recent");
    if (answer.ok) begin((await answer.text()).split("\n").filter((line) => line).map((line) => JSON.parse(line)));
    schedule();
  } catch { /* The page does without. */ }
}

const source = new EventSource("/api/events");
const state = (text, lost) => { place("state").textContent = text; place("state").className = lost ? "lost" : ""; };
source.addEventListener("open", () => state("live", false));
source.addEventListener("open", early, { once: true });
source.addEventListener("error", () => state(source.readyState === EventSource.CLOSED ? "poptap has no place for this page, or was started anew: open the address that it printed" : "connection lost; trying again …", true));
source.addEventListener("message", (event) => {
  for (const line of event.data.split("\n")) if (line) take(JSON.parse(line));
  schedule();
});
source.addEventListener("hidden", (event) => { hidden += Number(event.data); schedule(); });
// The plots go on while nothing happens.
setInterval(schedule, 1000);
