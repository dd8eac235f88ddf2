"""Facts about a run that are kept beside a cache and decide nothing in it: versions, device, time."""

from __future__ import annotations

import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from .config import ExtractConfig

LIBRARIES = (
    "fusecache",
    "numpy",
    "torch",
    "torchaudio",
    "torchvision",
    "transformers",
    "av",
    "pillow",
    "zarr",
)


def provenance(
    *, device: str, manifest: Path, config: ExtractConfig, wall: float, stages: dict[str, float]
) -> dict[str, Any]:
    """Plain values for the cache's ``provenance`` folder; seconds are rounded to milliseconds."""
    return {
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "extract",
        "media_manifest": str(manifest),
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
        "libav": _libav(),
        "python": platform.python_version(),
        "machine": platform.platform(),
        "device": device,
        "device_name": _device_name(device),
        "decoder": "pyav",
        "workers": config.workers,
        "batch_items": config.batch_items,
        "wall_seconds": round(wall, 3),
        "stage_seconds": {stage: round(seconds, 3) for stage, seconds in stages.items()},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _libav() -> dict[str, str]:
    """Versions of libav's parts, where it was loaded; the decoding children load the same."""
    try:
        import av
    except ImportError:
        return {}
    return {name: ".".join(map(str, found)) for name, found in av.library_versions.items()}


def _device_name(device: str) -> str:
    torch = sys.modules.get("torch")
    if torch is not None and device.startswith("cuda"):
        return str(torch.cuda.get_device_name(device))
    return platform.processor() or platform.machine()
