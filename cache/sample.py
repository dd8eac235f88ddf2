"""One sample as it goes into a cache and comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .spec import Seconds

MAX_KEY_BYTES = 65_536


@dataclass(frozen=True, kw_only=True, slots=True)
class Rows:
    """The features of one modality of one sample."""

    values: NDArray[Any]
    """``[rows, dim]``, float16 or float32 (bfloat16 arrives as float32). ``rows`` may be 0: present, but empty."""
    start: Seconds = 0.0
    """Start of row 0 on the media's own clock. Meaningful where the spec's timing is ``regular``."""
    times: NDArray[np.float64] | None = None
    """``[rows, 2]`` start and end of every row. Given exactly where the spec's timing is ``irregular``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """Everything a cache keeps of one sample. A missing modality is an absent name, never zeros."""

    key: str
    """Any non-empty UTF-8 up to 64 kB, unique in the cache."""
    rows: Mapping[str, Rows]
    labels: Mapping[str, str | float | tuple[str, ...] | None] = field(default_factory=dict[str, Any])
    """Label name to class name, number, or names; an absent name or None is unlabelled."""
    split: str = ""
    group: str = ""
    """Unit of leave-one-group-out and of the bootstrap, such as the speaker."""
    parent: str = ""
    """The medium this sample was cut from, such as the video of an utterance."""
    position: int = 0
    """Order within the parent."""
    start: Seconds = 0.0
    end: Seconds = float("inf")
    """Clip bounds within the parent; ``inf``: to its end."""


def check_key(key: str, where: str) -> bytes:
    """Return ``key`` as UTF-8.

    Raises:
        InputError: if it is empty, over 64 kB, or not encodable; ``where`` names the place.
    """
    try:
        raw = key.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{where}: key {key!r} is not valid Unicode text; give the sample a key that is"
        ) from error
    if not 0 < len(raw) <= MAX_KEY_BYTES:
        raise InputError(
            f"{where}: a key must have 1 to {MAX_KEY_BYTES} bytes, got {len(raw)}; give the sample another key"
        )
    return raw
