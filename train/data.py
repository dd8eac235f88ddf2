# pyright: reportUnknownMemberType=false
# torch leaves some of its own signatures untyped.
"""From a view of the cache to batches of tensors: resident where the poolings allow it, streamed where they do not.

A pooling without parameters gives the same vector in every epoch. So it is applied once, the pooled vectors stay in
memory on the device, and an epoch is a row of index look-ups; the baselines read the very same vectors
(:func:`pooled`). A learned pooling needs the rows, and streams them from the cache. Both ways see the same samples in
the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fusecache.cache import Batch, Cache, InputError, Loader, View, plan

from .config import TrainConfig
from .pooling import make_pooling

READ_BATCH = 256
"""Samples that one reading pass holds at a time."""

READ_NUMBERS = 1 << 24
"""Padded numbers that one reading pass holds at a time: one long recording among short ones must not pad them all."""


@dataclass(kw_only=True, slots=True)
class TensorBatch:
    """One batch on the device."""

    x: dict[str, Tensor]
    """Modality to rows ``[B, T, dim]`` or pooled vectors ``[B, width]``, float32."""
    lengths: dict[str, Tensor]
    """Row counts ``[B]`` int64 of the modalities that come as rows, and of those of which the split has empty ones."""
    present: Tensor
    """``[B, M]`` bool in the order of the recipe."""
    target: Tensor
    """``[B]`` int64 classes."""


class Source(Protocol):
    """Batches of one split."""

    size: int
    """Samples of the split."""

    def epoch(self, epoch: int) -> Iterator[TensorBatch]:
        """The batches of one training epoch, in the order of the plan."""
        ...

    def in_order(self, batch_size: int) -> Iterator[TensorBatch]:
        """Every sample once, in the order of the cache."""
        ...


def open_split(cache: Cache, config: TrainConfig, split: str) -> View:
    """The samples of one split that can be learned from or judged, with the recipe's modalities in its order.

    Left out, in training and in every score alike: samples without the label, and samples that have none of the
    recipe's modalities.

    Raises:
        InputError: if nothing is left.
    """
    view = cache.select(split=split, modalities=config.modalities)
    labelled = np.asarray(view.labels(config.label)) >= 0
    usable = labelled & view.present().any(axis=1)
    if not usable.any():
        raise InputError(
            f"split {split!r} must hold samples that are labelled in {config.label!r} and have one of "
            f"{', '.join(config.modalities)}, got {len(view)} samples, {int(labelled.sum())} of them labelled and none "
            f"with both, in cache {cache.path}; name another split under train.splits, or label the samples"
        )
    return view if usable.all() else View(cache, view.modalities, view.index[usable])


def streams_rows(config: TrainConfig) -> bool:
    """Whether some pooling is learned, so that rows have to be streamed."""
    return any(config.pooling_of(name) == "attention" for name in config.modalities)


def pooled(view: View, config: TrainConfig) -> dict[str, NDArray[np.float32]]:
    """Modality to the pooled vectors ``[n, width]`` of every sample of the view, in its order.

    What training without a learned pooling sees before standardisation. ``attention`` counts as ``mean`` here, which
    is where it starts. A sample without the modality, or without rows, has zeros.

    Raises:
        InputError: NaN or infinite features; split, modality and keys are named.
    """
    poolings = {
        name: make_pooling("mean" if config.pooling_of(name) == "attention" else config.pooling_of(name), dim)
        for name, dim in widths(view.cache, config).items()
    }
    out = {name: np.zeros((len(view), pooling.width), dtype=np.float32) for name, pooling in poolings.items()}
    loader = Loader(view, batch_size=READ_BATCH, shuffle=False, most=READ_NUMBERS)
    for batch in loader.epoch(0):
        for name, pooling in poolings.items():
            value = pooling(_floats(batch.x[name]), torch.from_numpy(batch.lengths[name]))
            out[name][batch.items] = value.numpy()
    for name, value in out.items():
        _refuse_bad(view, name, np.flatnonzero(~np.isfinite(value).all(axis=1)))
    return out


def _refuse_bad(view: View, modality: str, bad: NDArray[np.int64]) -> None:
    """Refuse samples (positions in the view) whose features are no numbers: scored, they would look like mistakes."""
    if not len(bad):
        return
    cache, first = view.cache, int(view.index[bad[0]])
    code = int(cache.split_of()[first])
    split = cache.splits[code] if code < len(cache.splits) else ""
    raise InputError(
        f"features must be finite, got NaN or inf in modality {modality!r} of {len(bad)} samples of split {split!r}, the "
        f"first of them key {cache.keys()[first]!r:.200}, in cache {cache.path}; run fusecache verify on it, and "
        f"extract again"
    )


def widths(cache: Cache, config: TrainConfig) -> dict[str, int]:
    """Modality to row width, from the cache's specs, in the recipe's order."""
    return {name: cache.specs[name].dim for name in config.modalities}


def make_source(view: View, config: TrainConfig, device: torch.device) -> Source:
    """Resident pooled vectors, or a stream of rows where a pooling is learned."""
    return Streamed(view, config, device) if streams_rows(config) else Resident(view, config, device)


class Resident:
    """Pooled vectors of a whole split, on the device."""

    def __init__(self, view: View, config: TrainConfig, device: torch.device) -> None:
        self.size = len(view)
        self._config = config
        self._x = {name: torch.from_numpy(value).to(device) for name, value in pooled(view, config).items()}
        present = np.asarray(view.present(), dtype=bool)
        self._lengths: dict[str, Tensor] = {}
        for m, name in enumerate(config.modalities):
            rows = view.lengths(name)
            if (present[:, m] & (rows == 0)).any():
                self._lengths[name] = torch.from_numpy(rows).to(device)
        self._present = torch.from_numpy(present).to(device)
        self._target = _targets(view, config).to(device)

    def _take(self, items: Tensor | slice) -> TensorBatch:
        x = {name: value[items] for name, value in self._x.items()}
        lengths = {name: value[items] for name, value in self._lengths.items()}
        return TensorBatch(x=x, lengths=lengths, present=self._present[items], target=self._target[items])

    def epoch(self, epoch: int) -> Iterator[TensorBatch]:
        """See :class:`Source`."""
        config = self._config
        batches = plan(order_seed=config.order_seed, epoch=epoch, n=self.size, batch_size=config.batch_size)
        order = torch.from_numpy(np.concatenate(batches)).to(self._target.device)
        start = 0
        for batch in batches:
            yield self._take(order[start : start + len(batch)])
            start += len(batch)

    def in_order(self, batch_size: int) -> Iterator[TensorBatch]:
        """See :class:`Source`."""
        for start in range(0, self.size, batch_size):
            yield self._take(slice(start, start + batch_size))


class Streamed:
    """Rows of a split, read from the cache batch by batch."""

    def __init__(self, view: View, config: TrainConfig, device: torch.device) -> None:
        self.size = len(view)
        self._view, self._config, self._device = view, config, device

    def _tensors(self, batch: Batch) -> TensorBatch:
        device = self._device
        return TensorBatch(
            x={name: _floats(batch.x[name]).to(device) for name in self._config.modalities},
            lengths={
                n: torch.from_numpy(batch.lengths[n].copy()).to(device) for n in self._config.modalities
            },
            present=torch.from_numpy(batch.present.copy()).to(device),
            target=torch.from_numpy(batch.labels[self._config.label].astype(np.int64)).to(device),
        )

    def _batches(self, epoch: int, batch_size: int, *, shuffle: bool) -> Iterator[TensorBatch]:
        loader = Loader(
            self._view,
            batch_size=batch_size,
            order_seed=self._config.order_seed,
            shuffle=shuffle,
            labels=(self._config.label,),
            most=None if shuffle else READ_NUMBERS,
        )
        for batch in loader.epoch(epoch):
            if not shuffle:  # a training batch tells of itself by its loss
                for name in self._config.modalities:
                    good = np.isfinite(batch.x[name]).all(axis=(1, 2))
                    _refuse_bad(self._view, name, batch.items[~good])
            yield self._tensors(batch)

    def epoch(self, epoch: int) -> Iterator[TensorBatch]:
        """See :class:`Source`."""
        return self._batches(epoch, self._config.batch_size, shuffle=True)

    def in_order(self, batch_size: int) -> Iterator[TensorBatch]:
        """See :class:`Source`."""
        return self._batches(0, min(batch_size, READ_BATCH), shuffle=False)


def statistics(
    source: Source, config: TrainConfig, dims: Mapping[str, int]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and deviation of every feature dimension over what is present and not empty, float32 on the CPU.

    Of the pooled vectors where the pooling has no parameters, of the rows where it is learned. One pass, merged in
    float64 batch by batch, so that a large mean does not eat the digits of a small deviation.
    """
    poolings = {name: make_pooling(config.pooling_of(name), dim) for name, dim in dims.items()}
    merged: dict[str, tuple[int, Tensor, Tensor]] = {}
    for batch in source.in_order(READ_BATCH):
        for m, name in enumerate(config.modalities):
            value = batch.x[name].cpu()
            if poolings[name].learned:
                steps = torch.arange(value.shape[1])
                rows = value[steps[None] < batch.lengths[name].cpu()[:, None]]
            else:
                rows = value if value.dim() == 2 else poolings[name](value, batch.lengths[name].cpu())
                there = batch.present[:, m]
                if name in batch.lengths:
                    there = there & (
                        batch.lengths[name] > 0
                    )  # the zeros of an empty sample were never measured
                rows = rows[there.cpu()]
            if len(rows):
                merged[name] = _merge(merged.get(name), rows.double())
    return {
        name: (mean.float(), (squares / count).sqrt().float())
        for name, (count, mean, squares) in merged.items()
    }


def _merge(state: tuple[int, Tensor, Tensor] | None, rows: Tensor) -> tuple[int, Tensor, Tensor]:
    """Chan's update of (count, mean, sum of squared deviations) by a batch of rows."""
    count, mean = len(rows), rows.mean(dim=0)
    squares = (rows - mean).square().sum(dim=0)
    if state is None:
        return count, mean, squares
    total, gap = state[0] + count, mean - state[1]
    return (
        total,
        state[1] + gap * (count / total),
        state[2] + squares + gap.square() * (state[0] * count / total),
    )


def _floats(value: NDArray[Any]) -> Tensor:
    """A float32 copy: the loader's buffers are used again for the next batch."""
    return torch.from_numpy(value.astype(np.float32, copy=True))


def _targets(view: View, config: TrainConfig) -> Tensor:
    return torch.from_numpy(np.asarray(view.labels(config.label)).astype(np.int64))
