"""poptap by itself: more threads, many idle connections beside a busy one, and the store under parallel sessions."""

from pathlib import Path
from statistics import median

from . import measure, report
from .peers import PEERS, Peer, Programs, Running, Site

BOTH = {0, 1}
BESIDE = [10, 1000, 9500]
PARALLEL = 200
MIB = 64


def run(programs: Programs, folder: Path, turns: int) -> None:
    for name, what in [("threads", threads), ("beside", beside), ("store", store)]:
        (folder / name).mkdir()
        with measure.served(programs, folder / name, None, MIB, BOTH if what is threads else measure.ENDS) as upstream:
            print(what(Setting(programs, folder / name, upstream, turns)), flush=True)


class Setting:
    def __init__(self, programs: Programs, folder: Path, upstream: int, turns: int):
        self.programs, self.folder, self.upstream, self.turns = programs, folder, upstream, turns

    def site(self, name: str) -> Site:
        return measure.site(self.folder / name, self.upstream, None, self.programs)


def threads(setting: Setting) -> str:
    """Everything on both processors: the second thread has only what the server and the load leave."""
    sites = {count: setting.site(f"threads-{count}") for count in (1, 2)}
    for count, where in sites.items():
        where.cores, where.environment = BOTH, {"TOKIO_WORKER_THREADS": str(count)}
    found = in_turns(
        sites,
        {count: peer("poptap") for count in sites},
        setting.turns,
        lambda running, where: sessions(running, where, 8, BOTH) | retr(running, where, BOTH),
    )
    lines = [["worker threads", "sessions/s", "CPU µs/session", "RETR MB/s", "CPU s/GB"]]
    lines += [[str(count), *shown(rows, "rate:0", "cost:0", "mb:0", "gb:2")] for count, rows in found.items()]
    return f"\nThreads, on both processors; medians of {setting.turns} turns\n\n{report.aligned(lines)}"


def beside(setting: Setting) -> str:
    """The same poptap, with connections that are logged in and do nothing."""
    where = setting.site("beside")
    running = peer("poptap").start(where)
    lines = [["idle connections", "sessions/s", "CPU µs/session"]]
    try:
        for count in BESIDE:
            with measure.held(running, where, count):
                rows = [sessions(running, where, 8, measure.ENDS) for _ in range(setting.turns)]
            lines.append([str(count), *shown(rows, "rate:0", "cost:0")])
    finally:
        measure.stop(running)
    return f"\nSessions beside idle connections; medians of {setting.turns} turns\n\n{report.aligned(lines)}"


def store(setting: Setting) -> str:
    names = ["poptap-off", "poptap"]
    found = in_turns(
        {name: setting.site(name) for name in names},
        {name: peer(name) for name in names},
        setting.turns,
        lambda running, where: sessions(running, where, PARALLEL, measure.ENDS),
    )
    lines = [["", "sessions/s", "CPU µs/session", "session p50 ms", "p99 ms"]]
    lines += [[peer(name).label, *shown(rows, "rate:0", "cost:0", "p50:1", "p99:1")] for name, rows in found.items()]
    return f"\nThe store, {PARALLEL} sessions at a time; medians of {setting.turns} turns\n\n{report.aligned(lines)}"


def in_turns(sites: dict, peers: dict, turns: int, work) -> dict[object, list[measure.Row]]:
    """Runs each in every turn, in an order that rotates."""
    keys = list(sites)
    running = {}
    rows: dict[object, list[measure.Row]] = {key: [] for key in keys}
    try:
        for key in keys:
            running[key] = peers[key].start(sites[key])
        for turn in range(turns):
            for place in range(len(keys)):
                key = keys[(turn + place) % len(keys)]
                rows[key].append(work(running[key], sites[key]))
    finally:
        for one in running.values():
            measure.stop(one)
    return rows


def sessions(running: Running, where: Site, parallel: int, cores: set[int]) -> measure.Row:
    arguments = ["sessions", "--seconds", "2", "--parallel", str(parallel)]
    found, cpu = measure.costed(running, where, arguments, cores)
    cost = cpu / found["sessions"] * 1e6
    return {"rate": found["per_second"], "cost": cost, "p50": found["p50_us"] / 1e3, "p99": found["p99_us"] / 1e3}


def retr(running: Running, where: Site, cores: set[int]) -> measure.Row:
    found, cpu = measure.costed(running, where, ["retr", "--mib", str(MIB), "--count", "4"], cores)
    return {"mb": found["mb_per_s"], "gb": cpu / found["octets"] * 1e9}


def peer(name: str) -> Peer:
    return next(peer for peer in PEERS if peer.name == name)


def shown(rows: list[measure.Row], *columns: str) -> list[str]:
    """Medians; a column is a metric and a number of digits."""
    return [f"{median(row[metric] for row in rows):.{digits}f}" for metric, digits in (column.split(":") for column in columns)]
