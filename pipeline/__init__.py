"""fusecache: extract features once, fuse forever.

The root package stays free of imports, so that the command line answers at once and a
training machine never loads an extraction library. ``fusecache.open`` is resolved when used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

__version__ = "0.1.0"
__all__ = ["__version__", "open"]

if TYPE_CHECKING:
    from fusecache.cache import open_cache as open


def __getattr__(name: str) -> object:
    """Resolve ``fusecache.open`` to :func:`fusecache.cache.open_cache` on first use."""
    if name == "open":
        from fusecache.cache import open_cache

        return open_cache
    raise AttributeError(f"module 'fusecache' has no attribute {name!r}")
