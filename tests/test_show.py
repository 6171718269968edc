"""`mm15 data show`: asked against realised shares by brute force, and one sample for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from typer.testing import CliRunner

from mm15 import recipe as recipes
from mm15.cli import app
from mm15.data.open import Opened, open_recipe
from mm15.data.show import Shown, show_stage, table
from mm15.data.view import describe_sample, draw_sample, read_sample, sample_at
from mm15.errors import UserError
from mm15.recipe import Recipe
from mm15.regions import Box, Point, Region
from mm15.sample import Image, Sample, assistant, system, user
from mm15.text.render import IGNORE

COUNTS = ("samples", "tokens", "target_tokens", "tiles")
MIXTURE = {
    "seen": {
        "weight": 3,
        "categories": {
            "read": {"alpha": 2, "sources": {"digits": 1, "words": 1}},
            "find": {"sources": {"places": 1, "pages": 2}},
        },
    },
    "told": {"weight": 1, "categories": {"text": {"sources": {"sums": 3, "digits": 1}}}},
}


def small(**stage: Any) -> Recipe:
    """Two groups over five sources of the world; `digits` stands in both, some of `pages` go into no row."""
    tree = recipes.load("pico").model_dump()
    kinds = {"digits": "read_digit", "words": "read_word", "places": "ground", "sums": "arithmetic_text"}
    tree["sources"] = {name: {"format": "world", "kind": kind, "size": 64} for name, kind in kinds.items()}
    tree["sources"]["pages"] = {"format": "world", "kind": "ocr_page", "size": 128}
    batch = {"rows": 1, "tokens": 83, "tiles": 8}
    tree["stages"] = {"one": {"steps": 100, "batch": batch, "mixture": MIXTURE, **stage}}
    return recipes.validate({**tree, "evaluation": {}}, "small")


@pytest.fixture(scope="module")
def opened() -> Opened:
    return open_recipe(small())


@pytest.fixture(scope="module")
def shown(opened: Opened) -> Shown:
    return show_stage(opened, "one", range(400))


# -------------------------------------------------------------------------------------------------------------- shares


def test_shares_against_encoding_every_draw(opened: Opened, shown: Shown) -> None:
    """With pixels and all, draw by draw; sums of lines by hand."""
    mixture, processor = opened.mixture_of("one"), opened.processor_of("one")
    wanted = {name: dict.fromkeys([*COUNTS, "skipped"], 0) for name in mixture.shares}
    for k in range(400):
        ref = mixture.draw(k)
        made, one = processor.encode(opened.sources[ref.source][ref.index]), wanted[ref.source]
        if len(made) > 83 or len(made.tiles) > 8:
            one["skipped"] += 1
            continue
        for key, value in zip(COUNTS, (1, len(made), int((made.labels != IGNORE).sum()), len(made.tiles)), strict=True):
            one[key] += value
    assert {name: vars(count) for name, count in shown.counts.items()} == wanted
    assert wanted["pages"]["skipped"] > 10 and wanted["pages"]["samples"] > 0
    whole = {key: sum(one[key] for one in wanted.values()) for key in COUNTS}
    lines = {(line.group, line.category, line.source): line for line in shown.lines}
    assert len(lines) == 2 + 3 + 6
    for key in COUNTS:
        alone = lines["seen", "find", "pages"].realised[key]
        assert alone == pytest.approx(wanted["pages"][key] / whole[key])
        both = [lines["seen", "read", "digits"].realised[key], lines["told", "text", "digits"].realised[key]]
        assert sum(both) == pytest.approx(wanted["digits"][key] / whole[key])
        assert both[0] == pytest.approx(4 * both[1])  # asked are 1/4 and 1/16
        groups = [line.realised[key] for line in shown.lines if line.category is None]
        assert sum(groups) == pytest.approx(1) and len(groups) == 2


def test_asked_shares_and_epochs(opened: Opened, shown: Shown) -> None:
    asked = {(line.group, line.category, line.source): line.asked for line in shown.lines}
    assert asked["seen", None, None] == 0.75 and asked["seen", "read", None] == 0.5
    assert asked["seen", "find", "pages"] == pytest.approx(0.75 / 3 * 2 / 3)
    assert asked["told", "text", "digits"] == 0.25 / 4
    counts = opened.mixture_of("one").counts(shown.stage_draws)
    for line in shown.lines:
        if line.source:
            assert line.epochs == pytest.approx(counts[line.source] / 1_000_000)
    tokens = sum(one.tokens for one in shown.counts.values()) / 400
    tiles = sum(one.tiles for one in shown.counts.values()) / 400
    assert shown.stage_draws == pytest.approx(100 / max(tokens / 83, tiles / 8), rel=0.01)


def test_the_table_says_what_is_skipped_and_where_data_ends(shown: Shown) -> None:
    text = table(shown)
    rows = [line.split() for line in text.splitlines()]
    assert rows[0] == ["stage", "one:", "400", "draws;", "asked", "are", "shares", "of", "samples"]
    assert rows[2][0] == "seen" and rows[2][1] == "75.00%" and len(rows[2]) == 6
    pages = next(row for row in rows if row[0] == "pages")
    assert pages[1] == "16.67%" and pages[-1] == str(shown.counts["pages"].skipped)
    assert "tokens and" in text and "are more than a row of 83 tokens and 8 tiles holds" in text
    assert f"and {shown.counts['pages'].skipped - 5} more skipped" in text
    limits = dict.fromkeys(("digits", "words", "places", "pages", "sums"), 0.0001)
    short = show_stage(open_recipe(small(epochs=limits)), "one", range(1000))
    assert short.draws == 500 and short.length == 500
    assert short.ends_at_step is None and "the data ends" not in table(short)
    long = show_stage(open_recipe(small(epochs=limits, steps=1000)), "one", range(100))
    assert long.ends_at_step == pytest.approx(1000 * 500 / long.stage_draws, abs=2)
    assert f"the data ends at about step {long.ends_at_step} of 1,000; raise stages.one.epochs" in table(long)


def test_a_row_that_cannot_be_read_is_counted(opened: Opened) -> None:
    class Broken:
        name, fingerprint = "sums", "broken"

        def __len__(self) -> int:
            return 10

        def __getitem__(self, index: int) -> Sample:
            raise UserError("line 3: broken")

    broken = Opened(opened.recipe, {**opened.sources, "sums": Broken()})
    shown = show_stage(broken, "one", range(40))
    assert shown.counts["sums"].skipped == 7 and any("line 3: broken" in one.reason for one in shown.skipped)
    none = Opened(small(mixture={"g": {"categories": {"c": {"sources": {"sums": 1}}}}}), broken.sources)
    with pytest.raises(UserError, match="none of the first 40 draws can be trained on"):
        show_stage(none, "one", range(40))


# ---------------------------------------------------------------------------------------------------------- one sample


def sample(regions: int, *, label: str = "") -> Sample:
    boxes = [Region(Box(3.0 * i, 10, 3.0 * i + 2, 40), 1, label) for i in range(regions)]
    pictures = [PILImage.new("RGB", (width, 500), "#102030") for width in (500, 600)]
    question = user(*map(Image, pictures), "Which?", Region(Point(250, 260), 0, "this"))
    return Sample("s 1", "mine", (*system("Be brief."), *question, *assistant("These:", *boxes)))


def test_a_sample_in_words() -> None:
    told = describe_sample(sample(1, label="mug"))
    assert json.loads(json.dumps(told)) == told
    assert read_sample(told).splitlines() == [
        "mine: sample 's 1' (* is trained on; places in pixels of the picture)",
        "system      Be brief.",
        "user        <picture 0> 500x500",
        "user        <picture 1> 600x500",
        "user        Which?",
        'user        <point> 250, 260 of picture 0  "this"',
        "assistant * These:",
        'assistant * <box> 0, 10, 2, 40 of picture 1  "mug"',
    ]


def test_pictures_are_drawn_side_by_side_with_their_own_regions() -> None:
    drawn = np.asarray(draw_sample(sample(1)))
    assert drawn.shape == (500, 500 + 8 + 600, 3)
    changed = (drawn != np.array([0x10, 0x20, 0x30])).any(2)
    left, right = changed[:, :500], changed[:, 508:]
    assert left[240:280, 230:270].any() and not left[400:].any()
    assert right[8:50, :12].any() and not right[60:].any()


def test_many_boxes_are_drawn_without_labels() -> None:
    """Up to 30 are labelled; above, labels would cover the picture."""
    few = [np.asarray(draw_sample(sample(30, label=label))) for label in ("", "label")]
    many = [np.asarray(draw_sample(sample(31, label=label))) for label in ("", "label")]
    assert (few[0] != few[1]).any() and (many[0] == many[1]).all()


def test_samples_that_are_not_there(opened: Opened) -> None:
    with pytest.raises(UserError, match="samples 0 to 999,999; there is none of number -1"):
        sample_at(opened.sources["sums"], -1)
    with pytest.raises(UserError, match="no pictures to draw"):
        draw_sample(opened.sources["sums"][0])


# -------------------------------------------------------------------------------------------------------- command line


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "small.yaml"
    path.write_text(recipes.dump(small()))
    return path


def test_the_command(file: Path, tmp_path: Path, shown: Shown) -> None:
    done = CliRunner().invoke(app, ["data", "show", str(file), "--draws", "400"])
    assert done.exit_code == 0 and done.stdout == table(shown) + "\n"
    done = CliRunner().invoke(
        app, ["data", "show", str(file), "stages.one.unit=target_tokens", "--stage", "one", "--draws", "50", "--json"]
    )
    (told,) = json.loads(done.stdout)
    assert told["unit"] == "target_tokens" and told["draws"] == 50 and told["lines"][0]["asked"] == 0.75
    picture = tmp_path / "out.png"
    done = CliRunner().invoke(
        app, ["data", "show", str(file), "--source", "places", "--sample", "4", "--draw", str(picture)]
    )
    assert done.exit_code == 0 and "<box>" in done.stdout and PILImage.open(picture).size == (448, 448)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--source", "palces"], "no source 'palces'; did you mean 'places'?"),
        (["--stage", "two"], "no stage 'two' in recipe 'pico': one"),
        (["--draw", "x.png"], "add --source NAME"),
        (["--source", "places", "--draw", "/nowhere/x.png"], "/nowhere/x.png: cannot be written"),
    ],
)
def test_mistakes_of_the_command(file: Path, options: list[str], words: str) -> None:
    done = CliRunner().invoke(app, ["data", "show", str(file), *options])
    assert isinstance(done.exception, UserError) and words in str(done.exception)
