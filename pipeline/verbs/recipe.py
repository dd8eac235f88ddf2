"""``fusecache recipe``: print a recipe, whole."""

from __future__ import annotations

import argparse

from ..recipe import load_recipe, recipe_yaml, shipped_recipes
from ..tables import say


def run(args: argparse.Namespace) -> int:
    """Print one recipe with every default, or the names of those that ship."""
    if args.name is None:
        for name, path in shipped_recipes().items():
            say(f"{name:12s} {path}")
        return 0
    say(recipe_yaml(load_recipe(args.name, args.overrides)).rstrip())
    return 0
