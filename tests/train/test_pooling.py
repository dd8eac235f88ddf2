"""Poolings against plain numpy, the random subsets, the schedule and the head's masked LayerNorm."""

# pyright: reportUnknownMemberType=false
# torch leaves some of its own signatures untyped.

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fusecache.cache import InputError
from fusecache.train.config import TrainConfig
from fusecache.train.draws import Draws
from fusecache.train.head import MaskedLayerNorm
from fusecache.train.metrics import accuracy, confusion
from fusecache.train.pooling import make_pooling, segment_bounds, segments
from fusecache.train.schedule import lr_at
from fusecache.train.subsets import draw_subsets, subset_masks, subsets


def by_hand(rows: NDArray[Any], name: str) -> NDArray[Any]:
    kind, _, k = name.partition(":")
    width: int = rows.shape[1] * int(k or 1)
    if not len(rows):
        return np.zeros(width)
    if kind == "last":
        return rows[-1]
    if kind == "segments":
        n = len(rows)
        parts = [
            rows[i * n // int(k) : max(i * n // int(k) + 1, (i + 1) * n // int(k))] for i in range(int(k))
        ]
        return np.concatenate([np.mean(part, axis=0) for part in parts])
    return np.mean(rows, axis=0)


@settings(max_examples=40, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 23), min_size=1, max_size=5),
    name=st.sampled_from(["mean", "last", "attention", "segments:1", "segments:4", "segments:10"]),
    seed=st.integers(0, 99),
)
def test_poolings_equal_numpy_and_ignore_the_padding(lengths: list[int], name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = [rng.normal(size=(n, 3)).astype(np.float32) for n in lengths]
    x = np.full((len(rows), max(lengths) + 2, 3), np.nan, dtype=np.float32)
    for i, one in enumerate(rows):
        x[i, : len(one)] = one
    pooling = make_pooling(name, 3)
    found = pooling(torch.from_numpy(x), torch.tensor(lengths)).detach().numpy()
    wanted = np.stack([by_hand(one, name) for one in rows])
    assert found.shape == (len(rows), pooling.width)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


@given(length=st.integers(1, 300), k=st.integers(1, 40))
def test_segments_cover_every_row_in_order(length: int, k: int) -> None:
    bounds = segment_bounds(length, k)
    covered = [i for start, end in bounds for i in range(start, end)]
    assert len(bounds) == k
    assert sorted(set(covered)) == list(range(length)) if length >= k else set(covered) <= set(range(length))
    assert covered == sorted(covered)
    assert length < k or len(covered) == length


def test_numpy_segments_are_the_same_as_the_module() -> None:
    rows = np.random.default_rng(0).normal(size=(37, 4)).astype(np.float16)
    found = make_pooling("segments:10", 4)(torch.from_numpy(rows).float()[None], torch.tensor([37]))
    np.testing.assert_allclose(segments(rows, 10), found[0].numpy(), rtol=1e-5, atol=1e-6)
    assert segments(rows[:0], 10).tolist() == [0.0] * 40


def test_attention_learns_from_the_rows_that_count_and_only_them() -> None:
    pooling = make_pooling("attention", 2)
    x = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [9.0, 9.0]]])
    pooling(x, torch.tensor([2])).select(1, 0).sum().backward()
    (weight,) = pooling.parameters()
    assert weight.grad is not None
    assert weight.grad[0].tolist() == [0.25, -0.25]  # of softmax at equal scores, by hand


@pytest.mark.parametrize("name", ["median", "segments:0", "segments:x", "segments", ""])
def test_unknown_poolings_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"pooling '{name}' is not known"):
        make_pooling(name, 3)
    with pytest.raises(InputError, match=rf"poolings.audio is '{name}'"):
        TrainConfig(modalities=("audio",), label="digit", poolings={"audio": name})


def test_every_wrong_field_is_named_at_once() -> None:
    with pytest.raises(InputError, match=r"(?s)poolings names 'b'.*lr is -1.*ema is 1.0.*device is 'gpu'"):
        TrainConfig(modalities=("a",), label="y", poolings={"b": "mean"}, lr=-1, ema=1.0, device="gpu")


def test_subset_labels() -> None:
    assert list(subsets(["v", "t"], {"v": "video", "t": "text"})) == ["V", "T", "VT"]
    assert list(subsets(["a", "b"], {"a": "image", "b": "video"})) == ["a", "b", "a+b"]
    assert subsets(["a"], {"a": "audio"}) == {"A": ("a",)}
    assert subset_masks(2).tolist() == [[True, False], [False, True], [True, True]]


def test_drawn_subsets_are_uniform_non_empty_and_only_of_what_is_there() -> None:
    n = 6000
    present = torch.ones(n, 3, dtype=torch.bool)
    present[: n // 2, 1] = False
    present[0] = False
    drawn = draw_subsets(present, Draws(0, 0))
    assert not (drawn & ~present).any()
    assert drawn[1:].any(dim=1).all()
    assert not drawn[0].any()
    code = (drawn * torch.tensor([1, 2, 4])).sum(dim=1)
    two = [int(c) for c in torch.bincount(code[1 : n // 2], minlength=8)]
    three = [int(c) for c in torch.bincount(code[n // 2 :], minlength=8)]
    assert [c for c in range(8) if two[c]] == [1, 4, 5]
    assert min(two[1], two[4], two[5]) > 900
    assert three[0] == 0
    assert min(three[1:]) > 340
    assert torch.equal(drawn, draw_subsets(present, Draws(0, 0)))
    assert not torch.equal(drawn, draw_subsets(present, Draws(0, 1)))
    assert torch.equal(draw_subsets(present, Draws(0, 0), full_share=1.0), present)


def test_schedule_starts_peaks_and_ends_where_the_paper_says() -> None:
    rates = [lr_at(s, 100, lr=5e-4, lr_start=2.5e-5, warmup_share=0.2) for s in range(101)]
    assert rates[0] == 2.5e-5
    assert rates[10] == pytest.approx((5e-4 + 2.5e-5) / 2)
    assert max(rates) == rates[20] == 5e-4
    assert rates[60] == pytest.approx(2.5e-4)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert lr_at(0, 1, lr=1.0, lr_start=0.1, warmup_share=0.0) == 1.0


def test_masked_layer_norm_is_the_usual_one_and_leaves_absent_columns_out() -> None:
    norm = MaskedLayerNorm(6)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 7.0))
        norm.bias.copy_(torch.arange(6.0))
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    usual = torch.nn.functional.layer_norm(x, (6,), norm.weight, norm.bias)
    torch.testing.assert_close(norm(x, torch.ones(4, 6, dtype=torch.bool)), usual)
    torch.testing.assert_close(norm(x, None), usual)
    mask = torch.tensor([True, True, True, True, False, False]).expand(4, 6)
    part = torch.nn.functional.layer_norm(x[:, :4], (4,), norm.weight[:4], norm.bias[:4])
    torch.testing.assert_close(norm(torch.where(mask, x, float("nan")), mask)[:, :4], part)
    assert not norm(x, mask)[:, 4:].any()


def test_accuracy_and_confusion_are_counts() -> None:
    source = torch.Generator().manual_seed(0)
    predicted, target = (torch.randint(0, 5, (200,), generator=source) for _ in range(2))
    table = [[0] * 5 for _ in range(5)]
    for p, t in zip(predicted, target, strict=True):
        table[int(t)][int(p)] += 1
    assert confusion(predicted, target, 5) == table
    assert accuracy(predicted, target) == pytest.approx(sum(table[c][c] for c in range(5)) / 200)
    assert math.isnan(accuracy(predicted[:0], target[:0]))


def test_draws_depend_on_their_keys_alone() -> None:
    a = Draws(1, 2).uniform("site", (4,))
    torch.manual_seed(5)
    assert torch.equal(a, Draws(1, 2).uniform("site", (4,)))
    for other in (
        Draws(2, 2).uniform("site", (4,)),
        Draws(1, 3).uniform("site", (4,)),
        Draws(1, 2).uniform("s", (4,)),
    ):
        assert not torch.equal(a, other)
