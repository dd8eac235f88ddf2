"""Frozen encoders over raw media: decode once, encode many, write a cache."""

from .clip import Clip, ClipError
from .config import EncoderConfig, ExtractConfig
from .encoder import ENCODERS, Encoder, Needs, build_encoder, resolved_settings
from .media import MediaManifest, MediaRow, read_manifest
from .progress import Event
from .rejects import Flag, Reject
from .runner import ExtractReport, extract
from .weights import recorded_weights

__all__ = [
    "ENCODERS",
    "Clip",
    "ClipError",
    "Encoder",
    "EncoderConfig",
    "Event",
    "ExtractConfig",
    "ExtractReport",
    "Flag",
    "MediaManifest",
    "MediaRow",
    "Needs",
    "Reject",
    "build_encoder",
    "extract",
    "read_manifest",
    "recorded_weights",
    "resolved_settings",
]
