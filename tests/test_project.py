"""What the project promises about itself: versions, the lock, the documents' commands."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest

import fusecache
from fusecache.cli import build_parser

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == fusecache.__version__


def test_the_lock_has_hashes_and_names_no_index() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert not [
        line
        for line in lines
        if "://" in line or line.startswith(("-i", "--index", "--extra-index", "--find-links"))
    ]
    pinned = [index for index, line in enumerate(lines) if re.match(r"[a-z0-9][\w.\-]*(\[.*\])?==", line)]
    assert len(pinned) > 80
    assert all("--hash=sha256:" in lines[index + 1] for index in pinned)


def test_the_lock_holds_every_direct_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {re.split(r"[\[<>=;~! ]", name)[0].lower() for name in wanted}
    locked = {
        match.group(1)
        for match in re.finditer(
            r"^([a-z0-9][\w.\-]*)==", (ROOT / "requirements.txt").read_text(), re.MULTILINE
        )
    }
    locked |= {
        match.group(1)
        for match in re.finditer(
            r"^([a-z0-9][\w.\-]*)\[", (ROOT / "requirements.txt").read_text(), re.MULTILINE
        )
    }
    assert names <= locked, names - locked


def commands() -> list[tuple[str, str]]:
    """Every ``fusecache ...`` line of a shell block, with the document it stands in."""
    found: list[tuple[str, str]] = []
    for path in DOCUMENTS:
        for block in re.findall(r"```(?:bash|sh)\n(.*?)```", path.read_text(), re.DOTALL):
            found += [
                (path.name, line.split("#")[0].strip())
                for line in block.splitlines()
                if line.startswith("fusecache ")
            ]
    return found


@pytest.mark.parametrize(("document", "command"), commands())
def test_documented_commands_parse(document: str, command: str) -> None:
    build_parser().parse_args(shlex.split(command)[1:])


def test_there_are_documented_commands() -> None:
    assert len(commands()) >= 6


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_in_documents_exist(path: Path) -> None:
    text = path.read_text()
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (path.parent / target).exists() or (ROOT / target).exists(), (
                f"{path.name} links to {target}"
            )
    for target in re.findall(
        r"`((?:docs|extract|cache|train|pipeline|tests|tools|benchmarks)/[\w./\-]+)`", text
    ):
        assert (ROOT / target).exists(), f"{path.name} names {target}"
