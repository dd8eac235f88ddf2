# pyright: reportUnknownMemberType=false
# torch leaves some of its own signatures untyped.
"""``fit``: one training run on one cache, from the first batch to ``result.json``.

Like a long-distance runner with a logbook: after every epoch the position is written down, so a run that is killed
goes on from its last entry and ends with the same bits. The best epoch is chosen on the validation split; the test
split is opened once, when there is nothing left to choose.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fusecache.cache import Cache
from fusecache.cache.atomic import storage_errors

from .checkpoint import (
    Progress,
    load_state,
    load_tensors,
    read_progress,
    save_progress,
    save_state,
    save_tensors,
)
from .checks import check_finite, check_fit, check_same_run, identity
from .config import TrainConfig
from .data import make_source, open_split, statistics, widths
from .events import TrainEvent
from .logs import LOGS, append_log, cut_log, log_line
from .metrics import Evaluation, evaluate
from .model import FusionModel, build
from .results import FEATURE_SAMPLES, FitResult, describe, json_numbers, read_result, write_result
from .runtime import deterministic, pick_device
from .step import Stepper
from .subsets import subsets

LOOK_EVERY = 10
"""Steps between two events, and between two looks at whether the loss is still a number."""


def fit(
    cache: Cache,
    config: TrainConfig,
    run: Path,
    *,
    on_event: Callable[[TrainEvent], None] | None = None,
    resume: bool = True,
) -> FitResult:
    """Train, choose the best epoch on the validation split, and measure it once on the test split.

    Args:
        cache: features and labels.
        config: the run.
        run: folder that receives ``metrics.jsonl``, ``gradients.jsonl``, the weights, ``features.npz`` and
            ``result.json``.
        on_event: called every few steps and at the end of every epoch.
        resume: go on with a run that lies in ``run`` (a finished one is only read); False: replace it.

    Raises:
        InputError: the configuration does not fit the cache, ``run`` holds another run, or the loss stopped being
            a number.
        StorageError: the disk refused.
    """
    began = time.monotonic()
    classes = check_fit(cache, config)
    wanted = identity(cache, config)
    with storage_errors(run, "make the run folder"):
        run.mkdir(parents=True, exist_ok=True)
    progress = read_progress(run) if resume else None
    if progress is not None:
        check_same_run(run, progress, wanted)
        if progress.finished and (run / "result.json").exists():
            return read_result(run, seconds=0.0)
    else:
        for name in (
            "state.safetensors",
            "best.safetensors",
            "last.safetensors",
            "result.json",
            "features.npz",
        ):
            (run / name).unlink(missing_ok=True)
        progress = Progress(epochs_done=0, best=None, best_epoch=None, finished=False, identity=wanted)
        save_progress(run, progress)
    with deterministic():
        job = _Job(cache, config, run, classes, progress)
        job.train(on_event or (lambda event: None))
        job.finish()
    return read_result(run, seconds=time.monotonic() - began)


class _Job:
    """The moving parts of one run."""

    def __init__(
        self, cache: Cache, config: TrainConfig, run: Path, classes: tuple[str, ...], progress: Progress
    ) -> None:
        self.cache, self.config, self.run, self.classes = cache, config, run, classes
        self.device = pick_device(config.device)
        dims = widths(cache, config)
        self.source = make_source(open_split(cache, config, config.splits[0]), config, self.device)
        self.val_source = make_source(open_split(cache, config, config.splits[1]), config, self.device)
        self.named = subsets(
            config.modalities, {name: cache.specs[name].stream for name in config.modalities}
        )
        self.model = build(dims, len(classes), config)
        if config.standardise != "none":
            self.model.set_standardisation(statistics(self.source, config, dims))
        self.model.to(self.device)
        self.average = copy.deepcopy(self.model).requires_grad_(False) if config.ema else None
        self.autocast = torch.bfloat16 if config.autocast == "bf16" else None
        self.steps_per_epoch = math.ceil(self.source.size / config.batch_size)
        self.steps = self.steps_per_epoch * config.epochs
        self.stepper = Stepper(self.model, self.average, config, steps=self.steps, autocast=self.autocast)
        self.progress = progress
        self.best_state: dict[str, Tensor] | None = None
        if (run / "state.safetensors").exists():
            self.progress = load_state(run, self.model, self.average, self.stepper.optimiser)
        for log in LOGS:
            cut_log(run / log, epochs=self.progress.epochs_done)
        self.saved = time.monotonic()

    @property
    def judged(self) -> FusionModel:
        """The weights that are validated and kept: the average where there is one."""
        return self.model if self.average is None else self.average

    def train(self, on_event: Callable[[TrainEvent], None]) -> None:
        """All epochs that are left."""
        for epoch in range(self.progress.epochs_done, self.config.epochs):
            line, last = self._epoch(epoch, on_event)
            if (epoch + 1) % self.config.validate_every == 0 or epoch + 1 == self.config.epochs:
                found = evaluate(
                    self.judged,
                    self.val_source,
                    self.named,
                    autocast=self.autocast,
                    split=self.config.splits[1],
                )
                chosen = found.selected(self.config.select)
                line["val"] = {
                    "loss": found.loss, "accuracy": json_numbers(found.accuracy), "counts": found.counts,
                    "samples": self.val_source.size, "selected": chosen,
                }  # fmt: skip
                if self.progress.best is None or chosen > self.progress.best:
                    self.progress = replace(self.progress, best=chosen, best_epoch=epoch)
                    self.best_state = {
                        n: v.detach().cpu().clone() for n, v in self.judged.state_dict().items()
                    }
            self.progress = replace(self.progress, epochs_done=epoch + 1)
            append_log(self.run / "metrics.jsonl", [line])
            if time.monotonic() - self.saved >= self.config.save_seconds:
                self._save_best()
                save_state(self.run, self.progress, self.model, self.average, self.stepper.optimiser)
                self.saved = time.monotonic()
            on_event(replace(last, metrics=line))

    def _epoch(self, epoch: int, on_event: Callable[[TrainEvent], None]) -> tuple[dict[str, Any], TrainEvent]:
        """One pass over the training split: its line of ``metrics.jsonl`` without validation, and its last event."""
        self.model.train()
        began, waited, samples, checked = time.monotonic(), 0.0, 0, 0
        losses: list[Tensor] = []
        names: list[str] = []
        sizes: list[int] = []
        angles: list[dict[str, Any]] = []
        batches = iter(self.source.epoch(epoch))
        event: TrainEvent | None = None
        for index in range(self.steps_per_epoch):
            asked = time.monotonic()
            batch = next(batches)
            waited += time.monotonic() - asked
            step = epoch * self.steps_per_epoch + index
            names, values, found = self.stepper.step(batch, step)
            losses.append(values)
            angles += [{"step": step, "epoch": epoch, "modality": m, **row} for m, row in found.items()]
            sizes.append(len(batch.target))
            samples += sizes[-1]
            if index % LOOK_EVERY == LOOK_EVERY - 1 or index == self.steps_per_epoch - 1:
                recent = [float(value) for value in torch.stack(losses[checked:])[:, 0].cpu()]
                check_finite(recent, step - len(recent) + 1, self._features, self.config)
                checked = len(losses)
                elapsed = max(time.monotonic() - began, 1e-9)
                event = TrainEvent(
                    epoch=epoch, epochs=self.config.epochs, step=step + 1, steps=self.steps,
                    samples_per_second=samples / elapsed, loss=recent[-1], waiting_share=waited / elapsed, metrics=None,
                )  # fmt: skip
                on_event(event)
        assert event is not None
        append_log(self.run / "gradients.jsonl", angles)
        share = torch.tensor(sizes, dtype=torch.float64) / samples
        weighted = torch.stack(losses).double().cpu() * share[:, None]
        means = [float(value) for value in weighted.sum(dim=0)]
        line = {
            "epoch": epoch,
            "step": (epoch + 1) * self.steps_per_epoch,
            "lr": self.stepper.optimiser.param_groups[0]["lr"],
            "train": dict(zip(names, means, strict=True)),
            "seconds": time.monotonic() - began,
            "waiting_share": event.waiting_share,
        }
        return line, event

    def _features(self) -> dict[str, Tensor]:
        """Block inputs of the first training samples, for the message about a loss that is no number."""
        batch = next(iter(self.source.in_order(256)))
        with torch.no_grad():
            return self.judged.features(batch.x, batch.lengths)

    def _save_best(self) -> None:
        """Write ``best.safetensors`` if the best weights are newer than the file."""
        if self.best_state is not None:
            epoch = self.progress.best_epoch
            save_tensors(self.run / "best.safetensors", self.best_state, self._header(epoch))
            self.best_state = None

    def _header(self, epoch: int | None) -> dict[str, Any]:
        """What prediction needs beside the weights."""
        return {
            **self.progress.identity,
            "epoch": epoch,
            "classes": self.classes,
            "dims": widths(self.cache, self.config),
            "features": {name: self.cache.specs[name].identity for name in self.config.modalities},
        }

    def finish(self) -> None:
        """Measure the best weights on the test split, and write everything that stays."""
        self._save_best()
        header = self._header(self.config.epochs - 1)
        save_tensors(self.run / "last.safetensors", self.judged.state_dict(), header)
        best, header = load_tensors(self.run / "best.safetensors")
        self.judged.load_state_dict(best)
        val = log_line(self.run / "metrics.jsonl", header["epoch"])["val"]
        test = self._test()
        about = describe(self.cache, self.config, self.judged, self.classes, best_epoch=header["epoch"])
        write_result(self.run, about, val, test)
        self.progress = replace(self.progress, finished=True)
        save_progress(self.run, self.progress)
        (self.run / "state.safetensors").unlink(missing_ok=True)

    def _test(self) -> Evaluation:
        """The only place where the test split is opened."""
        split = self.config.splits[2]
        source = make_source(open_split(self.cache, self.config, split), self.config, self.device)
        return evaluate(
            self.judged, source, self.named, autocast=self.autocast, keep=FEATURE_SAMPLES, split=split
        )
