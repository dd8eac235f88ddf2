"""``fusecache cache info|verify|ls``: look at a cache and check it."""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from fusecache.cache import Cache, open_cache, verify

from ..progress import Progress
from ..tables import print_json, print_table, say, size


def describe(cache: Cache) -> dict[str, Any]:
    """Everything that ``cache info`` shows, as plain values."""
    manifest = cache.manifest
    splits = cache.split_of()
    modalities: list[dict[str, Any]] = []
    for name, spec in cache.specs.items():
        present, lengths = cache.present(name), cache.lengths(name)
        modalities.append(
            {
                "modality": name,
                "stream": spec.stream,
                "encoder": spec.producer.label,
                "dim": spec.dim,
                "dtype": spec.dtype,
                "rows": int(lengths.sum()),
                "rows_min": int(lengths[present].min()) if present.any() else 0,
                "rows_median": float(np.median(lengths[present])) if present.any() else 0.0,
                "rows_max": int(lengths[present].max()) if present.any() else 0,
                "missing": int((~present).sum()),
                "hop": spec.hop,
                "span": spec.span,
                "timing": spec.timing,
                "weights": spec.producer.weights,
                "weights_hash": spec.producer.weights_hash,
                "settings": dict(spec.producer.settings),
                "decode": spec.producer.decode,
                "licence": spec.licence,
                "note": spec.note,
                "random_weights": spec.producer.is_random,
            }
        )
    return {
        "cache": str(cache.path),
        "format_version": manifest.format_version,
        "version": manifest.version,
        "fingerprint": cache.fingerprint,
        "samples": len(cache),
        "rejected": manifest.rejected,
        "shards": len(manifest.shards),
        "bytes": sum(entry[0] for shard in manifest.shards for entry in shard.files.values()),
        "splits": {name: int((splits == code).sum()) for code, name in enumerate(cache.splits)},
        "labels": {
            name: {"kind": column.kind, "classes": list(column.classes)}
            for name, column in cache.label_columns.items()
        },
        "modalities": modalities,
    }


def show_info(told: dict[str, Any]) -> None:
    """Print :func:`describe` as tables."""
    splits = ", ".join(f"{name or '(none)'} {count:,}" for name, count in told["splits"].items())
    labels = ", ".join(
        f"{name} ({label['kind']}, {len(label['classes'])} classes)" for name, label in told["labels"].items()
    )
    rejected = f", {told['rejected']} rejected at extraction" if told["rejected"] else ""
    say(
        f"{told['cache']}: {told['samples']:,} samples{rejected}, {told['shards']} shards, {size(told['bytes'])}"
    )
    say(
        f"format {told['format_version']}, cache version {told['version']}, content fingerprint {told['fingerprint']}"
    )
    say(f"splits: {splits or 'none'}; labels: {labels or 'none'}")
    print_table(
        "",
        ("modality", "encoder", "dim", "dtype", "rows (min, median, max)", "missing", "hop s", "span s"),
        [
            (
                each["modality"], each["encoder"], str(each["dim"]), each["dtype"],
                f"{each['rows_min']}, {each['rows_median']:g}, {each['rows_max']}", str(each["missing"]),
                "" if each["hop"] is None else f"{each['hop']:g}", "" if each["span"] is None else f"{each['span']:g}",
            )
            for each in told["modalities"]
        ],
    )  # fmt: skip
    for each in told["modalities"]:
        for name in ("licence", "note"):
            if each[name]:
                say(f"{name} of {each['modality']}: {each[name]}")


def _info(args: argparse.Namespace) -> int:
    with open_cache(args.cache) as cache:
        told = describe(cache)
    if args.json:
        print_json(told)
    else:
        show_info(told)
    return 0


def _verify(args: argparse.Namespace) -> int:
    with Progress("verify", "MB") as progress:
        problems = verify(
            args.cache,
            full=not args.fast,
            on_progress=lambda done, total: progress.update(done // 1_000_000, total // 1_000_000),
        )
    if args.json:
        print_json(
            {
                "cache": args.cache,
                "full": not args.fast,
                "problems": [
                    {"shard": each.shard, "modality": each.modality, "what": each.what} for each in problems
                ],
            }
        )
    elif problems:
        print_table(
            f"{args.cache}: {len(problems)} problems",
            ("shard", "modality", "what"),
            [
                ("" if each.shard is None else str(each.shard), each.modality or "", each.what)
                for each in problems
            ],
        )
    else:
        say(f"{args.cache}: whole ({'sizes and manifest' if args.fast else 'every checksum'} checked)")
    return 3 if problems else 0


def _ls(args: argparse.Namespace) -> int:
    with open_cache(args.cache) as cache:
        view = cache.select(split=args.split)
        chosen = view.index if args.limit == 0 else view.index[: args.limit]
        codes, groups, keys = cache.split_of(), cache.groups(), cache.keys()
        labels = {name: cache.labels(name) for name in cache.label_columns}
        lengths = {name: (cache.lengths(name), cache.present(name)) for name in cache.specs}
        rows: list[dict[str, Any]] = []
        for index in chosen.tolist():
            row: dict[str, Any] = {
                "key": keys[index],
                "split": cache.splits[codes[index]] if cache.splits else "",
                "group": groups[index],
            }
            for name, column in cache.label_columns.items():
                value = labels[name][index]
                if column.kind == "class":
                    row[name] = column.classes[int(value)] if value >= 0 else ""
                elif column.kind == "float":
                    row[name] = float(value)
                else:
                    row[name] = "|".join(tag for tag, on in zip(column.classes, value, strict=True) if on)
            for name, (count, present) in lengths.items():
                row[name] = int(count[index]) if present[index] else None
            rows.append(row)
        total = len(view)
    if args.json:
        print_json({"cache": args.cache, "total": total, "samples": rows})
        return 0
    columns = list(rows[0]) if rows else ["key"]
    print_table(
        f"{args.cache}: {len(rows)} of {total:,} samples (rows of each modality; blank: missing)",
        columns,
        [["" if row[name] is None else str(row[name]) for name in columns] for row in rows],
    )
    return 0


def run(args: argparse.Namespace) -> int:
    """Run one of the cache verbs."""
    return {"info": _info, "verify": _verify, "ls": _ls}[args.cache_verb](args)
