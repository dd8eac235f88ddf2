"""DINOv3 (Siméoni et al. 2025): one row per image or sampled frame, or one per patch.

Pictures are brought to the network as its README does: resized on uint8 to 256x256 with antialiasing, no crop, ImageNet
mean and deviation. The four register tokens are never part of the output; the class token and the patches are taken
after the final LayerNorm.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fusecache.cache import DType, FeatureSpec, Producer, Rows

from .clip import Clip, frame_grid
from .device import autocast, compute_dtype, to_device
from .encoder import DECODE_RULES, Encoder, Needs, check_options, missing_extra
from .videomae2 import DEVIATION, MEAN
from .weights import Family, Network, check_weights, load_network

SIDE = 256
PATCH = 16
REGISTERS = 4

VITS16 = Family(
    encoder="dinov3-vits16",
    model="DINOv3ViTModel",
    config="DINOv3ViTConfig",
    settings={
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
        "patch_size": PATCH,
        "num_register_tokens": REGISTERS,
        "layer_norm_eps": 1e-5,
        "key_bias": False,
    },
    licence="DINOv3 License (custom; acknowledgement required)",
    example="facebook/dinov3-vits16-pretrain-lvd1689m",
)


def build_vits16(
    *,
    modality: str,
    weights: str = "",
    dtype: DType = "float16",
    device: str = "cpu",
    output: Literal["cls", "patches"] = "cls",
    stream: Literal["image", "video"] = "image",
    fps: float = 1.0,
) -> Encoder:
    """DINOv3 ViT-S/16 (384 wide, 21,601,152 parameters).

    Args:
        modality: name in the cache.
        weights: see :mod:`.weights`.
        dtype: stored type.
        device: torch device.
        output: ``cls``, one row per picture, or ``patches``, 256 rows, line by line of the 16x16 grid.
        stream: read images, or frames of a video.
        fps: frames per second of a video; no effect on images.
    """
    return DinoV3(
        family=VITS16,
        modality=modality,
        weights=weights,
        dtype=dtype,
        device=device,
        output=output,
        stream=stream,
        fps=fps,
    )


@dataclass(frozen=True, kw_only=True)
class DinoV3:
    """Class token or patches of single pictures."""

    family: Family
    modality: str
    weights: str
    dtype: DType
    device: str
    output: Literal["cls", "patches"]
    stream: Literal["image", "video"]
    fps: float

    def __post_init__(self) -> None:
        check_weights(self.weights, self.family, self.modality)
        check_options(
            self.modality,
            output=(self.output in ("cls", "patches"), f"must be cls or patches, got {self.output!r}"),
            stream=(self.stream in ("image", "video"), f"must be image or video, got {self.stream!r}"),
            fps=(0 < self.fps <= 1000, f"must be above 0 and at most 1000, got {self.fps}"),
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
            "layer": "last",
            "norm": "final",
            "output": self.output,
            "stream": self.stream,
            "fps": self.fps,
            "preprocessing": "uint8 antialiased bilinear 256x256, imagenet mean and deviation",
        }

    @property
    def spec(self) -> FeatureSpec:
        """Rows of 384: without a clock for images, with the times of their frames for video."""
        grid = (SIDE // PATCH, SIDE // PATCH) if self.output == "patches" and self.stream == "image" else None
        return FeatureSpec(
            modality=self.modality,
            stream=self.stream,
            dim=self.family.settings["hidden_size"],
            dtype=self.dtype,
            timing="none" if self.stream == "image" else "irregular",
            grid=grid,
            licence=self.network.licence,
            note=self.network.note,
            producer=Producer(
                encoder=self.family.encoder,
                weights=self.network.weights,
                weights_hash=self.network.weights_hash,
                settings=self.settings,
                decode=DECODE_RULES[self.stream],
                compute_dtype=compute_dtype(self.device),
            ),
        )

    @property
    def needs(self) -> Needs:
        """Images, or frames at ``fps`` per second."""
        return Needs(stream=self.stream, fps=self.fps if self.stream == "video" else None)

    def prepare(self, clip: Clip) -> NDArray[Any]:
        """``[pictures, 3, 256, 256]`` uint8."""
        try:
            import torch
            from torchvision.transforms.v2 import functional  # pyright: ignore[reportMissingTypeStubs]
        except ImportError as error:
            raise missing_extra("The dinov3 encoders", error) from error
        frames = clip.payload()[self._chosen(clip)]
        resized: list[NDArray[np.uint8]] = []
        for frame in frames:
            picture = torch.as_tensor(np.ascontiguousarray(frame)).permute(2, 0, 1)
            resized.append(functional.resize(picture, [SIDE, SIDE], antialias=True).numpy())
        return np.stack(resized)

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """``[pictures, 3, 256, 256]`` to ``[pictures, 1 or 256, 384]``."""
        import torch

        with torch.inference_mode(), autocast(self.device):
            pixels = to_device(batch, self.device).float() / 255
            mean = torch.tensor(MEAN, device=pixels.device).view(3, 1, 1)
            deviation = torch.tensor(DEVIATION, device=pixels.device).view(3, 1, 1)
            tokens = self.network.module(pixel_values=(pixels - mean) / deviation).last_hidden_state
            rows = tokens[:, :1] if self.output == "cls" else tokens[:, 1 + REGISTERS :]
        return rows.float().cpu().numpy()

    def assemble(self, clip: Clip, rows: NDArray[np.float32]) -> Rows:
        """Rows without a clock for an image; with the times of their frames for a video."""
        values = rows.reshape(-1, rows.shape[-1])
        if self.stream == "image" or clip.pts is None:
            return Rows(values=values)
        starts = clip.pts[self._chosen(clip)]
        ends = np.append(starts[1:], max(clip.start + clip.duration, starts[-1]))
        return Rows(values=values, times=np.repeat(np.stack([starts, ends], axis=1), rows.shape[1], axis=0))

    def _chosen(self, clip: Clip) -> NDArray[np.int64]:
        if self.stream == "image" or clip.pts is None:
            return np.zeros(1, np.int64)
        return np.unique(frame_grid(clip.pts, clip.start, clip.duration, self.fps))
