"""WavLM (Chen et al. 2022): one row every 20 ms of sound.

Row ``i`` is made from the 400 samples that begin at ``320 * i`` (and, through attention, from the whole utterance). Its
base models are wrong when utterances are padded with zeros, mask or no mask, as a normalisation runs over time: only
utterances of equal length share a batch here, and nothing is ever padded.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fusecache.cache import DType, FeatureSpec, Producer, Rows, Seconds

from .clip import Clip, ClipError
from .device import autocast, compute_dtype, to_device
from .encoder import DECODE_RULES, Encoder, Needs, check_options
from .weights import Family, Network, check_weights, load_network

RATE = 16_000
WINDOW = 400
HOP = 320

BASE = Family(
    encoder="wavlm-base",
    model="WavLMModel",
    config="WavLMConfig",
    settings={
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "intermediate_size": 3072,
        "feat_extract_norm": "group",
        "do_stable_layer_norm": False,
        "conv_bias": False,
        "num_buckets": 320,
        "max_bucket_distance": 800,
    },
    licence="MIT (microsoft/wavlm-base)",
    example="microsoft/wavlm-base",
    surplus=("lm_head", "classifier", "projector", "quantizer", "project_"),
)


def build_base(
    *,
    modality: str,
    weights: str = "",
    dtype: DType = "float16",
    device: str = "cpu",
    layer: int = 12,
    max_seconds: Seconds = 60.0,
) -> Encoder:
    """WavLM base or base+ (768 wide, 12 blocks, 94,381,936 parameters), 16 kHz, no waveform normalisation.

    Args:
        modality: name in the cache.
        weights: see :mod:`.weights`.
        dtype: stored type.
        device: torch device.
        layer: 0 for the input of the first block, ``n`` for the output of block ``n``.
        max_seconds: longer sounds are rejected, as attention needs memory with the square of the length.
    """
    return WavLm(
        family=BASE,
        modality=modality,
        weights=weights,
        dtype=dtype,
        device=device,
        layer=layer,
        max_seconds=max_seconds,
    )


@dataclass(frozen=True, kw_only=True)
class WavLm:
    """Hidden states of one layer, all frames."""

    family: Family
    modality: str
    weights: str
    dtype: DType
    device: str
    layer: int
    max_seconds: Seconds

    def __post_init__(self) -> None:
        check_weights(self.weights, self.family, self.modality)
        blocks = self.family.settings["num_hidden_layers"]
        check_options(
            self.modality,
            layer=(0 <= self.layer <= blocks, f"must be 0 to {blocks}, got {self.layer}"),
            max_seconds=(self.max_seconds > 0, f"must be above 0 seconds, got {self.max_seconds}"),
        )

    @cached_property
    def network(self) -> Network:
        """The frozen network, loaded when first asked for."""
        return load_network(self.weights, self.family, self.modality, self.device)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the rows beside the weights: every option with its value."""
        return {
            "version": 1,
            "layer": self.layer,
            "normalize": False,
            "pool": "none",
            "rate": RATE,
            "max_seconds": self.max_seconds,
        }

    @property
    def spec(self) -> FeatureSpec:
        """Rows of 768 every 0.02 s, each covering 0.025 s."""
        return FeatureSpec(
            modality=self.modality,
            stream="audio",
            dim=self.family.settings["hidden_size"],
            dtype=self.dtype,
            timing="regular",
            hop=HOP / RATE,
            span=WINDOW / RATE,
            licence=self.network.licence,
            note=self.network.note,
            producer=Producer(
                encoder=self.family.encoder,
                weights=self.network.weights,
                weights_hash=self.network.weights_hash,
                settings=self.settings,
                decode=f"{DECODE_RULES['audio']};rate={RATE}",
                compute_dtype=compute_dtype(self.device),
            ),
        )

    @property
    def needs(self) -> Needs:
        """A mono wave at 16 kHz."""
        return Needs(stream="audio", rate=RATE)

    def prepare(self, clip: Clip) -> NDArray[Any]:
        """The wave as one item ``[1, samples]``."""
        wave = np.asarray(clip.payload(), np.float32)
        if len(wave) < WINDOW:
            raise ClipError(
                f"the sound has {len(wave)} samples at {RATE} per second; WavLM needs {WINDOW} (0.025 s)"
            )
        if len(wave) > self.max_seconds * RATE:
            raise ClipError(
                f"the sound lasts {len(wave) / RATE:.1f} s, more than max_seconds={self.max_seconds:g}; cut it with "
                "start and end"
            )
        return wave[None]

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """``[utterances, samples]`` of one length to ``[utterances, (samples - 400) // 320 + 1, 768]``."""
        import torch

        with torch.inference_mode(), autocast(self.device):
            waves = to_device(batch, self.device)
            states = self.network.module(waves, output_hidden_states=True).hidden_states
            return states[self.layer].float().cpu().numpy()

    def assemble(self, clip: Clip, rows: NDArray[np.float32]) -> Rows:
        """Rows from the clip's start."""
        return Rows(values=rows[0], start=clip.start)
