"""What an extraction is told: which encoders, and how careful to be.

Plain frozen values that load from a recipe on a machine that cannot extract: nothing heavy is imported here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from fusecache.cache import DType, Seconds
from fusecache.cache.errors import InputError, several
from fusecache.cache.spec import check_name


@dataclass(frozen=True, kw_only=True, slots=True)
class EncoderConfig:
    """One encoder of the recipe. The modality name is the key it stands under."""

    encoder: str
    """Name in the encoder table (``logmel``) or import path (``mylab.encoders:Mine``)."""
    weights: str = ""
    """Empty for weight-free encoders; else ``random``, ``random:SEED``, a hub id or a local folder."""
    dtype: DType = "float16"
    """How the rows are stored."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """The encoder's own options, such as ``n_mels: 64``. Unknown ones are an error."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractConfig:
    """One extraction: encoders by modality name, and the limits within which files are read."""

    encoders: dict[str, EncoderConfig]
    """Modality name to encoder, in the order in which the cache lists them."""
    shard_samples: int = 500
    """Rows of the media manifest per shard: the unit of work, resume and retry."""
    max_reject_share: float = 0.05
    """The run fails, after writing the list of rejects, when more than this share of samples is rejected."""
    on_partial: Literal["mark", "reject"] = "reject"
    """A file that ends before its container says: keep what there is and flag it, or reject the sample."""
    workers: int = 2
    """Child processes that decode and prepare."""
    batch_items: int = 16
    """Most items (windows, frames, utterances) in one forward pass of an encoder."""
    device: str = "auto"
    """Torch device of the encoders. ``auto``: the first CUDA device if there is one, else the CPU."""
    decode_timeout: Seconds = 60.0
    """A file that takes longer is rejected and its process killed."""
    max_clip_bytes: int = 2 << 30
    """Most memory one decoded clip may take; larger ones are rejected with the advice to give clip bounds."""
    reuse_bytes: int = 1 << 30
    """Memory for rows of clips that serve samples of several shards. Beyond it they are encoded again."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        if not self.encoders:
            problems.append(
                "encoders: at least one is needed, got none; add one such as audio: {encoder: logmel}"
            )
        for name, least in (("shard_samples", 1), ("workers", 1), ("batch_items", 1), ("max_clip_bytes", 1)):
            if getattr(self, name) < least:
                problems.append(f"{name}: must be at least {least}, got {getattr(self, name)}; raise it")
        if self.reuse_bytes < 0:
            problems.append(f"reuse_bytes: must be 0 or more, got {self.reuse_bytes}; 0 turns reuse off")
        if not 0 <= self.max_reject_share <= 1:
            problems.append(
                f"max_reject_share: a share between 0 and 1, got {self.max_reject_share}; 0.05 is five percent"
            )
        if not 0 < self.decode_timeout < float("inf"):
            problems.append(
                f"decode_timeout: a positive number of seconds, got {self.decode_timeout}; 60 is the default"
            )
        if self.on_partial not in ("mark", "reject"):
            problems.append(f"on_partial: must be 'mark' or 'reject', got {self.on_partial!r}")
        for modality in self.encoders:
            try:
                check_name(modality, "modality")
            except InputError as error:
                problems.append(f"encoders: {error}")
        if problems:
            raise InputError(several("The extraction settings cannot be used", problems))
