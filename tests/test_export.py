"""`mm15 export`: any kept checkpoint of a run as a plain transformers folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast

from mm15 import recipe
from mm15.errors import UserError
from mm15.generate.loading import load
from mm15.train import checkpoint, models
from mm15.train.exporting import export_checkpoint
from mm15.train.models import load_stage
from mm15.world import make


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_newest_is_the_model_of_the_run(tiny_run: Path, tmp_path: Path) -> None:
    """Every file of the exported folder is that of RUN/model, but for the receipt, which has the step besides."""
    assert export_checkpoint(tiny_run, tmp_path / "out") == ("sft", 10)
    exported, model = files(tmp_path / "out"), files(tiny_run / "model")
    assert json.loads(exported.pop("run.json")) == {**json.loads(model.pop("run.json")), "step": 10}
    assert exported == model
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(("stage", "step", "tile"), [("pretrain", 8, 24), ("sft", 8, 32)])
def test_a_former_checkpoint_comes_back_with_its_weights_and_logits(
    tiny_run: Path, tmp_path: Path, stage: str, step: int, tile: int
) -> None:
    """Of a stage with tiles of its own too; `load` and transformers' own classes read it."""
    (tmp_path / "out").mkdir()  # an empty folder is fine
    assert export_checkpoint(tiny_run, tmp_path / "out", stage=stage, step=step) == (stage, step)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_run / "tokenizer")
    path = tiny_run / "stages" / stage / f"step-{step:06d}"
    wanted = load_stage(recipe.load(tiny_run / "recipe.yaml"), stage, path, tokenizer).eval()
    model, processor = load(tmp_path / "out")
    state, expected = model.state_dict(), wanted.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)
    newest = load_file(tiny_run / "model" / "model.safetensors")
    assert any(not torch.equal(newest[name], state[name]) for name in newest if newest[name].shape == state[name].shape)
    assert (model.config.tile, processor.tiling.tile) == (tile, tile)
    encoded = processor.encode(make("scene_color", 1, size=64))
    inputs = {"input_ids": torch.tensor(encoded.input_ids)[None], "pixel_values": torch.from_numpy(encoded.tiles)}
    other = AutoModelForImageTextToText.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        logits = wanted(**inputs).logits
        for one in (model, other):
            torch.testing.assert_close(one(**inputs).logits, logits, rtol=0, atol=1e-5)
    assert type(AutoProcessor.from_pretrained(tmp_path / "out")) is type(processor)


def test_mistakes_are_one_line_and_nothing_is_written(tiny_run: Path, tmp_path: Path) -> None:
    """No run, no such stage or step, no checkpoint at all, a folder that holds something, a damaged checkpoint."""
    full, run = tmp_path / "full", tmp_path / "run"
    full.mkdir()
    (full / "mine").write_text("mine")
    shutil.copytree(tiny_run, run)
    shutil.rmtree(run / "stages" / "continual")
    shard = next(path for path in (run / "stages" / "sft" / "step-000008").glob("*.distcp"))
    shard.write_bytes(shard.read_bytes()[:100])
    out = tmp_path / "out"
    cases: list[tuple[Path, Path, str | None, int | None, str]] = [
        (full, out, None, None, "full: not a run folder"),
        (run, full, None, None, "full is not empty; export to a new folder"),
        (run, full / "mine", None, None, "mine is not empty"),
        (run, out, "sfd", None, "no stage 'sfd' .*; its stages: pretrain, continual, sft"),
        (run, out, "continual", None, "no checkpoint of stage 'continual'; there are some of: pretrain, sft"),
        (run, out, "pretrain", 3, "no checkpoint of step 3 of stage 'pretrain'; there are: 8, 10"),
        (run, out, None, 9, "no checkpoint of step 9 of stage 'sft'; there are: 8, 10"),
        (run, out, "sft", 8, "step-000008: unreadable checkpoint"),
    ]
    for source, to, stage, step, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            export_checkpoint(source, to, stage=stage, step=step)
        assert "\n" not in str(caught.value)
    shutil.rmtree(run / "stages")
    with pytest.raises(UserError, match="run: no checkpoint; there are some of: none"):
        export_checkpoint(run, out)
    assert files(full) == {"mine": b"mine"} and sorted(path.name for path in tmp_path.iterdir()) == ["full", "run"]


def test_an_export_that_is_interrupted_leaves_nothing(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a killed one left beside OUT goes with the next; other hidden folders there are not ours to delete."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.MM15ForConditionalGeneration, "save_pretrained", interrupted)
        with pytest.raises(KeyboardInterrupt):
            export_checkpoint(tiny_run, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    (tmp_path / ".out-killed.partial").mkdir()
    (tmp_path / ".out-mine").mkdir()
    export_checkpoint(tiny_run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out-mine", "out"]
    newest = checkpoint.latest(tiny_run / "stages" / "sft")
    assert newest is not None and newest.name == "step-000010"


def test_the_command(mm15_command, tiny_run: Path, tmp_path: Path) -> None:
    done = mm15_command("export", tiny_run, tmp_path / "out", "--stage", "continual", "--step", "4")
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'out'}: step 4 of stage continual\n"), done.stderr
    done = mm15_command("export", tiny_run, tmp_path / "out")
    assert (done.returncode, done.stderr) == (2, f"mm15: {tmp_path / 'out'} is not empty; export to a new folder\n")


def test_a_model_that_does_not_fit_is_one_line(tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's memory is too small: where, and how to do without it."""

    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(torch.nn.Module, "to", full)
    with pytest.raises(UserError, match=r"does not fit on cpu; CUDA_VISIBLE_DEVICES= \(empty\)"):
        load(tiny_run)
