"""Keyed random draws: the same (seed, step, site) gives the same numbers, alone, resumed or inside a sweep.

Global random state breaks as soon as a run is resumed or shares a process with another. Here a draw is a pure function
of three keys: the run's ``seed``, the global ``step``, and ``site``, the name of the place that draws.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Draws:
    """The random source of one step of one run."""

    seed: int
    step: int

    def generator(self, site: str) -> torch.Generator:
        """A CPU generator for one site of this step."""
        raw = hashlib.blake2b(f"{self.seed}/{self.step}/{site}".encode(), digest_size=8).digest()
        return torch.Generator().manual_seed(int.from_bytes(raw, "little") >> 1)

    def uniform(self, site: str, shape: tuple[int, ...], *, device: torch.device | str = "cpu") -> Tensor:
        """Uniform numbers in [0, 1), float32, of ``shape``, the same on every device."""
        return torch.rand(shape, generator=self.generator(site)).to(device)

    def normal(self, site: str, shape: tuple[int, ...], *, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal numbers, float32, of ``shape``, the same on every device."""
        return torch.randn(shape, generator=self.generator(site)).to(device)

    def dropout(self, site: str, x: Tensor, p: float) -> Tensor:
        """Inverted dropout of ``x`` with probability ``p``; the identity where ``p`` is 0."""
        if p == 0.0:
            return x
        keep = self.uniform(site, tuple(x.shape), device=x.device) >= p
        return x * keep / (1.0 - p)
