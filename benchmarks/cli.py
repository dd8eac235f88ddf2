"""How fast the command line answers: ``fusecache --help`` and each verb's help, whole processes."""

import statistics
import subprocess
import sys
import time

from benchmarks.common import finish, parser, spread

COMMANDS = {
    "python": ["-c", "pass"],
    "help": ["-m", "fusecache", "--help"],
    "train_help": ["-m", "fusecache", "train", "--help"],
    "version": ["-m", "fusecache", "--version"],
}


def main() -> None:
    """Interleaved runs; medians."""
    options = parser(__doc__ or "")
    options.add_argument("--repeats", type=int, default=11)
    args = options.parse_args()
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(args.repeats):
        for name, words in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - began)
    for name, values in times.items():
        print(f"{name:12s} {spread(values)} s")
    finish(args, {f"{name}_s": round(statistics.median(values), 4) for name, values in times.items()})


if __name__ == "__main__":
    main()
