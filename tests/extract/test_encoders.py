"""The encoders without weights: shapes, clocks, invariance, and what is said of wrong options."""

import importlib
import json
import math
import sys
from typing import Any

import numpy as np
import pytest

from fusecache.cache import InputError, Rows
from fusecache.cache.spec import canonical_json
from fusecache.extract import (
    ENCODERS,
    Clip,
    Encoder,
    EncoderConfig,
    build_encoder,
    recorded_weights,
    resolved_settings,
)
from fusecache.extract.pixels import area_weights, shrink


def encode(encoder: Encoder, clip: Clip) -> Rows:
    return encoder.assemble(clip.bare(), encoder.forward(encoder.prepare(clip)))


def sound(samples: int, start: float = 0.0, seed: int = 0) -> Clip:
    wave = np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32)
    return Clip(
        key="k", stream="audio", source="s", waveform=wave, rate=16000, start=start, duration=samples / 16000
    )


def film(frames: int = 12, fps: float = 10.0, start: float = 0.5) -> Clip:
    pixels = np.random.default_rng(1).integers(0, 256, (frames, 48, 64, 3), dtype=np.uint8)
    pts = start + np.arange(frames) / fps
    return Clip(
        key="k", stream="video", source="s", frames=pixels, pts=pts, start=start, duration=frames / fps
    )


def picture(height: int, width: int, seed: int = 0) -> Clip:
    pixels = np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), dtype=np.uint8)
    return Clip(key="k", stream="image", source="s", frames=pixels)


def text(content: str) -> Clip:
    return Clip(key="k", stream="text", source="s", text=content)


CASES: list[tuple[str, dict[str, Any], Clip, tuple[int, int]]] = [
    ("logmel", {}, sound(8000), (48, 40)),
    ("logmel", {"n_mels": 64, "hop": 0.02}, sound(8000), (24, 64)),
    ("logmel", {}, sound(100), (1, 40)),
    ("pixels", {}, picture(28, 28), (1, 256)),
    ("pixels", {"size": 64}, picture(30, 50), (1, 4096)),
    ("hog", {}, picture(28, 28), (1, 324)),
    ("framestats", {}, film(), (5, 436)),
    ("framestats", {"rate": 100.0}, film(), (12, 436)),
    ("ngrams", {}, text("zweiundvierzig"), (1, 512)),
]


@pytest.mark.parametrize(("name", "options", "clip", "shape"), CASES)
def test_shape_spec_and_finite(
    name: str, options: dict[str, Any], clip: Clip, shape: tuple[int, int]
) -> None:
    encoder = build_encoder(name, modality="m", options=options)
    rows = encode(encoder, clip)
    assert rows.values.shape == shape
    assert encoder.spec.dim == shape[1]
    assert encoder.needs.stream == encoder.spec.stream == clip.stream
    assert np.isfinite(rows.values.astype(np.float16)).all()
    assert (rows.times is not None) == (encoder.spec.timing == "irregular")
    assert encoder.spec.producer.label == name
    assert json.loads(canonical_json(encoder.spec.producer.settings)).items() >= options.items()


@pytest.mark.parametrize(("name", "options", "clip", "shape"), CASES)
def test_rows_do_not_depend_on_the_batch(
    name: str, options: dict[str, Any], clip: Clip, shape: tuple[int, int]
) -> None:
    encoder = build_encoder(name, modality="m", options=options)
    items = encoder.prepare(clip)
    other = np.ascontiguousarray(items[..., ::-1])
    batch = encoder.forward(np.concatenate([other, items, other]))
    np.testing.assert_array_equal(batch[len(items) : 2 * len(items)], encoder.forward(items))


def test_logmel_rows_cover_exactly_their_window() -> None:
    encoder = build_encoder("logmel", modality="m")
    clip = sound(8000, start=1.5)
    rows = encode(encoder, clip)
    assert rows.start == 1.5
    assert (encoder.spec.hop, encoder.spec.span) == (0.01, 0.025)
    assert clip.waveform is not None
    for row in (0, 7, 47):
        alone = encode(
            encoder,
            Clip(
                key="k",
                stream="audio",
                source="s",
                waveform=clip.waveform[160 * row : 160 * row + 400],
                rate=16000,
            ),
        )
        np.testing.assert_allclose(alone.values[0], rows.values[row], atol=1e-5)
        changed = clip.waveform.copy()
        changed[: 160 * row] += 0.3
        changed[160 * row + 400 :] -= 0.3
        moved = encode(encoder, Clip(key="k", stream="audio", source="s", waveform=changed, rate=16000))
        np.testing.assert_allclose(moved.values[row], rows.values[row], atol=1e-5)


def test_logmel_hears_a_tone_and_silence() -> None:
    encoder = build_encoder("logmel", modality="m")
    wave = (0.5 * np.sin(2 * np.pi * 1000 * np.arange(4000) / 16000)).astype(np.float32)
    rows = encode(encoder, Clip(key="k", stream="audio", source="s", waveform=wave, rate=16000)).values
    top = 2595 * math.log10(1 + 8000 / 700)
    centres = 700 * (10 ** (np.linspace(0, top, 42)[1:-1] / 2595) - 1)
    assert abs(centres[rows.mean(0).argmax()] - 1000) < 150
    quiet = Clip(key="k", stream="audio", source="s", waveform=np.zeros(400, np.float32), rate=16000)
    np.testing.assert_allclose(encode(encoder, quiet).values, np.log(1e-6), atol=1e-4)


def test_logmel_with_the_level_removed_does_not_hear_how_loud() -> None:
    encoder = build_encoder("logmel", modality="m", options={"level": "remove"})
    wave = np.random.default_rng(0).normal(0, 0.1, 8000).astype(np.float32)
    quiet, loud = (
        encode(encoder, Clip(key="k", stream="audio", source="s", waveform=wave * gain, rate=16000)).values
        for gain in (1.0, 4.0)
    )
    np.testing.assert_allclose(quiet, loud, atol=0.05)
    assert abs(float(quiet.mean())) < 1e-5
    with pytest.raises(InputError, match="level: must be keep or remove, got 'off'"):
        build_encoder("logmel", modality="m", options={"level": "off"})


def test_area_resampling_is_the_mean_of_what_is_covered() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 48, 3), dtype=np.uint8)
    blocks = image.reshape(16, 2, 16, 3, 3).mean((1, 3)) / 255
    np.testing.assert_allclose(shrink(image, 16), blocks, atol=1e-12)
    for size in (5, 16, 40):
        np.testing.assert_allclose(area_weights(size, 16).sum(1), 1)


def test_hog_sees_direction_not_brightness() -> None:
    encoder = build_encoder("hog", modality="m")
    ramp = np.tile(np.arange(64, dtype=np.uint8)[None, :, None], (64, 1, 3))
    dark, light, turned = (
        encode(encoder, Clip(key="k", stream="image", source="s", frames=frames[None])).values
        for frames in (ramp, ramp + 100, ramp.transpose(1, 0, 2))
    )
    np.testing.assert_allclose(dark, light, atol=1e-3)
    assert np.abs(dark - turned).max() > 0.3


def test_framestats_times_are_those_of_its_frames() -> None:
    clip = film()
    rows = encode(build_encoder("framestats", modality="m"), clip)
    assert rows.times is not None
    assert clip.pts is not None
    assert set(rows.times[:, 0]) <= set(clip.pts)
    np.testing.assert_allclose(rows.times[1:, 0], rows.times[:-1, 1])
    assert rows.times[-1, 1] == pytest.approx(1.7)
    still = encode(
        build_encoder("framestats", modality="m"),
        Clip(
            key="k",
            stream="video",
            source="s",
            frames=np.zeros((3, 48, 64, 3), np.uint8),
            pts=np.arange(3) / 4,
            duration=0.75,
        ),
    )
    assert (still.values[:, -16:] == 0).all()
    assert (rows.values[1:, -16:] > 0).all()
    assert (rows.values[0, -16:] == 0).all()


def test_ngrams_are_stable_and_close_for_close_words() -> None:
    encoder = build_encoder("ngrams", modality="m")
    one, same, near, far = (
        encode(encoder, text(word)).values[0] for word in ("Eleven", "eleven", "elevens", "πέντε")
    )
    np.testing.assert_array_equal(one, same)
    assert np.linalg.norm(one) == pytest.approx(1, abs=1e-5)
    assert one @ near > 0.7
    assert abs(one @ far) < 0.3
    # fixed by the hash, on every machine and in every version: a change here is a new settings version
    assert [int(i) for i in np.flatnonzero(one)[:6]] == GOLDEN


GOLDEN = [29, 31, 45, 175, 231, 250]


def test_wrong_names_and_options() -> None:
    with pytest.raises(
        InputError, match=r"encoders.a.encoder: there is no encoder 'logmell'; did you mean 'logmel'\?"
    ):
        build_encoder("logmell", modality="a")
    with pytest.raises(
        InputError, match=r"encoders.a.options: encoder 'logmel' has no option 'n_mel'; did you mean 'n_mels'"
    ):
        build_encoder("logmel", modality="a", options={"n_mel": 3})
    with pytest.raises(
        InputError,
        match=r"options.n_mels: must be 1 to 256 bands, got 0; .*options.floor: must be above 0, got -1",
    ):
        build_encoder("logmel", modality="a", options={"n_mels": 0, "floor": -1.0})
    with pytest.raises(InputError, match=r"encoder 'ngrams' has no weights, got 'random'"):
        build_encoder("ngrams", modality="a", weights="random")
    with pytest.raises(InputError, match=r"dtype: must be one of float16, bfloat16, float32, got 'int8'"):
        build_encoder("ngrams", modality="a", dtype="int8")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"module of 'nolab.enc:Mine' cannot be imported"):
        build_encoder("nolab.enc:Mine", modality="a")
    with pytest.raises(InputError, match=r"has no class or function 'Mine'"):
        build_encoder("json:Mine", modality="a")
    assert {"logmel", "videomae2-small", "wavlm-base", "dinov3-vits16"} <= set(ENCODERS)


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_settings_hold_every_option_and_are_had_without_heavy_libraries(name: str) -> None:
    import inspect
    import subprocess
    import sys

    module, _, attribute = ENCODERS[name].partition(":")
    factory = getattr(importlib.import_module(module), attribute)
    options = {
        option: parameter.default
        for option, parameter in inspect.signature(factory).parameters.items()
        if option not in ("modality", "weights", "dtype", "device")
    }
    weights = "random" if factory.__name__.startswith("build_") else ""
    config = EncoderConfig(encoder=name, weights=weights)
    found = resolved_settings(config, "m")
    assert found is not None
    assert found.items() >= options.items()
    code = (
        "import sys; from fusecache.extract import EncoderConfig, resolved_settings\n"
        f"resolved_settings(EncoderConfig(encoder={name!r}, weights={weights!r}), 'm')\n"
        "print([m for m in ('torch', 'zarr', 'av', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_resolved_settings_without_weights_or_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    base = EncoderConfig(encoder="wavlm-base", weights="./not/here", options={"layer": 6})
    found = resolved_settings(base, "audio")
    assert found is not None
    assert (found["layer"], found["max_seconds"]) == (6, 60.0)
    assert resolved_settings(EncoderConfig(encoder="nolab.enc:Mine"), "audio") is None
    with pytest.raises(InputError, match=r"options.layer: must be 0 to 12, got 13"):
        resolved_settings(EncoderConfig(encoder="wavlm-base", weights="random", options={"layer": 13}), "a")
    with pytest.raises(InputError, match=r"encoder 'ngrams' has no weights, got 'x'"):
        resolved_settings(EncoderConfig(encoder="ngrams", weights="x"), "a")
    monkeypatch.setitem(sys.modules, "fusecache.extract.ngrams", None)
    assert resolved_settings(EncoderConfig(encoder="ngrams"), "a") is None


@pytest.mark.parametrize(
    ("written", "recorded"),
    [
        ("random", "random:0"),
        ("random:00", "random:0"),
        ("random:7", "random:7"),
        ("", "none"),
        ("none", "none"),
        ("microsoft/wavlm-base", "microsoft/wavlm-base"),
        ("/mnt/weights/vits16/", "vits16"),
        ("./vits16", "vits16"),
    ],
)
def test_weights_are_recorded_under_one_name(written: str, recorded: str) -> None:
    assert recorded_weights(written) == recorded
