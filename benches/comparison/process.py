"""Processes: where they run, what they cost, how they end."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

START = 20.0
STOP = 10.0


class Process:
    """A process with its children, ended with `stop` by its own id. Its output is in a file."""

    def __init__(self, command: list[str], log: Path, cores: set[int], environment: dict[str, str] | None = None):
        self.log = log
        inherited = {name: value for name, value in os.environ.items() if name not in FORGOTTEN}
        with log.open("wb") as output:
            self.child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=inherited | (environment or {}),
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )

    def told_port(self) -> int:
        """The port that it says it listens on."""
        for _ in self.waiting():
            for line in self.log.read_text(errors="replace").splitlines():
                _, said, address = line.partition("listening on ")
                if said:
                    return int(address.split()[0].rpartition(":")[2])
        raise self.silent()

    def listens(self, port: int) -> None:
        """Waits until it does; the kernel is asked, since a connection would be work."""
        listening = [f"0100007F:{port:04X}", "0A"]
        for _ in self.waiting():
            if any(line.split()[1:4:2] == listening for line in Path("/proc/net/tcp").read_text().splitlines()):
                return
        raise self.silent()

    def waiting(self, seconds: float = START) -> Iterator[None]:
        """Goes on while it runs, for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.child.poll() is None:
            yield
            time.sleep(0.01)

    def silent(self) -> RuntimeError:
        self.stop()
        return RuntimeError(f"{self.child.args} does not listen: {self.log.read_text(errors='replace')[-2000:]}")

    def ids(self) -> list[int]:
        """It and its descendants."""
        found, waiting = [], [self.child.pid]
        while waiting:
            found.append(waiting.pop())
            for task in tasks(found[-1]):
                try:
                    waiting += map(int, Path(f"/proc/{found[-1]}/task/{task}/children").read_text().split())
                except OSError:
                    continue
        return found

    def cpu(self) -> float:
        """Seconds on a processor, of all its threads, those that have ended included."""
        # What clock_getcpuclockid(3) gives.
        return sum(time.clock_gettime_ns((~process << 3) | 2) for process in self.ids()) / 1e9

    def resident(self) -> float:
        """KiB in memory."""
        total = 0
        for process in self.ids():
            for line in Path(f"/proc/{process}/status").read_text().splitlines():
                if line.startswith("VmRSS:"):
                    total += int(line.split()[1])
        return total

    def pin(self, cores: set[int]) -> None:
        for process in self.ids():
            for task in tasks(process):
                os.sched_setaffinity(task, cores)

    def end(self) -> None:
        """Ends its input, for a program that ends by that."""
        if self.child.stdin:
            self.child.stdin.close()
        try:
            self.child.wait(STOP)
        except subprocess.TimeoutExpired:
            self.stop()

    def stop(self) -> None:
        if self.child.stdin:
            self.child.stdin.close()
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGTERM)
        try:
            self.child.wait(STOP)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


# What a developer may have set for poptap.
FORGOTTEN = ["POPTAP_CONFIG", "POPTAP_LOG", "RUST_LOG", "TOKIO_WORKER_THREADS"]


def tasks(process: int) -> list[int]:
    try:
        return [int(task) for task in os.listdir(f"/proc/{process}/task")]
    except OSError:
        return []


def last_json(text: str) -> dict[str, float]:
    lines = text.splitlines()
    if not lines:
        raise RuntimeError("a load said nothing")
    return json.loads(lines[-1])
