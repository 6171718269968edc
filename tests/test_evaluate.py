"""The runner and its files: what is asked, how replies are scored, and that it is the same every time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from rich.progress import Progress
from scripted import COORDINATES, Scripted, processor, tiny

from mm15 import recipe
from mm15.errors import UserError
from mm15.evaluate import runner, stage
from mm15.evaluate.examples import save_examples
from mm15.evaluate.intervals import wilson
from mm15.evaluate.results import Comparison, Prediction, Results
from mm15.evaluate.runner import evaluate, tasks_of
from mm15.evaluate.task import (
    SourceTask,
    answer_text,
    asked_regions,
    earlier_answers,
    last_answer,
    last_question,
    true_boxes,
    with_blank_pictures,
    written,
)
from mm15.processor import MM15Processor
from mm15.regions import Box, Point, Region
from mm15.sample import Image, Sample, assistant, document, user

SIZE = (100, 50)


def picture(value: int = 255, size: tuple[int, int] = SIZE) -> Image:
    return Image(np.full((size[1], size[0], 3), value, np.uint8))


def sample(true: str | Region, metric: str, i: int = 0, question: str = "What?", **meta: object) -> Sample:
    parts = user(picture(i % 256), question) + assistant(true)
    return Sample(f"s{i}", "made-up", parts, {"metric": metric, **meta})


def task(*samples: Sample, name: str = "t", group: str = "g", limit: int = 100) -> SourceTask:
    return SourceTask(name, group, list(samples), limit)


def judge(reply: str, true: str | Region, metric: str, **meta: object) -> tuple[float, bool]:
    what = sample(true, metric, **meta)
    got = task(what).score(what, reply, coordinates=COORDINATES, sizes=[SIZE])
    return got.score, got.malformed


@pytest.fixture(scope="module")
def small() -> MM15Processor:
    return processor()


SETTINGS = recipe.Evaluation(batch=3, max_new_tokens=30)


# -------------------------------------------------------------------------------------------------------------- scoring


def test_text_metrics() -> None:
    assert judge(" deep   red ", "deep red", "exact") == (1, False)
    assert judge("Deep red", "deep red", "exact") == (0, False)
    assert judge("deep red.", "deep red", "exact") == (0, False)
    assert judge("colour", "the parts say this", "exact", answer="colour") == (1, False), "meta names the answer"
    assert judge("b", "a", "exact", answers=["a", "b"]) == (1, False)
    assert judge("B", "B", "choice") == (1, False)
    assert judge("b", "B", "choice") == (0, False)
    assert judge("helo", "hello", "anls")[0] == pytest.approx(0.8)
    assert judge("104", "100", "relaxed") == (1, False)
    assert judge("blue", "", "vqa", answers=["blue"] * 3 + ["red"] * 7)[0] == pytest.approx(0.9)
    with pytest.raises(UserError, match="no metric is called 'bleu'"):
        judge("a", "a", "bleu")


BOX = Region(Box(20, 10, 60, 30))
"""In bins of a 100 x 50 picture: [20, 20, 60, 60]."""


@pytest.mark.parametrize(
    ("reply", "score", "malformed"),
    [
        ("[20, 20, 60, 60]", 1, False),
        ("It is at [20, 20, 60, 60], I think.", 1, False),
        ("[20, 20, 60, 42]", 1, False),
        ("[20, 20, 60, 38]", 0, False),
        ("[80, 80, 90, 90] [20, 20, 60, 60]", 0, False),
        ("[20, 20, 60, 60] [1, 2, 3]", 1, True),
        ("[1, 2, 3] [20, 20, 60, 60]", 0, True),
        ("[20, 20, 60, 600]", 0, True),
        ("[60, 60, 20, 20]", 0, True),
        ("[40, 40]", 0, False),
        ("in the middle", 0, True),
        ("", 0, True),
    ],
)
def test_grounding_takes_the_first_place(reply: str, score: float, malformed: bool) -> None:
    assert judge(reply, BOX, "iou") == (score, malformed)


def test_grounding_of_several_boxes_is_recall() -> None:
    other = Region(Box(70, 10, 90, 30))
    what = Sample("x", "x", user(picture(), "All?") + assistant(BOX, " and ", other), {"metric": "iou"})

    def score(reply: str) -> float:
        return task(what).score(what, reply, coordinates=COORDINATES, sizes=[SIZE]).score

    assert score("[20, 20, 60, 60] and [70, 20, 90, 60]") == 1
    assert score("[70, 20, 90, 60] and [20, 20, 60, 60]") == 1, "in any order"
    assert score("[20, 20, 60, 60] and [20, 20, 60, 60]") == 0.5, "each true box is met once"
    assert score("[20, 20, 60, 60]") == 0.5
    assert score("[0, 0, 1, 1] [2, 2, 3, 3] [20, 20, 60, 60]") == 0, "no more guesses than boxes"
    twins = Sample("x", "x", user(picture(), "All?") + assistant(BOX, " and ", BOX), {"metric": "iou"})
    got = task(twins).score(twins, "[20, 20, 60, 60]", coordinates=COORDINATES, sizes=[SIZE])
    assert got.score == 0.5, "each predicted box meets one"


def test_grounding_in_the_right_picture() -> None:
    """The second picture is twice as high; its sizes count, and not the first's."""
    parts = user(picture(), picture(0, (100, 100)), "Where?") + assistant(Region(Box(20, 20, 60, 60), 1))
    what = Sample("x", "x", parts, {"metric": "iou"})
    got = task(what).score(what, "[20, 20, 60, 60]", coordinates=COORDINATES, sizes=[SIZE, (100, 100)])
    assert got.score == 1 and got.predicted == [Region(Box(20.5, 20.5, 60.5, 60.5), 1)]


def test_boxes_may_stand_in_meta() -> None:
    assert judge("[20, 20, 60, 60]", "there", "iou", boxes=[[20, 10, 60, 30]]) == (1, False)
    assert judge("there", "there", "", boxes=[[20, 10, 60, 30]]) == (1, False), "without a metric, text is compared"
    with pytest.raises(UserError, match="needs true boxes"):
        judge("[1, 2]", "there", "iou")


def test_questions_and_documents_are_read() -> None:
    shots = user(picture(), "it?") + assistant("1", target=False) + user(picture(), "it?", Region(Point(50, 25), 1))
    what = Sample("x", "x", shots + assistant("2"))
    assert written(last_question(what), COORDINATES, [SIZE, SIZE]) == "it?[50, 50]"
    assert earlier_answers(what) == ["1"] and asked_regions(what) == [Region(Point(50, 25), 1)]
    trained = Sample("x", "x", user("a") + assistant("1") + user("b") + assistant("2", Region(Point(50, 25))))
    assert answer_text(trained, COORDINATES, [SIZE]) == "2[50, 50]" and earlier_answers(trained) == ["1"]
    unanswered = Sample("x", "x", user("a"))
    assert written(last_question(unanswered), COORDINATES, []) == "a" and last_answer(unanswered) == []
    caption = Sample("x", "x", document(picture(), "a red circle"))
    assert last_question(caption) and written(last_question(caption), COORDINATES, [SIZE]) == ""
    assert true_boxes(caption) == []


# --------------------------------------------------------------------------------------------------------------- runner


def brightness(prompt: str, tiles: np.ndarray) -> str:
    """What a model that looks would say: the value of the first picture's first pixel."""
    return str(int(tiles[0, 0, 0, 0])) if len(tiles) else "none"


def looking_tasks() -> list[SourceTask]:
    lengths = [5, 40, 1, 17, 30, 2, 9]
    seen = [sample(str(i), "exact", i, "word " * n) for i, n in enumerate(lengths)]
    known = [Sample(f"k{i}", "x", user("say none") + assistant("none"), {"metric": "exact"}) for i in range(4)]
    return [task(*seen, name="seen", group="look"), task(*known, name="known", group="text", limit=3)]


def test_every_reply_belongs_to_its_sample(small: MM15Processor) -> None:
    """Batches are sorted by length; scores of 1 show that replies found back to their samples."""
    model = Scripted(small, brightness)
    results = evaluate(model, small, SETTINGS, tasks=looking_tasks())
    assert [p.score for p in results.predictions] == [1] * 10
    assert [p.id for p in results.predictions] == [f"s{i}" for i in range(7)] + ["k0", "k1", "k2"], "order and limit"
    first = results.predictions[0]
    assert (first.group, first.task, first.question, first.answer) == ("look", "seen", "word word word word word", "0")
    assert model.training, "the model is left as it was"
    assert len(model.prompts) == 10 and max(len(b["input_ids"]) for b in model.batches) == 3
    lengths = [int(mask.sum()) for b in model.batches[:3] for mask in b["attention_mask"]]
    assert lengths == sorted(lengths, reverse=True), "even batches, the longest first"


def test_blank_pictures_are_grey_of_the_same_size(small: MM15Processor) -> None:
    real, blank = Scripted(small, brightness), Scripted(small, brightness)
    evaluate(real, small, SETTINGS, tasks=looking_tasks())
    results = evaluate(blank, small, SETTINGS, tasks=looking_tasks(), blank=True)
    assert blank.prompts == real.prompts, "the same tokens"
    assert [p.reply for p in results.predictions] == ["128"] * 7 + ["none"] * 3
    assert results.groups["look"].score == 0 and results.groups["text"].score == 1
    what = with_blank_pictures(sample("a", "exact", i=3), runner.blank_picture)
    grey = what.images[0].data
    assert isinstance(grey, np.ndarray) and grey.shape == (50, 100, 3) and np.unique(grey).tolist() == [128]


def test_small_windows_change_nothing(small: MM15Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = evaluate(Scripted(small, brightness), small, SETTINGS, tasks=looking_tasks())
    monkeypatch.setattr(runner, "WINDOW_BYTES", 5000)
    model = Scripted(small, brightness)
    assert evaluate(model, small, SETTINGS, tasks=looking_tasks()) == whole
    assert len(model.batches) == 5, "windows of 2 samples (3 KiB each): 2 + 2 + 2 + 1, and 3 without pictures"


def test_recipe_tasks_are_asked_by_a_real_model_the_same_every_time(small: MM15Processor) -> None:
    world = {"format": "world", "kind": "ground", "split": "heldout", "size": 64}
    evaluation = recipe.Evaluation.model_validate(
        {"groups": {"refer-ground": {"where": world}}, "limit": 5, "batch": 2, "max_new_tokens": 5}
    )
    assert [(t.group, t.name, len(t)) for t in tasks_of(evaluation)] == [("refer-ground", "where", 5)]
    model = tiny(small)
    with Progress(disable=True) as progress:
        first = evaluate(model, small, evaluation, progress=progress)
        assert progress.tasks[0].total == progress.tasks[0].completed == 5
    assert evaluate(model, small, evaluation) == first
    assert len(first.predictions) == 5 and first.groups["refer-ground"].n == 5


def test_nothing_to_ask_is_said(small: MM15Processor) -> None:
    with pytest.raises(UserError, match="nothing to evaluate"):
        evaluate(Scripted(small, brightness), small, SETTINGS)


# -------------------------------------------------------------------------------------------------------------- results


def prediction(
    score: float, group: str = "g", task: str = "t", *, id: str = "x", malformed: bool = False
) -> Prediction:
    return Prediction(group, task, id, "q?", "a", "r", score, malformed)


def test_group_is_the_plain_mean_of_its_tasks() -> None:
    """10 of 10 and 1 of 30: the mean is 51.7 %, the interval that of 11 of 40."""
    made = [prediction(1, task="easy") for _ in range(10)] + [prediction(float(i < 1), task="hard") for i in range(30)]
    group = Results(made).groups["g"]
    assert group.score == pytest.approx((1 + 1 / 30) / 2)
    assert (group.n, group.low, group.high) == (40, wilson(11, 40).low, wilson(11, 40).high)
    assert group.tasks["hard"].score == pytest.approx(1 / 30) and group.tasks["hard"].high == wilson(1, 30).high


def test_gain_pairs_the_same_samples() -> None:
    real = Results([prediction(float(i % 4 > 0)) for i in range(40)])
    blank = Results([prediction(float(i % 4 == 1)) for i in range(40)])
    gain = Comparison(real, blank).gain["g"]
    assert gain.mean == 0.5 and 0.3 < gain.low < 0.5 < gain.high < 0.7
    assert Comparison(real).gain == {} and Comparison(real).as_dict()["blank"] is None


def test_files_hold_everything(tmp_path: Path) -> None:
    made = Comparison(Results([prediction(1, malformed=True)]), Results([prediction(0)]), 1.23)
    path = made.save(tmp_path / "evaluation", "sft")
    kept = json.loads(path.read_text())
    assert path.name == "sft.json" and set(kept) == {"stage", "groups", "blank", "gain", "samples", "seconds"}
    assert kept["groups"]["g"]["score"] == 1 and kept["groups"]["g"]["malformed"] == 1
    assert kept["blank"]["g"]["tasks"]["t"]["score"] == 0
    lines = [json.loads(line) for line in (path.parent / "sft.predictions.jsonl").read_text().splitlines()]
    assert [(line["pictures"], line["score"], line["reply"]) for line in lines] == [("real", 1, "r"), ("blank", 0, "r")]
    assert sorted(p.name for p in path.parent.iterdir()) == ["sft.json", "sft.predictions.jsonl"]
    rows = made.table().splitlines()
    assert rows[1].split() == ["g", "100.0", "21-100", "0.0", "1", "1"]


def test_examples_are_drawn(small: MM15Processor, tmp_path: Path) -> None:
    """The first sample of each task in turn; true and predicted places are on the picture."""
    boxes = [sample(BOX, "iou", i, "Where?") for i in range(3)]
    texts = [Sample(f"t{i}", "x", user("say") + assistant("a"), {"metric": "exact"}) for i in range(3)]
    tasks = [task(*boxes, name="box"), task(*texts, name="text")]
    replies = {"Where": "[25, 20, 60, 60]", "say": "b"}
    model = Scripted(small, lambda prompt, tiles: next(v for k, v in replies.items() if k in prompt))
    comparison = Comparison(evaluate(model, small, SETTINGS, tasks=tasks), Results([]))
    path = save_examples(tmp_path / "examples", comparison, tasks, COORDINATES, per_group=3)
    entries = json.loads(path.read_text())
    assert [(e["task"], e["id"], e["file"]) for e in entries] == [
        ("box", "s0", "g-box-0.png"),
        ("text", "t0", None),
        ("box", "s1", "g-box-1.png"),
    ]
    first = entries[0]
    assert first["true"] == [[20, 10, 60, 30]] and first["predicted"] == [[25.5, 10.2, 60.5, 30.2]]
    assert first["iou"] == pytest.approx(0.839, abs=0.01) and first["score"] == 1
    pixels = np.asarray(PILImage.open(path.parent / "g-box-0.png"))
    for colour in ((0x1C, 0x7E, 0xD6), (0xF7, 0x67, 0x07)):
        assert (pixels == colour).all(-1).sum() > 200


# ------------------------------------------------------------------------------------------------------- whole commands


def world(kind: str) -> dict:
    return {"format": "world", "kind": kind, "split": "heldout", "size": 64}


def run_recipe() -> recipe.Recipe:
    sources = {"ground": {"format": "world", "kind": "ground"}}
    mixture = {"all": {"categories": {"c": {"sources": {"ground": 1}}}}}
    groups = {
        "look": {"color": world("scene_color"), "where": world("ground")},
        "other": {"count": world("scene_count")},
    }
    tree = {
        "name": "r",
        "model": {"vision": {"family": "siglip"}, "decoder": {"family": "llama"}},
        "sources": sources,
        "stages": {"sft": {"steps": 1, "mixture": mixture}},
        "evaluation": {"groups": groups, "limit": 4, "batch": 4, "max_new_tokens": 4},
    }
    return recipe.validate(tree, "test")


@pytest.fixture
def loaded(small: MM15Processor, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Scripted]]:
    made: list[Scripted] = []

    def load(name: object) -> tuple[Scripted, MM15Processor]:
        made.append(Scripted(small, lambda prompt, tiles: "red"))
        return made[-1], small

    monkeypatch.setattr(stage, "load", load)
    return lambda: made


def test_stage_evaluation_leaves_all_files(loaded: Callable[[], list[Scripted]], tmp_path: Path) -> None:
    path = stage.evaluate_stage(run_recipe(), "sft", tmp_path)
    assert path == tmp_path / "evaluation" / "sft.json"
    kept = json.loads(path.read_text())
    assert list(kept["groups"]) == list(kept["blank"]) == ["look", "other"] and kept["samples"] == 12
    assert kept["groups"]["look"]["tasks"]["where"]["malformed"] == 4
    assert len(loaded()[0].prompts) == 24, "each sample twice: real and blank"
    examples = json.loads((tmp_path / "evaluation" / "examples" / "sft" / "examples.json").read_text())
    assert len(examples) == 8 and all(e["blank_reply"] == "red" for e in examples)
    empty = run_recipe().model_copy(update={"evaluation": recipe.Evaluation()})
    assert stage.evaluate_stage(empty, "sft", tmp_path / "other") is None


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, ["color", "where", "count"]),
        ({"group": "other"}, ["count"]),
        ({"tasks": "where, count"}, ["where", "count"]),
        ({"tasks": "where", "group": "look"}, ["where"]),
    ],
)
def test_commands_choose_tasks(
    loaded: Callable[[], list[Scripted]], tmp_path: Path, options: dict, asked: list[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe.dump(run_recipe()))
    comparison = stage.evaluate_model(str(tmp_path), limit=2, **options)
    assert [p.task for p in comparison.real.predictions] == [name for name in asked for _ in range(2)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tasks": "wher"}, "no task 'wher'; did you mean 'where'"),
        ({"group": "lok"}, "no group 'lok'; did you mean 'look'"),
        ({"group": "look", "tasks": "count"}, "no task 'count'"),
        ({"limit": 0}, "--limit 0"),
    ],
)
def test_commands_refuse_unknown_names(tmp_path: Path, options: dict, message: str) -> None:
    (tmp_path / "recipe.yaml").write_text(recipe.dump(run_recipe()))
    with pytest.raises(UserError, match=message):
        stage.evaluate_model(str(tmp_path), **options)
    with pytest.raises(UserError, match=r"no recipe\.yaml"):
        stage.evaluate_model(str(tmp_path / "nothing"))
