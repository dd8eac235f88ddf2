"""The fusion protocol: what a block takes and gives, and the table of the blocks that ship.

A block maps the features of several modalities to fused features (or straight to logits). The trainer owns the task
loss, the optimiser, the masks and the schedule; a block owns its parameters and its auxiliary losses. Everything else
that some method needs is a small optional method; these names are reserved for it, and the trainer calls each of them
as soon as a shipped block has it (today only ``embed``, which the trainer itself does not need):

======================  =====================================================================================
``fit_before(view)``     statistics of the training split before the first step (whitening, CCA, anchors)
``stages()``             named phases with their own share of the epochs and trainable parameters
``param_groups()``       parameter groups with their own learning-rate factor
``inner_step(...)``      second optimisers and adversaries, called before the main step
``after_backward(...)``  gradient modulation, between backward and step
``epoch_end(...)``       what changes once an epoch
``embed(modality, x)``   one side alone, for retrieval
``score(query, items)``  pair scoring, for retrieval
======================  =====================================================================================

Random draws come from the keyed source passed in (:mod:`fusecache.train.draws`), never from global state: no
``nn.Dropout``. Then a run gives the same numbers alone, resumed, or inside a sweep.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from .draws import Draws


@dataclass(kw_only=True, slots=True)
class FusionOutput:
    """What a block gives for a batch of B samples."""

    fused: Tensor | None = None
    """``[B, width]`` for the task head; None where the block makes its own logits."""
    mask: Tensor | None = None
    """``[B, width]`` bool: the columns of ``fused`` that hold something for a sample; the head leaves the others out.
    None: all of them."""
    logits: Tensor | None = None
    """``[B, classes]`` where the block decides itself (late fusion)."""
    parts: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Named inner features, such as ``shared.audio``; for diagnostics, retrieval and plots."""
    losses: dict[str, tuple[Tensor, float]] = field(default_factory=dict[str, tuple[Tensor, float]])
    """Auxiliary losses by name: (mean over the batch, weight). The trainer adds ``value * weight``."""


@runtime_checkable
class FusionBlock(Protocol):
    """A fusion method. Widths come from the cache's specs when it is built; modality order is the recipe's."""

    modalities: tuple[str, ...]
    """Order of the modalities, kept in the checkpoint."""
    width: int
    """Width of ``fused``; 0 where the block gives logits."""
    stackable: bool
    """Whether runs can be stacked in a sweep; where False the block says why in ``not_stackable_because``."""

    def forward(
        self,
        x: Mapping[str, Tensor],
        lengths: Mapping[str, Tensor],
        present: Tensor,
        *,
        target: Tensor | None = None,
        progress: float = 0.0,
        draws: Draws,
    ) -> FusionOutput:
        """Fuse one batch.

        Args:
            x: modality to ``[B, T, dim]`` (sequences, zero beyond ``lengths``) or ``[B, dim]`` (vectors), floating.
                What lies in the rows of an absent modality has no effect on the output.
            lengths: modality to ``[B]`` int64 row counts, for sequences.
            present: ``[B, M]`` bool, columns in the order of ``modalities``.
            target: task target, for losses that need labels; None at test time.
            progress: share of the run done, in [0, 1].
            draws: keyed random source of this step.

        Returns:
            fused features or logits, named parts, named losses.
        """
        ...
