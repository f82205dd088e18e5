import toy

from densedistill.recipes import load_recipe
from densedistill.training import train
from densedistill.training.validation import open_validation

TWO = [{"name": "toy:Dots", "length": 2, "seed": 1}, {"name": "toy:Dots", "length": 3, "seed": 2}]


def test_data_sets_of_one_name_have_labels_of_their_own():
    found = open_validation(load_recipe(toy.recipe(data__validate=TWO)))
    assert {label: len(samples) for label, samples in found.items()} == {"toy:Dots": 2, "toy:Dots #2": 3}


def test_figures_are_named_after_their_data_but_for_the_first(tmp_path):
    run = train(toy.recipe(data__validate=TWO, schedule__steps=1), run=tmp_path / "run")
    (line,) = (line for line in run.history if "validate/epe" in line)
    names = {name.rpartition("/")[0] for name in line if name.startswith("validate")}
    assert names == {"validate", "validate/toy:Dots #2"}
