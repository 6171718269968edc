"""A run folder made up without training: for the report's tests, and to look at its page.

python tests/fake_run.py FOLDER      makes one and writes its report
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from mm15 import recipe as recipes
from mm15.evaluate.examples import save_examples
from mm15.evaluate.report import write_report
from mm15.evaluate.results import Comparison, Prediction, Results
from mm15.evaluate.task import SourceTask, answer_text, last_question, true_boxes, written
from mm15.regions import Box, Coordinates
from mm15.sample import Sample
from mm15.world import make

COORDINATES = Coordinates(bins=100)
TASKS = {
    "general": ["scene_color", "scene_count", "scene_exists"],
    "refer-ground": ["ground", "refer_box"],
}
STAGES = {"pretrain": 0.05, "continual": 0.35, "sft": 0.85}
"""Stage -> how often the made-up model is right."""


class Heldout:
    """The held-out samples of a world task, as a source gives them."""

    def __init__(self, kind: str, length: int) -> None:
        self.kind, self.length = kind, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        return make(self.kind, index, split="heldout", size=128)


def tree() -> dict:
    """A recipe with three stages, as YAML gives it."""
    sources = {name: {"format": "world", "kind": name} for names in TASKS.values() for name in names}
    mixture = {
        "single": {
            "weight": 0.8,
            "categories": {"general": {"alpha": 1, "sources": {"scene_color": 2, "scene_count": 1}}},
        },
        "grounding": {"weight": 0.2, "categories": {"refer": {"sources": {"ground": 1, "refer_box": 1}}}},
    }
    heldout = {g: {n: {**sources[n], "split": "heldout"} for n in names} for g, names in TASKS.items()}
    shape = {"hidden_size": 96, "num_hidden_layers": 4}
    return {
        "name": "pico-made-up",
        "model": {
            "vision": {"family": "siglip", "shape": shape},
            "decoder": {"family": "llama", "shape": {**shape, "hidden_size": 128}},
            "connector": {"tokens": 16},
            "tokenizer": {"vocab_size": 512},
        },
        "picture": {"tile": 64, "rule": "none"},
        "coordinates": {"bins": 100},
        "sources": sources,
        "stages": {
            "pretrain": {"steps": 400, "mixture": mixture},
            "continual": {"steps": 200, "mixture": mixture, "picture": {"rule": "mm15", "min_tiles": 1}},
            "sft": {"steps": 300, "mixture": mixture, "schedule": {"kind": "cosine", "warmup": 20}},
        },
        "evaluation": {"groups": heldout, "limit": 60},
    }


def fake_run(folder: Path, *, evaluated: bool = True) -> Path:
    """Makes the run folder; without `evaluated` it stops in the middle of the second stage."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = recipes.validate(tree(), "made-up")
    (folder / "recipe.yaml").write_text(recipes.dump(recipe))
    for i, name in enumerate(recipe.stages):
        if evaluated or i < 2:
            steps = recipe.stages[name].steps if evaluated or i == 0 else 77
            _stage(folder / "stages" / name, steps, seed=i)
    if evaluated:
        _model(folder / "model")
        for name, skill in STAGES.items():
            _evaluation(folder / "evaluation", name, skill)
    return folder


def _stage(folder: Path, steps: int, *, seed: int) -> None:
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    lines = []
    for step in range(1, steps + 1):
        loss = 0.4 + (4.5 - 1.3 * seed) * math.exp(-step / 60) + 0.08 * rng.standard_normal()
        lines.append(
            {"step": step, "loss": loss, "lr": 1e-3, "grad_norm": 1.5, "tokens": 4000, "samples": 60, "seconds": 0.9}
        )
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 9')
    shares = {"scene_color": 0.5333, "scene_count": 0.2667, "ground": 0.1, "refer_box": 0.1}
    drift = {"scene_color": 1.0, "scene_count": 0.97, "ground": 1.05, "refer_box": 1.02}
    came = {name: share * drift[name] for name, share in shares.items()}
    realised = {
        name: {
            "samples": round(60 * steps * share),
            "tokens": 66 * round(60 * steps * share) * (2 if "c" in name else 1),
        }
        for name, share in came.items()
    }
    for one in realised.values():
        one |= {"target_tokens": one["tokens"] // 20, "tiles": one["samples"]}
    realised["ground"]["skipped"] = 1234 * (seed == 1)
    groups = {"scene_color": "single", "scene_count": "single", "ground": "grounding", "refer_box": "grounding"}
    (folder / "mixture.json").write_text(json.dumps({"asked": shares, "realised": realised, "groups": groups}))
    if seed == 1:
        why = "box (3, 5, 300, 9) lies outside its picture of 128x128 pixels"
        line = {"source": "ground", "index": 17, "epoch": 0, "id": "ground/17", "reason": why}
        (folder / "skipped.jsonl").write_text(json.dumps(line) + "\n")


def _model(folder: Path) -> None:
    folder.mkdir()
    weights = {
        "model.vision.patch.weight": np.zeros((96, 768), np.float32),
        "model.connector.up.weight": np.zeros((128, 96), np.float32),
        "model.decoder.embed.weight": np.zeros((512, 128), np.float32),
    }
    save_file(weights, folder / "model.safetensors")


def _evaluation(folder: Path, stage: str, skill: float) -> None:
    tasks = [SourceTask(n, group, Heldout(n, 60), 60) for group, names in TASKS.items() for n in names]
    real = Results([p for task in tasks for p in _predictions(task, skill, seed=1)])
    blank = Results([p for task in tasks for p in _predictions(task, 0.02, seed=2)])
    comparison = Comparison(real, blank, seconds=31.4)
    save_examples(folder / "examples" / stage, comparison, tasks, COORDINATES)
    comparison.save(folder, stage)


def _predictions(task: SourceTask, skill: float, *, seed: int) -> list[Prediction]:
    """Replies that are right with probability `skill`, near misses of boxes otherwise."""
    rng = np.random.default_rng(seed)
    found = []
    for sample in task.samples():
        sizes = [(image.data.shape[1], image.data.shape[0]) for image in sample.images]
        reply = answer = answer_text(sample, COORDINATES, sizes)
        if boxes := true_boxes(sample) if sample.meta["metric"] == "iou" else []:
            width, height = sizes[0]
            noise = 3 if rng.random() < skill else 40
            x1, y1, x2, y2 = (
                min(max(v + noise * rng.standard_normal(), 0), s - 1)
                for v, s in zip(boxes[0].shape, (width, height) * 2, strict=True)
            )
            shape = Box(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
            reply = COORDINATES.encode(shape, sizes[0]) if rng.random() < 0.97 else "[12, 7"
        elif rng.random() > skill:
            reply = "perhaps"
        judged = task.score(sample, reply, coordinates=COORDINATES, sizes=sizes)
        question = written(last_question(sample), COORDINATES, sizes)
        names = (task.group, task.name, sample.id)
        found.append(Prediction(*names, question, answer, reply, judged.score, judged.malformed))
    return found


if __name__ == "__main__":
    sys.stdout.write(f"{write_report(fake_run(Path(sys.argv[1])))}\n")
