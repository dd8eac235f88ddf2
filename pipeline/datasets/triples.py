"""Drawing samples: every sample joins one file (or word) per modality, all of one class and one split.

Like dealing from shuffled packs: within a class and a modality every item is dealt once before any is dealt twice,
so no file is left out and none is much more frequent than another. All draws are keyed by (seed, site).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from fusecache.cache import InputError

WORDS_FILE = Path(__file__).resolve().parent.parent / "data" / "number_words.json"
"""Words for 0 to 9 in 56 locales (``{locale: [ten words]}``), made with num2words 0.5.14."""

SPLITS: Mapping[str, int] = {"train": 4_000, "val": 1_000, "test": 3_000}
"""Samples drawn in each split, in the manifest's order."""

VAL_LOCALES = ("nl", "hu", "lt", "az", "uk")
TEST_LOCALES = ("kz", "ru", "id", "ro", "sl", "pl", "sv", "is", "tg")

DIGITS = tuple("0123456789")


def keyed_rng(seed: int, site: str) -> np.random.Generator:
    """A generator that is a pure function of the dataset's seed and the name of the place that draws.

    >>> bool(keyed_rng(0, "a").integers(1 << 30) == keyed_rng(0, "a").integers(1 << 30))
    True
    """
    raw = hashlib.blake2b(f"{seed}/{site}".encode(), digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(raw, "little"))


def number_words() -> dict[str, list[str]]:
    """The ten number words of every locale, from :data:`WORDS_FILE`, sorted by locale."""
    words: dict[str, list[str]] = json.loads(WORDS_FILE.read_text(encoding="utf-8"))
    return dict(sorted(words.items()))


def split_locales(locales: Sequence[str]) -> dict[str, list[str]]:
    """Deal locales to the splits: :data:`VAL_LOCALES`, :data:`TEST_LOCALES`, and train takes the rest.

    Locales are disjoint between splits, spellings are not: Polish and English both write "zero".
    """
    held = {"val": VAL_LOCALES, "test": TEST_LOCALES}
    taken = {*VAL_LOCALES, *TEST_LOCALES}
    return {
        "train": [name for name in locales if name not in taken],
        **{s: list(names) for s, names in held.items()},
    }


def draw(
    pools: Mapping[str, Mapping[str, Sequence[str]]], count: int, *, seed: int, site: str
) -> list[tuple[str, dict[str, str]]]:
    """Draw ``count`` samples, classes as equal as the count allows, in shuffled order.

    Args:
        pools: modality to class to items. Every modality has the same classes, none of them empty.
        count: number of samples.
        seed: the dataset's seed.
        site: names this draw, such as the split; another site draws independently.

    Returns:
        (class, modality to item) for every sample.

    Raises:
        InputError: naming every class that lacks items in some modality.
    """
    classes = sorted({name for pool in pools.values() for name in pool})
    if empty := [f"{m} of class {c}" for m, pool in pools.items() for c in classes if not pool.get(c)]:
        raise InputError(
            f"split {site!r}: every class needs at least one item in every modality, found none for "
            f"{', '.join(empty)}; add files of these classes"
        )
    labels = [classes[i % len(classes)] for i in range(count)]
    order = keyed_rng(seed, f"{site}/order").permutation(count)
    need = {name: labels.count(name) for name in classes}
    dealt = {
        modality: {
            name: iter(_deal(pool[name], need[name], seed, f"{site}/{modality}/{name}")) for name in classes
        }
        for modality, pool in pools.items()
    }
    return [
        (labels[int(i)], {modality: next(dealt[modality][labels[int(i)]]) for modality in pools})
        for i in order
    ]


def _deal(items: Sequence[str], count: int, seed: int, site: str) -> list[str]:
    """``count`` items from packs of all items, each pack shuffled anew."""
    rng = keyed_rng(seed, site)
    packs = -(-count // len(items))
    return [items[int(i)] for _ in range(packs) for i in rng.permutation(len(items))][:count]
