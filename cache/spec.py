"""What a cached feature is: one :class:`FeatureSpec` per modality, and the :class:`Producer` that made it.

A spec is to a feature stream what a header is to a wav file: enough to read the numbers and to say what
they mean. It lies in the cache manifest; training takes every width from here, so that no training
configuration can disagree with the data.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

import xxhash

from .errors import InputError

Seconds: TypeAlias = float
"""Time is in seconds, everywhere: never milliseconds, never frames."""

Stream: TypeAlias = Literal["audio", "video", "image", "text"]
"""The kind of medium that an encoder reads."""

DType: TypeAlias = Literal["float16", "bfloat16", "float32"]
"""How rows are stored. bfloat16 lies on disk as uint16 with the attribute ``dtype: bfloat16``."""

LabelKind: TypeAlias = Literal["class", "float", "multilabel"]

RESERVED_NAMES = frozenset({"samples", "labels"})
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")


def check_name(name: str, what: str) -> str:
    """Return ``name`` if it can name a modality or a label column, else raise.

    Names are folder names and command-line words: a lower-case letter, then lower-case letters, digits
    or underscores, at most 64 characters; ``samples`` and ``labels`` are taken by the store's own tables.

    Raises:
        InputError: naming the value and the rule.
    """
    if not _NAME.fullmatch(name) or name in RESERVED_NAMES:
        raise InputError(
            f"{what} name {name!r} cannot be used: write a lower-case letter followed by at most 63 lower-case "
            f"letters, digits or underscores, and not one of {sorted(RESERVED_NAMES)}"
        )
    return name


def canonical_json(value: object) -> str:
    """One text for one value: sorted names, no spaces, no NaN. What fingerprints are computed over."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(data: bytes) -> str:
    """xxh3-128 of ``data``, 32 hexadecimal digits: the checksum used for files and fingerprints."""
    return xxhash.xxh3_128_hexdigest(data)


@dataclass(frozen=True, kw_only=True, slots=True)
class Producer:
    """What made a feature: enough to make it again, and nothing that changes when it is only moved.

    Rows of two producers are never mixed in one modality. Library versions, device, decoder route and wall
    time are recorded beside the cache (``provenance/``), not here.
    """

    encoder: str
    """Name in the encoder table (``logmel``) or import path (``mylab.encoders:Mine``)."""
    weights: str
    """``none`` for weight-free encoders, ``random:SEED``, a hub id, or the name of a local file."""
    weights_hash: str
    """Digest of the tensors that were used; empty only where ``weights`` is ``none``."""
    settings: Mapping[str, Any]
    """Every option of the encoder with its resolved value: layer, pooling, preprocessing, window, hop, ..."""
    decode: str
    """The decode rule, such as ``pyav-sequential;audio=16000,mono``: what was fed to ``prepare``."""
    compute_dtype: DType = "float32"
    """What the encoder computed in (autocast type on a GPU)."""

    @property
    def is_random(self) -> bool:
        """Whether the weights are untrained. Every table and page that shows such features says so."""
        return self.weights.partition(":")[0] == "random"

    @property
    def label(self) -> str:
        """One word for tables: ``logmel``, or ``wavlm-base [random:0 weights]``."""
        return self.encoder if self.weights == "none" else f"{self.encoder} [{self.weights} weights]"


@dataclass(frozen=True, kw_only=True, slots=True)
class FeatureSpec:
    """One feature stream: for every sample an array ``[rows, dim]`` with its own number of rows.

    >>> producer = Producer(encoder="logmel", weights="none", weights_hash="", settings={}, decode="wav")
    >>> FeatureSpec(modality="audio", stream="audio", dim=40, producer=producer).dtype
    'float16'
    """

    modality: str
    """Name of the stream in this cache, such as ``audio`` or ``audio_wavlm``."""
    stream: Stream
    dim: int
    """Width of a row, at least 1."""
    producer: Producer
    dtype: DType = "float16"
    hop: Seconds | None = None
    """Time from one row's start to the next. None: rows have no regular clock."""
    span: Seconds | None = None
    """How much media a row covers. None exactly where ``hop`` is None."""
    timing: Literal["none", "regular", "irregular"] = "none"
    """``none`` (text, single images), ``regular`` (``start + i*hop``), or ``irregular`` (``times`` is stored)."""
    grid: tuple[int, ...] | None = None
    """Shape that a sample's rows unflatten to when it is the same for all samples, such as (8, 14, 14)."""
    compression: Literal["none", "zstd"] = "none"
    licence: str = ""
    """Licence of the weights, or of the media where it is what binds. Shown, not part of the identity."""
    note: str = ""
    """One honest sentence for readers of the cache, such as what is synthetic. Not part of the identity."""

    def __post_init__(self) -> None:
        check_name(self.modality, "modality")
        if self.dim < 1:
            raise InputError(f"modality {self.modality!r}: dim must be at least 1, got {self.dim}")
        if (self.hop is None) != (self.timing != "regular") or (self.span is None) != (self.hop is None):
            raise InputError(
                f"modality {self.modality!r}: hop and span go with timing='regular' and only with it, "
                f"got timing={self.timing!r}, hop={self.hop}, span={self.span}"
            )
        for name, value in (("hop", self.hop), ("span", self.span)):
            if value is not None and not 0 < value < float("inf"):
                raise InputError(
                    f"modality {self.modality!r}: {name} must be a positive number of seconds, got {value}"
                )
            if value is not None:
                object.__setattr__(self, name, float(value))  # 1 and 1.0 are one clock, and so one identity

    @property
    def identity_fields(self) -> dict[str, Any]:
        """Everything that decides the numbers, as plain data: all fields but ``licence``, ``note``, ``compression``."""
        fields = asdict(self)
        for name in ("licence", "note", "compression"):
            del fields[name]
        return fields

    @property
    def identity(self) -> str:
        """Digest of :attr:`identity_fields`. Two specs of equal identity are interchangeable."""
        return digest(canonical_json(self.identity_fields).encode())


@dataclass(frozen=True, kw_only=True, slots=True)
class LabelColumn:
    """One typed label of every sample.

    ``class`` is stored as int32 codes into ``classes`` (-1: unlabelled), ``float`` as float64 (NaN: unlabelled),
    ``multilabel`` as uint8 ``[n, len(classes)]``.
    """

    name: str
    kind: LabelKind
    classes: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        check_name(self.name, "label")
        if (self.kind == "float") == bool(self.classes):
            raise InputError(
                f"label {self.name!r} of kind {self.kind!r}: classes are for class and multilabel, got {self.classes}"
            )
        if len(set(self.classes)) != len(self.classes):
            raise InputError(f"label {self.name!r}: class names must be unique, got {self.classes}")
