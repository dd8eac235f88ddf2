"""Speech for the demo task: espeak-ng 1.52, driven by ctypes in a process of its own.

The library and its voices come in the ``espeakng-loader`` wheel. It is native code that may end the whole process
(a data path of about 100 characters does), so it never runs in ours: :func:`speak` writes a job list, starts a fresh
interpreter on :func:`child`, and reads 16-bit samples back from a file. The child reaches the voice data through a
short temporary link. espeak-ng is GPL-3 and therefore an extra; nothing else here imports it.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fusecache.cache import FusecacheError, MissingExtraError

RATE = 22_050
"""Samples per second that espeak-ng delivers with its formant voices."""

ACCENTS = (
    "en-us",
    "en",
    "en-gb-scotland",
    "en-029",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-gb-x-rp",
    "en-us-nyc",
)
"""English voices that take a variant by name (``en-gb`` alone is refused)."""

_SYNCHRONOUS = 2
_DONT_EXIT = 0x8000
_UTF8 = 1
_PARAMETERS = {"rate": 1, "pitch": 3, "range": 4}
_SHORT = 60
"""Longest temporary folder, in characters, that leaves the link well below the fatal length."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Utterance:
    """One word to be spoken."""

    text: str
    voice: str
    """Accent and variant, such as ``en-us+m3``."""
    rate: int
    """Words a minute, 80 to 450."""
    pitch: int
    """0 to 100, 50 is the voice's own."""
    range: int
    """Liveliness of the pitch, 0 to 100."""


def locate() -> tuple[Path, Path]:
    """Library file and voice data of the installed wheel.

    Raises:
        MissingExtraError: espeakng-loader is not installed, or lacks them on this platform.
    """
    try:
        import espeakng_loader  # pyright: ignore[reportMissingTypeStubs]
    except ImportError as error:
        raise MissingExtraError(
            "the digits data need synthesised speech, and espeakng-loader is not installed; "
            "run: pip install 'fusecache[demo]'"
        ) from error
    library, data = (
        Path(espeakng_loader.get_library_path()),
        Path(espeakng_loader.__file__).parent / "espeak-ng-data",
    )
    if absent := [str(path) for path in (library, data) if not path.exists()]:
        raise MissingExtraError(
            f"the installed espeakng-loader lacks {' and '.join(absent)}; "
            "install it again: pip install --force-reinstall 'fusecache[demo]'"
        )
    return library, data


def variants(data: Path) -> list[str]:
    """Names of the voice variants under ``data`` (104 in espeakng-loader 0.2.4), sorted by code point."""
    return sorted(path.name for path in (data / "voices" / "!v").iterdir())


def speak(
    utterances: Sequence[Utterance],
    *,
    on_progress: Callable[[int, int], None] | None = None,
    time_limit: float = 300.0,
) -> list[NDArray[np.int16]]:
    """Speak every utterance, in order, in one child process.

    The samples are a function of the whole list: a voice keeps some state from one utterance to the next, and nine
    of them (whisper, Demonic, f2, ...) mix in noise from a generator that espeak-ng seeds with the clock; here every
    utterance seeds it with its place in the list.

    Args:
        utterances: what to say. About 3 ms each.
        on_progress: called with (done, total), about every 50 utterances.
        time_limit: seconds after which the child is killed.

    Returns:
        One int16 array ``[samples]`` per utterance, mono at :data:`RATE`.

    Raises:
        MissingExtraError: espeakng-loader is not installed.
        FusecacheError: the child died, was refused a voice or hung; the message ends with what it last wrote.
    """
    library, data = locate()
    if not utterances:
        return []
    with _short_folder() as folder:
        jobs, out, log = folder / "jobs", folder / "out", folder / "log"
        jobs.write_text(json.dumps([asdict(utterance) for utterance in utterances]), encoding="utf-8")
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                [sys.executable, "-P", "-c", "from fusecache.datasets.espeak import child; child()"]
                + [str(path) for path in (library, data, folder)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            ) as process,
        ):
            watch = threading.Timer(time_limit, process.kill)
            watch.start()
            try:
                lengths = _listen(process, len(utterances), on_progress)
            finally:
                watch.cancel()
                process.kill()
        if lengths is None:
            tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
            raise FusecacheError(
                f"the speech synthesis of {len(utterances)} words did not finish: its process ended with code "
                f"{process.returncode} (negative: killed by that signal; limit {time_limit:g} s); it last wrote: "
                f"{' / '.join(tail) or 'nothing'}; run it again, and if it ends the same way, "
                "install espeakng-loader again: pip install --force-reinstall 'fusecache[demo]'"
            )
        samples = np.fromfile(out, dtype=np.int16)
    return np.split(samples, np.cumsum(lengths)[:-1])


def _listen(
    process: subprocess.Popen[str], total: int, on_progress: Callable[[int, int], None] | None
) -> list[int] | None:
    """Follow the child's lines, ``done N`` and at last ``lengths N N ...``. None: it did not come to its end."""
    lengths: list[int] | None = None
    for line in process.stdout or ():
        word, *numbers = line.split() or [""]
        if word == "lengths" and line.endswith("\n"):
            lengths = [int(number) for number in numbers]
        elif word == "done" and on_progress is not None:
            on_progress(int(numbers[0]), total)
    return lengths if process.wait() == 0 and lengths is not None and len(lengths) == total else None


@contextlib.contextmanager
def _short_folder() -> Generator[Path]:
    """A temporary folder whose path is short enough for espeak-ng, removed at the end."""
    base = tempfile.gettempdir()
    if len(base) > _SHORT and os.access("/tmp", os.W_OK):
        base = "/tmp"
    folder = Path(tempfile.mkdtemp(prefix="fc", dir=base))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def child() -> None:
    """Body of the child process: ``LIBRARY DATA FOLDER`` in ``sys.argv``; reads ``jobs``, writes ``out``."""
    library, data, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    link = folder / "d"
    try:
        link.symlink_to(data, target_is_directory=True)
    except OSError:  # Windows lets only some users make links
        shutil.copytree(data, link)
    espeak = ctypes.CDLL(library)
    rate = espeak.espeak_Initialize(_SYNCHRONOUS, 0, os.fsencode(link), _DONT_EXIT)
    if rate != RATE:
        sys.exit(f"espeak_Initialize returned {rate}, expected the sample rate {RATE}")
    chunks: list[bytes] = []

    def take(wave: int | None, count: int, _events: int | None) -> int:
        if wave and count > 0:
            chunks.append(ctypes.string_at(wave, 2 * count))
        return 0

    callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)(take)
    espeak.espeak_SetSynthCallback(callback)
    espeak.espeak_Synth.argtypes = (
        [ctypes.c_char_p, ctypes.c_size_t, ctypes.c_uint, ctypes.c_int, ctypes.c_uint, ctypes.c_uint]
        + [ctypes.c_void_p] * 2
    )  # fmt: skip
    lengths: list[int] = []
    with (folder / "out").open("wb") as out:
        for number, job in enumerate(json.loads((folder / "jobs").read_text(encoding="utf-8"))):
            if code := espeak.espeak_SetVoiceByName(job["voice"].encode()):
                sys.exit(f"voice {job['voice']!r} was refused with code {code}")
            espeak.espeak_ng_SetRandSeed(ctypes.c_long(number + 1))
            for name, index in _PARAMETERS.items():
                espeak.espeak_SetParameter(index, int(job[name]), 0)
            text = job["text"].encode() + b"\0"
            if code := espeak.espeak_Synth(text, len(text), 0, 0, 0, _UTF8, None, None):
                sys.exit(f"{job['text']!r} in voice {job['voice']!r} was refused with code {code}")
            sound = b"".join(chunks)
            chunks.clear()
            if not sound:
                sys.exit(f"{job['text']!r} in voice {job['voice']!r} gave no sound")
            out.write(sound)
            lengths.append(len(sound) // 2)
            if number % 50 == 49:
                sys.stdout.write(f"done {number + 1}\n")
                sys.stdout.flush()
    sys.stdout.write(f"done {len(lengths)}\nlengths {' '.join(map(str, lengths))}\n")
