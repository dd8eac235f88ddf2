"""The encoder protocol, and the table of the encoders that ship.

An encoder is frozen. It is split where the hardware is split: ``prepare`` runs in a CPU worker and turns a clip into
an array, ``forward`` runs on the device and turns a batch of such arrays into rows, ``times`` says where on the media's
clock those rows lie.

Writing one takes about ten lines: set ``spec`` and ``needs``, write the three methods, and name it in a recipe by
import path, ``encoder: mylab.encoders:Mine``. The child processes that decode build an encoder of their own and call
only ``needs`` and ``prepare`` on it: load the network when ``spec`` or ``forward`` first asks for it, and the children
never hold its weights.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol, cast, get_args, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from fusecache.cache import DType, FeatureSpec, InputError, MissingExtraError, Rows, Stream

from .clip import Clip
from .config import EncoderConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Needs:
    """What an encoder asks of the decoder."""

    stream: Stream
    rate: int | None = None
    """Audio: samples per second that the waveform must have. None for the other streams."""
    fps: float | None = None
    """Video: only the frames nearest to the points of a grid of this many per second are wanted. None: all."""


@runtime_checkable
class Encoder(Protocol):
    """A frozen feature extractor. Rows of one sample never depend on which samples share its batch."""

    @property
    def spec(self) -> FeatureSpec:
        """What comes out: modality, stream, dim, clock, producer."""
        ...

    @property
    def needs(self) -> Needs:
        """What goes in."""
        ...

    def prepare(self, clip: Clip) -> NDArray[Any]:
        """Resize, crop, normalise, window: everything before the network.

        Returns:
            ``[items, ...]``: what ``forward`` takes, item by item (a window, a frame, an utterance). Arrays whose
            trailing shapes agree may share a batch; the runner never pads.

        Raises:
            ClipError: this clip cannot be encoded; its message becomes the reason of a reject.
        """
        ...

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Run the network on a batch of items.

        Args:
            batch: ``[items, ...]``, items of one or several samples, all of one shape.

        Returns:
            ``[items, rows_per_item, dim]`` float32.
        """
        ...

    def assemble(self, clip: Clip, rows: NDArray[np.float32]) -> Rows:
        """Join the items of one sample and set them on the clock.

        Args:
            clip: the decoded clip without its payload; ``start``, ``duration`` and ``pts`` are on the media's clock.
            rows: ``[items, rows_per_item, dim]`` float32, this sample's items in order.

        Returns:
            ``values [rows, dim]`` with ``start`` or ``times`` in seconds.
        """
        ...


ENCODERS: Mapping[str, str] = {
    "logmel": "fusecache.extract.logmel:LogMel",
    "pixels": "fusecache.extract.pixels:Pixels",
    "hog": "fusecache.extract.pixels:Hog",
    "ngrams": "fusecache.extract.ngrams:CharNgrams",
    "framestats": "fusecache.extract.framestats:FrameStats",
    "videomae2-small": "fusecache.extract.videomae2:build_small",
    "wavlm-base": "fusecache.extract.wavlm:build_base",
    "dinov3-vits16": "fusecache.extract.dinov3:build_vits16",
}
"""Name to ``module:factory``. A closed table: an encoder that is not here is named by import path."""


DECODE_RULES: Mapping[Stream, str] = {
    "audio": "pyav-sequential;stream=first;clock=container;mono=mean;resample=swr",
    "video": "pyav-sequential;stream=first;clock=container;rotation=applied;frames=nearest",
    "image": "pillow;orientation=exif;alpha=white;rgb8",
    "text": "utf-8-strict",
}
"""What is fed to ``prepare``, by stream: the ``decode`` field of a producer."""


def build_encoder(
    name: str,
    *,
    modality: str,
    weights: str = "",
    dtype: DType = "float16",
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
) -> Encoder:
    """Build an encoder by its name in :data:`ENCODERS`, or by import path ``package.module:factory``.

    Args:
        name: table name or import path. The factory is called as
            ``factory(modality=..., weights=..., dtype=..., device=..., **options)``.
        modality: name that the features get in the cache.
        weights: ``""`` (weight-free encoders), ``random`` or ``random:SEED``, a hub id, or a local file or folder.
        dtype: stored type, ``float16``, ``bfloat16`` or ``float32``.
        device: torch device of the network, such as ``cpu`` or ``cuda:0``.
        options: the encoder's own options; an unknown one is an error that lists those there are.

    Raises:
        InputError: unknown name or option, naming the nearest.
        MissingExtraError: the encoder's library is not installed.
    """
    options = dict(options or {})
    where = f"encoders.{modality}"
    if dtype not in get_args(DType):
        raise InputError(
            f"{where}.dtype: must be one of {', '.join(get_args(DType))}, got {dtype!r}; mend the recipe"
        )
    factory = _factory(name, where)
    common = {"modality", "weights", "dtype", "device"}
    parameters = inspect.signature(factory).parameters.values()
    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD and p.name not in common]
    unknown = [option for option in options if option not in known]
    if unknown and not any(p.kind is p.VAR_KEYWORD for p in parameters):
        near = get_close_matches(unknown[0], known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "remove it."
        raise InputError(
            f"{where}.options: encoder {name!r} has no option {', '.join(map(repr, unknown))}; {hint} "
            f"Known: {', '.join(known) or 'none'}"
        )
    return factory(modality=modality, weights=weights, dtype=dtype, device=device, **options)


def resolved_settings(config: EncoderConfig, modality: str) -> dict[str, Any] | None:
    """The settings that the producer of an encoder's features records, defaults filled in.

    No network is loaded, and the weights need not be here: an encoder that names its ``settings`` is asked for them
    alone. One that does not, of a user's own, is asked for its ``spec``.

    Args:
        config: the encoder of a recipe.
        modality: its name in the cache.

    Returns:
        Option to value; None where a library or the user's module is not installed, so that nothing can be said.

    Raises:
        InputError: unknown encoder or option, or a value that it does not take.
    """

    def build(weights: str) -> Encoder:
        return build_encoder(
            config.encoder, modality=modality, weights=weights, dtype=config.dtype, options=config.options
        )

    try:
        try:
            encoder = build("random" if config.weights and config.encoder in ENCODERS else config.weights)
        except InputError:
            encoder = build(config.weights)  # says what is wrong of what was written
        own: Mapping[str, Any] | None = getattr(encoder, "settings", None)
        return dict(encoder.spec.producer.settings if own is None else own)
    except MissingExtraError:
        return None
    except InputError as error:
        if isinstance(error.__cause__, ImportError):
            return None
        raise


def _factory(name: str, where: str) -> Callable[..., Encoder]:
    """Import what ``name`` stands for."""
    target = ENCODERS.get(name, name)
    module, colon, attribute = target.partition(":")
    if not colon:
        near = get_close_matches(name, ENCODERS, n=1)
        hint = (
            f"did you mean {near[0]!r}?"
            if near
            else "check the spelling, or write an import path package.module:factory."
        )
        raise InputError(
            f"{where}.encoder: there is no encoder {name!r}; {hint} Known: {', '.join(ENCODERS)}"
        )
    try:
        factory = getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        if name in ENCODERS:
            raise missing_extra(name, error) from error
        raise InputError(
            f"{where}.encoder: the module of {name!r} cannot be imported ({error}); install it, or run where Python "
            "finds it (PYTHONPATH)"
        ) from error
    if not callable(factory):
        raise InputError(
            f"{where}.encoder: module {module!r} has no class or function {attribute!r}; check the spelling"
        )
    return cast("Callable[..., Encoder]", factory)


def missing_extra(what: str, error: ImportError) -> MissingExtraError:
    """The error for a library of the ``extract`` extra that is not there."""
    return MissingExtraError(
        f"{what} needs the package {error.name or str(error)!r}, which is not installed ({error}); "
        "pip install 'fusecache[extract]'"
    )


def no_weights(weights: str, encoder: str, modality: str) -> None:
    """Check that a weight-free encoder was given no weights.

    Raises:
        InputError: it was.
    """
    if weights not in ("", "none"):
        raise InputError(
            f"encoders.{modality}.weights: encoder {encoder!r} has no weights, got {weights!r}; leave the field out"
        )


def check_options(modality: str, **rules: tuple[bool, str]) -> None:
    """Report every option whose rule does not hold: ``name=(holds, "what is needed, got ...")``.

    Raises:
        InputError: naming each option and value.
    """
    broken = [
        f"encoders.{modality}.options.{name}: {text}" for name, (holds, text) in rules.items() if not holds
    ]
    if broken:
        raise InputError("; ".join(broken) + "; mend the recipe")
