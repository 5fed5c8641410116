"""poptap by itself, and with somebody who looks: the live page open, and the counts read each second."""

import re
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from . import measure, report
from .peers import Peer, Programs, Running, Site, poptap
from .scaling import in_turns

MIB = 64
GOAL = 0.97
ALONE, LOOKED_AT = "by itself", "page open, counts read each second"
WEB = '[web]\nlisten = "127.0.0.1:0"\n[metrics]\nlisten = "127.0.0.1:0"\n'
# Of a load: the rate, and what one costs.
SHOWN = [("sessions", "sessions_per_s", "cpu_us_per_session"), ("RETR", "mb_per_s", "cpu_s_per_gb"), ("pipelined NOOP", "noops_per_s", "cpu_us_per_noop")]


def run(programs: Programs, folder: Path, turns: int) -> None:
    with measure.served(programs, folder, None, MIB, measure.ENDS) as upstream:
        sites = {name: measure.site(folder / name.split()[0], upstream, None, programs) for name in (ALONE, LOOKED_AT)}
        peers = {ALONE: peer(""), LOOKED_AT: peer(WEB)}
        found = in_turns(sites, peers, turns, work)
    lines = [["load", "", "rate", "CPU each", "of the rate alone (range)"]]
    for load, rate, cost in SHOWN:
        ratios = [looked[rate] / alone[rate] for alone, looked in zip(found[ALONE], found[LOOKED_AT])]
        for name, rows in found.items():
            ratio = "1" if name == ALONE else f"{median(ratios):.3f} ({min(ratios):.2f}–{max(ratios):.2f})"
            lines.append([load, name, f"{median(row[rate] for row in rows):.0f}", f"{median(row[cost] for row in rows):.3g}", ratio])
    print(f"\nWith and without somebody who looks; medians of {turns} turns\n\n{report.aligned(lines)}")
    print(f"\nThe goal: at least {GOAL} of the rate")


def peer(text: str) -> Peer:
    return Peer("poptap", "poptap", lambda site: poptap(site, text))


def work(running: Running, where: Site) -> measure.Row:
    with looked_at(where):
        return measure.sessions(running, where, MIB) | measure.retr(running, where, MIB) | measure.pipeline(running, where, MIB)


@contextmanager
def looked_at(where: Site) -> Iterator[None]:
    """Has the page open, as far as the site has one, and reads the counts each second. The browser is on the ends' processor."""
    said = (where.folder / "log").read_text(errors="replace")
    page = re.search(r"watch sessions at (http://\S+?)/\?(token=\w+)", said)
    counts = re.search(r"metrics are served at (http://\S+)", said)
    with ExitStack() as open_for_now:
        if page:
            open_for_now.enter_context(reading(page[1], page[2], where.folder / "cookie"))
        if counts:
            open_for_now.enter_context(scraping(counts[1]))
        yield


@contextmanager
def reading(url: str, token: str, jar: Path) -> Iterator[None]:
    subprocess.run(["curl", "-sf", "-c", jar, "-o", "/dev/null", f"{url}/?{token}"], check=True)
    command = ["taskset", "-c", ",".join(map(str, measure.ENDS)), "curl", "-sfN", "-b", str(jar), "-o", "/dev/null", f"{url}/api/events"]
    browser = subprocess.Popen(command)
    try:
        yield
        if browser.poll() is not None:
            raise RuntimeError(f"the page's events ended: curl {browser.returncode}")
    finally:
        browser.terminate()
        browser.wait()


@contextmanager
def scraping(url: str) -> Iterator[None]:
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(1.0):
            urllib.request.urlopen(url, timeout=5).read()

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
