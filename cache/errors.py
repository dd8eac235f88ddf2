"""Errors that a user can act on.

Every message has four parts: what was required, what came, where (file, field, key), and what to do.
The command line prints the message of a :class:`FusecacheError` without a traceback and leaves with its
``exit_code``; any other exception is a defect of ours and keeps its traceback.
"""

from __future__ import annotations


class FusecacheError(Exception):
    """Something the user can mend; the message says how."""

    exit_code: int = 1


class InputError(FusecacheError):
    """A media manifest, recipe, option or media file is not what it must be (exit code 2)."""

    exit_code = 2


class CacheError(FusecacheError):
    """A cache is missing, damaged or not of this format (exit code 3)."""

    exit_code = 3


class MismatchError(CacheError):
    """A cache is whole, but made by another producer or of another sample set (exit code 3)."""


class StorageError(FusecacheError):
    """The disk refused: full, read-only, not permitted, or gone (exit code 4)."""

    exit_code = 4


class RejectsError(FusecacheError):
    """More samples were rejected than the recipe allows (exit code 5)."""

    exit_code = 5


class MissingExtraError(FusecacheError):
    """An optional dependency is needed and absent; the message names the extra (exit code 6)."""

    exit_code = 6


def several(title: str, problems: list[str], *, limit: int = 20) -> str:
    """Join every offender under one title, so that nobody mends a file one error at a time.

    >>> print(several("2 rows are wrong", ["row 1: no key", "row 4: no key"]))
    2 rows are wrong:
      - row 1: no key
      - row 4: no key
    """
    shown = [f"  - {problem}" for problem in problems[:limit]]
    if len(problems) > limit:
        shown.append(f"  ... and {len(problems) - limit} more")
    return "\n".join([f"{title}:", *shown])
