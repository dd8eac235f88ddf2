"""Data to try fusecache on: two three-modality digit tasks and three video clips, each as a media manifest.

``number_words.json`` (digit words in 56 locales) was made with num2words 0.5.14. Nothing heavy is imported here.
"""

from .clips import build_clips, clip_paths
from .digits import build_digits
from .recordings import build_recordings

__all__ = ["build_clips", "build_digits", "build_recordings", "clip_paths"]
