"""The order of samples is a function: the same seed, epoch and sizes give the same batches on every machine."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

_MASK = (1 << 64) - 1


def permutation(order_seed: int, epoch: int, n: int) -> NDArray[np.int64]:
    """A permutation of ``range(n)``, int64, that depends on nothing but its three arguments.

    ``n`` raw words of Philox4x64-10, whose stream NumPy promises to keep, under the key ``(order_seed, epoch)`` are
    sorted; the sorting order is the permutation. NumPy's own ``permutation`` may change between releases.
    """
    key = np.array([order_seed & _MASK, epoch & _MASK], np.uint64)
    words = np.random.Philox(key=key).random_raw(n)
    return np.argsort(np.asarray(words, np.uint64), kind="stable").astype(np.int64, copy=False)


def plan(
    *, order_seed: int, epoch: int, n: int, batch_size: int, shuffle: bool = True
) -> list[NDArray[np.int64]]:
    """The global batches of one epoch: every item of ``range(n)`` exactly once, in batches of ``batch_size``.

    The last batch may be smaller. Restarting at batch ``k`` means dropping the first ``k`` entries.

    >>> [batch.tolist() for batch in plan(order_seed=0, epoch=0, n=5, batch_size=2, shuffle=False)]
    [[0, 1], [2, 3], [4]]

    Raises:
        InputError: ``batch_size`` below 1 or ``n`` below 0.
    """
    if batch_size < 1 or n < 0:
        raise InputError(
            f"a plan needs batch_size >= 1 and n >= 0, got batch_size={batch_size}, n={n}; correct the recipe"
        )
    items = permutation(order_seed, epoch, n) if shuffle else np.arange(n, dtype=np.int64)
    return [items[i : i + batch_size] for i in range(0, n, batch_size)]
