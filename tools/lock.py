"""Solve ``pyproject.toml`` into ``requirements.txt``: universal, every hash, no address of any index.

Wheels only, so that nothing needs a compiler at set-up.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = "# Made by `make lock` from pyproject.toml; installed by `make setup`. Do not edit.\n"
SOLVE = [
    *(
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--universal",
        "--python-version",
        "3.11",
        "--generate-hashes",
    ),
    *("--no-emit-index-url", "--no-emit-find-links", "--no-header", "--only-binary", ":all:", "--quiet"),
]


def main() -> None:
    """Write requirements.txt (all extras) and requirements-uv.txt (uv alone, for pip to bring in)."""
    whole = subprocess.run(
        [*SOLVE, "--all-extras", "pyproject.toml"], cwd=ROOT, check=True, capture_output=True, text=True
    )
    (ROOT / "requirements.txt").write_text(HEADER + whole.stdout)
    installer = subprocess.run(
        [*SOLVE, "-"], cwd=ROOT, check=True, capture_output=True, text=True, input="uv>=0.9\n"
    )
    (ROOT / "requirements-uv.txt").write_text(HEADER + installer.stdout)


if __name__ == "__main__":
    main()
