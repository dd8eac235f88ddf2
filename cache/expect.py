"""Was this cache made as the recipe asks? Every field that differs is told, with both values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from .errors import MismatchError, several
from .manifest import Manifest
from .spec import canonical_json


def check_expected(manifest: Manifest, expect: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Hold a cache's specs against ``expect``; see :func:`~fusecache.cache.reader.open_cache`.

    Raises:
        MismatchError: listing every modality and field that differs, with both values.
    """
    specs = {spec.modality: spec for spec in manifest.specs}
    problems: list[str] = []
    first = ""
    for modality, wanted in expect.items():
        if modality not in specs:
            problems.append(f"modality {modality!r}: the recipe asks for it, the cache has {sorted(specs)}")
            continue
        fields = asdict(specs[modality])
        producer = cast(dict[str, Any], fields.pop("producer"))
        settings = cast(Mapping[str, Any], producer.pop("settings"))
        pairs = [
            (name, value, {**fields, **producer}) for name, value in wanted.items() if name != "settings"
        ]
        inner = cast(Mapping[str, Any], wanted.get("settings", {}))
        pairs += [
            (f"settings.{name}", value, {f"settings.{k}": v for k, v in settings.items()})
            for name, value in inner.items()
        ]
        for name, value, there in pairs:
            if name not in there:
                problems.append(
                    f"modality {modality!r}, {name}: the recipe asks for {value!r}, the cache does not have it"
                )
            elif canonical_json(value) != canonical_json(there[name]):
                problems.append(
                    f"modality {modality!r}, {name}: the recipe asks for {value!r}, the cache was made with {there[name]!r}"
                )
            else:
                continue
            option = name.removeprefix("settings.")
            first = first or f"extract.encoders.{modality}.{option if name == 'encoder' else name}"
    if problems:
        field = first or "extract.encoders"
        title = (
            f"the cache {path} was made by another producer than the recipe asks for; extract again into another folder, "
            f"or change the recipe (field {field})"
        )
        raise MismatchError(several(title, problems))
