"""VideoMAE V2 (Wang et al., CVPR 2023): eight rows for every sixteen sampled frames.

The architecture is OpenGVLab/VideoMAEv2, ``models/modeling_finetune.py``: no class token, LayerNorm epsilon 1e-6, no
layer scale, ``fc_norm`` over pooled tokens. Pictures are brought to the network as in its Kinetics-710 evaluation: bilinear without antialiasing to a
short side of 224, the centre square, ImageNet mean and deviation. A row is the mean over the 14x14 places of the residual
stream after the last block, one per pair of sampled frames; ``norm: fc`` passes it through ``fc_norm``, as the official
code does with the mean over all places and times.
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
from .encoder import DECODE_RULES, Encoder, Needs, check_options
from .weights import Family, Network, check_weights, load_network

FRAMES = 16
SIDE = 224
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)

SMALL = Family(
    encoder="videomae2-small",
    model="VideoMAEForVideoClassification",
    config="VideoMAEConfig",
    settings={
        "hidden_size": 384,
        "num_hidden_layers": 12,
        "num_attention_heads": 6,
        "intermediate_size": 1536,
        "image_size": SIDE,
        "patch_size": 16,
        "num_frames": FRAMES,
        "tubelet_size": 2,
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "use_mean_pooling": True,
    },
    outputs=0,
    licence="Apache-2.0 (OpenGVLab/VideoMAE2)",
    example="a converted OpenGVLab/VideoMAE2 distill/vit_s_k710_dl_from_giant.pth",
    surplus=("classifier", "decoder", "mask_token", "encoder_to_decoder"),
)


def build_small(
    *,
    modality: str,
    weights: str = "",
    dtype: DType = "float16",
    device: str = "cpu",
    stride: int = 4,
    fps: float = 30.0,
    norm: Literal["fc", "none"] = "fc",
) -> Encoder:
    """VideoMAE V2 small (ViT-S/16, 384 wide, 21,879,936 parameters).

    Args:
        modality: name in the cache.
        weights: see :mod:`.weights`.
        dtype: stored type.
        device: torch device.
        stride: frames of an ``fps`` video from one sampled frame to the next.
        fps: nominal frame rate; a file of another rate gives the frames nearest in time.
        norm: ``fc`` or ``none``: whether rows pass through the network's ``fc_norm``.
    """
    return VideoMae2(
        family=SMALL,
        modality=modality,
        weights=weights,
        dtype=dtype,
        device=device,
        stride=stride,
        fps=fps,
        norm=norm,
    )


@dataclass(frozen=True, kw_only=True)
class VideoMae2:
    """Windows of sixteen frames, ``stride / fps`` seconds apart, end to end; the last is filled with its last frame."""

    family: Family
    modality: str
    weights: str
    dtype: DType
    device: str
    stride: int
    fps: float
    norm: Literal["fc", "none"]

    def __post_init__(self) -> None:
        check_weights(self.weights, self.family, self.modality)
        check_options(
            self.modality,
            stride=(1 <= self.stride <= 64, f"must be 1 to 64 frames, got {self.stride}"),
            fps=(1 <= self.fps <= 1000, f"must be 1 to 1000 frames per second, got {self.fps}"),
            norm=(self.norm in ("fc", "none"), f"must be fc or none, got {self.norm!r}"),
        )

    @cached_property
    def network(self) -> Network:
        """The frozen network, loaded when first asked for."""
        network = load_network(self.weights, self.family, self.modality, self.device)
        norm: Any = network.module.fc_norm
        norm.eps = self.family.settings["layer_norm_eps"]  # the library's class leaves torch's default
        return network

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the rows beside the weights: every option with its value."""
        return {
            "version": 1,
            "layer": "last",
            "norm": self.norm,
            "pool": "mean over space",
            "frames": FRAMES,
            "stride": self.stride,
            "fps": self.fps,
            "preprocessing": "k710-val: bilinear short side 224 on uint8, centre crop, imagenet mean and deviation",
        }

    @property
    def spec(self) -> FeatureSpec:
        """Rows on a regular clock: hop and span are two sampled frames."""
        return FeatureSpec(
            modality=self.modality,
            stream="video",
            dim=self.family.settings["hidden_size"],
            dtype=self.dtype,
            timing="regular",
            hop=2 / self._rate,
            span=2 / self._rate,
            licence=self.network.licence,
            note=self.network.note,
            producer=Producer(
                encoder=self.family.encoder,
                weights=self.network.weights,
                weights_hash=self.network.weights_hash,
                settings=self.settings,
                decode=DECODE_RULES["video"],
                compute_dtype=compute_dtype(self.device),
            ),
        )

    @property
    def needs(self) -> Needs:
        """Frames at ``fps / stride`` per second."""
        return Needs(stream="video", fps=self._rate)

    def prepare(self, clip: Clip) -> NDArray[Any]:
        """``[windows, 16, 3, 224, 224]`` uint8."""
        chosen = self._chosen(clip)
        kept, where = np.unique(chosen, return_inverse=True)
        small = np.stack([short_side_crop(clip.payload()[index]) for index in kept])
        padded = np.pad(where, (0, -len(where) % FRAMES), mode="edge")
        return np.ascontiguousarray(small[padded].transpose(0, 3, 1, 2)).reshape(-1, FRAMES, 3, SIDE, SIDE)

    def forward(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """``[windows, 16, 3, 224, 224]`` to ``[windows, 8, 384]``."""
        import torch

        with torch.inference_mode(), autocast(self.device):
            pixels = to_device(batch, self.device).float() / 255
            mean = torch.tensor(MEAN, device=pixels.device).view(3, 1, 1)
            deviation = torch.tensor(DEVIATION, device=pixels.device).view(3, 1, 1)
            module: Any = self.network.module
            tokens = module.videomae(pixel_values=(pixels - mean) / deviation).last_hidden_state
            rows = tokens.float().unflatten(1, (FRAMES // 2, -1)).mean(2)
            if self.norm == "fc":
                rows = module.fc_norm(rows).float()
        return rows.cpu().numpy()

    def assemble(self, clip: Clip, rows: NDArray[np.float32]) -> Rows:
        """All rows that hold a real frame, from the clip's start."""
        real = -(-len(self._chosen(clip)) // 2)
        return Rows(values=rows.reshape(-1, rows.shape[-1])[:real], start=clip.start)

    @property
    def _rate(self) -> float:
        return self.fps / self.stride

    def _chosen(self, clip: Clip) -> NDArray[np.int64]:
        assert clip.pts is not None
        return frame_grid(clip.pts, clip.start, clip.duration, self._rate)


def short_side_crop(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Short side to 224, bilinear between the four nearest pixels, rounded to uint8; then the centre square.

    Args:
        image: ``[height, width, 3]``.

    Returns:
        ``[224, 224, 3]``.
    """
    height, width, _ = image.shape
    if height <= width:
        size = (SIDE, max(SIDE, int(width * SIDE / height)))
    else:
        size = (max(SIDE, int(height * SIDE / width)), SIDE)
    top, left = round((size[0] - SIDE) / 2), round((size[1] - SIDE) / 2)
    rows, down = _taps(height, size[0], top)
    columns, across = _taps(width, size[1], left)
    lines = image[rows[0]].astype(np.float32) * (1 - down)[:, None, None]
    lines += image[rows[1]].astype(np.float32) * down[:, None, None]
    square = lines[:, columns[0]] * (1 - across)[None, :, None] + lines[:, columns[1]] * across[None, :, None]
    return np.floor(square + 0.5).astype(np.uint8)


def _taps(
    size: int, out: int, first: int
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], NDArray[np.float32]]:
    """Two neighbours and the share of the second, for ``SIDE`` output pixels from ``first``; pixel centres at one half."""
    at = np.clip((np.arange(first, first + SIDE) + 0.5) * (size / out) - 0.5, 0, size - 1)
    low = np.floor(at).astype(np.int64)
    return (low, np.minimum(low + 1, size - 1)), (at - low).astype(np.float32)
