"""The tables: medians for each peer, and the goals."""

from collections.abc import Callable
from dataclasses import dataclass
from statistics import median, quantiles

from .measure import FEW, MANY, Results

COLUMNS = [
    ("RETR MB/s", "mb_per_s", 1.0, 0),
    ("CPU s/GB", "cpu_s_per_gb", 1.0, 2),
    ("sessions/s", "sessions_per_s", 1.0, 0),
    ("CPU µs/session", "cpu_us_per_session", 1.0, 0),
    ("NOOP p50 µs", "p50_us", 1.0, 1),
    ("p99 µs", "p99_us", 1.0, 1),
    ("pipelined k/s", "noops_per_s", 1e-3, 0),
    ("CPU µs each", "cpu_us_per_noop", 1.0, 2),
]
TITLES = {"plain": "Plain on both hops", "tls": "TLS on both hops"}


def tables(results: Results) -> str:
    return "\n".join(table(results, leg) for leg in results.rows)


def table(results: Results, leg: str) -> str:
    titles = [title for title, *_ in COLUMNS] + ["idle KiB each"]
    lines = [["", *titles]]
    for peer, turns in results.rows[leg].items():
        cells = [results.labels[peer]]
        for _, metric, factor, digits in COLUMNS:
            values = [turn[metric] * factor for turn in turns if metric in turn]
            free = peer == "direct" and metric.startswith("cpu")
            cells.append("" if free else f"{median(values):.{digits}f}" if values else "–")
        each = results.memory.get(leg, {}).get(peer, {}).get(f"idle_{FEW}_kib")
        cells.append("" if peer == "direct" else f"{each:.1f}" if each is not None else "–")
        lines.append(cells)
    return f"\n{TITLES[leg]}; medians of {results.turns} turns, RETR of {results.mib} MiB\n\n{aligned(lines)}"


# ── goals ──


@dataclass(frozen=True)
class Goal:
    text: str
    limit: float
    # Gives what was measured, once for each turn.
    measured: Callable[[Results], list[float]]
    at_most: bool = True

    def met(self, values: list[float]) -> bool:
        return median(values) <= self.limit if self.at_most else median(values) >= self.limit


def of(leg: str, metric: str, peer: str, base: str) -> Callable[[Results], list[float]]:
    """A metric in proportion to another peer's in the same turn."""
    return lambda results: [
        ours[metric] / theirs[metric]
        for ours, theirs in turns(results, leg, peer, base)
        if metric in ours and theirs.get(metric)
    ]


def added(leg: str, metric: str, peer: str, base: str) -> Callable[[Results], list[float]]:
    """What a peer adds to the direct way, in proportion to what another adds."""
    return lambda results: [
        (ours[metric] - way[metric]) / (theirs[metric] - way[metric])
        for ours, theirs, way in turns(results, leg, peer, base, "direct")
        if metric in ours and metric in theirs and metric in way and theirs[metric] > way[metric]
    ]


def alone(leg: str, metric: str, peer: str, factor: float = 1.0) -> Callable[[Results], list[float]]:
    return lambda results: [ours[metric] * factor for (ours,) in turns(results, leg, peer) if metric in ours]


def held(leg: str, metric: str, factor: float = 1.0) -> Callable[[Results], list[float]]:
    def values(results: Results) -> list[float]:
        row = results.memory.get(leg, {}).get("poptap", {})
        return [row[metric] * factor] if metric in row else []

    return values


def returned(leg: str) -> Callable[[Results], list[float]]:
    def values(results: Results) -> list[float]:
        row = results.memory.get(leg, {}).get("poptap", {})
        return [row["burst_after_kib"] / row["burst_base_kib"]] if "burst_base_kib" in row else []

    return values


def turns(results: Results, leg: str, *names: str):
    rows = results.rows.get(leg, {})
    return zip(*(rows.get(name, []) for name in names), strict=False)


def goal_list() -> list[Goal]:
    every, none, off = "poptap-full", "poptap-none", "poptap-off"
    cost, rate = "cpu_s_per_gb", "mb_per_s"
    session, often, noop = "cpu_us_per_session", "sessions_per_s", "noops_per_s"
    goals = [
        Goal("RETR, TLS, every octet kept: CPU of haproxy's", 1.0, of("tls", cost, every, "haproxy")),
        Goal("RETR, TLS, every octet kept: CPU of sslsplit's", 0.6, of("tls", cost, every, "sslsplit")),
        Goal("RETR, TLS, every octet kept: CPU of mitmproxy's", 0.33, of("tls", cost, every, "mitmproxy")),
        Goal("RETR, TLS, default: CPU of haproxy's", 0.95, of("tls", cost, "poptap", "haproxy")),
        Goal("RETR, TLS, no hash: CPU of haproxy's", 0.7, of("tls", cost, none, "haproxy")),
        Goal("RETR, plain, every octet kept: CPU of haproxy's", 1.9, of("plain", cost, every, "haproxy")),
        Goal("RETR, plain, every octet kept: MB/s of haproxy's", 0.5, of("plain", rate, every, "haproxy"), at_most=False),
        Goal("RETR, plain, default: CPU of the bare relay's", 2.5, of("plain", cost, "poptap", "copy")),
        Goal("RETR, plain, no hash: CPU of the bare relay's", 1.3, of("plain", cost, none, "copy")),
        Goal("RETR, plain, off: CPU of the bare relay's", 1.2, of("plain", cost, off, "copy")),
        Goal("sessions, TLS, default: CPU of haproxy's", 0.45, of("tls", session, "poptap", "haproxy")),
        Goal("sessions, plain, default: CPU of haproxy's", 1.5, of("plain", session, "poptap", "haproxy")),
        Goal("sessions, TLS, default: rate of sslsplit's", 4.5, of("tls", often, "poptap", "sslsplit"), at_most=False),
        Goal("sessions, TLS, default: rate of mitmproxy's", 10, of("tls", often, "poptap", "mitmproxy"), at_most=False),
    ]
    for leg, limit in [("plain", 1.1), ("tls", 0.9)]:
        for metric, name in [("p50_us", "p50"), ("p99_us", "p99")]:
            goals.append(Goal(f"NOOP, {leg}, default: added {name} of haproxy's", limit, added(leg, metric, "poptap", "haproxy")))
    goals += [
        Goal("pipelined NOOP, plain, off: M/s", 2.0, alone("plain", noop, off, 1e-6), at_most=False),
        Goal("pipelined NOOP, plain, off: CPU µs each", 0.45, alone("plain", "cpu_us_per_noop", off)),
        Goal("pipelined NOOP, plain, default: M/s", 0.6, alone("plain", noop, "poptap", 1e-6), at_most=False),
    ]
    for leg, limit in [("plain", 6), ("tls", 24)]:
        goals += [Goal(f"idle, {leg}, {count}: KiB each", limit, held(leg, f"idle_{count}_kib")) for count in (FEW, MANY)]
        goals.append(Goal(f"resident at rest, {leg}: MiB", 8, held(leg, "base_kib", 1 / 1024)))
        goals.append(Goal(f"resident after a burst, {leg}: of what it was", 1.1, returned(leg)))
    return goals


def goals(results: Results) -> str:
    lines = [["goal", "", "measured (quartiles)", "met?"]]
    for goal in goal_list():
        values = goal.measured(results)
        if values:
            sign = "≤" if goal.at_most else "≥"
            lines.append([goal.text, f"{sign} {goal.limit:g}", spread(values), "yes" if goal.met(values) else "NO"])
    return f"\nGoals; ratios are taken within a turn\n\n{aligned(lines)}"


def spread(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.2f}"
    low, middle, high = quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({low:.2f}–{high:.2f})"


def aligned(lines: list[list[str]]) -> str:
    """A table in Markdown whose columns stand below each other."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([rows[0], rule, *rows[1:]])
