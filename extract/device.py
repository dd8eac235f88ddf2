"""Where networks run, and how arrays get there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fusecache.cache import DType, InputError

from .encoder import missing_extra

if TYPE_CHECKING:
    import torch


def resolve_device(name: str) -> str:
    """A torch device by name; ``auto`` is the first CUDA device, or the CPU where there is none.

    Raises:
        InputError: no such device here.
        MissingExtraError: torch is not installed.
    """
    try:
        import torch
    except ImportError as error:
        raise missing_extra("Running encoders", error) from error
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device: must be auto, cpu or cuda:N, got {name!r}; mend the recipe") from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise InputError(
            f"device: {name!r} was asked for and this machine has {count} CUDA devices; use auto or cpu"
        )
    return str(device)


def compute_dtype(device: str) -> DType:
    """What networks compute in: bfloat16 autocast on a CUDA device, float32 elsewhere."""
    return "bfloat16" if device.startswith("cuda") else "float32"


def to_device(batch: NDArray[Any], device: str) -> torch.Tensor:
    """A tensor of ``batch`` on ``device``; to a CUDA device through pinned memory, without waiting."""
    import torch

    tensor = torch.as_tensor(batch)
    if device.startswith("cuda"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def autocast(device: str) -> torch.autocast:
    """The context in which networks compute; does nothing on a CPU."""
    import torch

    cuda = device.startswith("cuda")
    return torch.autocast("cuda" if cuda else "cpu", dtype=torch.bfloat16, enabled=cuda)
