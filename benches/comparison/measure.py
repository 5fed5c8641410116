"""Runs the loads through the peers, in turns, and collects the numbers."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .peers import Peer, Programs, Running, Site
from .process import Process, last_json

LEGS = ["plain", "tls"]
WORKS = ["retr", "sessions", "ping", "pipeline", "idle"]
# The proxy has processor 1 for itself, except where what counts is what a round trip costs in all.
APART, TOGETHER = {1}, {0}
ENDS = {0}
# For what a proxy still does when the load has its last octet; poptap's writer, for one, collects for 20 ms.
SETTLE = 0.1
RETRS = 4
FEW, MANY = 2000, 9500
# Where memory that was given back is looked for after a burst, in seconds.
AFTER_BURST = 30.0

Row = dict[str, float]


@dataclass
class Results:
    mib: int
    turns: int
    # By leg, peer and turn: metric and value. What did not work is not there.
    rows: dict[str, dict[str, list[Row]]] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    # By leg and peer: memory, taken once.
    memory: dict[str, dict[str, Row]] = field(default_factory=dict)

    def save(self, path: Path | None) -> None:
        if path:
            path.write_text(json.dumps(vars(self), indent=1))


def leg(
    name: str, found: list[Peer], programs: Programs, folder: Path, works: list[str], results: Results, saved: Path | None
) -> None:
    certs = None
    folder.mkdir(parents=True)
    if name == "tls":
        certs = folder / "certs"
        subprocess.run([programs.load, "certs", certs], check=True)
    with served(programs, folder, certs, results.mib) as upstream:
        new = lambda peer, what: site(folder / f"{peer.name}-{what}", upstream, certs, programs)  # noqa: E731
        in_turns(name, found, new, works, results, saved)
        if "idle" in works:
            memory(name, found, new, results)
            results.save(saved)


def in_turns(name: str, found: list[Peer], new, works: list[str], results: Results, saved: Path | None) -> None:
    """Each peer begins anew in each turn: how its memory happens to lie makes a difference of a third in what copying costs."""
    rows = results.rows.setdefault(name, {})
    for peer in found:
        results.labels[peer.name] = peer.label
        rows[peer.name] = []
    working = list(found)
    for turn in range(results.turns):
        for peer in rotated(working, turn):
            say(f"{name}: turn {turn + 1} of {results.turns}, {peer.name}")
            running = start(peer, new(peer, f"turn-{turn}"), results.mib)
            if not running:
                working.remove(peer)
                continue
            try:
                rows[peer.name].append(one(running, new(peer, f"turn-{turn}"), works, results.mib))
            finally:
                stop(running)
        results.save(saved)


def rotated(peers: list[Peer], by: int) -> list[Peer]:
    by %= max(len(peers), 1)
    return peers[by:] + peers[:by]


def start(peer: Peer, where: Site, mib: int) -> Running | None:
    """Starts a peer, and has it carry the message once with every octet compared."""
    running = None
    try:
        running = peer.start(where)
        load(running, where, ["retr", "--mib", str(mib), "--count", "1", "--check"])
        return running
    except (RuntimeError, subprocess.SubprocessError) as error:
        print(f"\n*** {peer.name} does not work, and is left out: {error} ***", file=sys.stderr)
        stop(running)
        return None


def one(running: Running, where: Site, works: list[str], mib: int) -> Row:
    """What one peer does in one turn."""
    row: Row = {}
    for work in works:
        measured = MEASURED.get(work)
        if not measured:
            continue
        if running.process:
            running.process.pin(TOGETHER if work in ("ping", "pipeline") else APART)
        try:
            row |= measured(running, where, mib)
        except (RuntimeError, subprocess.SubprocessError) as error:
            print(f"\n*** {work} failed: {error} ***", file=sys.stderr)
        running.shed()
    return row


def retr(running: Running, where: Site, mib: int) -> Row:
    found, cpu = costed(running, where, ["retr", "--mib", str(mib), "--count", str(RETRS)])
    return {"mb_per_s": found["mb_per_s"], "cpu_s_per_gb": cpu / found["octets"] * 1e9}


def sessions(running: Running, where: Site, _mib: int) -> Row:
    found, cpu = costed(running, where, ["sessions", "--seconds", "1"])
    return {"sessions_per_s": found["per_second"], "cpu_us_per_session": cpu / found["sessions"] * 1e6}


def ping(running: Running, where: Site, _mib: int) -> Row:
    found, _ = costed(running, where, ["ping", "--count", "20000", "--seconds", "1"])
    return {"p50_us": found["p50_us"], "p99_us": found["p99_us"]}


def pipeline(running: Running, where: Site, _mib: int) -> Row:
    found, cpu = costed(running, where, ["pipeline", "--count", "3000000", "--seconds", "1"])
    return {"noops_per_s": found["per_second"], "cpu_us_per_noop": cpu / found["count"] * 1e6}


MEASURED = {"retr": retr, "sessions": sessions, "ping": ping, "pipeline": pipeline}


def memory(name: str, found: list[Peer], new, results: Results) -> None:
    """What connections take that do nothing, each number with a proxy that has just begun."""
    rows = results.memory.setdefault(name, {})
    for peer in found:
        if peer.name == "direct":
            continue
        row = rows.setdefault(peer.name, {})
        counts = [FEW, MANY] if peer.name == "poptap" else [FEW]
        for count in counts:
            say(f"{name}: {count} idle connections, {peer.name}")
            guarded(peer, lambda: row.update(idle(peer, new(peer, f"idle-{count}"), count)))  # noqa: B023
        if peer.name == "poptap":
            say(f"{name}: a burst, {peer.name}")
            guarded(peer, lambda: row.update(burst(peer, new(peer, "burst"))))  # noqa: B023


def guarded(peer: Peer, work) -> None:
    try:
        work()
    except (RuntimeError, subprocess.SubprocessError) as error:
        print(f"\n*** {peer.name}: {error} ***", file=sys.stderr)


def idle(peer: Peer, where: Site, count: int) -> Row:
    running = peer.start(where)
    try:
        base = rested(running, where)
        with held(running, where, count):
            time.sleep(SETTLE)
            return {"base_kib": base, f"idle_{count}_kib": (running.process.resident() - base) / count}
    finally:
        stop(running)


def burst(peer: Peer, where: Site) -> Row:
    """How far memory is above its base after a burst, and how many seconds it took to be within a tenth of it."""
    running = peer.start(where)
    try:
        base = rested(running, where)
        load(running, where, ["burst", "--connections", "200"])
        end = time.monotonic()
        peak = resident = running.process.resident()
        while resident > base * 1.1 and time.monotonic() - end < AFTER_BURST:
            time.sleep(0.5)
            resident = running.process.resident()
        return {
            "burst_base_kib": base,
            "burst_at_end_kib": peak,
            "burst_after_kib": resident,
            "burst_seconds": time.monotonic() - end,
        }
    finally:
        stop(running)


def rested(running: Running, where: Site) -> float:
    """What is resident when there was one session."""
    load(running, where, ["sessions", "--count", "1", "--parallel", "1"])
    time.sleep(SETTLE)
    return running.process.resident()


# ── what the above is made of ──


def site(folder: Path, upstream: int, certs: Path | None, programs: Programs) -> Site:
    folder.mkdir(exist_ok=True)
    return Site(folder, upstream, certs, programs, APART)


@contextmanager
def served(programs: Programs, folder: Path, certs: Path | None, mib: int, cores: set[int] = ENDS) -> Iterator[int]:
    """The server; gives its port."""
    command = [str(programs.load), "serve", "--mib", str(mib)]
    if certs:
        command += ["--cert", str(certs / "server.pem"), "--key", str(certs / "server.key")]
    server = Process(command, folder / "server.log", cores)
    try:
        yield server.told_port()
    finally:
        server.stop()


def load(running: Running, where: Site, arguments: list[str], cores: set[int] = ENDS) -> Row:
    done = subprocess.run(
        ["taskset", "-c", ",".join(map(str, cores)), *to(running, where, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{arguments[0]}: {done.stderr.strip()}")
    return last_json(done.stdout)


def costed(running: Running, where: Site, arguments: list[str], cores: set[int] = ENDS) -> tuple[Row, float]:
    """What a load found, and the processor time that the proxy took for it."""
    before = running.process.cpu() if running.process else 0.0
    found = load(running, where, arguments, cores)
    time.sleep(SETTLE)
    after = running.process.cpu() if running.process else 0.0
    return found, after - before


@contextmanager
def held(running: Running, where: Site, count: int) -> Iterator[None]:
    """Connections that are logged in and do nothing."""
    command = to(running, where, ["idle", "--connections", str(count), "--deadline", "600"])
    holder = Process(command, where.folder / "idle.log", ENDS)
    try:
        for _ in holder.waiting(120.0):
            if "ready" in holder.log.read_text():
                break
        else:
            raise RuntimeError(f"no {count} idle connections: {holder.log.read_text()}")
        yield
    finally:
        holder.end()


def to(running: Running, where: Site, arguments: list[str]) -> list[str]:
    tls = ["--ca", where.cert("ca.pem")] if where.certs else []
    return [str(where.programs.load), arguments[0], f"127.0.0.1:{running.port}", *arguments[1:], *tls]


def stop(running: Running | None) -> None:
    if running and running.process:
        running.process.stop()


def say(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
