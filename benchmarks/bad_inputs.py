"""Bad input through the command line: exit code and message of each case."""

import csv
import os
import shutil
import subprocess
import sys
import tempfile
import wave
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import finish, parser
from fusecache import datasets

AUDIO_TEXT = ["--set", "extract.encoders={audio: {encoder: logmel}, text: {encoder: ngrams}}"]
VIDEO = ["--set", "extract.encoders={video: {encoder: framestats}}"]
STRICT = ["--set", "extract.max_reject_share=0.0"]
Case = tuple[int, str]


def command(*words: str, wrapper: Sequence[str] = ()) -> Case:
    """Exit code and stderr of one fusecache command."""
    done = subprocess.run(
        [*wrapper, sys.executable, "-m", "fusecache", *words], capture_output=True, text=True, check=False
    )
    return done.returncode, (done.stderr + done.stdout).strip()


def tone(path: Path, seconds: float) -> None:
    """A wav file of 16 kHz."""
    wave_form = (8000 * np.sin(np.arange(int(16_000 * seconds)) * 0.1)).astype("<i2")
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16_000, 0, "NONE", ""))
        file.writeframes(wave_form.tobytes())


def table(path: Path, rows: Sequence[dict[str, str]]) -> str:
    """A media manifest in CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def extract(manifest: str, out: Path, *options: str, wrapper: Sequence[str] = ()) -> Case:
    """Run ``fusecache extract`` with the digits recipe as the base."""
    return command("extract", manifest, "--recipe", "digits", "--out", str(out), *options, wrapper=wrapper)


def small_disk(folder: Path) -> Sequence[str]:
    """Wrap a command so that ``folder`` is a file system of 1 MB inside it; empty where the kernel does not allow it."""
    script = f'mount -t tmpfs -o size=1m tmpfs "{folder}" && exec "$@"'
    wrapper = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script, "sh"]
    allowed = (
        shutil.which("unshare")
        and subprocess.run([*wrapper, "true"], capture_output=True, check=False).returncode == 0
    )
    return wrapper if allowed else []


def cases(folder: Path) -> dict[str, Callable[[], Case]]:
    """Every case by name."""
    for seconds, name in ((0.5, "good"), (0.0, "empty"), (0.6, "good2")):
        tone(folder / f"{name}.wav", seconds)
    clip = next(path for path in datasets.clip_paths() if "bunny" in path.name)
    (folder / "half.mp4").write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    (folder / "words.txt").write_bytes(b"caf\xe9")
    good = table(
        folder / "good.csv",
        [{"key": "a", "audio": "good.wav", "text": "one"}, {"key": "b", "audio": "good2.wav", "text": "two"}],
    )

    def one(name: str, row: dict[str, str], *options: str) -> Case:
        return extract(table(folder / f"{name}.csv", [row]), folder / f"{name}-cache", *options, *STRICT)

    def other_encoder() -> Case:
        cache = folder / "other-cache"
        code, text = extract(
            good,
            cache,
            "--set",
            "extract.encoders={audio: {encoder: logmel, options: {n_mels: 64}}, text: {encoder: ngrams}}",
        )
        if code:
            return code, text
        return command("train", str(cache), "--recipe", "digits", "--out", str(folder / "run"))

    def unwritable() -> Case:
        (folder / "a-file").write_text("")
        return extract(good, folder / "a-file" / "cache", *AUDIO_TEXT)

    def full_disk() -> Case:
        disk = folder / "disk"
        disk.mkdir()
        rng = np.random.default_rng(0)
        rows: list[dict[str, str]] = []
        for index in range(40):
            tone(folder / f"long{index}.wav", 20.0 + float(rng.random()))
            rows.append({"key": f"k{index}", "audio": f"long{index}.wav", "text": "x"})
        wrapper = small_disk(disk)
        if not wrapper:
            return -1, "not run: this kernel lets no user mount a small file system"
        return extract(table(folder / "long.csv", rows), disk / "cache", *AUDIO_TEXT, wrapper=wrapper)

    def two_mistakes() -> Case:
        rows = [
            {"key": "a", "audo": "good.wav", "label.x": "1"},
            {"key": "a", "audo": "good2.wav", "label.x": "2"},
        ]
        return extract(table(folder / "bad.csv", rows), folder / "bad-cache", *AUDIO_TEXT)

    return {
        "missing manifest": lambda: extract(str(folder / "none.csv"), folder / "c0"),
        "bad column": two_mistakes,
        "missing file": lambda: one("missing", {"key": "a", "audio": "gone.wav", "text": "one"}, *AUDIO_TEXT),
        "truncated video": lambda: one("truncated", {"key": "a", "video": "half.mp4"}, *VIDEO),
        "zero-length audio": lambda: one(
            "empty", {"key": "a", "audio": "empty.wav", "text": "one"}, *AUDIO_TEXT
        ),
        "non-UTF-8 text": lambda: one(
            "latin", {"key": "a", "audio": "good.wav", "text_file": "words.txt"}, *AUDIO_TEXT
        ),
        "unwritable output": unwritable,
        "full disk": full_disk,
        "cache of another encoder": other_encoder,
    }


def main() -> None:
    """Print each message; a traceback, or exit code 0 or 1, counts as failed."""
    args = parser(__doc__ or "").parse_args()
    figures: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as name:
        os.environ["COLUMNS"] = "120"
        for case, function in cases(Path(name)).items():
            code, text = function()
            text = text.replace(name, "DIR")
            clear = code not in (0, 1) and "Traceback" not in text
            figures[case] = {"exit": code, "clear": clear, "message": text}
            print(f"## {case} (exit {code}{'' if clear else ', NOT CLEAR'})\n{text}\n")
    finish(
        args,
        {
            "cases": len(figures),
            "clear": sum(bool(each["clear"]) for each in figures.values()),
            "messages": figures,
        },
    )


if __name__ == "__main__":
    main()
