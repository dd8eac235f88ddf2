"""``fusecache demo``: the whole way, on real input."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from fusecache.cache import open_cache, verify

from ..progress import clock
from ..recipe import load_recipe
from ..report import write_report
from ..tables import print_json, say
from . import cache as cache_verb
from . import data as data_verb
from . import extract as extract_verb
from . import train as train_verb


def run(args: argparse.Namespace) -> int:
    """Data, features, cache, training, report; then the video clips."""
    began = time.monotonic()
    out = Path(args.out)
    data = args.data or os.environ.get(data_verb.DATA_VARIABLE)
    name = "recordings" if data else "digits"
    told: dict[str, Any] = {"data": name, "out": str(out)}
    overrides = [f"train.seed={args.seed}", f"train.order_seed={args.seed}"]
    recipe = load_recipe("digits", overrides)
    tag = f"{name}-s{args.seed}"

    def step(number: int, text: str) -> None:
        if not args.json:
            say(f"\n[{number}/6] {text}")

    step(
        1,
        f"data: {'real recordings of ' + str(data) if data else 'handwriting, synthesised speech and number words'}",
    )
    manifest = data_verb.build(name, out / "data" / tag, seed=args.seed, data=data)
    step(2, f"features: fusecache extract {manifest} --recipe digits")
    extracted = extract_verb.extract_run(manifest, out / "caches" / tag, recipe)
    told["extract"] = extract_verb.summary(extracted)
    if not args.json:
        extract_verb.show(extracted)
    step(3, f"cache: fusecache cache info {extracted.cache}")
    with open_cache(extracted.cache) as cache:
        described = cache_verb.describe(cache)
    problems = verify(extracted.cache, full=True)
    told["cache"] = {"fingerprint": described["fingerprint"], "problems": len(problems)}
    if not args.json:
        cache_verb.show_info(described)
        say(
            "every checksum agrees"
            if not problems
            else f"{len(problems)} problems: run fusecache cache verify {extracted.cache}"
        )
    seeds = "" if args.seed == 0 else f" --set train.seed={args.seed} --set train.order_seed={args.seed}"
    step(4, f"training: fusecache train {extracted.cache} --recipe digits{seeds}")
    result = train_verb.train_shown(extracted.cache, recipe, out / "runs" / tag)
    told["train"] = train_verb.summary(result, out / "runs" / tag)
    if not args.json:
        train_verb.show(result, recipe, out / "runs" / tag)
    step(5, "video: three real clips, one with sound")
    clips = load_recipe("clips")
    clip_manifest = data_verb.build("clips", out / "data" / "clips", seed=args.seed, data=None)
    clipped = extract_verb.extract_run(clip_manifest, out / "caches" / "clips", clips)
    told["clips"] = extract_verb.summary(clipped)
    if not args.json:
        extract_verb.show(clipped)
        with open_cache(clipped.cache) as cache:
            cache_verb.show_info(cache_verb.describe(cache))
    step(6, "report")
    page = write_report(out / "runs" / tag)
    told["report"] = str(page)
    told["work_seconds"] = round(time.monotonic() - began, 1)
    if args.json:
        print_json(told)
    else:
        say(f"report: {page}")
        say(f"work: {clock(time.monotonic() - began)}")
    return 3 if problems else 0
