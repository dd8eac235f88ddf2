"""The child process that decodes: jobs in, prepared arrays out, until the pipe closes.

Started by :mod:`.pool`, which calls :func:`main` in a fresh interpreter. It holds no weights: of its encoders only ``needs``
and ``prepare`` are used. It may hang or crash on a bad file; the parent then kills it and starts another.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

from numpy.typing import NDArray

from fusecache.cache import FusecacheError, Seconds

from .clip import Clip, ClipError
from .config import EncoderConfig
from .decode import NoStreamError, Source, decode
from .encoder import Encoder, build_encoder


@dataclass(frozen=True, slots=True)
class Setup:
    """First message to a child."""

    path: list[str]
    """``sys.path`` of the parent, for encoders named by import path."""
    encoders: Mapping[str, EncoderConfig]
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Job:
    """Decode one source once, and prepare it for these modalities."""

    source: Source
    modalities: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a source gives nothing for a modality."""

    stage: str
    """``open``, ``decode``, ``prepare``, ``encode``, ``timeout``, ``crash``; ``stream`` where the file has no such track."""
    reason: str


@dataclass(frozen=True, slots=True)
class Ready:
    """A prepared clip."""

    clip: Clip
    """Without its payload."""
    items: NDArray[Any]
    """``[items, ...]`` as the encoder's ``prepare`` returned it."""


@dataclass(slots=True)
class Done:
    """Answer to a job: one outcome per modality."""

    outcomes: dict[str, Ready | Failure]
    seconds: dict[str, Seconds] = field(default_factory=dict[str, Seconds])
    """``decode`` and ``prepare``."""

    @property
    def nbytes(self) -> int:
        """Memory of the prepared arrays."""
        return sum(outcome.items.nbytes for outcome in self.outcomes.values() if isinstance(outcome, Ready))


def perform(job: Job, encoders: Mapping[str, Encoder], max_bytes: int) -> Done:
    """Do one job. Bad media become failures; a :class:`FusecacheError` (a missing library) is raised."""
    began = time.perf_counter()
    needs = [encoders[name].needs for name in job.modalities]
    try:
        clips = decode(job.source, needs, max_bytes=max_bytes)
    except FusecacheError:
        raise
    except Exception as error:  # noqa: BLE001  (the edge of a process: it becomes the reason of a reject)
        clips = [ClipError(f"{type(error).__name__}: {error}") for _ in needs]
    decoded = time.perf_counter()
    outcomes: dict[str, Ready | Failure] = {}
    for name, need, clip in zip(job.modalities, needs, clips, strict=True):
        if isinstance(clip, NoStreamError):
            outcomes[name] = Failure("stream", str(clip))
        elif isinstance(clip, ClipError):
            outcomes[name] = Failure("decode", str(clip))
        else:
            outcomes[name] = _prepare(encoders[name], replace(clip, stream=need.stream))
    return Done(outcomes, {"decode": decoded - began, "prepare": time.perf_counter() - decoded})


def _prepare(encoder: Encoder, clip: Clip) -> Ready | Failure:
    try:
        return Ready(clip.bare(), encoder.prepare(clip))
    except ClipError as error:
        return Failure("prepare", str(error))
    except FusecacheError:
        raise
    except Exception as error:  # noqa: BLE001  (the edge of a process: it becomes the reason of a reject)
        return Failure("prepare", f"{type(error).__name__}: {error}")


def main(handle: int) -> None:
    """Serve jobs over the pipe ``handle`` until the parent closes it or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with, args=(os.getppid(),), daemon=True).start()
    pipe: Connection[Any, Any] = Connection(handle)
    try:
        setup: Setup = pipe.recv()
        sys.path[:] = setup.path
        encoders = {
            name: build_encoder(
                config.encoder,
                modality=name,
                weights=config.weights,
                dtype=config.dtype,
                device="cpu",
                options=config.options,
            )
            for name, config in setup.encoders.items()
        }
        pipe.send(None)
        while True:
            job: Job = pipe.recv()
            pipe.send(perform(job, encoders, setup.max_bytes))
    except FusecacheError as error:
        pipe.send(error)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return


def _leave_with(parent: int) -> None:
    """End this process when its parent has died, even in the middle of a decode."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
