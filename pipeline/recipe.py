"""A recipe: everything that decides a result, as one typed value that loads from YAML.

A recipe has an ``extract`` part (which encoders, over which streams) and a ``train`` part (which fusion block, which
schedule). Either may be left out. It is named by a file, or by the name of one that ships (``digits``, ``clips``), and
any field can be overridden: ``--set train.lr=1e-4``.

Nothing here imports torch or an extraction library: a recipe can be read, checked and printed on any machine.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast

import yaml

from fusecache.cache.errors import InputError, several
from fusecache.extract.config import ExtractConfig
from fusecache.train.config import TrainConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One experiment, whole."""

    name: str
    """Shown in runs and reports."""
    extract: ExtractConfig | None = None
    """How features are made; None where the recipe only trains."""
    train: TrainConfig | None = None
    """How fusion is trained; None where the recipe only extracts."""

    def expected_producers(self) -> dict[str, dict[str, Any]] | None:
        """What a cache must have been made with for this recipe, modality by modality; None: anything will do.

        Demanded are the encoder, its weights, its stored type and every setting, defaults included. Where extraction's
        libraries are not installed the defaults cannot be known, and only the options that the recipe writes are.

        Raises:
            InputError: an encoder or option that does not exist.
        """
        if self.extract is None:
            return None
        from fusecache.extract import recorded_weights, resolved_settings

        wanted = [
            name for name in self.extract.encoders if self.train is None or name in self.train.modalities
        ]
        expected: dict[str, dict[str, Any]] = {}
        for modality in wanted:
            encoder = self.extract.encoders[modality]
            settings = resolved_settings(encoder, modality)
            expected[modality] = {
                "dtype": encoder.dtype,
                "weights": recorded_weights(encoder.weights),
                "settings": dict(encoder.options) if settings is None else settings,
            }
            if (
                ":" not in encoder.encoder
            ):  # a user's own encoder is named by import path and gives its own name
                expected[modality]["encoder"] = encoder.encoder
        return expected


def shipped_recipes() -> dict[str, Path]:
    """The recipes inside the package, by name."""
    folder = resources.files("fusecache") / "recipes"
    return {
        Path(str(entry)).stem: Path(str(entry))
        for entry in sorted(folder.iterdir(), key=str)
        if str(entry).endswith(".yaml")
    }


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by shipped name or file, apply ``field=value`` overrides, check everything.

    Args:
        name: ``digits``, or a path ending in ``.yaml`` or ``.yml``.
        overrides: such as ``train.lr=1e-4``; the value is read as YAML.

    Raises:
        InputError: no such recipe, unreadable YAML, unknown fields (the nearest is named) or wrong values, all listed.
    """
    path = Path(name)
    shipped = shipped_recipes()
    if path.suffix not in {".yaml", ".yml"}:
        if name not in shipped:
            raise InputError(
                f"there is no recipe named {name!r}: name a file that ends in .yaml, or one that ships: {', '.join(shipped)}"
            )
        path = shipped[name]
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"recipe {path} cannot be read: {error}; name a readable UTF-8 YAML file") from error
    try:
        # An alias may stand for a tree that is exponentially larger than the file, or for itself.
        tokens = cast("Iterator[object]", yaml.scan(text, Loader=yaml.SafeLoader))  # pyright: ignore[reportUnknownMemberType]
        if any(isinstance(token, yaml.AliasToken) for token in tokens):
            raise InputError(
                f"recipe {path} uses a YAML alias (*name), which recipes may not; write the value out"
            )
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"recipe {path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise InputError(f"recipe {path} must hold named fields (extract:, train:), got {type(raw).__name__}")
    tree = typing.cast("dict[str, Any]", raw)
    tree.setdefault("name", path.stem)
    for override in overrides:
        apply_override(tree, override)
    return parse_recipe(tree, source=str(path))


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one field of a recipe tree in place from ``a.b.c=value``.

    >>> tree = {"train": {"lr": 1.0}}
    >>> apply_override(tree, "train.lr=1e-4"); tree
    {'train': {'lr': 0.0001}}
    """
    field, equals, text = override.partition("=")
    if not equals or not field:
        raise InputError(f"--set takes field=value, such as train.lr=1e-4, got {override!r}")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {override!r}: the value is not valid YAML: {error}") from error
    if isinstance(value, str):
        value = _yaml_float(value)
    *parents, last = field.split(".")
    node = tree
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            raise InputError(
                f"--set {override!r}: {parent!r} is a value, not a group of fields; drop what follows it"
            )
        node = typing.cast("dict[str, Any]", child)
    node[last] = value


def _yaml_float(text: str) -> str | float:
    """YAML 1.1 reads ``1e-4`` as text; people mean the number."""
    try:
        return float(text)
    except ValueError:
        return text


def parse_recipe(tree: Mapping[str, Any], *, source: str) -> Recipe:
    """Check a tree of plain values and turn it into a :class:`Recipe`.

    Raises:
        InputError: every unknown field with its nearest name, then every value of a wrong type or range.
    """
    from pydantic import TypeAdapter, ValidationError

    unknown = list(unknown_fields(Recipe, tree, ""))
    if unknown:
        raise InputError(several(f"recipe {source} has fields that do not exist", unknown))
    try:
        return TypeAdapter(Recipe).validate_python(_numbers(tree))
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part) for part in item['loc'])} = {item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"
            for item in error.errors()
        ]
        raise InputError(several(f"recipe {source} has wrong values", problems)) from error


def _numbers(tree: Any) -> Any:
    """The same tree with YAML 1.1's textual floats (``1e-4``) as numbers."""
    if isinstance(tree, dict):
        return {key: _numbers(value) for key, value in typing.cast("dict[str, Any]", tree).items()}
    if isinstance(tree, list):
        return [_numbers(value) for value in typing.cast("list[Any]", tree)]
    if isinstance(tree, str) and tree[:1] in "0123456789+-." and "e" in tree.lower():
        return _yaml_float(tree)
    return tree


def unknown_fields(kind: Any, tree: Any, where: str) -> typing.Iterator[str]:
    """Walk a tree beside a dataclass type and yield a line for each name that the type does not have."""
    origin = typing.get_origin(kind)
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(kind):
            if dataclasses.is_dataclass(option) or typing.get_origin(option) in (dict, Mapping):
                yield from unknown_fields(option, tree, where)
        return
    if not isinstance(tree, dict):
        return
    values = typing.cast("dict[str, Any]", tree)
    if origin in (dict, Mapping, types.MappingProxyType) or origin is typing.get_origin(Mapping[str, int]):
        inner = typing.get_args(kind)[1]
        for name, value in values.items():
            yield from unknown_fields(inner, value, f"{where}{name}.")
    elif dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        for name, value in values.items():
            if name in hints:
                yield from unknown_fields(hints[name], value, f"{where}{name}.")
                continue
            near = difflib.get_close_matches(str(name), hints, n=1, cutoff=0.5)
            hint = f"did you mean {where}{near[0]}?" if near else f"fields there: {', '.join(hints)}"
            yield f"{where}{name}: {hint}"


def recipe_tree(recipe: Recipe) -> dict[str, Any]:
    """A recipe as plain values, every default written out; ``parse_recipe`` gives it back."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return {str(key): plain(inner) for key, inner in typing.cast("Mapping[Any, Any]", value).items()}
        if isinstance(value, tuple | list):
            return [plain(inner) for inner in typing.cast("Sequence[Any]", value)]
        return value

    return {key: value for key, value in plain(recipe).items() if value is not None}


def recipe_yaml(recipe: Recipe) -> str:
    """A recipe as YAML text, every default written out."""
    return yaml.safe_dump(recipe_tree(recipe), sort_keys=False, allow_unicode=True)
