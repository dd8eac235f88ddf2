"""The dependency rule, checked on the source itself: train and extract know the cache, never each other."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT: dict[str, set[str]] = {
    "cache": set(),
    "extract": {"cache"},
    "train": {"cache"},
    "pipeline": {"cache", "extract", "train"},
}


def imports(path: Path) -> list[tuple[int, str, int]]:
    """Every import in ``path`` as (line, dotted module, relative level)."""
    found: list[tuple[int, str, int]] = []
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, node.module or "", node.level))
            if node.level == 0 and node.module == "fusecache":
                found += [(node.lineno, f"fusecache.{alias.name}", 0) for alias in node.names]
    return found


@pytest.mark.parametrize(
    "path",
    sorted(p for folder in MAY_IMPORT for p in (ROOT / folder).rglob("*.py")),
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_imports_follow_the_dependency_rule(path: Path) -> None:
    folder, *inner = path.relative_to(ROOT).parts
    for line, module, level in imports(path):
        where = f"{path.relative_to(ROOT)}:{line}"
        head, _, rest = module.partition(".")
        if level:
            assert level <= len(inner), (
                f"{where} climbs out of {folder}/ with a relative import; write fusecache.<folder> instead"
            )
            continue
        assert head not in MAY_IMPORT, (
            f"{where} imports the bare name {head!r}, a second copy of the package; write fusecache.{head}"
        )
        if head == "fusecache" and (target := rest.partition(".")[0]) in MAY_IMPORT:
            assert target != folder, (
                f"{where} names its own folder; import relatively so type checkers see one class, not two"
            )
            assert target in MAY_IMPORT[folder], f"{where}: {folder} may not import {target}"
