"""The loader's processes die loudly, end with the iteration and leave Ctrl-C to the main one; and files end to end."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image as PILImage
from sized_samples import encode, make, steps

from mm15.data.loader import PackedLoader
from mm15.data.mixture import Mixture
from mm15.data.sources import open_source
from mm15.recipe import Category, Group, LlavaSource
from mm15.sample import Sample
from mm15.text.render import Encoded


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_dies_is_an_error_and_not_a_hang() -> None:
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"a loader worker died at draw \d+, long\[9\] .*fewer workers"):
        steps(make(2, encoder=_killed), 100)
    assert time.monotonic() - began < 30


def _killed(sample: Sample) -> Encoded:
    if sample.id == "long-9":
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(sample)


def test_everything_a_spawned_worker_needs_can_be_pickled() -> None:
    documents = make()._documents
    again = pickle.loads(pickle.dumps(documents))
    for draw in (0, 1, 2, 4):
        assert again.read(draw, whole=True).ref == documents.read(draw, whole=True).ref == documents.mixture.draw(draw)


def test_workers_end_with_the_iteration() -> None:
    """No process is left behind, whether the iteration is closed or dropped."""
    iterator = iter(make(2))
    next(iterator)
    children = _children(os.getpid())
    assert len(children) >= 2
    iterator.close()
    deadline = time.monotonic() + 20
    while set(_children(os.getpid())) & set(children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not set(_children(os.getpid())) & set(children)


def _children(pid: int) -> list[int]:
    """Child processes from /proc that are not resource trackers."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended since it was listed
            for child in (task / "children").read_text().split():
                with suppress(FileNotFoundError, ProcessLookupError):  # a child that did
                    if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes():
                        found.append(int(child))
    return found


def test_control_c_is_for_the_main_process() -> None:
    """SIGINT to the whole group, as a terminal sends it: a run may finish its step first, and its workers go on."""
    code = """
        import signal, sys
        sys.path.insert(0, "tests")
        import sized_samples
        signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
        for i, step in enumerate(sized_samples.make(2, encoder=sized_samples.slowly)):
            if i == 0:
                print("ready", flush=True)
            if i == 40:
                break
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            for i, step in enumerate(sized_samples.make(2, encoder=sized_samples.slowly)):
                if i == 0:
                    print("again", flush=True)
        except KeyboardInterrupt:
            print("ended", flush=True)
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    root = Path(__file__).parent.parent
    with subprocess.Popen(
        command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        for wait, answer in (("ready\n", "interrupted\n"), ("again\n", "ended\n")):
            assert process.stdout.readline() == wait
            os.killpg(process.pid, signal.SIGINT)
            assert process.stdout.readline() == answer
        errors = process.communicate(timeout=30)[1]
    assert process.returncode == 0 and "Traceback" not in errors, errors


# ----------------------------------------------------------------------------------------------------------- the whole


def test_a_llava_file_with_a_truncated_picture_through_the_processor(tmp_path: Path) -> None:
    """Files, processor and loader together: the bad picture is skipped by name, the rest trains."""
    from mm15.image import Tiling
    from mm15.processor import build_processor
    from mm15.regions import Coordinates
    from mm15.text import tokenizer as tokenizers

    rows = []
    for i in range(6):
        PILImage.new("RGB", (40 + i, 30), (40 * i, 0, 0)).save(tmp_path / f"{i}.jpg", quality=95)
        turns = [{"from": "human", "value": "<image>\nHow red is it?"}, {"from": "gpt", "value": f"{40 * i}"}]
        rows.append({"id": f"red {i}", "image": f"{i}.jpg", "conversations": turns})
    broken = (tmp_path / "4.jpg").read_bytes()
    (tmp_path / "4.jpg").write_bytes(broken[: len(broken) // 2])
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    source = open_source(LlavaSource(format="llava", path=str(tmp_path / "rows.json")), "reds")
    trained = tokenizers.train(["How red is it? 0 40 80 120 160 200"] * 20, vocab_size=300)
    processor = build_processor(
        tokenizers.prepare(trained, coordinates=Coordinates()),
        tiling=Tiling(tile=16, min_tiles=1, max_tiles=4),
        coordinates=Coordinates(),
        tokens_per_tile=4,
    )
    groups = {"all": Group(categories={"all": Category(sources={"reds": 1})})}

    def fresh(workers: int) -> PackedLoader:
        mixture = Mixture(groups, {"reds": len(source)})
        return PackedLoader(
            mixture,
            {"reds": source},
            processor.encode,
            processor.measure,
            tokens=128,
            tiles=16,
            rows=1,
            workers=workers,
            lookahead=3,
        )

    loader = fresh(0)
    found = steps(loader, 5)
    assert found == steps(fresh(1), 5)
    loader.state_dict()
    assert {one.id for one in loader.skipped} == {"4:red 4"} and "4:red 4" in loader.skipped[0].reason
    assert {ref.index for step in found for batch in step for ref in batch[0]} == {0, 1, 2, 3, 5}
    assert loader.realised["reds"].tiles > loader.realised["reds"].samples
