"""poptap with rules and without: what it costs to ask a hundred patterns about every command."""

from pathlib import Path
from statistics import median

from . import measure, report
from .peers import Peer, Programs, Running, Site, poptap
from .scaling import in_turns

MIB = 1
COUNT = 100
GOAL = 0.5


def run(programs: Programs, folder: Path, turns: int) -> None:
    """The pipelined NOOP rate, with and without a transcript, in interleaved turns on one processor."""
    lines = [["transcript", "rules", "NOOP k/s", "CPU µs each", "of the rate without (range)"]]
    with measure.served(programs, folder, None, MIB, measure.ENDS) as upstream:
        for name, transcript in [("off", "enabled = false"), ("default", "")]:
            lines += compared(programs, folder / name, upstream, name, transcript, turns)
    print(f"\nPipelined NOOPs; medians of {turns} turns\n\n{report.aligned(lines)}")
    print(f"\nThe goal: with {COUNT} rules, each with a pattern, at least {GOAL} of the rate without")


def compared(programs: Programs, folder: Path, upstream: int, name: str, transcript: str, turns: int) -> list[list[str]]:
    folder.mkdir()
    settings = {0: transcript, COUNT: transcript + rules()}
    sites = {count: measure.site(folder / str(count), upstream, None, programs) for count in settings}
    peers = {count: ruled(text) for count, text in settings.items()}
    found = in_turns(sites, peers, turns, work)
    ratios = [with_rules["noops_per_s"] / without["noops_per_s"] for without, with_rules in zip(found[0], found[COUNT])]
    lines = []
    for count, rows in found.items():
        rate, cost = (median(row[key] for row in rows) for key in ("noops_per_s", "cpu_us_per_noop"))
        ratio = f"{median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})" if count else "1"
        lines.append([name, str(count), f"{rate / 1e3:.0f}", f"{cost:.2f}", ratio])
    return lines


def work(running: Running, where: Site) -> measure.Row:
    if running.process:
        running.process.pin(measure.TOGETHER)
    row = measure.pipeline(running, where, MIB)
    running.shed()
    return row


def ruled(text: str) -> Peer:
    return Peer("poptap", "poptap", lambda site: poptap(site, text))


def rules() -> str:
    """None of them matches a NOOP; each could match some line."""
    one = "\n[[rule]]\nname = \"{0}\"\nwhen = {{ line = '^(retr|dele|x{0}) [0-9]*{0}$' }}\naction = \"deny\"\n"
    return "".join(one.format(number) for number in range(COUNT))
