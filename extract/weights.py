"""Weights of transformer encoders: a hub id, a local folder in the transformers format, or the explicit word random.

Nothing that is loaded executes: safetensors, or pickles restricted to tensors, and never code from the hub.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from logging import getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import xxhash

from fusecache.cache import InputError
from fusecache.cache.errors import several

from .encoder import missing_extra

if TYPE_CHECKING:
    import torch

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_RANDOM = re.compile(r"random(?::(\d{1,18}))?")


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """What is the same for all weights of one architecture."""

    encoder: str
    """Name in the encoder table."""
    model: str
    """Class in transformers."""
    config: str
    """Its configuration class."""
    settings: Mapping[str, Any]
    """Configuration of the architecture; weights that were made with another are refused."""
    licence: str
    """Licence of the published weights."""
    example: str
    """Where the weights are found, for messages."""
    outputs: int | None = None
    """Classes of the model's head, where its class has one: 0 for no head."""
    surplus: tuple[str, ...] = ()
    """Beginnings of names of tensors that published files hold beside the encoder, such as a classifier."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Network:
    """A loaded network and what its producer says of it."""

    module: torch.nn.Module
    weights: str
    weights_hash: str
    licence: str
    note: str


def check_weights(weights: str, family: Family, modality: str) -> None:
    """Check the form of ``weights`` without loading anything.

    Raises:
        InputError: empty, malformed, no such folder, or a file of a format that this version does not take.
    """
    where = f"encoders.{modality}.weights"
    choices = (
        f"write random (untrained), a folder in the transformers format, or a hub id such as {family.example}"
    )
    if not weights:
        raise InputError(f"{where}: encoder {family.encoder!r} needs weights, got none; {choices}")
    path = Path(weights)
    if _RANDOM.fullmatch(weights) or path.is_dir():
        return
    if path.is_file() or path.suffix in (".pt", ".pth", ".safetensors", ".bin", ".ckpt"):
        raise InputError(
            f"{where}: this version takes weights in the transformers format only, a folder with config.json and "
            f"model.safetensors, and got the file {weights!r}; {choices}"
        )
    if weights.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(weights):
        raise InputError(f"{where}: there is no folder {weights!r}, and it is not a hub id; {choices}")


def load_network(weights: str, family: Family, modality: str, device: str) -> Network:
    """Build a frozen network on ``device``.

    Args:
        weights: ``random``, ``random:SEED``, a folder, or a hub id.
        family: the architecture.
        modality: for messages.
        device: torch device.

    Raises:
        InputError: the weights cannot be had, or are of another architecture; every difference is named.
        MissingExtraError: torch or transformers is not installed.
    """
    check_weights(weights, family, modality)
    try:
        import torch
        import transformers
    except ImportError as error:
        raise missing_extra(f"The encoder {family.encoder}", error) from error
    build: Callable[..., Any] = getattr(transformers, family.model)
    head = {} if family.outputs is None else {"num_labels": family.outputs}
    config = getattr(transformers, family.config)(**family.settings, **head)
    found = _RANDOM.fullmatch(weights)
    if found:
        seed = int(found[1] or 0)
        random: Any = torch.random
        with random.fork_rng(devices=[]):
            random.manual_seed(seed)
            module: torch.nn.Module = build(config)
        weights, licence = f"random:{seed}", "untrained: none"
        note = f"Random weights (seed {seed}): the network is untrained, and its features show the pipeline, not the encoder."
    else:
        module = _pretrained(build, type(config), head, weights, family, modality)
        licence, note = family.licence, ""
    module = module.eval().requires_grad_(False).float()
    mark = tensors_digest(module)
    return Network(
        module=module.to(device),
        weights=recorded_weights(weights),
        weights_hash=mark,
        licence=licence,
        note=note,
    )


def tensors_digest(module: torch.nn.Module) -> str:
    """xxh3-128 over name, shape and little-endian float bytes of every tensor, in order of name."""
    import torch

    state = xxhash.xxh3_128()
    for name, tensor in sorted(module.state_dict().items()):
        data = tensor.detach().cpu().contiguous()
        state.update(f"{name} {data.dtype} {tuple(data.shape)}\n".encode())
        if data.numel():
            state.update(data.reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def recorded_weights(weights: str) -> str:
    """The name of weights that a producer records: one for every way to write the same.

    A folder's name stands without the path to it, as a cache may move.

    >>> recorded_weights("random"), recorded_weights("random:07"), recorded_weights("")
    ('random:0', 'random:7', 'none')
    """
    found = _RANDOM.fullmatch(weights)
    if found:
        return f"random:{int(found[1] or 0)}"
    if weights and (Path(weights).is_dir() or not _HUB_ID.fullmatch(weights) or weights.startswith(".")):
        return Path(weights).resolve().name
    return weights or "none"


def _pretrained(
    build: Any, config_class: Any, head: dict[str, int], weights: str, family: Family, modality: str
) -> Any:
    from transformers.utils import logging  # pyright: ignore[reportMissingTypeStubs]

    where = f"encoders.{modality}.weights"
    level, hub = logging.get_verbosity(), getLogger("huggingface_hub")
    hub_level = hub.level
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    hub.setLevel("ERROR")
    try:
        kind = config_class.get_config_dict(weights, trust_remote_code=False)[0].get("model_type")
        if kind != config_class.model_type:
            raise InputError(
                f"{where}: {weights!r} is of another architecture; {family.encoder} is a {config_class.model_type!r} "
                f"model, the weights are of a {kind!r}; choose other weights"
            )
        own: Any = config_class.from_pretrained(weights, trust_remote_code=False, **head)
        _check_architecture(own, family, where, weights)
        module, report = build.from_pretrained(
            weights, config=own, trust_remote_code=False, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{where}: {weights!r} could not be loaded ({first}); where there is no network, download it elsewhere "
            f"(hf download {weights if not os.path.isdir(weights) else family.example} --local-dir DIR), bring the folder "
            f"here and write {where}=DIR; gated weights need a login with the hub first"
        ) from error
    finally:
        logging.set_verbosity(level)
        hub.setLevel(hub_level)
        logging.enable_progress_bar()
    problems = [f"tensor {name} is missing" for name in sorted(report["missing_keys"])]
    problems += [
        f"tensor {name} is not part of a {family.encoder}"
        for name in sorted(report["unexpected_keys"])
        if not name.startswith(family.surplus or ("\0",))
    ]
    problems += [f"tensor {name[0]} has another shape" for name in sorted(report["mismatched_keys"])]
    if problems:
        raise InputError(
            several(f"{where}: {weights!r} does not fit the architecture of {family.encoder}", problems)
        )
    return module


def _check_architecture(own: Any, family: Family, where: str, weights: str) -> None:
    problems = [
        f"{name}: {family.encoder} has {value!r}, the weights have {getattr(own, name, None)!r}"
        for name, value in family.settings.items()
        if _plain(getattr(own, name, None)) != _plain(value)
    ]
    if problems:
        raise InputError(
            several(f"{where}: {weights!r} is of another architecture; choose other weights", problems)
        )


def _plain(value: object) -> object:
    return list(cast("Iterable[object]", value)) if isinstance(value, list | tuple) else value
