"""Make ``.venv``, bring uv into it, install the locked packages and this project.

Run by the make targets with whatever ``python3`` is on the path, so it uses the standard library alone and syntax
that an old Python still parses: a wrong version must end in one sentence, not in a SyntaxError.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import time
from typing import List, NoReturn

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
WINDOWS = os.name == "nt"
BIN = os.path.join(VENV, "Scripts" if WINDOWS else "bin")
PYTHON = os.path.join(BIN, "python.exe" if WINDOWS else "python")
STAMP = os.path.join(VENV, "fusecache-setup.txt")
INPUTS = ("requirements.txt", "requirements-uv.txt", "pyproject.toml", "setup.py", "tools/setup_env.py")
OLDEST, NEWEST = (3, 11), (3, 14)
NEEDED_GB = 8.0  # the installed set is 5 GB on Linux (torch brings CUDA libraries), plus the download cache


def fail(sentence: str) -> NoReturn:
    """Leave with one sentence that says what to do."""
    sys.stderr.write("set-up: " + sentence + "\n")
    raise SystemExit(1)


def suitable_python() -> str:
    """The interpreter to build on: this one, or another on the path of a version that we support."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return sys.executable
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        found = shutil.which("python3.%d" % minor)
        if (
            found
            and subprocess.call([found, "-c", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0
        ):
            return found
    fail(
        "fusecache needs Python 3.%d to 3.%d, this is %d.%d and no other is on the path; install one and run "
        "`make setup PYTHON=python3.12`." % (OLDEST[1], NEWEST[1], sys.version_info[0], sys.version_info[1])
    )


def fingerprint() -> str:
    """Digest of everything that decides what gets installed."""
    whole = hashlib.sha256(VENV.encode())
    for name in INPUTS:
        with open(os.path.join(ROOT, name), "rb") as file:
            whole.update(file.read())
    return whole.hexdigest()


def run(command: List[str], what: str, remedy: str) -> None:
    """Run one step; where it fails show the end of its output and one sentence."""
    done = subprocess.run(command, check=False, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if done.returncode == 0:
        return
    text = done.stdout.decode("utf-8", "replace")
    sys.stderr.write("".join("    %s\n" % line for line in text.strip().splitlines()[-12:]))
    low = text.lower()
    if "no space left" in low or "os error 28" in low or "disk quota" in low:
        remedy = "the disk is full: free %.0f GB and run `make setup` again." % NEEDED_GB
    elif any(
        word in low
        for word in (
            "could not connect",
            "dns error",
            "name resolution",
            "connection refused",
            "timed out",
            "network is unreachable",
            "failed to fetch",
            "error sending request",
            "newconnectionerror",
            "could not find a version",
            "connecterror",
        )
    ):
        remedy = (
            "the package index could not be reached: check the network (or set PIP_INDEX_URL and UV_DEFAULT_INDEX to "
            "a mirror) and run `make setup` again; nothing that was downloaded is lost."
        )
    elif "hash mismatch" in low or "do not match the hashes" in low:
        remedy = "a package differs from the locked one: use an index that serves the original files."
    fail(what + " failed: " + remedy)


def main() -> None:
    """Install unless the stamp says that this very set is installed."""
    began = time.time()
    wanted = fingerprint()
    try:
        with open(STAMP) as file:
            if file.read() == wanted and os.path.exists(PYTHON):
                return
    except (IOError, OSError):
        pass
    base = suitable_python()
    try:
        free = shutil.disk_usage(ROOT).free / 1e9
    except OSError as error:
        fail("the folder %s cannot be read (%s): clone into another folder." % (ROOT, error))
    if free < NEEDED_GB and not os.path.exists(PYTHON):
        fail(
            "%.1f GB are free in %s and %.0f GB are needed: free some and run `make setup` again."
            % (free, ROOT, NEEDED_GB)
        )
    sys.stderr.write(
        "set-up: installing the locked packages into .venv (once; some minutes on a slow network) ...\n"
    )
    if os.path.exists(STAMP):
        os.remove(STAMP)
    run(
        [base, "-m", "venv", "--clear", VENV],
        "making .venv",
        "install the venv module of this Python (on Debian and Ubuntu: apt install python3-venv) and run `make setup` again.",
    )
    run(
        [
            PYTHON,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--require-hashes",
            "--only-binary",
            ":all:",
            "-r",
            "requirements-uv.txt",
        ],
        "bringing uv into .venv",
        "read the lines above, mend what they name and run `make setup` again.",
    )
    uv = [PYTHON, "-m", "uv", "pip", "install", "--python", PYTHON, "--no-progress"]
    run(
        [*uv, "--require-hashes", "--only-binary", ":all:", "-r", "requirements.txt"],
        "installing requirements.txt",
        "read the lines above, mend what they name and run `make setup` again.",
    )
    run(
        [*uv, "--no-deps", "--no-build-isolation", "--editable", "."],
        "installing fusecache itself",
        "read the lines above; if they name a file of this project, your checkout is damaged: clone again.",
    )
    with open(STAMP, "w") as file:
        file.write(wanted)
    sys.stderr.write("set-up: done in %.0f s\n" % (time.time() - began))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        fail("interrupted; run `make setup` again to go on.")
