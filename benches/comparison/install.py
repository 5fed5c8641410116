"""Brings the peers, and builds poptap and the load program."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .peers import MITMPROXY, NGINX_STREAM, Programs

ROOT = Path(__file__).resolve().parents[2]
# What must exist, and the Debian package that brings it.
NEEDS = {
    "/usr/sbin/haproxy": "haproxy",
    "/usr/sbin/nginx": "nginx",
    NGINX_STREAM: "libnginx-mod-stream",
    "/usr/bin/sslsplit": "sslsplit",
    "/usr/bin/stunnel": "stunnel4",
}
SERVICES = ["haproxy", "nginx", "stunnel4"]
POLICY = Path("/usr/sbin/policy-rc.d")


def peers() -> None:
    """Installs what is missing. No service may start by that: each peer is started here, on ports of its own."""
    missing = {path: package for path, package in NEEDS.items() if not Path(path).exists()}
    if missing:
        debian_packages(list(missing.values()))
    if not MITMPROXY.exists():
        folder = MITMPROXY.parent.parent
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", "mitmproxy"], check=True)


def debian_packages(packages: list[str]) -> None:
    root = ["env"] if os.getuid() == 0 else ["sudo", "-n", "env"]
    guarded = POLICY.exists()
    if not guarded:
        subprocess.run([*root, "tee", POLICY], input=b"#!/bin/sh\nexit 101\n", stdout=subprocess.DEVNULL, check=True)
        subprocess.run([*root, "chmod", "755", POLICY], check=True)
    try:
        subprocess.run([*root, "apt-get", "update", "-qq"], check=True)
        get = ["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-qq", "--no-install-recommends"]
        subprocess.run([*root, *get, *packages], check=True)
    finally:
        if not guarded:
            subprocess.run([*root, "rm", "-f", POLICY], check=True)
    # Who had none of these before wants none after the next boot either.
    if shutil.which("systemctl"):
        for service in SERVICES:
            if service in packages:
                subprocess.run([*root, "systemctl", "disable", service], stderr=subprocess.DEVNULL, check=False)


def build(poptap: Path | None, load: Path | None) -> Programs:
    load = load or built(["bench", "--package", "poptap-benches", "--no-run", "--bench", "load"], "load")
    poptap = poptap or built(["build", "--release"], "poptap")
    return Programs(poptap=poptap.resolve(), load=load.resolve())


def built(arguments: list[str], target: str) -> Path:
    command = ["cargo", *arguments, "--locked", "--message-format=json-render-diagnostics"]
    output = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True).stdout
    for line in output.splitlines():
        message = json.loads(line)
        if message.get("executable") and message["target"]["name"] == target:
            return Path(message["executable"])
    sys.exit(f"cargo built no `{target}`")
