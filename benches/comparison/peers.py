"""The peers, and how each is set up: as its documentation suggests, with room for many connections."""

import shutil
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .process import Process

MITMPROXY = Path(__file__).resolve().parents[2] / "target" / "bench-peers" / "mitmproxy" / "bin" / "mitmdump"
NGINX_STREAM = "/usr/lib/nginx/modules/ngx_stream_module.so"


@dataclass(frozen=True)
class Programs:
    poptap: Path
    load: Path


@dataclass
class Site:
    """What a peer has to know: where to write, where the server is, and the certificates where there is TLS."""

    folder: Path
    upstream: int
    certs: Path | None
    programs: Programs
    cores: set[int]
    environment: dict[str, str] | None = None

    def cert(self, name: str) -> str:
        return str(self.certs / name) if self.certs else ""

    def write(self, name: str, text: str) -> str:
        path = self.folder / name
        path.write_text(text)
        return str(path)

    def start(self, command: list[str], port: int | None) -> "Running":
        process = Process(command, self.folder / "log", self.cores, self.environment)
        if port is None:
            port = process.told_port()
        else:
            process.listens(port)
        return Running(process, port, self.folder)


@dataclass
class Running:
    process: Process | None
    port: int
    folder: Path

    def shed(self) -> None:
        """Empties what the peer wrote, so that no disk fills up. poptap's store has limits of its own."""
        for path in self.folder.glob("kept*"):
            path.open("wb").close()


@dataclass(frozen=True)
class Peer:
    name: str
    label: str
    start: Callable[[Site], Running]
    program: str = ""
    legs: tuple[str, ...] = ("plain", "tls")

    def lacks(self) -> str:
        if self.program and not shutil.which(self.program):
            return f"there is no {self.program}; `benches/compare --install` brings it"
        return ""


def free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]


def direct(site: Site) -> Running:
    return Running(None, site.upstream, site.folder)


def haproxy(site: Site) -> Running:
    port = free_port()
    accept = f" ssl crt {site.cert('server-both.pem')}" if site.certs else ""
    server = f" ssl verify required ca-file {site.cert('ca.pem')} sni str(localhost) verifyhost localhost" if site.certs else ""
    config = site.write(
        "haproxy.cfg",
        f"""
global
    maxconn 9900
    nbthread 1
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
listen bench
    bind 127.0.0.1:{port}{accept}
    server one 127.0.0.1:{site.upstream}{server}
""",
    )
    return site.start(["haproxy", "-db", "-f", config], port)


def nginx(site: Site) -> Running:
    port = free_port()
    tls = f"""
        ssl_certificate {site.cert("server.pem")};
        ssl_certificate_key {site.cert("server.key")};
        proxy_ssl on;
        proxy_ssl_trusted_certificate {site.cert("ca.pem")};
        proxy_ssl_verify on;
        proxy_ssl_server_name on;
        proxy_ssl_name localhost;
"""
    config = site.write(
        "nginx.conf",
        f"""
daemon off;
user root;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {site.folder}/pid;
error_log stderr;
load_module {NGINX_STREAM};
events {{ worker_connections 20000; }}
stream {{
    server {{
        listen 127.0.0.1:{port}{" ssl" if site.certs else ""};
        proxy_pass 127.0.0.1:{site.upstream};
        proxy_timeout 1h;
        {tls if site.certs else ""}
    }}
}}
""",
    )
    return site.start(["nginx", "-p", str(site.folder), "-c", config], port)


def stunnel(site: Site) -> Running:
    """It speaks TLS on one hop only, so there are two services of it behind each other, in one process."""
    port, between = free_port(), free_port()
    config = site.write(
        "stunnel.conf",
        f"""
foreground = yes
pid =
debug = 4
syslog = no
[clients]
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{between}
cert = {site.cert("server.pem")}
key = {site.cert("server.key")}
[server]
client = yes
accept = 127.0.0.1:{between}
connect = 127.0.0.1:{site.upstream}
CAfile = {site.cert("ca.pem")}
verifyChain = yes
checkHost = localhost
sni = localhost
""",
    )
    return site.start(["stunnel", config], port)


def sslsplit(site: Site) -> Running:
    port = free_port()
    # `-K` is the key of the certificates that it makes, in place of an RSA key.
    command = ["sslsplit", "-k", site.cert("ca.key"), "-c", site.cert("ca.pem"), "-K", site.cert("server.key"), "-u", "root"]
    command += ["-L", str(site.folder / "kept"), "ssl", "127.0.0.1", str(port), "127.0.0.1", str(site.upstream)]
    return site.start(command, port)


def mitmproxy(site: Site) -> Running:
    port = free_port()
    command = [str(MITMPROXY), "-q", "--listen-host", "127.0.0.1", "-p", str(port), "-w", str(site.folder / "kept")]
    command += ["--set", f"confdir={site.folder}", "--mode"]
    if site.certs:
        command += [f"reverse:tls://127.0.0.1:{site.upstream}", "--certs", f"*={site.cert('server-both.pem')}"]
        command += ["--set", f"ssl_verify_upstream_trusted_ca={site.cert('ca.pem')}"]
    else:
        command += [f"reverse:tcp://127.0.0.1:{site.upstream}"]
    return site.start(command, port)


def relay(site: Site, *options: str) -> Running:
    command = [str(site.programs.load), "relay", f"127.0.0.1:{site.upstream}", *options]
    if site.certs:
        command += ["--cert", site.cert("server.pem"), "--key", site.cert("server.key"), "--ca", site.cert("ca.pem")]
    return site.start(command, None)


def poptap(site: Site, transcript: str = "") -> Running:
    where = f'dir = "{site.folder}/transcript"'
    config = site.write("poptap.toml", f"[limits]\nconnections = 20000\n[transcript]\n{where}\n{transcript}\n")
    command = [str(site.programs.poptap), "run", "--config", config]
    if site.certs:
        command += ["--listen", "pop3s://127.0.0.1:0", "--cert", site.cert("server.pem"), "--key", site.cert("server.key")]
        command += ["--upstream", f"pop3s://localhost:{site.upstream}", "--upstream-ca", site.cert("ca.pem")]
    else:
        command += ["--listen", "127.0.0.1:0", "--upstream", f"pop3://127.0.0.1:{site.upstream}"]
    return site.start(command, None)


EVERYTHING = 'content = "full"\nhash = "none"\ncompress = false'

PEERS = [
    Peer("direct", "direct", direct),
    Peer("haproxy", "haproxy", haproxy, "haproxy"),
    Peer("nginx", "nginx stream", nginx, "nginx"),
    Peer("stunnel", "stunnel, two services", stunnel, "stunnel", ("tls",)),
    Peer("sslsplit", "sslsplit -L", sslsplit, "sslsplit", ("tls",)),
    Peer("mitmproxy", "mitmproxy -w", mitmproxy, str(MITMPROXY)),
    Peer("copy", "bare relay", relay),
    Peer("write", "bare relay that writes", lambda site: relay(site, "--write", str(site.folder / "kept"))),
    Peer("poptap-full", "poptap, every octet kept", lambda site: poptap(site, EVERYTHING)),
    Peer("poptap", "poptap", poptap),
    Peer("poptap-none", 'poptap, hash = "none"', lambda site: poptap(site, 'hash = "none"')),
    Peer("poptap-off", "poptap, no transcript", lambda site: poptap(site, "enabled = false")),
]
NAMES = [peer.name for peer in PEERS]


def of_leg(leg: str, names: list[str]) -> tuple[list[Peer], list[tuple[Peer, str]]]:
    """Those that can be measured, and those that cannot, with the reason."""
    wanted = [peer for peer in PEERS if peer.name in names and leg in peer.legs]
    found = [peer for peer in wanted if not peer.lacks()]
    return found, [(peer, peer.lacks()) for peer in wanted if peer.lacks()]
