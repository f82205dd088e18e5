"""Recipes: what is trained, from whom, on what and for how long, as YAML that can be read aloud."""

from .load import describe, list_recipes, load_recipe, parse_value
from .schema import Data, DataSet, Optimizer, Recipe, Schedule, Stages, Student, Teacher, Trainer

__all__ = [
    "Data",
    "DataSet",
    "Optimizer",
    "Recipe",
    "Schedule",
    "Stages",
    "Student",
    "Teacher",
    "Trainer",
    "describe",
    "list_recipes",
    "load_recipe",
    "parse_value",
]
