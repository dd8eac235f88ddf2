"""The demo twice with the same seeds: are metrics, weights, report and cache the same bytes?"""

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import finish, parser


def file_digests(folder: Path) -> dict[str, str]:
    """sha256 of every file below a folder."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def main() -> None:
    """Two demos in two folders, compared."""
    args = parser(__doc__ or "").parse_args()
    told: list[dict[str, object]] = []
    trees: list[dict[str, str]] = []
    for number in range(2):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "demo"
            done = subprocess.run(
                [sys.executable, "-m", "fusecache", "demo", "--json", "--out", str(out)],
                check=True,
                capture_output=True,
                text=True,
            )
            answer = json.loads(done.stdout.splitlines()[-1])
            run = Path(answer["train"]["run"])
            told.append(
                {
                    "fingerprint": answer["cache"]["fingerprint"],
                    "test": answer["train"]["test"],
                    "val": answer["train"]["val"],
                }
            )
            stores = {
                f"store/{name}": digest
                for name, digest in file_digests(Path(answer["extract"]["cache"]) / "store").items()
            }
            weights = {
                name: hashlib.sha256((run / name).read_bytes()).hexdigest()
                for name in ("best.safetensors", "last.safetensors", "result.json")
            }
            trees.append({**stores, **weights})
            print(f"run {number + 1}: fingerprint {told[-1]['fingerprint']}, test {told[-1]['test']}")
    differing = sorted(name for name in {*trees[0], *trees[1]} if trees[0].get(name) != trees[1].get(name))
    figures = {
        "same_metrics": told[0]["test"] == told[1]["test"] and told[0]["val"] == told[1]["val"],
        "same_fingerprint": told[0]["fingerprint"] == told[1]["fingerprint"],
        "files_compared": len(trees[0]),
        "files_differing": differing,
    }
    print(f"{figures['files_compared']} files of store and run compared, {len(differing)} differ")
    finish(args, figures)


if __name__ == "__main__":
    main()
