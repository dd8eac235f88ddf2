"""Recipes: typed, checked whole, every offender named."""

from pathlib import Path
from typing import Any

import pytest

from fusecache.cache import InputError
from fusecache.recipe import apply_override, load_recipe, parse_recipe, recipe_tree, shipped_recipes


@pytest.mark.parametrize("name", sorted(shipped_recipes()))
def test_shipped_recipes_load_and_survive_a_round_trip(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    assert parse_recipe(recipe_tree(recipe), source="round trip") == recipe


def test_unknown_recipe_names_those_that_ship() -> None:
    with pytest.raises(InputError, match=r"no recipe named 'digit': .*clips, digits, transformers"):
        load_recipe("digit")


def test_overrides_reach_the_field() -> None:
    recipe = load_recipe(
        "digits",
        ["train.lr=1e-4", "train.fusion.scfae.boundary=0.25", "extract.encoders.audio.options.n_mels=64"],
    )
    assert recipe.train is not None
    assert recipe.extract is not None
    assert recipe.train.lr == 1e-4
    assert recipe.train.fusion.scfae.boundary == 0.25
    assert recipe.extract.encoders["audio"].options["n_mels"] == 64


@pytest.mark.parametrize("text", ["train.lr", "=3", ""])
def test_override_without_a_value(text: str) -> None:
    with pytest.raises(InputError, match=f"--set takes field=value, such as train.lr=1e-4, got '{text}'"):
        apply_override({}, text)


def test_override_below_a_value() -> None:
    with pytest.raises(InputError, match="'lr' is a value, not a group of fields"):
        apply_override({"train": {"lr": 1.0}}, "train.lr.x=3")


def test_every_unknown_field_is_named_with_its_nearest() -> None:
    with pytest.raises(InputError) as caught:
        load_recipe("digits", ["train.epoch=3", "train.fusion.scfae.boundry=0.1", "extrakt.x=1"])
    message = str(caught.value)
    assert "train.epoch: did you mean train.epochs?" in message
    assert "train.fusion.scfae.boundry: did you mean train.fusion.scfae.boundary?" in message
    assert "extrakt: did you mean extract?" in message


def test_every_wrong_value_is_named() -> None:
    with pytest.raises(InputError) as caught:
        load_recipe("digits", ["train.epochs=many", "extract.shard_samples=some"])
    message = str(caught.value)
    assert "train.epochs = 'many'" in message
    assert "extract.shard_samples = 'some'" in message


def test_values_out_of_range_come_through_the_config(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="epochs is 0"):
        load_recipe("digits", ["train.epochs=0"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [", "is not valid YAML"),
        ("- 1\n- 2\n", "must hold named fields"),
        ("!!python/object/apply:os.getcwd []", "is not valid YAML"),
        ("a: &a [1, 1]\nb: &b [*a, *a]\n", r"uses a YAML alias"),
        ("&a [*a]\n", r"uses a YAML alias"),
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=expected):
        load_recipe(str(path))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.yaml cannot be read"):
        load_recipe(str(tmp_path / "none.yaml"))


def test_expected_producers_say_what_the_recipe_says() -> None:
    recipe = load_recipe("digits")
    expected = recipe.expected_producers()
    assert expected is not None
    assert expected["audio"]["encoder"] == "logmel"
    assert expected["audio"]["settings"]["n_mels"] == 40
    tree: dict[str, Any] = recipe_tree(recipe)
    del tree["extract"]
    assert parse_recipe(tree, source="train only").expected_producers() is None
