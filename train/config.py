"""What a training run is: frozen values that a recipe loads, with the reading of every open question as a field.

Like the label on a sample tube: everything that decides the numbers stands on it, and nothing that the cache
already knows (widths come from the cache's specs). Nothing heavy is imported here, so that a recipe can be checked
without torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from fusecache.cache import InputError
from fusecache.cache.errors import several

POOLINGS = ("mean", "last", "attention", "segments:K")
"""Names of the poolings; K is the number of segments."""

_SEGMENTS = re.compile(r"segments:([1-9][0-9]{0,3})")


def segments_of(pooling: str) -> int | None:
    """Number of segments of ``segments:K``; None for every other pooling.

    >>> segments_of("segments:10"), segments_of("mean")
    (10, None)
    """
    match = _SEGMENTS.fullmatch(pooling)
    return int(match.group(1)) if match else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScfaeConfig:
    """The SCFAE block: the paper's values as defaults, and one field for each reading that the paper leaves open."""

    expansion: float = 2.0
    """``n`` of Eq. 3: the expand map makes ``round(n * l)`` features of ``l``."""
    boundary: float = 0.5
    """``b``: share of the expanded features that is the shared part, strictly between 0 and 1."""
    recon_weight: float = 1.0
    """``lambda`` of Eq. 6. With 0 the reconstruction maps get no gradient."""
    recon_loss: Literal["cosine", "mse"] = "cosine"
    """``1 - cos`` (Eq. 5, minimised) or the mean squared error over a feature's entries (Table 9)."""
    recon_target: Literal["detach", "attached"] = "detach"
    """Whether the target passes a gradient. No effect on frozen features; ``detach`` keeps a trainable tail from
    making its own target easy."""
    branches: Literal["both", "shared", "specific"] = "both"
    """Which branch reaches the join; the other one is zero, and its maps do not train (Table 14)."""
    missing: Literal["skip", "zero"] = "skip"
    """Absent modality: the exchange skips to the next one that is there and the absent one's Z is zero and masked
    (``skip``), or its input is zeros and everything goes on as if it were there (``zero``)."""
    exchange: Literal["own", "common"] = "own"
    """Shared parts of unequal width, when the exchange skips: ``own`` keeps the paper's maps, and a part that does
    not fit is replaced by zeros; ``common`` first brings every shared part to ``l*`` by a Linear of its own (more
    parameters than Table 12). No effect where all widths are equal and ``own`` is chosen."""
    dropout: float = 0.0
    """Keyed dropout of the two branches before the join, in training only."""

    def __post_init__(self) -> None:
        problems = [
            *_outside("expansion", self.expansion, self.expansion > 0, "a number above 0"),
            *_outside("boundary", self.boundary, 0 < self.boundary < 1, "strictly between 0 and 1"),
            *_outside("recon_weight", self.recon_weight, self.recon_weight >= 0, "at least 0"),
            *_outside("dropout", self.dropout, 0 <= self.dropout < 1, "in [0, 1)"),
            *_infinite(self),
        ]
        _refuse("fusion.scfae", problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class ConcatConfig:
    """Early fusion, the floor: one hidden layer on the concatenation, a learned token in an absent slot."""

    hidden: int = 512
    """Width of the hidden layer."""
    dropout: float = 0.0
    """Keyed dropout of the hidden layer, in training only."""

    def __post_init__(self) -> None:
        problems = [
            *_outside("hidden", self.hidden, self.hidden >= 1, "at least 1"),
            *_outside("dropout", self.dropout, 0 <= self.dropout < 1, "in [0, 1)"),
        ]
        _refuse("fusion.concat", problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class FusionConfig:
    """Which block fuses, and the options of each block (those of the others have no effect)."""

    block: Literal["scfae", "concat"] = "scfae"
    """Name in :data:`fusecache.train.blocks.BLOCKS`."""
    scfae: ScfaeConfig = field(default_factory=ScfaeConfig)
    """Options of ``scfae``."""
    concat: ConcatConfig = field(default_factory=ConcatConfig)
    """Options of ``concat``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """One training run on one cache. Defaults are the paper's (Appendix A) where it states a value."""

    modalities: tuple[str, ...]
    """Streams of the cache to fuse, in the cyclic order of the exchange."""
    label: str
    """Label column of kind ``class``."""
    poolings: Mapping[str, str] = field(default_factory=dict[str, str])
    """Modality to ``mean``, ``last``, ``attention`` or ``segments:K``; ``mean`` where nothing is said."""
    fusion: FusionConfig = field(default_factory=FusionConfig)
    """The fusion block."""
    splits: tuple[str, str, str] = ("train", "val", "test")
    """Names of the training, validation and test split. The test split is opened once, after the last epoch."""
    epochs: int = 10
    """Passes over the training split."""
    batch_size: int = 64
    """Samples of a global batch. The paper states none."""
    lr: float = 5e-4
    """Peak learning rate."""
    lr_start: float = 2.5e-5
    """Learning rate of the first step."""
    warmup_share: float = 0.2
    """Share of all steps on the way from ``lr_start`` to ``lr``; a cosine to 0 follows."""
    weight_decay: float = 0.01
    """Of AdamW, on matrices only (never on biases, norms and tokens)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    clip_norm: float = 1.0
    """Largest norm of the whole gradient; 0: no clipping."""
    seed: int = 1
    """Initialisation, dropout, noise and missing subsets."""
    order_seed: int = 1
    """Order of the samples in every epoch."""
    missing: Literal["none", "subset"] = "none"
    """``none``: every modality that a sample has is used in training (regime R1); ``subset``: a non-empty subset of
    them is drawn for every sample and step (R2)."""
    full_share: float = 0.0
    """With ``missing: subset``, share of the samples that keep everything they have."""
    standardise: Literal["modality", "dimension", "none"] = "modality"
    """Centre every feature dimension and divide by a deviation of the training split, kept in the model: one for the
    whole ``modality`` (the root mean square over its dimensions), which keeps rare dimensions small, or one for each
    ``dimension``. ``none`` takes the features as they are."""
    input_noise: Mapping[str, float] = field(default_factory=dict[str, float])
    """Modality to the deviation of the normal noise added to its inputs in training, in units of the standardised
    feature; 0 where nothing is said. A modality that is easily learned by heart wants more."""
    label_smoothing: float = 0.0
    """Of the cross-entropy."""
    select: Literal["mean", "full"] = "mean"
    """Validation metric of the best epoch: mean accuracy over all modality subsets, or accuracy with all of them."""
    validate_every: int = 1
    """Epochs between two looks at the validation split; the last epoch is always looked at."""
    ema: float = 0.0
    """Decay per step of the average of the weights that is validated and saved; 0: the weights themselves."""
    autocast: Literal["off", "bf16"] = "off"
    """Mixed precision of the forward pass; weights and optimiser stay float32."""
    device: str = "auto"
    """``auto`` (a GPU when there is one), ``cpu``, ``cuda`` or ``cuda:N``."""
    diagnostics_every: int = 20
    """Steps between two measurements of the task and auxiliary gradients; 0: never. No effect on the weights."""
    save_seconds: float = 60.0
    """Least time between two saved states, from which a killed run goes on; 0: after every epoch. No effect on the
    numbers."""

    def __post_init__(self) -> None:
        good_pooling = {"mean", "last", "attention"}
        problems = [
            *_outside("modalities", self.modalities, bool(self.modalities), "at least one name"),
            *_outside(
                "modalities",
                self.modalities,
                len(set(self.modalities)) == len(self.modalities),
                "each name once",
            ),
            *(
                f"poolings.{name} is {value!r}, must be one of {', '.join(POOLINGS)}"
                for name, value in self.poolings.items()
                if value not in good_pooling and segments_of(value) is None
            ),
            *(
                f"poolings names {name!r}, which is not among modalities {', '.join(self.modalities)}"
                for name in self.poolings
                if name not in self.modalities
            ),
            *_outside("splits", self.splits, len(set(self.splits)) == 3, "three different names"),
            *_outside("epochs", self.epochs, self.epochs >= 1, "at least 1"),
            *_outside("batch_size", self.batch_size, self.batch_size >= 1, "at least 1"),
            *_outside("lr", self.lr, self.lr > 0, "above 0"),
            *_outside("lr_start", self.lr_start, self.lr_start >= 0, "at least 0"),
            *_outside("warmup_share", self.warmup_share, 0 <= self.warmup_share <= 1, "in [0, 1]"),
            *_outside("weight_decay", self.weight_decay, self.weight_decay >= 0, "at least 0"),
            *_outside(
                "betas", self.betas, all(0 <= beta < 1 for beta in self.betas), "two numbers in [0, 1)"
            ),
            *_outside("clip_norm", self.clip_norm, self.clip_norm >= 0, "at least 0"),
            *(
                problem
                for name, seed in (("seed", self.seed), ("order_seed", self.order_seed))
                for problem in _outside(name, seed, 0 <= seed < 1 << 63, "in [0, 2**63)")
            ),
            *_infinite(self),
            *_outside("full_share", self.full_share, 0 <= self.full_share <= 1, "in [0, 1]"),
            *(
                f"input_noise.{name} is {value!r}, must be a finite number, at least 0"
                for name, value in self.input_noise.items()
                if not 0 <= value < math.inf
            ),
            *(
                f"input_noise names {name!r}, which is not among modalities {', '.join(self.modalities)}"
                for name in self.input_noise
                if name not in self.modalities
            ),
            *_outside("label_smoothing", self.label_smoothing, 0 <= self.label_smoothing < 1, "in [0, 1)"),
            *_outside("validate_every", self.validate_every, self.validate_every >= 1, "at least 1"),
            *_outside("ema", self.ema, 0 <= self.ema < 1, "in [0, 1)"),
            *_outside("diagnostics_every", self.diagnostics_every, self.diagnostics_every >= 0, "at least 0"),
            *_outside("save_seconds", self.save_seconds, self.save_seconds >= 0, "at least 0"),
            *_outside(
                "device",
                self.device,
                re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", self.device) is not None,
                "auto, cpu, cuda or cuda:N",
            ),
        ]
        _refuse("train", problems)

    def pooling_of(self, modality: str) -> str:
        """The pooling of one modality."""
        return self.poolings.get(modality, "mean")


def _outside(name: str, value: object, good: bool, rule: str) -> list[str]:
    return [] if good else [f"{name} is {value!r}, must be {rule}"]


def _infinite(section: ScfaeConfig | TrainConfig) -> list[str]:
    """Fields that are infinite; NaN fails every range already."""
    values = {item.name: getattr(section, item.name) for item in fields(section)}
    return [
        f"{name} is {value!r}, must be a finite number"
        for name, value in values.items()
        if isinstance(value, float) and math.isinf(value)
    ]


def _refuse(where: str, problems: list[str]) -> None:
    if problems:
        raise InputError(several(f"recipe section {where!r} cannot be used; change these values", problems))
