"""One transformer of each family with random weights: size, clock, invariance, repeatability, refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusecache.cache import InputError
from fusecache.extract import Clip, ClipError, build_encoder
from fusecache.extract.videomae2 import short_side_crop


@pytest.fixture(scope="module")
def wavlm() -> Any:
    return build_encoder("wavlm-base", modality="audio", weights="random:3")


@pytest.fixture(scope="module")
def dinov3() -> Any:
    return build_encoder("dinov3-vits16", modality="image", weights="random")


@pytest.fixture(scope="module")
def videomae2() -> Any:
    return build_encoder("videomae2-small", modality="video", weights="random")


def parameters(encoder: Any) -> int:
    return sum(tensor.numel() for tensor in encoder.network.module.parameters())


def film(frames: int, fps: float = 30.0) -> Clip:
    pixels = np.random.default_rng(0).integers(0, 256, (frames, 36, 64, 3), dtype=np.uint8)
    return Clip(
        key="k",
        stream="video",
        source="s",
        frames=pixels,
        pts=2 + np.arange(frames) / fps,
        start=2.0,
        duration=frames / fps,
    )


def wave(samples: int, seed: int = 0) -> Clip:
    values = np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)
    return Clip(
        key="k", stream="audio", source="s", waveform=values, rate=16000, start=0.25, duration=samples / 16000
    )


def test_wavlm(wavlm: Any) -> None:
    assert parameters(wavlm) == 94_381_936
    spec = wavlm.spec
    assert (spec.dim, spec.hop, spec.span, spec.producer.weights, spec.licence) == (
        768,
        0.02,
        0.025,
        "random:3",
        "untrained: none",
    )
    assert spec.producer.is_random
    assert "untrained" in spec.note
    clips = [wave(4000, seed) for seed in range(3)]
    batch = wavlm.forward(np.concatenate([wavlm.prepare(clip) for clip in clips]))
    assert batch.shape == (3, (4000 - 400) // 320 + 1, 768)
    for index, clip in enumerate(clips):
        alone = wavlm.assemble(clip.bare(), wavlm.forward(wavlm.prepare(clip)))
        assert alone.start == 0.25
        np.testing.assert_allclose(alone.values, batch[index], atol=2e-5)
    with pytest.raises(ClipError, match=r"the sound has 399 samples at 16000 per second; WavLM needs 400"):
        wavlm.prepare(wave(399))
    with pytest.raises(ClipError, match=r"the sound lasts 60.1 s, more than max_seconds=60"):
        wavlm.prepare(wave(961_600))


def test_dinov3(dinov3: Any) -> None:
    # the official count has a key bias in every block, which it masks to zero and the native class leaves out
    assert parameters(dinov3) + 12 * 384 == 21_601_152
    assert dinov3.spec.producer.weights == "random:0"
    pixels = np.random.default_rng(0).integers(0, 256, (1, 30, 50, 3), dtype=np.uint8)
    items = dinov3.prepare(Clip(key="k", stream="image", source="s", frames=pixels))
    assert items.shape == (1, 3, 256, 256)
    assert items.dtype == np.uint8
    both = dinov3.forward(np.concatenate([items[..., ::-1], items]))
    np.testing.assert_allclose(both[1], dinov3.forward(items)[0], atol=2e-5)
    assert both.shape == (2, 1, 384)
    patches = build_encoder(
        "dinov3-vits16", modality="image", weights="random", options={"output": "patches"}
    )
    assert patches.spec.grid == (16, 16)
    object.__getattribute__(patches, "__dict__")["network"] = dinov3.network
    rows = patches.forward(items)
    assert rows.shape == (1, 256, 384)
    import torch

    with torch.inference_mode():
        pixels_t = (
            torch.as_tensor(items).float() / 255 - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
        ) / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
        tokens = dinov3.network.module(pixel_values=pixels_t)
    assert tokens.last_hidden_state.shape[1] == 1 + 4 + 256
    np.testing.assert_allclose(rows, tokens.last_hidden_state[:, 5:].numpy(), atol=1e-6)
    np.testing.assert_allclose(both[1], tokens.pooler_output.numpy(), atol=2e-5)


def test_dinov3_reads_video_frames(dinov3: Any) -> None:
    encoder = build_encoder(
        "dinov3-vits16", modality="v", weights="random", options={"stream": "video", "fps": 10.0}
    )
    clip = film(12)
    assert encoder.prepare(clip).shape == (4, 3, 256, 256)
    object.__getattribute__(encoder, "__dict__")["network"] = dinov3.network
    rows = encoder.assemble(clip.bare(), np.zeros((4, 1, 384), np.float32))
    assert encoder.spec.timing == "irregular"
    assert rows.times is not None
    np.testing.assert_allclose(rows.times[:, 0], [2.0, 2.1, 2.2, 2.3])


def test_videomae2(videomae2: Any) -> None:
    assert parameters(videomae2) == 21_879_936
    spec = videomae2.spec
    assert (spec.dim, spec.hop, spec.span) == (384, pytest.approx(8 / 30), pytest.approx(8 / 30))
    items = videomae2.prepare(film(70))  # 70 frames at stride 4: 18 sampled frames, two windows
    assert items.shape == (2, 16, 3, 224, 224)
    np.testing.assert_array_equal(items[1, 2:], np.broadcast_to(items[1, 1], (14, 3, 224, 224)))
    clip = film(70).bare()
    rows = videomae2.assemble(clip, np.zeros((2, 8, 384), np.float32))
    assert (rows.values.shape, rows.start) == ((9, 384), 2.0)  # rows that hold only filling are dropped
    both = videomae2.forward(items)
    assert both.shape == (2, 8, 384)
    np.testing.assert_allclose(videomae2.forward(items[:1])[0], both[0], atol=2e-5)
    assert videomae2.network.module.fc_norm.eps == 1e-6
    assert {layer.layernorm_before.eps for layer in videomae2.network.module.videomae.encoder.layer} == {1e-6}


def test_videomae2_preprocessing_is_plain_bilinear() -> None:
    import torch

    image = np.random.default_rng(0).integers(0, 256, (36, 64, 3), dtype=np.uint8)
    tensor = torch.as_tensor(image).permute(2, 0, 1)[None].float()
    full = torch.nn.functional.interpolate(tensor, size=(224, 398), mode="bilinear", align_corners=False)
    expected = full[0, :, :, 87 : 87 + 224].permute(1, 2, 0).numpy()
    assert np.abs(short_side_crop(image).astype(np.float32) - expected).max() <= 0.51


def test_random_weights_are_the_same_each_time(dinov3: Any) -> None:
    again: Any = build_encoder("dinov3-vits16", modality="image", weights="random:0")
    other: Any = build_encoder("dinov3-vits16", modality="image", weights="random:1")
    assert again.spec.producer.weights_hash == dinov3.spec.producer.weights_hash
    assert other.spec.producer.weights_hash != dinov3.spec.producer.weights_hash
    assert again.spec.identity == dinov3.spec.identity != other.spec.identity


def test_a_transformers_folder_gives_the_same_network(dinov3: Any, tmp_path: Path) -> None:
    dinov3.network.module.save_pretrained(tmp_path / "vits16")
    loaded: Any = build_encoder("dinov3-vits16", modality="image", weights=str(tmp_path / "vits16"))
    producer = loaded.spec.producer
    assert (producer.weights, producer.weights_hash) == ("vits16", dinov3.spec.producer.weights_hash)
    assert loaded.spec.licence.startswith("DINOv3 License")
    assert loaded.spec.note == ""
    wrong: Any = build_encoder("videomae2-small", modality="v", weights=str(tmp_path / "vits16"))
    with pytest.raises(
        InputError,
        match=r"another architecture; videomae2-small is a 'videomae' model, the weights are of a 'dinov3_vit'",
    ):
        _ = wrong.spec
    (tmp_path / "vits16" / "model.safetensors").unlink()
    gone: Any = build_encoder("dinov3-vits16", modality="image", weights=str(tmp_path / "vits16"))
    with pytest.raises(
        InputError,
        match=r"encoders.image.weights: .*vits16' could not be loaded .*hf download facebook/dinov3",
    ):
        _ = gone.spec


@pytest.mark.parametrize(
    ("weights", "match"),
    [
        ("", r"encoders.m.weights: encoder 'wavlm-base' needs weights, got none; write random"),
        ("./nothing", r"there is no folder './nothing'"),
        ("WavLM-Base.pt", r"takes weights in the transformers format only.*got the file 'WavLM-Base.pt'"),
        ("random:x", r"there is no folder 'random:x', and it is not a hub id"),
    ],
)
def test_wrong_weights(weights: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        build_encoder("wavlm-base", modality="m", weights=weights)
