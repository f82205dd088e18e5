"""List the recipes, or print one resolved.

examples:
  densedistill recipes
  densedistill recipes dsnet/sceneflow
  densedistill recipes dsnet/sceneflow --twin --objective.volume.weight 0
"""

from __future__ import annotations

import argparse

from ..errors import UserError

TAKES_RECIPE_FLAGS = True


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `recipes`."""
    parser.add_argument("recipe", metavar="NAME", nargs="?", help="a recipe's name, or a YAML file")
    parser.add_argument("--twin", action="store_true", help="as it is at CPU size")


def run(args: argparse.Namespace) -> int:
    """Print the list or the recipe."""
    import yaml

    from ..recipes import describe, list_recipes, load_recipe
    from ._recipe import read_flags

    if args.recipe is None:
        if args.recipe_flags:
            raise UserError(f"which recipe takes {args.recipe_flags[0]}? Name one")
        names = list_recipes()
        width = max(map(len, names))
        for name in names:
            print(f"{name:<{width}}  {describe(name)}")
        return 0
    recipe = load_recipe(args.recipe, twin=args.twin, overrides=read_flags(args.recipe_flags))
    print(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True, width=110), end="")
    return 0
