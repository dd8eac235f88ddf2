"""SCFAE, the self-consistent fusion block (arXiv 2410.15475v2, Sec. 4, Eq. 3-6, Appendix A, Table 12), exactly.

Every modality is expanded and cut into a shared and a specific part; the shared parts move on by one place in a ring
of modalities, like plates passed round a table, and each modality must still be able to rebuild its own input from
what it holds then.

Legend: B batch, M modalities in cyclic order, ``l[m]`` input widths, ``l*`` their minimum, ``k = (m+1) mod M``,
``e[m] = round(n * l[m])``, ``b[m] = round(b * n * l[m])``.

============  ============================================  =================
pre           SwiGLU, hidden width ``round(8/3 * l[m])``      ``l[m] -> l[m]``
expand        Linear, GELU, cut at ``b[m]``                   ``l[m] -> e[m]``
exchange      m takes the shared part of k                    ``b[k]``
shared        Linear, GELU                                    ``b[k] -> l*``
specific      Linear, GELU                                    ``e[m]-b[m] -> l[m]``
join (post)   SwiGLU on [specific; shared]                    ``l[m] + l*``
recon         Linear, no GELU (targets have negatives)        ``l[m] + l* -> l[m]``
============  ============================================  =================

Readings that are ours are fields of :class:`~fusecache.train.config.ScfaeConfig`. The block takes vectors; sequences
are pooled before it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusecache.cache import InputError

from .config import ScfaeConfig
from .draws import Draws
from .fusion import FusionOutput


class SwiGLU(nn.Module):
    """``down(silu(gate(x)) * up(x))``: three Linear maps with biases, width kept, hidden ``round(8/3 * width)``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = round(8 * width / 3)
        self.gate = nn.Linear(width, hidden)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[B, width]`` to ``[B, width]``."""
        return self.down(F.silu(self.gate(x)) * self.up(x))


def recon_losses(target: Tensor, rebuilt: Tensor, kind: str) -> Tensor:
    """Reconstruction loss of each sample, ``[B]``: ``1 - cos`` (Eq. 5, minimised), or the mean squared error."""
    if kind == "cosine":
        return 1.0 - F.cosine_similarity(target, rebuilt, dim=-1)
    return (target - rebuilt).square().mean(dim=-1)


class Scfae(nn.Module):
    """The fusion block. ``fused`` is ``[Z[1]; ...; Z[M]]``, ``width = sum(l[m] + l*)``.

    Parts: ``shared.NAME [B, l*]``, ``specific.NAME [B, l]``, ``z.NAME [B, l + l*]``, ``recon.NAME [B, l]``. What an
    absent modality holds has no effect, whatever it is.

    Raises:
        InputError: if no modality is given, or a width leaves a branch empty.
    """

    stackable = True

    def __init__(self, dims: Mapping[str, int], config: ScfaeConfig) -> None:
        super().__init__()
        self.config = config
        self.modalities = tuple(dims)
        self.dims = tuple(dims.values())
        if not dims:
            raise InputError("SCFAE needs at least one modality, got none; name some under train.modalities")
        expanded = [round(config.expansion * dim) for dim in self.dims]
        self.cuts = tuple(round(config.boundary * config.expansion * dim) for dim in self.dims)
        bad = [
            f"{name}: {dim} wide, expanded to {wide}, shared part {cut}, specific part {wide - cut}"
            for name, dim, wide, cut in zip(self.modalities, self.dims, expanded, self.cuts, strict=True)
            if not 0 < cut < wide
        ]
        if bad:
            raise InputError(
                "SCFAE needs at least one shared and one specific feature in every modality; raise "
                f"fusion.scfae.expansion or move fusion.scfae.boundary from {config.boundary}. Got "
                + "; ".join(bad)
            )
        count, least = len(self.dims), min(self.dims)
        self.shared_width = least
        self.width = sum(dim + least for dim in self.dims)
        common = config.exchange == "common"
        entry = [least if common else self.cuts[(m + 1) % count] for m in range(count)]
        self.entry = tuple(entry)
        self.pre = nn.ModuleList(SwiGLU(dim) for dim in self.dims)
        self.expand = nn.ModuleList(nn.Linear(d, e) for d, e in zip(self.dims, expanded, strict=True))
        self.common = nn.ModuleList(nn.Linear(cut, least) for cut in self.cuts) if common else None
        self.shared = nn.ModuleList(nn.Linear(width, least) for width in entry)
        self.specific = nn.ModuleList(
            nn.Linear(e - cut, dim) for e, cut, dim in zip(expanded, self.cuts, self.dims, strict=True)
        )
        self.post = nn.ModuleList(SwiGLU(dim + least) for dim in self.dims)
        self.recon = nn.ModuleList(nn.Linear(dim + least, dim) for dim in self.dims)

    def split(self, m: int, x: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 3: shared part ``[B, b[m]]`` (or ``[B, l*]`` with a common width) and specific part of modality m."""
        wide = F.gelu(self.expand[m](self.pre[m](x)))
        shared, specific = wide[..., : self.cuts[m]], wide[..., self.cuts[m] :]
        return (shared if self.common is None else self.common[m](shared)), specific

    def exchanged(self, m: int, parts: list[Tensor], present: Tensor) -> tuple[Tensor, Tensor]:
        """What modality m takes: the shared part of the next modality that is there, at last its own.

        Returns:
            ``[B, entry]`` (zeros where the part found does not fit) and ``[B, 1]`` bool, whether one that fits
            was found.
        """
        count = len(parts)
        taken = torch.zeros_like(parts[(m + 1) % count])
        free = torch.ones_like(present[:, :1])
        found = torch.zeros_like(free)
        for step in range(1, count + 1):
            k = (m + step) % count
            here = free & present[:, k : k + 1]
            if parts[k].shape[-1] == self.entry[m]:
                taken = torch.where(here, parts[k], taken)
                found = found | here
            free = free & ~here
        return taken, found

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
        """Fuse ``x[m]: [B, l[m]]`` under ``present: [B, M]``; see :class:`~fusecache.train.fusion.FusionBlock`."""
        cfg, count = self.config, len(self.modalities)
        there = [present[:, m : m + 1] for m in range(count)]
        # Absent rows are replaced, not multiplied: a NaN times zero would still be a NaN.
        v = [torch.where(there[m], x[name], 0.0) for m, name in enumerate(self.modalities)]
        used = present if cfg.missing == "skip" else torch.ones_like(present)
        halves = [self.split(m, v[m]) for m in range(count)]
        output = FusionOutput()
        z_all: list[Tensor] = []
        mask: list[Tensor] = []
        recon: Tensor | None = None
        for m, name in enumerate(self.modalities):
            taken, found = self.exchanged(m, [shared for shared, _ in halves], used)
            here = used[:, m : m + 1]
            shared = torch.where(found & here, F.gelu(self.shared[m](taken)), 0.0)
            specific = torch.where(here, F.gelu(self.specific[m](halves[m][1])), 0.0)
            output.parts[f"shared.{name}"], output.parts[f"specific.{name}"] = shared, specific
            if cfg.branches == "shared":
                specific = torch.zeros_like(specific)
            elif cfg.branches == "specific":
                shared = torch.zeros_like(shared)
            joined = torch.cat([specific, shared], dim=-1)
            if self.training:
                joined = draws.dropout(f"scfae.join.{name}", joined, cfg.dropout)
            z = torch.where(here, self.post[m](joined), 0.0)
            rebuilt = self.recon[m](z)
            goal = v[m].detach() if cfg.recon_target == "detach" else v[m]
            # Half precision has too few digits for 1 - cos; the loss is computed in float32 (float64 stays).
            exact = torch.promote_types(goal.dtype, torch.float32)
            error = recon_losses(goal.to(exact), rebuilt.to(exact), cfg.recon_loss)
            error = torch.where(there[m][:, 0], error, 0.0)
            recon = error if recon is None else recon + error
            output.parts[f"z.{name}"], output.parts[f"recon.{name}"] = z, rebuilt
            z_all.append(z)
            mask.append(here.expand_as(z))
        assert recon is not None
        output.fused = torch.cat(z_all, dim=-1)
        output.mask = torch.cat(mask, dim=-1)
        output.losses["recon"] = (recon.mean(), cfg.recon_weight)
        return output

    def embed(self, modality: str, x: Tensor) -> Tensor:
        """One side alone, for retrieval: ``[B, l[m]] -> [B, l*]``.

        By the exchange, the map that reads the shared part of k belongs to the modality before it; so k's embedding
        is ``P_shared[k-1](shared(k))``, which no other side enters (our reading).
        """
        k = self.modalities.index(modality)
        return F.gelu(self.shared[(k - 1) % len(self.modalities)](self.split(k, x)[0]))
