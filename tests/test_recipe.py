"""Recipes: what is shipped loads, what is wrong is said in one line with the closest name."""

from __future__ import annotations

from pathlib import Path

import pytest

from mm15 import recipe
from mm15.errors import UserError

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", recipe.shipped())
def test_every_shipped_recipe_equals_its_golden_dump(name: str) -> None:
    """A change of a shipped recipe shows in the diff: rewrite with `mm15 recipe NAME > tests/golden/NAME.yaml`."""
    assert recipe.dump(recipe.load(name)) == (GOLDEN / f"{name}.yaml").read_text()


def test_dump_reads_back_equal(tmp_path: Path) -> None:
    settings = recipe.load("pico", ["stages.sft.steps=7", "stages.sft.mixture.single.weight=0.7"])
    (tmp_path / "copy.yaml").write_text(recipe.dump(settings))
    again = recipe.load(tmp_path / "copy.yaml")
    assert again == settings
    assert again.stages["sft"].steps == 7
    assert recipe.fingerprint(again) == recipe.fingerprint(settings)
    assert recipe.fingerprint(again) != recipe.fingerprint(recipe.load("pico"))


def test_extends_merges_key_by_key_and_diff_says_what_changed(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("extends: pico\nname: base\nseed: 3\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\nstages:\n  sft:\n    steps: 11\n")
    mine = recipe.load(tmp_path / "mine.yaml")
    steps = recipe.load("pico").stages["sft"].steps
    assert (mine.name, mine.seed, mine.stages["sft"].steps) == ("base", 3, 11)
    assert list(mine.stages) == list(recipe.load("pico").stages)
    lines = recipe.diff(recipe.load("pico"), mine)
    assert lines == ["name: pico -> base", "seed: 0 -> 3", f"stages.sft.steps: {steps} -> 11"]


def test_what_is_null_is_left_out(tmp_path: Path) -> None:
    """By a recipe that extends another, and on the command line: stages, groups, categories, sources, tasks."""
    path = tmp_path / "mine.yaml"
    path.write_text(
        "extends: pico\n"
        "stages: {continual: null, sft: {mixture: {text: null, single: {categories: {math: null}}}}}\n"
        "evaluation: {groups: {in-context: null, knowledge: {math_picture: null}}}\n"
    )
    pico = recipe.load("pico")
    mine = recipe.load(path, ["stages.sft.mixture.single.categories.general.sources.scene_where=null"])
    assert list(mine.stages) == ["pretrain", "sft"]
    before, after = pico.stages["sft"].mixture, mine.stages["sft"].mixture
    assert list(after) == ["single", "multi"]
    assert set(before["single"].categories) - set(after["single"].categories) == {"math"}
    general = [mixture["single"].categories["general"].sources for mixture in (before, after)]
    left = general[0].keys() - general[1].keys()
    assert left == {"scene_where"}
    assert pico.evaluation.groups.keys() - mine.evaluation.groups.keys() == {"in-context"}
    assert pico.evaluation.groups["knowledge"].keys() - mine.evaluation.groups["knowledge"].keys() == {"math_picture"}
    assert mine.stages["pretrain"] == pico.stages["pretrain"]
    path.write_text("extends: pico\nstages: {pretrian: null}\n")
    with pytest.raises(
        UserError, match=r"mine.yaml: there is no stages.pretrian to leave out; did you mean 'pretrain'"
    ):
        recipe.load(path)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("stages.sft.stesp=3", ["stages.sft.stesp", "did you mean 'steps'"]),
        ("modle.decoder=3", ["modle", "did you mean 'model'"]),
        ("picture.rule=mm51", ["picture.rule", "'mm15'"]),
        ("stages.sft.steps=many", ["stages.sft.steps", "integer"]),
        ("stages.sft.picture.tiel=3", ["tiel"]),
        ("picture.min_tiles=12", ["min_tiles=12", "max_tiles"]),
        ("seed", ["key.of.setting=value"]),
        ("stages.stf=null", ["stages.stf", "did you mean 'sft'"]),
        ("stages.sft.mixture.single.categories.maths=null", ["maths", "to leave out", "did you mean 'math'"]),
        ("evaluation.groups.general.scene_where2=null", ["did you mean 'scene_where'"]),
    ],
)
def test_a_wrong_key_or_value_is_one_line_with_a_hint(override: str, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        recipe.load("pico", [override])
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_weights_that_sum_to_zero_are_refused() -> None:
    with pytest.raises(UserError, match="sum to zero"):
        recipe.load("pico", [f"stages.sft.mixture.{g}.weight=0" for g in recipe.load("pico").stages["sft"].mixture])
    with pytest.raises(UserError, match="0 or more"):
        recipe.load("pico", ["stages.sft.mixture.single.weight=-1"])


def test_unknown_recipes_files_and_loops(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'pico'"):
        recipe.load("pyco")
    with pytest.raises(UserError, match="no such recipe file"):
        recipe.load(tmp_path / "none.yaml")
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(UserError, match="leads back"):
        recipe.load(tmp_path / "a.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    with pytest.raises(UserError, match="not valid YAML"):
        recipe.load(tmp_path / "bad.yaml")


def test_schema_knows_the_stages() -> None:
    assert {"name", "model", "stages", "picture"} <= set(recipe.schema()["properties"])
