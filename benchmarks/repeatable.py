"""Everything twice with the same seeds: are data, cache, metrics and weights the same bytes?"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import finish, parser


def file_digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def command(words: list[str]) -> dict[str, Any]:
    """What one fusecache command prints with ``--json``."""
    line = [sys.executable, "-m", "fusecache", *words, "--json"]
    return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


def main() -> None:
    """Twice: data, features, cache, training, in another folder and another process; then compared."""
    options = parser(__doc__ or "")
    options.add_argument("--epochs", type=int, default=2, help="epochs of each training (default: 2)")
    args = options.parse_args()
    told: list[dict[str, object]] = []
    trees: list[dict[str, str]] = []
    for number in range(2):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            command(["data", "digits", "--out", f"{folder}/data"])
            command(
                ["extract", f"{folder}/data/manifest.csv", "--recipe", "digits", "--out", f"{folder}/cache"]
            )
            info = command(["cache", "info", f"{folder}/cache"])
            overrides = ["--set", f"train.epochs={args.epochs}"]
            answer = command(
                ["train", f"{folder}/cache", "--recipe", "digits", "--out", f"{folder}/run", *overrides]
            )
            told.append({"fingerprint": info["fingerprint"], "test": answer["test"], "val": answer["val"]})
            kept = {f"data/{path}": digest for path, digest in file_digests(folder / "data").items()}
            kept |= {
                f"cache/store/{path}": digest
                for path, digest in file_digests(folder / "cache" / "store").items()
            }
            files = [folder / "cache" / "manifest.json"]
            files += [
                folder / "run" / each
                for each in ("best.safetensors", "last.safetensors", "result.json", "features.npz")
            ]
            kept |= {
                str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files
            }
            trees.append(kept)
            print(f"run {number + 1}: fingerprint {info['fingerprint']}, test {answer['test']}", flush=True)
    differing = sorted(name for name in {*trees[0], *trees[1]} if trees[0].get(name) != trees[1].get(name))
    figures = {
        "same_metrics": told[0]["test"] == told[1]["test"] and told[0]["val"] == told[1]["val"],
        "same_fingerprint": told[0]["fingerprint"] == told[1]["fingerprint"],
        "files_compared": len(trees[0]),
        "files_differing": differing,
    }
    print(f"{figures['files_compared']} files of data, cache and run compared, {len(differing)} differ")
    finish(args, figures)


if __name__ == "__main__":
    main()
