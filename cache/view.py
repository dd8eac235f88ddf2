"""A view: some samples and modalities of an open cache, and the gathering of their rows into reused buffers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .columns import from_bfloat16
from .errors import InputError
from .zarrfile import ForeignRows

if TYPE_CHECKING:
    from .reader import Cache


@dataclass(frozen=True, eq=False)
class View:
    """A selection of a cache; made by :meth:`Cache.select`."""

    cache: Cache
    modalities: tuple[str, ...]
    index: NDArray[np.int64]
    """``[n]`` numbers of the samples in the cache, in the view's order."""

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.index)

    def keys(self) -> list[str]:
        """The key of every sample of the view."""
        keys = self.cache.keys()
        return [keys[int(i)] for i in self.index]

    def groups(self) -> list[str]:
        """The group of every sample of the view."""
        groups = self.cache.groups()
        return [groups[int(i)] for i in self.index]

    def lengths(self, modality: str) -> NDArray[np.int64]:
        """``[n]`` rows per sample; 0 where the modality is missing or empty."""
        return self.cache.lengths(modality)[self.index]

    def present(self) -> NDArray[np.bool_]:
        """``[n, M]`` whether a sample has each of the view's modalities, in their order."""
        return np.stack([self.cache.present(name)[self.index] for name in self.modalities], axis=1)

    def labels(self, name: str) -> NDArray[Any]:
        """A label column of the view's samples; see :meth:`Cache.labels`."""
        return self.cache.labels(name)[self.index]

    def _samples(self, items: NDArray[np.int64] | Sequence[int]) -> NDArray[np.int64]:
        return self.index[np.asarray(items, np.int64)]

    def packed(
        self, items: NDArray[np.int64] | Sequence[int], modality: str, out: NDArray[Any] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The rows of ``items`` one sample after the other.

        Args:
            items: positions in the view, ``[B]``.
            modality: which rows.
            out: a buffer ``[at least rows, dim]`` of the stored dtype to gather into. None: a new array.

        Returns:
            ``values [rows, dim]`` in the stored dtype (bfloat16 as uint16; the front of ``out`` where given) and
            ``offsets [B + 1]`` int64.

        Raises:
            ValueError: ``out`` is too small or of another dtype.
        """
        samples = self._samples(items)
        lengths = self.cache.lengths(modality)[samples]
        offsets = np.zeros(len(samples) + 1, np.int64)
        np.cumsum(lengths, out=offsets[1:])
        rows, dim = int(offsets[-1]), self.cache.specs[modality].dim
        dtype = self.cache.stored_dtype(modality)
        if out is None:
            out = np.empty((rows, dim), dtype)
        elif out.dtype != dtype or out.ndim != 2 or out.shape[1] != dim or len(out) < rows:
            raise ValueError(
                f"out must be {dtype} [at least {rows}, {dim}], got {out.dtype} {list(out.shape)}"
            )
        values = out[:rows]
        if rows == len(samples) and (lengths == 1).all():
            self._take(samples, modality, values)
        else:
            for source, first, count, at in self._runs(samples, lengths, modality):
                position = int(offsets[at])
                values[position : position + count] = source[first : first + count]
        return values, offsets

    def padded(
        self, items: NDArray[np.int64] | Sequence[int], modality: str, out: NDArray[Any] | None = None
    ) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """The rows of ``items`` side by side, zeros behind the end of each.

        Args:
            items: positions in the view, ``[B]``.
            modality: which rows.
            out: a flat buffer with at least ``B * T * dim`` numbers of the padded dtype. None: a new array.

        Returns:
            ``[B, T, dim]`` in the stored dtype, float32 for bfloat16, and ``lengths [B]`` int64. ``T`` is the longest
            of the items, at least 1.
        """
        samples = self._samples(items)
        lengths = self.cache.lengths(modality)[samples]
        spec = self.cache.specs[modality]
        steps = max(1, int(lengths.max(initial=0)))
        shape = (len(samples), steps, spec.dim)
        size = shape[0] * shape[1] * shape[2]
        brain = spec.dtype == "bfloat16"
        dtype = np.dtype(np.float32) if brain else self.cache.stored_dtype(modality)
        if out is None:
            out = np.empty(size, dtype)
        elif out.dtype != dtype or out.ndim != 1 or len(out) < size:
            raise ValueError(f"out must be {dtype} [at least {size}], got {out.dtype} {list(out.shape)}")
        block = out[:size].reshape(shape)
        if not brain and steps == 1 and (lengths == 1).all():
            self._take(samples, modality, block[:, 0])
            return block, lengths
        for source, first, count, at in self._runs(samples, lengths, modality):
            rows = source[first : first + count]
            block[at, :count] = from_bfloat16(rows) if brain else rows
        for at, count in enumerate(lengths.tolist()):
            if count < steps:
                block[at, count:] = 0
        return block, lengths

    def _runs(
        self, samples: NDArray[np.int64], lengths: NDArray[np.int64], modality: str
    ) -> list[tuple[NDArray[Any] | ForeignRows, int, int, int]]:
        """(source, first row, rows, place in the batch) of every sample that has rows."""
        shards = self.cache.shard_numbers(samples).tolist()
        first = self.cache.first_rows(modality)[samples].tolist()
        return [
            (self.cache.source(modality, shard), row, count, at)
            for at, (shard, row, count) in enumerate(zip(shards, first, lengths.tolist(), strict=True))
            if count
        ]

    def _take(self, samples: NDArray[np.int64], modality: str, out: NDArray[Any]) -> None:
        """One row per sample: a gather per shard instead of a copy per sample."""
        shards = self.cache.shard_numbers(samples)
        first = self.cache.first_rows(modality)[samples]
        for shard in np.unique(shards).tolist():
            source = self.cache.source(modality, shard)
            places = np.flatnonzero(shards == shard)
            if isinstance(source, ForeignRows):
                for place in places.tolist():
                    out[place] = source[int(first[place]) : int(first[place]) + 1][0]
            elif len(places) == len(samples) and out.flags.c_contiguous:
                np.take(source, first, axis=0, out=out, mode="clip")
            else:
                out[places] = np.take(source, first[places], axis=0)


def check_labels(view: View, names: Sequence[str]) -> tuple[str, ...]:
    """Return ``names`` if the cache has all of these label columns.

    Raises:
        InputError: naming those it has not, and those it has.
    """
    there = view.cache.label_columns
    if unknown := [name for name in names if name not in there]:
        raise InputError(
            f"the cache {view.cache.path} has no labels {unknown}; it has {sorted(there)}; correct the recipe"
        )
    return tuple(names)
