# pyright: reportUnknownMemberType=false
# torch leaves some of its own signatures untyped.
"""Do the task and the auxiliary loss pull a modality's features the same way? Measured on sampled steps.

On a cache of frozen features the gradient "at the encoder" is the gradient at the pooled features ``V[m]``: exact,
and free of any encoder. The cosine of the two gradients is what the paper's Fig. 4 draws.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def gradient_angles(
    features: Mapping[str, Tensor], task: Tensor, auxiliary: Tensor | None
) -> dict[str, dict[str, float | None]]:
    """Norms of both gradients at each modality's features, and their cosine, over the whole batch.

    Args:
        features: the ``V[m]`` of this step, each part of the graph of both losses.
        task: the task loss.
        auxiliary: the weighted sum of the auxiliary losses; None where the block has none.

    Returns:
        modality to ``task_norm``, ``auxiliary_norm`` and ``cosine`` (None where a norm is 0). The graph is kept.
    """
    names = list(features)
    task_grads = _gradients(task, features)
    other_grads = (
        [torch.zeros_like(g) for g in task_grads] if auxiliary is None else _gradients(auxiliary, features)
    )
    out: dict[str, dict[str, float | None]] = {}
    for name, a, b in zip(names, task_grads, other_grads, strict=True):
        a, b = a.double().flatten(), b.double().flatten()
        na, nb = float(a.square().sum().sqrt()), float(b.square().sum().sqrt())
        cosine = float(a @ b) / (na * nb) if na > 0 and nb > 0 else None
        out[name] = {"cosine": cosine, "task_norm": na, "auxiliary_norm": nb}
    return out


def _gradients(loss: Tensor, features: Mapping[str, Tensor]) -> list[Tensor]:
    values = list(features.values())
    if not loss.requires_grad:
        return [torch.zeros_like(value) for value in values]
    return list(torch.autograd.grad(loss, values, retain_graph=True, materialize_grads=True))
