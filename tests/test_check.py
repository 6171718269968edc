"""`mm15 data check` as a whole: clean data is clean, what stages will see is what the loader gives, and the command."""

from __future__ import annotations

import builtins
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from planted import Dataset, make_recipe, question, scene, stored, talk
from test_loader_workers import _children

from mm15 import recipe as recipes
from mm15.cli import app
from mm15.data.check import Kind, Report, check
from mm15.data.check import pictures as picture_room
from mm15.data.check.against import read_against
from mm15.data.check.report import histogram
from mm15.data.check.report_page import write_page
from mm15.data.loader import PackedLoader
from mm15.data.open import open_recipe
from mm15.data.writers.shards import open_shard
from mm15.errors import UserError
from mm15.recipe import Recipe
from mm15.sample import Image, Sample, assistant, user


def plain(report: Report) -> dict[str, Any]:
    """All that a report says, but for the time it took."""
    return {**report.as_dict(), "seconds": 0}


def found(report: Report) -> list[tuple[str, int, str]]:
    return [(f.source, f.index, f.kind.value) for f in report.findings]


# ---------------------------------------------------------------------------------------------------------------- clean


def clean(folder: Path, rows: int = 30) -> Recipe:
    """Two stored sources with a picture in common, one generated, and an evaluation set."""
    talks, more, held = (Dataset(folder, name, format="llava") for name in ("talks", "more", "held"))
    talks.clean(0, rows)
    more.clean(1000, 4)
    shared = {"image": str(talks.folder / "0.jpg")}
    more.add(talk("<image>\nAnd what else is in it?", "More blobs.", **shared))
    more.add(talk("Is this text alone?", "It is."))
    held.clean(2000, 5)
    world = {"format": "world", "kind": "ground", "size": 64, "samples": 40}
    sources = {"talks": talks.block(), "more": more.block(), "world": world}
    return make_recipe(sources, evaluation={"blobs": held.block(), "ground": {**world, "split": "heldout"}})


def test_clean_data_is_clean(tmp_path: Path) -> None:
    recipe = clean(tmp_path)
    report = check(recipe, workers=0)
    assert report.findings == [] and report.status == 0 and "Nothing is wrong." in report.text()
    assert not any(report.outliers.values())
    assert [(s.name, s.role, s.samples, s.looked_at, s.usable, s.pictures) for s in report.summaries] == [
        ("talks", "training", 30, 30, 30, 30),
        ("more", "training", 6, 6, 6, 5),
        ("world", "training", 40, 40, 40, 40),
        ("evaluation.held.blobs", "evaluation", 5, 5, 5, 5),
    ]
    assert report.compared == [
        "Generated evaluation sets are not compared: ground.",
        "Compared with evaluation.held.blobs: 5 samples.",
    ]
    page = write_page(report, tmp_path / "page.html").read_text()
    assert "Nothing is wrong." in page and "<script" not in page and "http" not in page


def test_the_shipped_recipe_is_clean() -> None:
    report = check(recipes.load("pico"), limit=25, workers=0)
    assert report.findings == [] and report.notes == []
    assert [(s.samples, s.looked_at) for s in report.summaries] == [(1_000_000, 25)] * 33
    assert [stage.name for stage in report.stages] == ["pretrain", "continual", "sft"]


def test_any_number_of_workers_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mm15.data.check.looking.AT_ONCE", 5)
    recipe = clean(tmp_path)
    rows = tmp_path / "talks" / "rows.jsonl"
    lines = rows.read_text().splitlines()
    rows.write_text("\n".join([*lines, "{", *lines[3:9], json.dumps(talk("<image>\nWho?", "I.", image="gone.jpg"))]))
    reports = [plain(check(recipe, workers=workers)) for workers in (0, 1, 3)]
    assert reports[0] == reports[1] == reports[2]
    assert reports[0]["counts"] == {"row": 1, "missing-picture": 1, "duplicate-sample": 6}


def test_a_picture_is_opened_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = Dataset(tmp_path, "talks", format="llava")
    picture = stored(scene(0), "JPEG")
    for number in range(20):
        rows.add(talk(f"<image>\nWhat is it, {number}?", "A blob.", image="one.jpg"), one__jpg=picture)
    opened: Counter[str] = Counter()

    def counting(path: Any, *rest: Any, **more: Any) -> Any:
        opened[str(path)] += 1
        return builtins.open(path, *rest, **more)

    monkeypatch.setattr(picture_room, "open", counting, raising=False)
    report = check(make_recipe({"talks": rows.block()}), workers=0)
    assert report.findings == [] and report.summaries[0].pictures == 1
    assert opened == {str(tmp_path / "talks" / "one.jpg"): 1}


def test_limit_is_spread_evenly_and_stage_chooses_sources(tmp_path: Path) -> None:
    recipe = clean(tmp_path)
    lines = (tmp_path / "talks" / "rows.jsonl").read_text().splitlines()
    broken = [i for i in range(30) if i % 3]
    (tmp_path / "talks" / "rows.jsonl").write_text("\n".join("{" if i in broken else lines[i] for i in range(30)))
    assert check(recipe, limit=10, workers=0).findings == []
    assert [index for _, index, _ in found(check(recipe, workers=0))] == broken
    tree = recipe.model_dump(mode="json")
    tree["stages"]["other"] = {
        **tree["stages"]["sft"],
        "mixture": {"a": {"categories": {"a": {"sources": {"more": 1}}}}},
    }
    report = check(recipes.validate(tree, ""), stage="other", workers=0)
    assert report.findings == [] and [s.name for s in report.summaries] == ["more", "evaluation.held.blobs"]
    with pytest.raises(UserError, match="no stage 'x' in recipe 'planted'; its stages: sft"):
        check(recipe, stage="x")


def test_of_generated_sources_a_thousand_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mm15.data.check.checking.GENERATED", 7)
    report = check(clean(tmp_path), workers=0)
    assert [s.looked_at for s in report.summaries] == [30, 6, 7, 5]


def test_sources_that_do_not_open_are_told_and_the_others_are_looked_at(tmp_path: Path) -> None:
    recipe = clean(tmp_path)
    (tmp_path / "more" / "rows.jsonl").unlink()
    report = check(recipe, workers=0)
    assert found(report) == [("more", -1, "source")] and report.status == 2
    assert "no such file" in report.findings[0].message
    assert report.summaries[0].looked_at == 30 and report.stages == []
    assert any("cannot be told" in note for note in report.notes)
    (tmp_path / "talks" / "rows.jsonl").write_text("")
    only = recipes.validate({**make_recipe({"talks": recipe.sources["talks"].model_dump()}).model_dump()}, "")
    assert found(check(only, workers=0)) == [("talks", -1, "source")]


def test_notes_alone_leave_the_status(tmp_path: Path) -> None:
    rows = Dataset(tmp_path, "talks", format="llava")
    rows.clean(0, 4)
    rows.add(talk("<image>\nOnce more?", "Yes.", image="copy.jpg"), copy__jpg=stored(scene(2), "JPEG"))
    report = check(make_recipe({"talks": rows.block()}), workers=0)
    assert found(report) == [("talks", 4, "duplicate-picture")] and report.status == 0
    assert report.findings[0].more == {"same_as": {"source": "talks", "index": 2, "picture": 0}}


# --------------------------------------------------------------------------------------------------------------- leaks


def test_leaks_are_found_by_every_sample_that_shows_the_picture(tmp_path: Path) -> None:
    rows, held = Dataset(tmp_path, "talks", format="llava"), Dataset(tmp_path, "held", format="llava")
    held.clean(100, 3)
    rows.clean(0, 3)
    worse = stored(scene(100).resize((48, 36)), "JPEG", quality=50)
    for number in range(3):
        rows.add(talk(f"<image>\nWhich one, {number}?", "This.", image="worse.jpg"), worse__jpg=worse)
    for number in range(2):
        rows.add(talk(f"<image>\nWhere is it, {number}?", "Here.", image=str(held.folder / "101.png")))
    recipe = make_recipe({"talks": rows.block()})
    assert check(recipe, workers=0).findings == []
    against = read_against([f"seen=llava:{held.block()['path']}"])
    report = check(recipe, against=against, workers=0)
    assert found(report) == [("talks", i, "leaked-picture") for i in (6, 7)] + [
        ("talks", i, "leaked-look-alike") for i in (3, 4, 5)
    ]
    assert all(f.more["same_as"]["source"] == "seen" for f in report.findings)
    exact = check(recipe, against=against, workers=0, perceptual=False)
    assert found(exact) == found(report)[:2]


@pytest.mark.parametrize("to", ["webdataset", "parquet"])
def test_pictures_inside_shards_are_looked_at_too(tmp_path: Path, to: Literal["webdataset", "parquet"]) -> None:
    held = Dataset(tmp_path, "held", format="llava")
    held.clean(100, 2)
    whole = stored(scene(0), "JPEG")
    path = tmp_path / f"shard.{'tar' if to == 'webdataset' else 'parquet'}"
    with open_shard(path, to=to) as shard:
        for number, data in enumerate([whole, stored(scene(1), "PNG"), (held.folder / "101.png").read_bytes(), whole]):
            parts = user(Image(data), f"What is it, {number}?") + assistant("A blob.")
            shard.add(Sample(f"s{number}", "shard", parts))
    recipe = make_recipe({"shard": {"format": to, "layout": "mm15", "path": str(path)}}, evaluation={"a": held.block()})
    report = check(recipe, workers=2)
    assert found(report) == [("shard", 2, "leaked-picture"), ("shard", 3, "duplicate-picture")]
    assert report.summaries[0].pictures == 4


def test_sets_to_compare_with_are_read_from_the_command_line(tmp_path: Path) -> None:
    block = "{format: parquet, path: someone/charts, split: test}"
    sets = read_against(["a=llava:x=y.json", f"b={block}"])
    assert [(s.format, s.path) for s in sets.values()] == [("llava", "x=y.json"), ("parquet", "someone/charts")]
    for text, words in {
        "llava:x.json": "write NAME=SOURCE",
        "a=x.json": "names no source",
        "a={path: x}": "no source block",
        "a={": "no source block",
        "a=lava:x.json": "did you mean 'llava'",
        "a={format: llava, path: x, colour: red}": "colour: unknown setting",
    }.items():
        with pytest.raises(UserError, match=re.escape(words)):
            read_against([text])
    with pytest.raises(UserError, match="given twice"):
        read_against(["a=llava:x.json", "a=llava:y.json"])
    with pytest.raises(UserError, match="choose another"):
        check(make_recipe({"a": {"format": "llava", "path": "x"}}), against=sets)


# ------------------------------------------------------------------------------------------------------------- expected


def test_what_a_stage_will_see_is_what_the_loader_gives(tmp_path: Path) -> None:
    """Shares, fill, skips and samples a step against 200 real steps of the same recipe."""
    few, many = Dataset(tmp_path, "few", format="llava"), Dataset(tmp_path, "many", format="llava")
    few.clean(0, 12)
    few.add("{")
    few.add(talk("Too long?", "Yes, it is. " * 200))
    few.add(talk("<image>" * 31 + "Too many?", "Yes, 31 tiles.", image=["0.jpg"] * 31))
    for number in range(40):
        many.add(talk(f"Say {number}.", f"Number {number}. " * (1 + number % 9)))
    recipe = make_recipe({"few": few.block(), "many": many.block()}, tokens=300, tiles=30)
    [outlook] = check(recipe, workers=0).stages
    opened, stage = open_recipe(recipe), recipe.stages["sft"]
    loader = PackedLoader(
        opened.mixture_of("sft"),
        opened.sources,
        opened.processor_of("sft").encode,
        opened.processor_of("sft").measure,
        tokens=stage.batch.tokens,
        tiles=stage.batch.tiles,
        rows=stage.batch.rows,
        workers=0,
    )
    steps = list(islice(loader, 200))
    real = loader.realised
    samples, skipped = (sum(getattr(one, key) for one in real.values()) for key in ("samples", "skipped"))
    assert outlook.samples_per_step == pytest.approx(samples / 200, rel=0.03)
    assert outlook.skipped == pytest.approx(skipped / (skipped + samples), abs=0.01)
    rows = [batch for step in steps for batch in step]
    assert outlook.token_fill == pytest.approx(np.mean([b.input_ids.shape[1] for b in rows]) / 300, rel=0.03)
    assert outlook.tile_fill == pytest.approx(np.mean([len(b.tiles) for b in rows]) / 30, rel=0.03)
    for source in outlook.sources:
        one = real[source.name]
        assert source.samples == pytest.approx(one.samples / samples, abs=0.01)
        assert source.tokens == pytest.approx(one.tokens / sum(r.tokens for r in real.values()), abs=0.01)
        assert source.targets == pytest.approx(
            one.target_tokens / sum(r.target_tokens for r in real.values()), abs=0.01
        )
        drawn = one.samples + one.skipped
        assert source.epochs == pytest.approx(drawn / 200 * stage.steps / source.looked_at, rel=0.05)
        assert source.steps_per_epoch == pytest.approx(source.looked_at / (drawn / 200), rel=0.05)
    assert [(s.name, s.looked_at, s.skipped, s.unusable, s.too_long, s.too_many_tiles) for s in outlook.sources] == [
        ("few", 15, 3, 1, 1, 1),
        ("many", 40, 0, 0, 0, 0),
    ]


def test_a_mixture_that_ends_and_one_that_gives_nothing(tmp_path: Path) -> None:
    rows = Dataset(tmp_path, "talks", format="llava")
    for number in range(10, 30):
        rows.add(talk(f"Say {number}.", f"Number {number}."))
    block = rows.block()
    [outlook] = check(make_recipe({"talks": block}, epochs={"talks": 1}), workers=0).stages
    assert outlook.sources[0].epochs == 1 and outlook.ends_after == 0
    fitting = make_recipe({"talks": block}, tokens=round(outlook.sources[0].mean_tokens))
    assert check(fitting, workers=0).findings == []
    report = check(make_recipe({"talks": block}, tokens=fitting.stages["sft"].batch.tokens - 1), workers=0)
    assert report.stages == [] and "none of its first draws can be used" in report.notes[0]
    assert report.counts == {Kind.TOO_LONG: 20}


def test_histograms() -> None:
    tokens = histogram("sft", "tokens", 64, np.array([-1, 3, 4, 7, 8, 64, 65]))
    assert tokens is not None and (tokens.edges, tokens.counts) == ((2, 4, 8, 16, 32, 64, 128), (1, 2, 1, 0, 0, 2))
    tiles = histogram("sft", "tiles", 16, np.array([0, -1, 1, 5, 5]))
    assert tiles is not None and (tiles.edges, tiles.counts) == ((1, 2, 3, 4, 5, 6), (1, 0, 0, 0, 2))
    wide = histogram("sft", "tiles", 16, np.arange(100))
    assert wide is not None and sum(wide.counts) == 99 and len(wide.counts) <= 24 and wide.edges[-1] > 99
    assert histogram("sft", "tiles", 16, np.array([0, -1])) is None


# -------------------------------------------------------------------------------------------------------------- command


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = clean(tmp_path / "data")
    (tmp_path / "recipe.yaml").write_text(recipes.dump(recipe))
    asked = ["data", "check", str(tmp_path / "recipe.yaml"), "--workers", "0"]
    assert app(asked, standalone_mode=False) == 0
    assert "Nothing is wrong." in capsys.readouterr().out
    with open(tmp_path / "data" / "talks" / "rows.jsonl", "a") as file:
        file.write(json.dumps(question(0) | {"image": "gone.jpg"}) + "\n")
        file.write(json.dumps(question(4)) + "\n")
    page = tmp_path / "page.html"
    assert app([*asked, "--json", "--out", str(page)], standalone_mode=False) == 2
    told = json.loads(capsys.readouterr().out)
    assert told["status"] == 2 and told["counts"] == {"missing-picture": 1, "duplicate-sample": 1}
    assert [(f["index"], f["id"], f["where"].rpartition("/")[2]) for f in told["findings"]] == [
        (30, "30:q0", "rows.jsonl line 31"),
        (31, "31:q4", "rows.jsonl line 32"),
    ]
    html = page.read_text()
    assert 'id="missing-picture"' in html and "data:image/jpeg;base64," in html
    assert "<script" not in html and not re.search(r"(src|href)=\"(?!data:|#)", html)
    with pytest.raises(UserError, match="cannot be written"):
        app([*asked, "--out", str(tmp_path / "nowhere" / "page.html")], standalone_mode=False)


def test_control_c_ends_the_command_and_its_workers(tmp_path: Path) -> None:
    """SIGINT to the whole group, as a terminal sends it."""
    command = [sys.executable, "-m", "mm15", "data", "check", "pico", "--workers", "2"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while len(workers := _children(process.pid)) < 2:
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
