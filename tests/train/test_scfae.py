"""SCFAE against its own equations, its published sizes, and the rules that every block inherits."""

# pyright: reportUnknownMemberType=false
# torch leaves some of its own signatures untyped.

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fusecache.cache import InputError
from fusecache.train.concat import Concat
from fusecache.train.config import ConcatConfig, ScfaeConfig
from fusecache.train.draws import Draws
from fusecache.train.fusion import FusionBlock, FusionOutput
from fusecache.train.scfae import Scfae

DIMS = {"audio": 6, "image": 4, "text": 9}
DRAWS = Draws(0, 0)


def block(dims: Mapping[str, int] = DIMS, **options: Any) -> Scfae:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return Scfae(dims, ScfaeConfig(**options)).double()


def inputs(dims: Mapping[str, int] = DIMS, n: int = 5, seed: int = 1) -> dict[str, Tensor]:
    source = torch.Generator().manual_seed(seed)
    return {name: torch.randn(n, dim, generator=source, dtype=torch.float64) for name, dim in dims.items()}


def everything(n: int = 5, count: int = 3) -> Tensor:
    return torch.ones(n, count, dtype=torch.bool)


def run(model: Scfae, x: Mapping[str, Tensor], present: Tensor) -> FusionOutput:
    return model(x, {}, present, draws=DRAWS)


def fused(output: FusionOutput) -> Tensor:
    assert output.fused is not None
    return output.fused


@pytest.mark.parametrize(
    ("dims", "count"), [((512, 512), 24_142_848), ((4096, 128), 345_942_742), ((128, 128), 1_513_728)]
)
def test_parameter_count_is_the_papers(dims: tuple[int, int], count: int) -> None:
    with torch.device("meta"):
        model = Scfae(dict(zip("ab", dims, strict=True)), ScfaeConfig())
    assert sum(p.numel() for p in model.parameters()) == count


def reference(w: Mapping[str, Tensor], x: list[Tensor], cuts: list[int]) -> tuple[list[Tensor], Tensor]:
    """Eq. 3-6 and Table 12 for complete samples, from the equations alone: all Z, and the mean reconstruction loss."""

    def linear(name: str, v: Tensor) -> Tensor:
        return v @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def gelu(v: Tensor) -> Tensor:
        return v * 0.5 * (1 + torch.erf(v / 2**0.5))

    def swiglu(name: str, v: Tensor) -> Tensor:
        gate = linear(f"{name}.gate", v)
        return linear(f"{name}.down", gate / (1 + torch.exp(-gate)) * linear(f"{name}.up", v))

    count = len(x)
    wide = [gelu(linear(f"expand.{m}", swiglu(f"pre.{m}", x[m]))) for m in range(count)]
    z: list[Tensor] = []
    loss = torch.zeros(len(x[0]), dtype=torch.float64)
    for m in range(count):
        k = (m + 1) % count
        shared = gelu(linear(f"shared.{m}", wide[k][:, : cuts[k]]))
        specific = gelu(linear(f"specific.{m}", wide[m][:, cuts[m] :]))
        z.append(swiglu(f"post.{m}", torch.cat([specific, shared], dim=1)))
        rebuilt = linear(f"recon.{m}", z[m])
        loss += 1 - (rebuilt * x[m]).sum(1) / (rebuilt.square().sum(1) * x[m].square().sum(1)).sqrt()
    return z, loss.mean()


@pytest.mark.parametrize("dims", [{"a": 5}, {"a": 4, "b": 4}, DIMS, {"a": 3, "b": 7, "c": 5, "d": 4}])
@pytest.mark.parametrize(("expansion", "boundary"), [(2.0, 0.5), (1.0, 0.5), (3.0, 0.25)])
def test_equals_the_equations(dims: dict[str, int], expansion: float, boundary: float) -> None:
    model, x = block(dims, expansion=expansion, boundary=boundary), inputs(dims)
    output = run(model, x, everything(count=len(dims)))
    cuts = [round(boundary * expansion * dim) for dim in dims.values()]
    z, loss = reference(model.state_dict(), list(x.values()), cuts)
    torch.testing.assert_close(fused(output), torch.cat(z, dim=1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(output.losses["recon"][0], loss, rtol=1e-12, atol=1e-12)
    assert fused(output).shape[1] == model.width == sum(dim + min(dims.values()) for dim in dims.values())


def test_gradients_are_the_derivatives() -> None:
    model, x = block({"a": 3, "b": 4}, recon_target="attached"), inputs({"a": 3, "b": 4}, n=2)
    present = torch.tensor([[True, True], [True, False]])

    def total(a: Tensor, b: Tensor) -> Tensor:
        output = run(model, {"a": a, "b": b}, present)
        return fused(output).square().sum() + output.losses["recon"][0]

    leaves = [value.requires_grad_() for value in x.values()]
    assert torch.autograd.gradcheck(total, leaves)  # pyright: ignore[reportUnknownArgumentType]


@pytest.mark.parametrize("exchange", ["own", "common"])
def test_every_parameter_moves(exchange: str) -> None:
    model = block(exchange=exchange)
    output = run(model, inputs(), everything())
    (fused(output).sin().sum() + output.losses["recon"][0]).backward()
    still = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


@pytest.mark.parametrize("options", [{}, {"missing": "zero"}, {"exchange": "common"}, {"branches": "shared"}])
def test_a_sample_does_not_depend_on_its_batch(options: dict[str, Any]) -> None:
    model, x = block(**options), inputs()
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=torch.bool)
    whole = fused(run(model, x, present))
    for i in range(5):
        alone = fused(run(model, {name: value[i : i + 1] for name, value in x.items()}, present[i : i + 1]))
        torch.testing.assert_close(alone[0], whole[i], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"missing": "zero"}, {"exchange": "common"}, {"recon_loss": "mse"}])
def test_absent_inputs_have_no_effect_not_even_nan(options: dict[str, Any]) -> None:
    model, x = block(**options), inputs()
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 0, 1], [1, 1, 0]], dtype=torch.bool)

    def outcome(x: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        model.zero_grad()
        output = run(model, x, present)
        (fused(output).square().sum() + output.losses["recon"][0]).backward()
        grads = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        return fused(output), output.losses["recon"][0], grads

    spoiled = {
        name: torch.where(present[:, m : m + 1], value, float("nan"))
        for m, (name, value) in enumerate(x.items())
    }
    shuffled = {
        name: torch.where(present[:, m : m + 1], value, value.flip(0))
        for m, (name, value) in enumerate(x.items())
    }
    for other in (spoiled, shuffled):
        for a, b in zip(_flat(outcome(x)), _flat(outcome(other)), strict=True):
            assert torch.equal(a, b)


def _flat(value: tuple[Tensor, Tensor, list[Tensor]]) -> list[Tensor]:
    return [value[0], value[1], *value[2]]


def test_the_exchange_skips_to_the_next_that_is_there() -> None:
    dims = {"a": 4, "b": 4, "c": 4}
    model, x = block(dims), inputs(dims)
    present = torch.tensor([[True, False, True]]).expand(5, 3)
    output = run(model, x, present)
    halves = {name: model.split(m, x[name]) for m, name in enumerate(dims)}
    torch.testing.assert_close(output.parts["shared.a"], F.gelu(model.shared[0](halves["c"][0])))
    torch.testing.assert_close(output.parts["shared.c"], F.gelu(model.shared[2](halves["a"][0])))
    alone = run(model, x, torch.tensor([[False, True, False]]).expand(5, 3))
    torch.testing.assert_close(alone.parts["shared.b"], F.gelu(model.shared[1](halves["b"][0])))
    assert output.mask is not None
    assert output.mask[0].tolist() == [True] * 8 + [False] * 8 + [True] * 8
    assert not fused(output)[:, 8:16].any()


def test_a_shared_part_that_does_not_fit_is_zeros_or_brought_to_a_common_width() -> None:
    x, present = inputs(), torch.tensor([[True, False, True]]).expand(5, 3)
    assert not run(block(), x, present).parts["shared.audio"].any()
    assert run(block(), x, present).parts["shared.text"].any()  # its own successor, audio, is there
    common = block(exchange="common")
    taken = common.split(2, x["text"])[0]
    assert taken.shape == (5, 4)
    torch.testing.assert_close(run(common, x, present).parts["shared.audio"], F.gelu(common.shared[0](taken)))


def test_zero_reading_goes_on_as_if_zeros_were_there() -> None:
    model, x = block(missing="zero"), inputs()
    absent = run(model, x, torch.tensor([[True, False, True]]).expand(5, 3))
    zeroed = run(model, {**x, "image": torch.zeros_like(x["image"])}, everything())
    torch.testing.assert_close(fused(absent), fused(zeroed))


def test_recon_counts_only_what_is_there() -> None:
    model, x = block(), inputs()
    present = torch.tensor([[True, True, False]]).expand(5, 3)
    output = run(model, x, present)
    cosines = [
        1 - F.cosine_similarity(x[name], output.parts[f"recon.{name}"], dim=1) for name in ("audio", "image")
    ]
    torch.testing.assert_close(output.losses["recon"][0], sum(cosines, torch.zeros(5)).mean())
    nothing = run(model, x, torch.zeros(5, 3, dtype=torch.bool))
    assert nothing.losses["recon"][0].item() == 0.0
    assert torch.isfinite(fused(nothing)).all()


def test_attached_target_passes_a_gradient_and_detached_does_not() -> None:
    grads: dict[str, Tensor] = {}
    for target in ("detach", "attached"):
        x = {name: value.requires_grad_() for name, value in inputs().items()}
        run(block(recon_target=target), x, everything()).losses["recon"][0].backward()
        assert x["audio"].grad is not None
        grads[target] = x["audio"].grad
    assert not torch.allclose(grads["detach"], grads["attached"])


@pytest.mark.parametrize(("branches", "kept"), [("shared", "shared"), ("specific", "specific")])
def test_branch_masking_leaves_one_branch(branches: str, kept: str) -> None:
    model, x = block(branches=branches), inputs()
    gone = "specific" if kept == "shared" else "shared"
    before = fused(run(model, x, everything()))
    with torch.no_grad():
        for p in getattr(model, gone).parameters():
            p.add_(1.0)
    torch.testing.assert_close(fused(run(model, x, everything())), before)
    with torch.no_grad():
        for p in getattr(model, kept).parameters():
            p.add_(1.0)
    assert not torch.allclose(fused(run(model, x, everything())), before)


def test_retrieval_embeds_each_side_alone() -> None:
    model, x = block({"image": 6, "video": 4}), inputs({"image": 6, "video": 4})
    output = run(model, x, everything(count=2))
    torch.testing.assert_close(model.embed("image", x["image"]), output.parts["shared.video"])
    torch.testing.assert_close(model.embed("video", x["video"]), output.parts["shared.image"])
    assert model.embed("image", x["image"]).shape == (5, 4)


def test_dropout_is_keyed_and_only_in_training() -> None:
    model, x = block(dropout=0.5), inputs()
    model.eval()
    torch.testing.assert_close(fused(run(model, x, everything())), fused(run(block(), x, everything())))
    model.train()

    def at(step: int) -> Tensor:
        return fused(model(x, {}, everything(), draws=Draws(0, step)))

    torch.manual_seed(int(torch.randint(0, 9, ())))  # global state plays no part
    assert torch.equal(at(3), at(3))
    assert not torch.equal(at(3), at(4))


def test_bfloat16_stays_near_float32() -> None:
    model, x = block().float(), {name: value.float() for name, value in inputs().items()}
    exact = run(model, x, everything())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = run(model, x, everything())
    assert half.losses["recon"][0].dtype == torch.float32
    torch.testing.assert_close(half.losses["recon"][0], exact.losses["recon"][0], rtol=0.02, atol=0.02)
    torch.testing.assert_close(fused(half).float(), fused(exact), rtol=0.1, atol=0.05)


def test_is_a_block_and_so_is_concat() -> None:
    assert isinstance(block(), FusionBlock)
    concat = Concat(DIMS, ConcatConfig(hidden=7)).double()
    assert isinstance(concat, FusionBlock)
    x, present = inputs(), torch.tensor([[True, False, True]]).expand(5, 3)
    spoiled = {**x, "image": torch.full_like(x["image"], float("nan"))}
    a, b = (fused(concat(value, {}, present, draws=DRAWS)) for value in (x, spoiled))
    assert torch.equal(a, b)
    assert a.shape == (5, 7)
    a.sum().backward()
    # The token of a modality that was never absent has nothing to learn; all else moves.
    assert [n for n, p in concat.named_parameters() if p.grad is None or not p.grad.any()] == [
        "tokens.0",
        "tokens.2",
    ]


def test_impossible_widths_are_refused_by_name() -> None:
    with pytest.raises(InputError, match=r"tiny: 1 wide, expanded to 1, shared part 0"):
        Scfae({"wide": 8, "tiny": 1}, ScfaeConfig(expansion=1.0, boundary=0.3))
    with pytest.raises(InputError, match=r"at least one modality, got none"):
        Scfae({}, ScfaeConfig())
    with pytest.raises(InputError, match=r"boundary is 1.5.*\n.*dropout is 1.0"):
        replace(ScfaeConfig(), boundary=1.5, dropout=1.0)
