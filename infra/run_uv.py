"""Run uv with the index, certificate, proxy and trusted hosts that pip is configured with. The arguments are uv's own.

    python infra/run_uv.py pip install --requirements infra/locks/packages.txt

uv does not read pip's configuration, and a machine behind a mirror or a proxy often has no other.
"""

import ast
import os
import subprocess
import sys
from pathlib import Path

SETTINGS = {
    "index-url": "UV_DEFAULT_INDEX",
    "cert": "SSL_CERT_FILE",
    "proxy": "ALL_PROXY",
    "trusted-host": "UV_INSECURE_HOST",
}
"""Further indexes (`extra-index-url`) are left out: they may hold other files of the same version."""

NOT_INSTALLED = 127


def run(*arguments: str, cwd: Path | None = None) -> int:
    """Run the uv of this Python's environment; its exit code, or NOT_INSTALLED."""
    uv = Path(sys.executable).with_name("uv")
    if not uv.exists():
        return NOT_INSTALLED
    ask = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(ask, check=False, capture_output=True, text=True)
    environment = from_pip(listed.stdout) | cache() | os.environ | {"VIRTUAL_ENV": sys.prefix}
    return subprocess.run([uv, *arguments], check=False, env=environment, cwd=cwd).returncode


def from_pip(settings: str) -> dict[str, str]:
    """uv's variables for what `pip config list` prints. As with pip, its variables count more than its files."""
    found: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in settings.splitlines():
        name, _, value = line.partition("=")
        section, _, key = name.partition(".")
        if section in found and key in SETTINGS:
            found[section][SETTINGS[key]] = " ".join(ast.literal_eval(value).split())
    return found["global"] | found["install"] | found[":env:"]


def cache() -> dict[str, str]:
    """uv does not start where it cannot keep a cache, as for a user without a home: then it needs to be told."""
    parent = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    folder = Path(os.environ.get("UV_CACHE_DIR") or Path(parent, "uv"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return {"UV_NO_CACHE": "1"}
    return {} if os.access(folder, os.W_OK) else {"UV_NO_CACHE": "1"}


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
