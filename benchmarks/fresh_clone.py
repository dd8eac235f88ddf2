"""A stranger's first minutes: clone, ``make demo``, ``make test``, with empty caches, split into set-up and work."""

import os
import re
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.common import finish, parser

ROOT = Path(__file__).resolve().parent.parent


def timed(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[int, float, str]:
    """Exit code, wall seconds, output."""
    began = time.perf_counter()
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, time.perf_counter() - began, done.stdout


def main() -> None:
    """Clone the committed state of this repository into a temporary folder and run the README's two commands."""
    options = parser(__doc__ or "")
    options.add_argument("--log", type=Path, help="keep the output of both commands in this file")
    args = options.parse_args()
    figures: dict[str, float | int] = {}
    with tempfile.TemporaryDirectory() as folder:
        clone = Path(folder) / "fusecache"
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("VIRTUAL_ENV", "FUSECACHE_DATA", "PYTHONPATH")
        }
        for name in ("UV_CACHE_DIR", "PIP_CACHE_DIR", "XDG_CACHE_HOME", "HOME"):
            environment[name] = str(Path(folder) / name.lower())
            Path(environment[name]).mkdir()
        log = ""
        for name in ("demo", "test"):
            code, wall, text = timed(["make", name], clone, environment)
            log += text
            setup = re.search(r"set-up: done in (\d+) s", text)
            figures[f"{name}_exit"] = code
            figures[f"{name}_setup_s"] = float(setup.group(1)) if setup else 0.0
            figures[f"{name}_work_s"] = round(wall - figures[f"{name}_setup_s"], 1)
            print(
                f"make {name}: exit {code}, {wall:.0f} s, of which set-up {figures[f'{name}_setup_s']:.0f} s"
            )
            if code:
                print(text[-4000:])
        if args.log:
            args.log.write_text(log)
    finish(args, figures)


if __name__ == "__main__":
    main()
