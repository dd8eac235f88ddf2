"""The feature store: sharded Zarr v3 (and WebDataset) caches of unequal-length features, and their reader.

``fusecache.cache`` imports nothing of ours, and neither torch nor zarr when it is imported.
"""

from .errors import (
    CacheError,
    FusecacheError,
    InputError,
    MismatchError,
    MissingExtraError,
    RejectsError,
    StorageError,
)
from .loader import Batch, Loader
from .manifest import Manifest, ShardInfo, load_manifest
from .order import plan
from .reader import Cache, open_cache
from .sample import Rows, Sample
from .spec import DType, FeatureSpec, LabelColumn, Producer, Seconds, Stream
from .verify import Problem, verify
from .view import View
from .writer import CacheWriter

__all__ = [
    "Batch",
    "Cache",
    "CacheError",
    "CacheWriter",
    "DType",
    "FeatureSpec",
    "FusecacheError",
    "InputError",
    "LabelColumn",
    "Loader",
    "Manifest",
    "MismatchError",
    "MissingExtraError",
    "Problem",
    "Producer",
    "RejectsError",
    "Rows",
    "Sample",
    "Seconds",
    "ShardInfo",
    "StorageError",
    "Stream",
    "View",
    "load_manifest",
    "open_cache",
    "plan",
    "verify",
]
