"""Use of experts: labels as by hand, counts that add up over rows, ranks and resuming, and the report."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist

from mm15 import recipe
from mm15.data.loader import Batch, make_batch
from mm15.data.packing import Document
from mm15.evaluate.report import write_report
from mm15.evaluate.report_experts import FULL, SHADES, heat_map, shade
from mm15.image import Tiling
from mm15.processor import MM15Processor, build_processor
from mm15.recipe import Category, Group
from mm15.regions import Coordinates
from mm15.text import tokenizer as tokenizers
from mm15.text.chat import IMAGE
from mm15.text.render import Ref
from mm15.train.expert_use import ExpertUse
from mm15.train.metrics import read
from mm15.train.parallel import World
from mm15.train.run import run
from mm15.world import make

EACH = 4
MIXTURE = {
    "single": Group(categories={"general": Category(sources={"scene_color": 1}), "text": Category(sources={"x": 1})}),
    "text": Group(categories={"text": Category(sources={"fact_qa": 1})}),
}
OVERRIDES = ["model.decoder.family=qwen3_moe", "model.decoder.shape.num_experts=4", "model.router.capacity=1.0"]


@pytest.fixture(scope="module")
def processor() -> MM15Processor:
    """Pictures of 128 pixels are four tiles and an overview, those of 64 one tile."""
    tokenizer = tokenizers.prepare(tokenizers.train(["Where is it?"] * 9, vocab_size=400), coordinates=Coordinates(100))
    tiling = Tiling(tile=64, min_tiles=1, max_tiles=4)
    return build_processor(tokenizer, tiling=tiling, coordinates=Coordinates(100), tokens_per_tile=EACH)


@pytest.fixture(scope="module")
def row(processor: MM15Processor) -> Batch:
    """A picture that is split, a text, a picture that is not."""
    samples = [
        ("scene_color", make("scene_color", 0, size=128)),
        ("fact_qa", make("fact_qa", 0)),
        ("scene_color", make("scene_color", 1, size=64)),
    ]
    encoded = [(name, processor.encode(sample)) for name, sample in samples]
    return make_batch([Document(i, str(i), Ref(name, i), one) for i, (name, one) in enumerate(encoded)])


def use(path: Path, *, world: World | None = None, limited: bool = False) -> ExpertUse:
    return ExpertUse(
        path, MIXTURE, layers=[1, 3], experts=4, tokens_per_tile=EACH, world=world or World(), limited=limited
    )


def test_kinds_as_by_hand(row: Batch, processor: MM15Processor, tmp_path: Path) -> None:
    """Token by token: its document's category, and whether it is text, of a tile, or of the overview."""
    found = use(tmp_path / "experts.jsonl")
    category = ["general", "text/text", "general"]
    assert row.overviews.tolist() == [False] * 4 + [True, False]
    image, document, seen, names = processor.tokenizer.convert_tokens_to_ids(IMAGE), -1, 0, []
    for token, position in zip(row.input_ids[0].tolist(), row.position_ids[0].tolist(), strict=True):
        document += position == 0
        form = "text"
        if token == image:
            form = "overview" if 4 * EACH <= seen < 5 * EACH else "tile"
            seen += 1
        names.append(f"{category[document]} {form}")
    assert [found.names[kind] for kind in found.kinds(row)[0].tolist()] == names
    assert names.count("general overview") == EACH and names.count("general tile") == 5 * EACH
    assert found.names[3] == "single/text text"  # two categories of one name


def test_a_row_of_padding_has_kinds_too(tmp_path: Path) -> None:
    """It is one that the loader makes when nothing of a row could be encoded."""
    assert use(tmp_path / "experts.jsonl").kinds(make_batch([])).tolist() == [[0, 0]]


def test_lines_and_file(tmp_path: Path) -> None:
    """A step's extremes are relative to an even share; the file has what came since its last line, and is cut back."""
    found = use(tmp_path / "experts.jsonl", limited=True)
    counts = torch.zeros(2, 2, 4, dtype=torch.int64)
    counts[0, 0] = torch.tensor([4, 2, 1, 1])
    counts[1, 1] = torch.tensor([2, 2, 2, 2])
    found.add(counts, torch.tensor([3, 1]))
    found.add(counts, torch.tensor([0, 0]))
    assert found.line() == {"expert_most": 2.0, "expert_least": 0.5, "dropped": 4 / 32}
    found.add(counts)
    found.line()
    found.save(2)
    found.add(counts)
    found.line()
    found.save(3)
    found.save(3)  # nothing new
    lines = read(tmp_path / "experts.jsonl")
    kinds = ["general text", "general tile"]
    assert [(line["step"], line["since"], line["kinds"]) for line in lines] == [(2, 1, kinds), (3, 3, kinds)]
    assert lines[0]["counts"] == (3 * counts).tolist() and lines[1]["counts"] == counts.tolist()
    assert (lines[0]["dropped"], lines[0]["layers"]) == ([3, 1], [1, 3])
    found.rewind(2)
    assert read(tmp_path / "experts.jsonl") == lines[:1]
    assert "dropped" not in use(tmp_path / "other.jsonl").line()


def test_counts_are_of_all_ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is exchanged is the counts and what was dropped: here with a second rank that saw twice as much."""

    def reduce(tensor: torch.Tensor) -> None:
        tensor *= 3

    monkeypatch.setattr(dist, "all_reduce", reduce)
    found = use(tmp_path / "experts.jsonl", world=World(size=2, mesh=object()), limited=True)  # type: ignore[arg-type]
    found.add(torch.ones(2, 1, 4, dtype=torch.int64), torch.tensor([1, 0]))
    assert found.line() == {"expert_most": 1.0, "expert_least": 1.0, "dropped": 1 / 8}
    found.save(1)
    assert read(tmp_path / "experts.jsonl")[0]["counts"] == [[[3] * 4]] * 2


@pytest.fixture(scope="module")
def sparse_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One stage of the tiny recipe with four experts and little room."""
    out = tmp_path_factory.mktemp("moe") / "run"
    run(recipe.load(Path(__file__).parent / "tiny.yaml", OVERRIDES), out, only="pretrain")
    return out


def test_a_run_counts_every_assignment(sparse_run: Path) -> None:
    """Each layer's counts add up to two a token; metrics have the step's extremes, losses and what was dropped."""
    folder = sparse_run / "stages" / "pretrain"
    lines, steps = read(folder / "experts.jsonl"), read(folder / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10]
    assert all(line["layers"] == [1] for line in lines)
    for line in lines:
        tokens = sum(step["tokens"] for step in steps if line["since"] <= step["step"] <= line["step"])
        assert np.array(line["counts"]).sum() == 2 * tokens
        assert line["dropped"][0] > 0
    assert {"captions text", "captions tile", "facts text"} <= set(lines[0]["kinds"])
    whole = np.sum([np.array(line["counts"]).sum() for line in lines])
    share = sum(step["dropped"] * 2 * step["tokens"] for step in steps) / whole
    assert share == pytest.approx(sum(line["dropped"][0] for line in lines) / whole)
    assert all({"expert_most", "expert_least", "balance_loss", "z_loss"} <= step.keys() for step in steps)


def test_resuming_leaves_the_same_file(sparse_run: Path, tmp_path: Path) -> None:
    """As if the run had died after step 9, past a checkpoint at 8, its last lines half written."""
    again = tmp_path / "run"
    shutil.copytree(sparse_run, again)
    folder = again / "stages" / "pretrain"
    wanted = (folder / "experts.jsonl").read_text()
    shutil.rmtree(again / "model")
    shutil.rmtree(folder / "step-000010")
    (folder / "experts.jsonl").write_text(wanted + '{"step": 11, "cou')
    run(recipe.load(Path(__file__).parent / "tiny.yaml", OVERRIDES), again, only="pretrain")
    assert (folder / "experts.jsonl").read_text() == wanted


def test_the_report_draws_it(sparse_run: Path, tmp_path: Path) -> None:
    """A heat map a layer with a row a kind, curves of the extremes and of what was dropped; nothing for dense runs."""
    html = write_report(sparse_run).read_text()
    assert "<h2>Use of experts</h2>" in html and "layer 2 · steps 7 to 10" in html
    assert "most and least used expert" in html and "dropped for lack of capacity" in html
    for name in ("captions", "facts", "all tokens"):
        assert f">{name}</text>" in html
    from fake_run import fake_run

    assert "Use of experts" not in write_report(fake_run(tmp_path / "dense")).read_text()


def test_shades() -> None:
    """Even is 0, a multiple and its inverse mirror each other, beyond `FULL` nothing changes."""
    assert shade(1.0) == 0
    assert [shade(FULL), shade(9 * FULL), shade(0.0), shade(1 / FULL)] == [SHADES, SHADES, -SHADES, -SHADES]
    assert shade(2.0) == -shade(0.5) == SHADES // 2
    drawn = heat_map(["a text", "a tile"], np.array([[4, 0], [1, 1]]), title="t")
    assert drawn.count("<path") == 5  # even, 5/3, 1/3, 2 and 0 times
    assert json.dumps(drawn).isascii()
