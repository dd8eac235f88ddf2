"""The extraction: media manifest in, cache out.

Child processes decode and prepare, this thread encodes, a writer thread commits. A shard is a slice of the media
manifest and the unit of work and resume: batches never span shards, so killing a run anywhere and starting it again
leaves the same bytes. A clip that several samples use is decoded and encoded once; where those samples lie in different
shards it is encoded in batches of its own, so that its rows do not depend on which of the shards were done before.

A sample is in the cache with all its media or not at all: if one medium fails, the sample is rejected and every failing
medium is named. A medium that the media manifest does not give is not a failure, it is absent.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from fusecache.cache import FeatureSpec, FusecacheError, InputError, RejectsError, Seconds, Stream
from fusecache.cache.errors import several
from fusecache.cache.writer import CacheWriter

from .config import ExtractConfig
from .decode import check_decoders
from .device import resolve_device
from .encoder import Encoder, build_encoder
from .media import MediaManifest, read_manifest
from .plan import hold_to_plan, make_plan
from .pool import DecodePool
from .progress import Event
from .provenance import provenance
from .rejects import Flag, Reject, summary, write_lines
from .work import Run


@dataclass(frozen=True, kw_only=True, slots=True)
class ExtractReport:
    """What a run did."""

    cache: Path
    samples: int
    """Samples in the cache."""
    rejected: tuple[Reject, ...]
    """Every failing medium of every rejected sample, those of an earlier run included."""
    reject_share: float
    """Share of the media manifest's samples that were rejected."""
    flagged: tuple[Flag, ...]
    """Samples that are in the cache with a remark."""
    stage_seconds: Mapping[str, Seconds]
    bottleneck: str
    decoded_files: int
    """Pieces of media that were decoded in this run."""
    reused: int
    """Of these, how many served several samples."""
    skipped_shards: int
    """Shards that an earlier run had committed."""
    wall_seconds: Seconds
    specs: tuple[FeatureSpec, ...]


def extract(
    manifest: str | Path,
    out: str | Path,
    config: ExtractConfig,
    *,
    on_event: Callable[[Event], None] | None = None,
) -> ExtractReport:
    """Extract features of every sample of a media manifest into a cache.

    Run again after a kill, it goes on where it stopped; run again when done, it does nothing.

    Args:
        manifest: media manifest (CSV, JSON lines, Parquet, or a folder of media).
        out: the cache's folder.
        config: encoders and limits.
        on_event: called from this thread with the state of the run.

    Raises:
        InputError: the media manifest or the settings cannot be used.
        MismatchError: ``out`` holds an extraction of something else; what differs is listed.
        RejectsError: more samples were rejected than ``config.max_reject_share``; the list is written, no cache is.
        StorageError: the disk refused.
        MissingExtraError: a library is not installed.
    """
    began = time.perf_counter()
    media = read_manifest(manifest)
    device = resolve_device(config.device)
    encoders = _build(config, device)
    _check_streams(media, encoders)
    specs = [encoder.spec for encoder in encoders.values()]
    plan = make_plan(media, specs, config)
    out = Path(out)
    pool = DecodePool(
        config.encoders,
        workers=config.workers,
        time_limit=config.decode_timeout,
        max_bytes=config.max_clip_bytes,
    )
    with CacheWriter(out, specs=specs, labels=media.labels, splits=media.splits) as writer, pool:
        removed = hold_to_plan(writer.path, plan)
        run = Run(
            media=media,
            config=config,
            encoders=encoders,
            plan=plan,
            writer=writer,
            pool=pool,
            on_event=on_event,
        )
        if removed:
            run.emit(f"made again because their media changed: shards {removed}", force=True)
        run.all_shards()
        write_lines(writer.path / "rejects.jsonl", run.rejects)
        write_lines(writer.path / "flags.jsonl", run.flags)
        rejected = len({reject.key for reject in run.rejects})
        share = rejected / len(media.rows)
        if share > config.max_reject_share:
            raise RejectsError(
                several(
                    f"{rejected} of {len(media.rows)} samples were rejected, which is {share:.1%} and more than "
                    f"max_reject_share={config.max_reject_share:.1%} allows. All are listed in "
                    f"{writer.path / 'rejects.jsonl'}. Mend the media, or raise max_reject_share and run again: what is "
                    "done is kept",
                    summary(run.rejects),
                )
            )
        wall = time.perf_counter() - began
        facts = provenance(device=device, manifest=media.path, config=config, wall=wall, stages=run.stages())
        written = writer.commit(provenance=facts | {"decoded_files": run.decoded}, rejected=rejected)
    run.emit("done", force=True)
    return ExtractReport(
        cache=out,
        samples=written.samples,
        rejected=tuple(run.rejects),
        reject_share=share,
        flagged=tuple(run.flags),
        stage_seconds=run.stages(),
        bottleneck=run.bottleneck(),
        decoded_files=run.decoded,
        reused=run.reused,
        skipped_shards=run.skipped,
        wall_seconds=time.perf_counter() - began,
        specs=tuple(specs),
    )


def _build(config: ExtractConfig, device: str) -> dict[str, Encoder]:
    """Build all encoders; every one that cannot be built is named."""
    built: dict[str, Encoder] = {}
    errors: list[FusecacheError] = []
    for modality, chosen in config.encoders.items():
        try:
            built[modality] = build_encoder(
                chosen.encoder,
                modality=modality,
                weights=chosen.weights,
                dtype=chosen.dtype,
                device=device,
                options=chosen.options,
            )
        except FusecacheError as error:
            errors.append(error)
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise InputError(several(f"{len(errors)} encoders cannot be built", [str(error) for error in errors]))
    return built


def _check_streams(media: MediaManifest, encoders: Mapping[str, Encoder]) -> None:
    """Every encoder must have something to read, and the libraries to read it with."""
    have = {stream for row in media.rows for stream in row.streams}
    streams: dict[str, Stream] = {name: encoder.needs.stream for name, encoder in encoders.items()}
    problems = [
        f"encoders.{name} reads {stream}, and no sample has any; fill the column {'text or text_file' if stream == 'text' else stream} "
        "or remove the encoder"
        for name, stream in streams.items()
        if stream not in have
    ]
    if problems:
        found = (
            f"The media manifest {media.path} has {', '.join(sorted(have))} and not what the encoders need"
        )
        raise InputError(several(found, problems))
    check_decoders(sorted(set(streams.values())))
