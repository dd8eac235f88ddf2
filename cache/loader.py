"""The loader: batches of a view in a planned order, gathered into reused buffers one batch ahead.

It is a projector with two reels: while one batch is shown, a thread fills the other. So a batch is valid until the next
is drawn; copy what must outlive it. There are no worker processes, because gathering from the map releases the GIL
and runs at memory speed.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .order import plan
from .view import View, check_labels


@dataclass(kw_only=True, slots=True)
class Batch:
    """``B`` samples of a view. Its arrays in ``x`` are reused: valid until the next batch is drawn."""

    items: NDArray[np.int64]
    """``[B]`` positions in the view."""
    x: dict[str, NDArray[Any]]
    """Modality to ``[B, T, dim]``, zeros behind each sample's rows; stored dtype, float32 for bfloat16. ``T`` >= 1."""
    lengths: dict[str, NDArray[np.int64]]
    """Modality to ``[B]`` rows; 0 where missing or empty."""
    present: NDArray[np.bool_]
    """``[B, M]`` in the order of the view's modalities."""
    labels: dict[str, NDArray[Any]]
    """Column to ``[B]`` or ``[B, classes]``; see :meth:`Cache.labels`."""


@dataclass(slots=True)
class _Buffers:
    """One flat buffer per modality; grows, and is never given back before the loader."""

    flat: dict[str, NDArray[Any]] = field(default_factory=dict[str, NDArray[Any]])

    def ask(self, name: str, size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        found = self.flat.get(name)
        if found is None or len(found) < size:
            found = self.flat[name] = np.empty(size + size // 8, dtype)
        return found


class Loader:
    """Batches of ``view``, epoch after epoch.

    Args:
        view: what to load.
        batch_size: samples per batch; the last batch of an epoch may be smaller.
        order_seed: seed of the order; see :func:`fusecache.cache.plan`.
        shuffle: False: in the view's order.
        labels: label columns to put into the batches.
        prefetch: gather one batch ahead in a thread.
        most: numbers that a padded batch may have, all modalities together; a batch that would have more comes as
            several smaller ones, in the same order, down to one sample. None: batches are never divided.

    Raises:
        InputError: a batch size below 1, or a label that the cache does not have.
    """

    def __init__(
        self, view: View, *, batch_size: int, order_seed: int = 0, shuffle: bool = True, labels: Sequence[str] = (),
        prefetch: bool = True, most: int | None = None,
    ) -> None:  # fmt: skip
        if batch_size < 1:
            raise InputError(
                f"batch_size must be at least 1, got {batch_size}; correct the recipe (field train.batch_size)"
            )
        self.view, self.batch_size, self.order_seed, self.shuffle = view, batch_size, order_seed, shuffle
        self._prefetch, self._most = prefetch, most
        names = check_labels(view, labels)
        self._labels = {name: view.labels(name) for name in names}
        self._present = view.present()

    @property
    def batches_per_epoch(self) -> int:
        """Batches of one epoch, the last and perhaps smaller one included; divided ones count once."""
        return -(-len(self.view) // self.batch_size)

    def epoch(self, epoch: int, *, skip: int = 0) -> Iterator[Batch]:
        """The batches of one epoch; a batch is valid until the next one is drawn.

        Args:
            epoch: its number, from 0; it decides the order.
            skip: batches to leave out at the front, to go on where a run stopped.

        Raises:
            InputError: ``skip`` is not 0 to :attr:`batches_per_epoch`.
            CacheError: rows turn out to be damaged or gone.
        """
        if not 0 <= skip <= self.batches_per_epoch:
            raise InputError(
                f"an epoch of {len(self.view)} samples in batches of {self.batch_size} has {self.batches_per_epoch} batches, "
                f"and cannot go on after {skip}; resume with the batch size that the run had"
            )
        batches = plan(
            order_seed=self.order_seed,
            epoch=epoch,
            n=len(self.view),
            batch_size=self.batch_size,
            shuffle=self.shuffle,
        )[skip:]
        if self._most is not None:
            batches = [piece for items in batches for piece in self._divided(items, self._most)]
        return self._ahead(batches) if self._prefetch else self._inline(batches)

    def _divided(self, items: NDArray[np.int64], most: int) -> list[NDArray[np.int64]]:
        """``items`` halved until no part pads to more than ``most`` numbers, or is a single sample."""
        cache, samples = self.view.cache, self.view.index[items]
        steps = {
            name: max(1, int(cache.lengths(name)[samples].max(initial=0))) for name in self.view.modalities
        }
        padded = len(items) * sum(count * cache.specs[name].dim for name, count in steps.items())
        if padded <= most or len(items) < 2:
            return [items]
        middle = len(items) // 2
        return self._divided(items[:middle], most) + self._divided(items[middle:], most)

    def _gather(self, items: NDArray[np.int64], buffers: _Buffers) -> Batch:
        view = self.view
        x: dict[str, NDArray[Any]] = {}
        lengths: dict[str, NDArray[np.int64]] = {}
        for name in view.modalities:
            spec = view.cache.specs[name]
            steps = max(1, int(view.cache.lengths(name)[view.index[items]].max(initial=0)))
            dtype = np.dtype(np.float32) if spec.dtype == "bfloat16" else view.cache.stored_dtype(name)
            x[name], lengths[name] = view.padded(
                items, name, buffers.ask(name, len(items) * steps * spec.dim, dtype)
            )
        labels = {name: column[items] for name, column in self._labels.items()}
        return Batch(items=items, x=x, lengths=lengths, present=self._present[items], labels=labels)

    def _inline(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        buffers = _Buffers()
        for items in batches:
            yield self._gather(items, buffers)

    def _ahead(self, batches: Sequence[NDArray[np.int64]]) -> Iterator[Batch]:
        free: queue.SimpleQueue[_Buffers | None] = queue.SimpleQueue()
        ready: queue.SimpleQueue[tuple[Batch, _Buffers] | BaseException | None] = queue.SimpleQueue()

        def work() -> None:
            try:
                for items in batches:
                    buffers = free.get()
                    if buffers is None:
                        return
                    ready.put((self._gather(items, buffers), buffers))
                ready.put(None)
            except BaseException as error:  # noqa: BLE001 (whatever it is, the consumer's thread raises it)
                ready.put(error)

        free.put(_Buffers())
        free.put(_Buffers())
        thread = threading.Thread(target=work, name="fusecache-loader", daemon=True)
        thread.start()
        try:
            while True:
                got = ready.get()
                if got is None:
                    return
                if isinstance(got, BaseException):
                    raise got
                batch, buffers = got
                yield batch
                free.put(buffers)
        finally:
            free.put(None)
            free.put(None)
            thread.join()
