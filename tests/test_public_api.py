"""The three lines of the README: what goes in, and what every result gives."""

import importlib
import inspect
import pkgutil
from dataclasses import FrozenInstanceError, fields, replace

import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from test_imports import ROOMS

import saerepgeo_lib as srg
from saerepgeo_lib.companion.notebooks import find_notebook, read_parameters

SMALL = {  # options that make each quick
    "rank_profile": {"levels": [0, 1], "seeds": [0]},
    "compare_geometry": {"n_groups": 3, "n_random": 1},
    "dose_response": {
        "doses": [1, 1.2], "paths": ["pushed, valid"], "n_groups": 3, "n_bootstrap": 40,
        "grouping": "entities",
    },
}  # fmt: skip
DOORS = [srg, *(importlib.import_module(f"saerepgeo_lib.{room}") for room in ROOMS)]


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_what_a_door_lists_is_there_whatever_was_imported_before(door):
    """A listed name that is a module's too would be that module once somebody imports it."""
    modules = {module.name for module in pkgutil.iter_modules(door.__path__)}
    assert not modules & set(door.__all__)
    assert all(getattr(door, name) is not None for name in door.__all__)


def test_there_are_few_enough_names_to_hold():
    assert sum(len(door.__all__) for door in DOORS) <= 150


@pytest.fixture(scope="module")
def acts():
    whole = srg.load("minilm").activations("months")
    return whole.rows(whole.prompt < 24)


@pytest.fixture(scope="module", params=SMALL)
def result(request, acts):
    return getattr(srg, request.param)(acts, **SMALL[request.param])


def test_a_result_is_frozen_and_says_in_words_and_a_table_what_was_found(result, acts):
    with pytest.raises(FrozenInstanceError):
        setattr(result, fields(result)[0].name, None)
    assert isinstance(result.table, pd.DataFrame) and len(result.table)
    words = repr(result)
    assert repr(acts) == f"TokenActivations of months: {len(acts)} tokens of 384 dimensions"
    assert "TopK SAE" in repr(acts.source) and len(repr(acts.source)) < 200
    assert type(result).__name__ in words and "months" in words and len(words.splitlines()) <= 2


def test_a_result_is_drawn_into_a_figure_of_its_own_or_into_the_axes_given(result):
    drawn = result.plot()
    assert isinstance(drawn, Axes) and drawn.has_data()
    ax = Figure().subplots()
    assert result.plot(ax=ax) is ax and len(ax.lines) == len(drawn.lines)


def test_objects_of_ones_own_go_straight_in(acts):
    model, sae = acts.source.model, acts.source.saes["TopK SAE"]
    mine = srg.ModelWithSAEs(model, {"mine": sae}).activations(srg.load_concepts()["months"])
    profile = srg.rank_profile(mine.rows(mine.prompt < 24), **SMALL["rank_profile"])
    assert profile.sweep.labels == ("residual", "mine", "random mine", "permuted mine")
    same = srg.rank_profile(acts, saes={"mine": sae}, **SMALL["rank_profile"])
    assert same.ranks.equals(profile.ranks)


def test_labels_that_a_control_would_share_are_refused(acts):
    model, sae = acts.source.model, acts.source.saes["TopK SAE"]
    with pytest.raises(srg.UserError, match="numbers draws"):
        srg.ModelWithSAEs(model, {"mine #1": sae})
    for labels in (("residual",), ("mine", "random mine"), ("mine", "permuted mine")):
        with pytest.raises(srg.UserError, match=f"would be named .*{labels[-1]}"):
            srg.rank_profile(acts, saes=dict.fromkeys(labels, sae))
    for label in ("", " ", "all", "residual"):
        with pytest.raises(srg.UserError, match=f"cannot be labelled '{label}'"):
            srg.ModelWithSAEs(model, {label: sae})
    with pytest.raises(srg.UserError, match="cannot be labelled 'all'"):
        srg.rank_profile(acts, saes={"all": sae}, **SMALL["rank_profile"])
    for name in ("", "all"):
        with pytest.raises(srg.UserError, match=f"cannot be named '{name}', which is every"):
            replace(acts, concept=replace(acts.concept, name=name))


def test_the_defaults_are_those_of_the_page():
    page = read_parameters(find_notebook("stratified_manifold"))
    options = {"levels": "noise_levels", "scaling": "noise_scaling", "max_slots": "max_slots",
               "rule": "rank_rule", "mode": "rank_mode", "tau": "tau"}  # fmt: skip
    given = inspect.signature(srg.rank_profile).parameters
    for option, name in options.items():
        default = given[option].default
        assert (list(default) if isinstance(default, tuple) else default) == page[name].default


def test_what_makes_no_sense_is_refused_before_the_sweep(acts):
    with pytest.raises(srg.UserError, match="without SAEs"):
        srg.rank_profile(srg.TokenActivations(acts.x, acts.prompt, acts.position, acts.in_entity))
    with pytest.raises(srg.UserError, match="unknown rank rule"):
        srg.rank_profile(acts, rule="relativ")
    with pytest.raises(srg.UserError, match="mode is 1"):
        srg.rank_profile(acts, mode=0)
