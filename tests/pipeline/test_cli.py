"""The command line: its surface, its lightness, its words for mistakes."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fusecache import __version__
from fusecache.cli import build_parser, main

VERBS = {
    "demo",
    "data",
    "extract",
    "cache",
    "cache info",
    "cache verify",
    "cache ls",
    "train",
    "report",
    "recipe",
}


def verbs(parser: argparse.ArgumentParser, prefix: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:  # pyright: ignore[reportPrivateUsage]
        if isinstance(action, argparse._SubParsersAction):  # pyright: ignore[reportPrivateUsage]
            for name, child in action.choices.items():  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]
                yield f"{prefix}{name}", child
                yield from verbs(child, f"{prefix}{name} ")  # pyright: ignore[reportUnknownArgumentType]


def test_the_surface_grows_on_purpose_only() -> None:
    assert {name for name, _ in verbs(build_parser())} == VERBS


@pytest.mark.parametrize(
    ("name", "parser"), [*verbs(build_parser())], ids=[name for name, _ in verbs(build_parser())]
)
def test_every_verb_has_a_worked_example_that_parses(name: str, parser: argparse.ArgumentParser) -> None:
    epilog = parser.epilog or ""
    assert epilog.startswith("example:\n  fusecache ")
    for line in epilog.splitlines()[1:]:
        words = line.split("#")[0].split(">")[0].split()
        assert words[0] == "fusecache"
        build_parser().parse_args(words[1:])


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, contextlib, io\n"
        "from fusecache.cli import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit): main(['train', '--help'])\n"
        "heavy = {'numpy', 'torch', 'zarr', 'pydantic', 'yaml', 'rich', 'av', 'transformers'} & set(sys.modules)\n"
        "print(sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"fusecache {__version__}\n"


def test_no_verb_prints_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "exit codes:" in capsys.readouterr().out


def test_a_user_mistake_has_no_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fusecache", "cache", "info", "/nowhere/at/all"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3
    assert "/nowhere/at/all" in done.stderr
    assert "Traceback" not in done.stderr


def test_traceback_on_request() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fusecache", "--traceback", "cache", "info", "/nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in done.stderr


def test_recipe_verb_prints_a_recipe_that_loads_again(capsys: pytest.CaptureFixture[str]) -> None:
    import yaml

    from fusecache.recipe import load_recipe, parse_recipe

    assert main(["recipe", "digits", "--set", "train.epochs=3"]) == 0
    tree = yaml.safe_load(capsys.readouterr().out)
    assert parse_recipe(tree, source="printed") == load_recipe("digits", ["train.epochs=3"])


def test_recipe_verb_lists_those_that_ship(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipe"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} == {
        "clips",
        "digits",
        "transformers",
    }


def test_recordings_without_a_folder(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.delenv("FUSECACHE_DATA", raising=False)
    assert main(["data", "recordings", "--out", f"{tmp_path}/x"]) == 2
    assert "pass --data DIR or set FUSECACHE_DATA=DIR" in capsys.readouterr().err


def test_json_is_one_object(capsys: pytest.CaptureFixture[str], tmp_path: object) -> None:
    assert main(["data", "clips", "--out", f"{tmp_path}/clips", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] == "clips"
