"""The loop and the run: resume to the bit, micro-batches, NaN, stages, checkpoints that are damaged."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from traceback import StackSummary

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed.checkpoint.api import CheckpointException

from mm15 import recipe
from mm15.data.loader import Batch, PackedLoader, make_batch
from mm15.data.mixture import Mixture
from mm15.data.packing import Document
from mm15.data.sources import open_source
from mm15.errors import UserError
from mm15.image import Tiling
from mm15.processor import build_processor
from mm15.regions import Coordinates
from mm15.text import tokenizer as tokenizers
from mm15.text.render import Ref
from mm15.train import checkpoint, optim, parallel
from mm15.train.exporting import export_checkpoint
from mm15.train.loop import NotFiniteError, backward, train
from mm15.train.metrics import Metrics, read
from mm15.train.run import make_model, run, start_stage
from mm15.world import make

HERE = Path(__file__).parent
WORLD = parallel.World()


@pytest.fixture(scope="module")
def tiny():
    """(recipe, model, processor) of the tiny recipe, untrained."""
    settings = recipe.load(HERE / "tiny.yaml")
    coordinates = Coordinates(100)
    tokenizer = tokenizers.prepare(tokenizers.train(["Where is it?"] * 9, vocab_size=400), coordinates=coordinates)
    torch.manual_seed(0)
    model = make_model(settings, tokenizer, tile=32)
    tiling = Tiling(tile=32, min_tiles=1, max_tiles=4)
    return settings, model, build_processor(tokenizer, tiling=tiling, coordinates=coordinates, tokens_per_tile=4)


def documents(processor, count: int) -> list[Document]:
    kinds = ["ground", "fact_qa", "scene_count", "story_page"]
    made = [make(kinds[i % 4], i, size=64) for i in range(count)]
    return [Document(i, s.id, Ref(kinds[i % 4], i), processor.encode(s)) for i, s in enumerate(made)]


def gradients(model, rows: list[Batch]) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss, _ = backward(model.train(), rows, bf16=False, world=WORLD)
    return loss, [p.grad.clone() for p in model.parameters()]


def test_gradients_do_not_change_with_the_micro_batch_split(tiny) -> None:
    _, model, processor = tiny
    made = documents(processor, 8)
    whole = gradients(model, [make_batch(made)])
    for split in ([made[:4], made[4:]], [made[:1], made[1:3], made[3:]], [[one] for one in made]):
        loss, parts = gradients(model, [make_batch(row) for row in split])
        assert loss == pytest.approx(whole[0], abs=1e-6)
        for a, b in zip(parts, whole[1], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_a_loss_that_is_not_finite_stops_before_the_step_and_names_the_samples(tiny) -> None:
    settings, _, processor = tiny
    torch.manual_seed(0)
    model = make_model(settings, processor.tokenizer, tile=32)
    with torch.no_grad():
        model.decoder.model.norm.weight.fill_(float("nan"))
    before = [p.clone() for p in model.parameters()]
    optimizer = optim.make_optimizer(model.parameters(), settings.stages["sft"].optimizer)
    rows = iter([[make_batch(documents(processor, 2))]])
    with pytest.raises(NotFiniteError, match=r"step 1: loss nan.*ground\[0\], fact_qa\[1\]"):
        train(
            model,
            optimizer,
            rows,
            stage=settings.stages["sft"],
            first=1,
            bf16=False,
            world=WORLD,
            on_step=lambda _: None,
        )
    for a, b in zip(before, model.parameters(), strict=True):
        assert torch.equal(a, b) or a.isnan().any()


@pytest.mark.parametrize(("workers", "ranks"), [(0, 1), (1, 1), (2, 1), (0, 2)])
def test_killed_again_and_again_is_the_same_run_bit_for_bit(workers: int, ranks: int, tmp_path: Path) -> None:
    """SIGKILL at random moments, of two processes only one, then the same command again: loss and gradient norm of
    every step of every stage. The process that is left ends by itself, with one line; SIGTERM stops both together."""
    command = [sys.executable, str(HERE / "kill_harness.py"), str(tmp_path), str(workers), str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=HERE.parent, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["kills"] == 5 * ranks
    steps = {name: stage.steps for name, stage in recipe.load(HERE / "tiny.yaml").stages.items()}
    assert {name: len(lines) for name, lines in told["whole"].items()} == steps
    assert told["killed"] == told["whole"]
    assert len(told["survivors"]) == (0 if ranks == 1 else 10)
    assert all(status == 2 and "another process of the run" in line for status, line in told["survivors"])
    if ranks > 1:
        assert told["stopped"] == told["whole"]
        for (status, lines, reached), stage in zip(told["stops"], ["pretrain", "continual"], strict=True):
            assert status == [143, 143]
            line = f"mm15: stopped by SIGTERM after step {len(reached[stage])} of {stage}; the same command continues"
            assert lines == [line, line]
        export_checkpoint(tmp_path / "killed", tmp_path / "exported")  # from the shards of both
        weights = [
            load_file(folder / "model.safetensors") for folder in (tmp_path / "exported", tmp_path / "killed/model")
        ]
        assert weights[0].keys() == weights[1].keys()
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished tiny run without evaluation."""
    out = tmp_path_factory.mktemp("run") / "tiny"
    run(recipe.load(HERE / "tiny.yaml"), out)
    return out


def test_a_finished_run_is_left_alone(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    run(recipe.load(HERE / "tiny.yaml"), finished)
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()} == before


def test_a_run_continues_with_other_workers_and_checkpoints(tmp_path: Path) -> None:
    """One stage without workers, the rest with one and other checkpoints: the data does not change."""
    run(recipe.load(HERE / "tiny.yaml"), tmp_path / "run", only="pretrain")
    other = recipe.load(HERE / "tiny.yaml", ["workers=1", "checkpoint.every=3"])
    run(other, tmp_path / "run", only="continual")
    assert recipe.load(tmp_path / "run" / "recipe.yaml") == other
    assert len(read(tmp_path / "run/stages/continual/metrics.jsonl")) == 6


def test_frozen_parts_stay_and_the_others_learn(finished: Path, tmp_path: Path) -> None:
    """In one stage only; and a run that was stopped in it goes on the same way."""
    frozen = ["stages.continual.freeze=[vision, decoder]", "stages.continual.schedule.warmup=0"]
    settings = recipe.load(HERE / "tiny.yaml", [*frozen, "checkpoint.keep=9"])
    run(settings, tmp_path / "run", only="continual")
    weights = load_file(tmp_path / "run" / "model" / "model.safetensors")
    run(settings, tmp_path / "start", only="pretrain")
    before = load_file(tmp_path / "start" / "model" / "model.safetensors")
    same = {
        name for name, tensor in weights.items() if tensor.shape == before[name].shape and tensor.equal(before[name])
    }
    resized = {name for name, tensor in weights.items() if tensor.shape != before[name].shape}
    assert {name.split(".")[0] for name in set(weights) - same - resized} == {"connector"}
    assert {name.split(".")[-2] for name in resized} == {"connector", "position_embedding"}  # the tile grew
    losses = read(tmp_path / "run/stages/continual/metrics.jsonl")
    stages = tmp_path / "run" / "stages" / "continual"
    for step in (4, 6):
        shutil.rmtree(stages / f"step-{step:06d}")
    shutil.rmtree(tmp_path / "run" / "model")
    run(settings, tmp_path / "run", only="continual")
    again = read(stages / "metrics.jsonl")
    assert [line["loss"] for line in again] == [line["loss"] for line in losses]
    with pytest.raises(UserError, match="freeze names every part"):
        recipe.load(HERE / "tiny.yaml", ["stages.sft.freeze=[vision, connector, decoder]"])


def test_a_run_keeps_what_it_promises(finished: Path) -> None:
    for name, stage in recipe.load(HERE / "tiny.yaml").stages.items():
        lines = read(finished / "stages" / name / "metrics.jsonl")
        assert [line["step"] for line in lines] == list(range(1, stage.steps + 1))
        assert all(
            {"loss", "lr", "grad_norm", "tokens", "targets", "samples", "tiles"} <= line.keys() for line in lines
        )
        mixture = json.loads((finished / "stages" / name / "mixture.json").read_text())
        assert sum(one["samples"] for one in mixture["realised"].values()) == sum(line["samples"] for line in lines)
        assert len(list((finished / "stages" / name).glob("step-*"))) == 2
    assert recipe.load(finished / "recipe.yaml") == recipe.load(HERE / "tiny.yaml")
    assert json.loads((finished / "model" / "run.json").read_text())["stage"] == "sft"


def test_each_stage_starts_from_the_former_with_its_own_tile(finished: Path) -> None:
    """All weights are the former stage's last; only the two position embeddings have grown with the tile, 24 to 32."""
    settings = recipe.load(HERE / "tiny.yaml")
    tokenizer = build_tokenizer(finished)
    newest = checkpoint.latest(finished / "stages" / "pretrain")
    former = make_model(settings, tokenizer, tile=24)
    checkpoint.load(newest, model=former, world=WORLD)
    started = start_stage(settings, "continual", newest, tokenizer)
    assert (former.config.tile, started.config.tile) == (24, 32)
    before, after = former.state_dict(), started.state_dict()
    grown = {name for name in before if before[name].shape != after[name].shape}
    assert grown == {"vision.tower.embeddings.position_embedding.weight", "connector.pos_emb"}
    assert all(torch.equal(before[name], after[name]) for name in before.keys() - grown)


def test_another_recipe_in_the_same_folder_is_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"stages.sft.steps: 10 -> 11"):
        run(recipe.load(HERE / "tiny.yaml", ["stages.sft.steps=11"]), finished)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="holds no run"):
        run(recipe.load(HERE / "tiny.yaml"), tmp_path)
    with pytest.raises(UserError, match="no stage 'sfd'"):
        run(recipe.load(HERE / "tiny.yaml"), tmp_path / "new", only="sfd")
    assert not (tmp_path / "new").exists()


def test_a_damaged_checkpoint_is_one_line_and_the_former_one_is_used_without_its_marker(
    finished: Path, tmp_path: Path
) -> None:
    import shutil

    folder = tmp_path / "sft"
    shutil.copytree(finished / "stages" / "sft", folder)
    newest = checkpoint.latest(folder)
    settings = recipe.load(HERE / "tiny.yaml")
    tokenizer = build_tokenizer(finished)
    model = make_model(settings, tokenizer, tile=32)
    for path in newest.glob("*.distcp"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match=r"step-000010: unreadable checkpoint"):
        checkpoint.load(newest, model=model, world=WORLD)
    (newest / checkpoint.MARKER).unlink()
    former = checkpoint.latest(folder)
    assert former.name == "step-000008"
    checkpoint.load(former, model=model, world=WORLD)
    (former / "state.json").write_text("{")
    with pytest.raises(UserError, match="step-000008: unreadable checkpoint"):
        checkpoint.read_state(former)


def build_tokenizer(finished: Path):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast.from_pretrained(finished / "tokenizer")


def test_metrics_rewind_drops_later_and_half_written_lines(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    for step in range(1, 6):
        metrics.add({"step": step, "loss": 1.0})
    with open(metrics.path, "a") as file:
        file.write('{"step": 6, "lo')
    assert [line["step"] for line in read(metrics.path)] == [1, 2, 3, 4, 5]
    metrics.rewind(3)
    assert [line["step"] for line in read(metrics.path)] == [1, 2, 3]


def test_learning_rate_by_hand() -> None:
    schedule = recipe.Schedule(kind="cosine", warmup=4, floor=0.1)
    rates = [optim.learning_rate(step, 14, 2.0, schedule) for step in range(14)]
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4] == 2.0
    assert rates[9] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))  # half way: cos(pi / 2) = 0
    assert optim.learning_rate(14, 14, 2.0, schedule) == pytest.approx(0.2)
    assert optim.learning_rate(9, 10, 1.0, recipe.Schedule(kind="constant")) == 1.0
    assert optim.learning_rate(5, 10, 1.0, recipe.Schedule(kind="linear")) == pytest.approx(0.5)


def test_adafactor_takes_an_absolute_rate() -> None:
    """First step of AdaFactor without momentum: every element of a matrix with equal gradients moves by lr."""
    weight = torch.nn.Parameter(torch.zeros(4, 3))
    optimizer = optim.make_optimizer([weight], recipe.Optimizer(name="adafactor", lr=0.01))
    weight.grad = torch.full_like(weight, 5.0)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((4, 3), -0.01), rtol=1e-4, atol=0)


def test_weight_decay_is_for_matrices_only() -> None:
    matrix, vector = torch.nn.Parameter(torch.ones(2, 2)), torch.nn.Parameter(torch.ones(2))
    frozen = torch.nn.Parameter(torch.ones(2, 2), requires_grad=False)
    optimizer = optim.make_optimizer([matrix, vector, frozen], recipe.Optimizer(lr=0.1, weight_decay=0.5))
    for p in (matrix, vector):
        p.grad = torch.zeros_like(p)
    optimizer.step()
    assert torch.allclose(matrix, torch.full((2, 2), 0.95))
    assert torch.equal(vector, torch.ones(2))
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 2


def test_the_realised_mixture_follows_the_weights(tiny) -> None:
    settings, _, processor = tiny
    stage = settings.stages["sft"]
    sources = {name: open_source(source, name) for name, source in settings.sources.items()}
    mixture = Mixture.of_stage(stage, {name: len(source) for name, source in sources.items()}, seed=0)
    loader = PackedLoader(
        mixture, sources, processor.encode, processor.measure, tokens=512, tiles=64, rows=4, workers=0
    )
    rows = iter(loader)
    for _ in range(20):
        next(rows)
    state = loader.state_dict()
    waiting = [mixture.draw(draw).source for draw in state["waiting"]]  # drawn, and not yet trained on
    assert len(waiting) < 100 < state["next"]
    for name, share in mixture.shares.items():
        drawn = loader.realised[name].samples + loader.realised[name].skipped + waiting.count(name)
        assert abs(drawn - share * state["next"]) < 1


def test_an_interrupt_while_saving_is_no_damaged_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DCP wraps every exception, Ctrl-C too; a full disk is one line, an interrupt stays an interrupt."""
    weight = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(weight.parameters())
    hidden = RuntimeError("unexpected pos 450 vs 337")  # by torch's writer, when Python interrupts it
    hidden.__context__ = KeyboardInterrupt()
    ends = ((KeyboardInterrupt(), KeyboardInterrupt), (hidden, KeyboardInterrupt), (OSError("No space"), UserError))
    for inner, raised in ends:
        wrapped = CheckpointException("save", {0: (inner, StackSummary())})
        monkeypatch.setattr(checkpoint.dcp, "save", lambda *_, error=wrapped, **__: (_ for _ in ()).throw(error))
        with pytest.raises(raised):
            checkpoint.save(tmp_path, 1, model=weight, optimizer=optimizer, state={}, world=WORLD, keep=1)
        assert checkpoint.latest(tmp_path) is None


def test_an_interrupt_waits_for_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's writer and reader, interrupted between C++ and Python, tell of damage or take the process down."""
    weight = torch.nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(weight.parameters())
    whole = {"model": weight, "optimizer": optimizer, "world": WORLD}
    save, load = checkpoint.dcp.save, checkpoint.dcp.load

    def interrupting(work, times: int):
        return lambda *a, **k: ([signal.raise_signal(signal.SIGINT) for _ in range(times)], work(*a, **k))

    monkeypatch.setattr(checkpoint.dcp, "save", interrupting(save, 1))
    monkeypatch.setattr(checkpoint.dcp, "load", interrupting(load, 1))
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 1, state={}, keep=1, **whole)
    saved = checkpoint.latest(tmp_path)
    assert saved is not None
    before = weight.weight.detach().clone()
    with torch.no_grad():
        weight.weight.zero_()
    with pytest.raises(KeyboardInterrupt):
        checkpoint.load(saved, **whole)
    assert torch.equal(weight.weight, before)
    monkeypatch.setattr(checkpoint.dcp, "save", interrupting(save, 2))
    with pytest.raises(KeyboardInterrupt):  # the second does not wait
        checkpoint.save(tmp_path, 2, state={}, keep=1, **whole)
    assert checkpoint.latest(tmp_path) == saved
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
