"""The learning rate as a function of the step: linear warm-up, then a cosine to zero (Appendix A of the paper)."""

from __future__ import annotations

from math import cos, pi


def lr_at(step: int, steps: int, *, lr: float, lr_start: float, warmup_share: float) -> float:
    """Learning rate of ``step`` (from 0) of ``steps``.

    It is ``lr_start`` at step 0, ``lr`` after ``round(warmup_share * steps)`` steps, and would be 0 at ``steps``.

    >>> [round(lr_at(s, 10, lr=1.0, lr_start=0.5, warmup_share=0.2), 3) for s in (0, 1, 2, 6, 10)]
    [0.5, 0.75, 1.0, 0.5, 0.0]
    """
    warm = round(warmup_share * steps)
    if step < warm:
        return lr_start + (lr - lr_start) * step / warm
    return lr * 0.5 * (1.0 + cos(pi * (step - warm) / max(1, steps - warm)))
