"""The table of fusion blocks that ship: a name in a recipe to the module that it means."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from .concat import Concat
from .config import FusionConfig
from .scfae import Scfae

BLOCKS: dict[str, Callable[[Mapping[str, int], FusionConfig], Scfae | Concat]] = {
    "scfae": lambda dims, config: Scfae(dims, config.scfae),
    "concat": lambda dims, config: Concat(dims, config.concat),
}
"""Name to a builder that takes modality -> width (in cyclic order) and the recipe's fusion section."""
