"""``python -m benchmarks``: list the benchmarks; ``python -m benchmarks NAME ...``: run one."""

import ast
import importlib
import sys
from pathlib import Path

HIDDEN = {"__init__", "__main__", "common"}


def main() -> None:
    """List or run."""
    folder = Path(__file__).parent
    names = sorted(path.stem for path in folder.glob("*.py") if path.stem not in HIDDEN)
    if len(sys.argv) > 1 and sys.argv[1] in names:
        name = sys.argv.pop(1)
        importlib.import_module(f"benchmarks.{name}").main()
        return
    if len(sys.argv) > 1:
        raise SystemExit(f"there is no benchmark {sys.argv[1]!r}; there are: {', '.join(names)}")
    for name in names:
        about = ast.get_docstring(ast.parse((folder / f"{name}.py").read_text())) or ""
        print(f"{name:18s} {about.splitlines()[0]}")


if __name__ == "__main__":
    main()
