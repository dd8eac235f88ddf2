"""Link the folders under their import names in ``build/types/``.

Pyright and mypy cannot follow setuptools' editable import hook, so they are
pointed at these links instead. The links also serve as a ``PYTHONPATH`` entry
on machines where nothing can be installed.
"""

import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LINKS = ROOT / "build" / "types" / "fusecache"


def main() -> None:
    """Make the links anew."""
    shutil.rmtree(LINKS, ignore_errors=True)
    LINKS.mkdir(parents=True)
    for folder in ("cache", "extract", "train"):
        (LINKS / folder).symlink_to(ROOT / folder, target_is_directory=True)
    for entry in (ROOT / "pipeline").iterdir():
        if entry.name != "__pycache__":
            (LINKS / entry.name).symlink_to(entry)


if __name__ == "__main__":
    main()
