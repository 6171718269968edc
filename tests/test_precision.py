"""`precision: auto`: the faster of the two where bf16 pays, decided once a run, and what is told of it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_run import fake_run

from mm15 import load, recipe
from mm15.errors import Stopped, UserError
from mm15.evaluate import stage as evaluation
from mm15.evaluate.report import write_report
from mm15.model import precision
from mm15.model.precision import faster_in_bf16
from mm15.train import stage
from mm15.train.metrics import Metrics, read
from mm15.train.parallel import World
from mm15.train.run import run

TINY = Path(__file__).parent / "tiny.yaml"
SHORT = ["stages.pretrain.steps=6", "stages.continual.steps=2", "stages.sft.steps=2"]
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    precision._faster.cache_clear()
    yield
    precision._faster.cache_clear()


# ------------------------------------------------------------------------------------------------------------- machines


def machine(patch: pytest.MonkeyPatch, *, kernels: bool, seconds: tuple[float, float]) -> list[None]:
    """A CPU with or without kernels for bf16, of such speeds, bf16's and fp32's; the result grows with each timing."""
    timed: list[None] = []
    patch.setattr(precision, "has_bf16", lambda device: kernels)
    patch.setattr(precision, "product_seconds", lambda: (timed.append(None), seconds)[1])
    return timed


@pytest.mark.parametrize(
    ("bf16", "fp32", "faster"),
    [(184.0, 860.0, True), (304.0, 166.0, False), (0.79, 1.0, True), (0.8, 1.0, False), (0.99, 1.0, False)],
)
def test_a_cpu_takes_what_is_clearly_faster(
    bf16: float, fp32: float, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to 0.8 of fp32's time; timed once, however often it is asked."""
    timed = machine(monkeypatch, kernels=True, seconds=(bf16, fp32))
    assert [faster_in_bf16(CPU), faster_in_bf16(torch.device("cpu", 0))] == [faster, faster]
    assert len(timed) == 1


def test_a_cpu_without_kernels_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    timed = machine(monkeypatch, kernels=False, seconds=(1.0, 9.0))
    assert not faster_in_bf16(CPU)
    assert not timed


@pytest.mark.parametrize(("built_in", "supported"), [(True, True), (True, False), (False, True)])
def test_kernels_are_onednns(built_in: bool, supported: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: built_in)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    assert precision.has_bf16(CPU) is (built_in and supported)


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_takes_bf16_where_it_is_not_emulated(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the CPU beside it would take."""
    machine(monkeypatch, kernels=True, seconds=(9.0, 1.0) if native else (1.0, 9.0))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or native)
    assert faster_in_bf16(GPU) is native
    assert faster_in_bf16(CPU) is not native


def test_the_least_time_of_each_counts_and_the_first_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """In turns, one to warm up; and a run's random numbers are left alone."""
    order: list[torch.dtype] = []
    scripted = {torch.bfloat16: [0.1, 5, 4, 3, 4, 5], torch.float32: [0.2, 7, 7, 8, 6, 9]}

    def seconds(matrix: torch.Tensor) -> float:
        order.append(matrix.dtype)
        return scripted[matrix.dtype].pop(0)

    state = torch.get_rng_state()
    assert all(one > 0 for one in precision.product_seconds())
    assert torch.equal(torch.get_rng_state(), state)
    monkeypatch.setattr(precision, "_seconds", seconds)
    assert precision.product_seconds() == (3, 6)
    assert order == [torch.bfloat16, torch.float32] * 6


# ----------------------------------------------------------------------------------------------------------------- runs


def settings(*changes: str) -> recipe.Recipe:
    return recipe.load(TINY, [*SHORT, "precision=auto", *changes])


def says(faster: bool, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stage, "faster_in_bf16", lambda device: faster)


def never(*_: Any) -> bool:
    raise AssertionError("the machine is not to be asked")


def losses(out: Path) -> dict[str, list[list[float]]]:
    return {
        path.parent.name: [[line["step"], line["loss"], line["grad_norm"]] for line in read(path)]
        for path in sorted(out.glob("stages/*/metrics.jsonl"))
    }


def kept(out: Path) -> dict[str, str]:
    return json.loads((out / "precision.json").read_text())


@pytest.fixture(scope="module")
def explicit(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Undisturbed runs of two stages whose recipe names the precision."""
    folders = {name: tmp_path_factory.mktemp(name) / "run" for name in ("bf16", "fp32")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "faster_in_bf16", never)
        for name, folder in folders.items():
            run(settings(f"precision={name}"), folder, only="continual")
    return folders


def test_a_run_whose_precision_is_named_keeps_no_file(explicit: dict[str, Path]) -> None:
    assert not any((folder / "precision.json").exists() for folder in explicit.values())
    assert losses(explicit["bf16"]) != losses(explicit["fp32"])  # so that losses tell the two apart


@pytest.mark.parametrize("took", ["bf16", "fp32"])
def test_a_resumed_run_keeps_its_precision(
    took: str, explicit: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped within a stage, and gone on where the machine says the opposite, into the next stage too."""
    out, add = tmp_path / "run", Metrics.add

    def stopping(self: Metrics, line: dict[str, Any]) -> None:
        add(self, line)
        if line["step"] == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    says(took == "bf16", monkeypatch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Metrics, "add", stopping)
        with pytest.raises(Stopped):
            run(settings(), out, only="continual")
    assert kept(out) == {"precision": took}
    assert 3 <= len(losses(out)["pretrain"]) < 6
    says(took != "bf16", monkeypatch)
    run(settings(), out, only="continual")
    assert losses(out) == losses(explicit[took])
    assert kept(out) == {"precision": took}
    with pytest.raises(UserError, match=f"precision: auto -> {took}"):
        run(settings(f"precision={took}"), out)


def refused(*_: Any, **__: Any) -> Any:
    raise UserError("refused")


def test_a_run_that_never_trained_is_free_to_take_another(
    explicit: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused after it was decided: the same recipe asks the machine again, a mended one names another precision."""
    out = tmp_path / "run"
    for faster, name in ((True, "bf16"), (False, "fp32")):
        says(faster, monkeypatch)
        with monkeypatch.context() as patch:
            patch.setattr(stage, "_prepare", refused)
            with pytest.raises(UserError, match="refused"):
                run(settings(), out)
        assert kept(out) == {"precision": name}
        assert not (out / "stages").exists()
    run(settings("precision=bf16"), out, only="continual")
    assert losses(out) == losses(explicit["bf16"])
    assert not (out / "precision.json").exists()


@dataclass(frozen=True)
class Waiting(World):
    """A rank that is not the main one, whose answer (None: elsewhere) is written while this one waits."""

    rank: int = 1
    size: int = 2
    out: Path = Path()
    answer: str | None = None

    def barrier(self) -> None:
        if self.answer is not None:
            (self.out / "precision.json").write_text(self.answer)


def test_all_ranks_take_the_main_processs_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "faster_in_bf16", never)
    for name in ("bf16", "fp32"):
        world = Waiting(out=tmp_path, answer=json.dumps({"precision": name}))
        assert stage.in_bf16(stage.Run(settings(), tmp_path, {}, world)) is (name == "bf16")


@pytest.mark.parametrize("answer", [None, "", "[]", '{"precision": "auto"}', '{"precision": ["fp32"]}'])
def test_an_answer_that_cannot_be_read_is_one_line(answer: str | None, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r'precision.json: missing or damaged; write {"precision": "fp32"} there'
    ) as told:
        stage.in_bf16(stage.Run(settings(), tmp_path, {}, Waiting(out=tmp_path, answer=answer)))
    assert "\n" not in str(told.value)


# ----------------------------------------------------------------------------------------------------------- afterwards


@pytest.mark.parametrize(
    ("named", "content", "shown"),
    [
        ("auto", None, "0, auto"),
        ("auto", "fp32", "0, auto: fp32"),
        ("auto", "bf16", "0, auto: bf16"),
        ("bf16", None, "0, bf16"),
    ],
)
def test_the_report_shows_what_was_taken(named: str, content: str | None, shown: str, tmp_path: Path) -> None:
    out = fake_run(tmp_path / "run", evaluated=False)
    text = (out / "recipe.yaml").read_text()
    assert "precision: auto" in text
    (out / "recipe.yaml").write_text(text.replace("precision: auto", f"precision: {named}"))
    if content is not None:
        (out / "precision.json").write_text(json.dumps({"precision": content}))
    assert f">{shown}<" in write_report(out).read_text()


@pytest.mark.parametrize("on_gpu", [True, False])
@pytest.mark.parametrize("faster", [True, False])
def test_evaluation_on_a_cpu_is_in_full_precision_unless_named(
    faster: bool, on_gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores are not to depend on the CPU; on a GPU auto is what its hardware has."""
    took: list[bool] = []
    monkeypatch.setattr(evaluation, "faster_in_bf16", lambda device: faster and device.type == "cuda")
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, bf16, **__: took.append(bf16))
    monkeypatch.setattr(evaluation, "Comparison", lambda *_: None)
    monkeypatch.setattr(torch.nn.Module, "to", lambda *_: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    for name in ("auto", "bf16", "fp32"):
        evaluation.compare(None, None, recipe.Evaluation(), tasks=[], precision=name)
    assert took == [on_gpu and faster] * 2 + [True] * 2 + [False] * 2


@pytest.mark.parametrize(("named", "has", "warned"), [("bf16", False, 1), ("bf16", True, 0), ("fp32", False, 0)])
def test_bf16_on_a_cpu_that_has_none_is_told(
    named: str,
    has: bool,
    warned: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(stage, "has_bf16", lambda device: has)
    found = stage.in_bf16(stage.Run(settings(f"precision={named}"), tmp_path, {}, World()))
    assert found is (named == "bf16")
    assert sum("precision=fp32" in record.message for record in caplog.records) == warned


@pytest.mark.parametrize(("faster", "dtype"), [(True, torch.bfloat16), (False, torch.float32)])
def test_weights_in_bf16_are_read_as_this_machine_computes(
    faster: bool, dtype: torch.dtype, explicit: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model in fp32 stays so."""
    model, processor = load(explicit["fp32"])
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(precision, "faster_in_bf16", lambda device: faster)
    assert load(tmp_path)[0].dtype == dtype
    assert load(explicit["fp32"])[0].dtype == torch.float32
