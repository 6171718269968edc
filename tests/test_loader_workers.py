"""The loader's processes die loudly, end with the iteration and leave Ctrl-C to the main one; and files end to end."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from sized_samples import encode, make, steps

from mm15.data.loader import PackedLoader
from mm15.data.mixture import Mixture
from mm15.data.sources import open_source
from mm15.errors import UserError
from mm15.recipe import Category, Group, LlavaSource
from mm15.sample import Sample
from mm15.text.render import Encoded


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_a_worker_that_dies_is_an_error_and_not_a_hang() -> None:
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"a loader worker died at draw \d+, long\[9\] .*fewer workers"):
        steps(make(2, encoder=_killed), 100)
    assert time.monotonic() - began < 30


def test_the_death_of_a_worker_is_told_when_documents_are_asked_for() -> None:
    """Not in the middle of what the main process does, such as writing a checkpoint."""
    before = _children(os.getpid())
    stream = iter(make(1))
    next(stream)
    (worker,) = set(_children(os.getpid())) - set(before)
    os.kill(worker, signal.SIGKILL)
    _wait_for_end([worker], 10)
    time.sleep(0.1)
    with pytest.raises(RuntimeError, match="a loader worker died"):
        for _ in stream:
            pass


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_while_it_hands_over_is_no_hang(workers: int) -> None:
    """It leaves half a message in the pipe, and the others waiting for their turn to write."""
    before = _children(os.getpid())
    stream = iter(make(workers, encoder=_large))
    next(stream)
    time.sleep(0.5)  # now nobody reads, so the pipe is full and a worker at its next message
    for worker in set(_children(os.getpid())) - set(before):
        if _writes(worker):
            os.kill(worker, signal.SIGKILL)
            _wait_for_end([worker], 10)
            break
    else:
        raise AssertionError("no worker is in the middle of a message")
    with _at_most(20), pytest.raises(RuntimeError, match="a loader worker died"):
        for _ in stream:
            pass
    stream.close()
    assert _running(_children(os.getpid())) == before


def _large(sample: Sample) -> Encoded:
    encoded = encode(sample)
    return replace(encoded, tiles=np.zeros((len(encoded.tiles), 3, 256, 256), np.uint8))


def _writes(pid: int) -> bool:
    """Whether a thread of the process waits for room in a pipe; true as well where the kernel does not say (0)."""
    waits = [(task / "wchan").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
    return any("pipe_write" in place for place in waits) or set(waits) == {"0"}


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """AssertionError in the main thread when the block takes longer, also out of a read that would never end."""

    def late(*_: object) -> None:
        raise AssertionError(f"still waiting after {seconds} s")

    former = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


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


def _running(pids: list[int]) -> list[int]:
    """Those of the processes that have not ended."""
    found = []
    for pid in pids:
        with suppress(FileNotFoundError, ProcessLookupError):
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z":
                found.append(pid)
    return found


def _wait_for_end(pids: list[int], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while _running(pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _running(pids)


def test_a_worker_that_hangs_is_reported_by_its_sample() -> None:
    """And nothing is left running, though the error is still held."""
    before = _children(os.getpid())
    began = time.monotonic()
    with pytest.raises(UserError, match=_HUNG) as error:
        steps(make(3, encoder=_hanging, worker_timeout=2), 100)
    assert 2 <= time.monotonic() - began < 12 and "\n" not in str(error.value)
    assert _running(_children(os.getpid())) == before


_HUNG = (
    r"has been at sample (\d+) of source 'long' \(draw \d+\) for \d+ s \(worker_timeout=2\); "
    r".*--source long --sample \1\)"
)


def _hanging(sample: Sample) -> Encoded:
    if sample.source == "long":
        time.sleep(1000)
    return encode(sample)


def test_time_that_the_main_process_takes_is_not_that_of_the_workers() -> None:
    """A step that is longer than the timeout, and after it a read that is nearly as long."""
    stream = iter(make(1, encoder=_pausing, worker_timeout=2))
    next(stream)
    time.sleep(2.2)
    for _ in range(80):
        next(stream)
    stream.close()


_encoded = iter(range(1_000_000))


def _pausing(sample: Sample) -> Encoded:
    if next(_encoded) == 180:  # more than are read ahead
        time.sleep(1.2)
    return encode(sample)


def test_workers_end_when_the_main_process_was_killed() -> None:
    """While they write into its pipe, which is full: nobody else would end them."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    main = multiprocessing.get_context("fork").Process(target=_say_children_and_wait, args=(writer,))
    main.start()
    children = reader.recv()
    assert len(children) == 2 == len(_running(children))
    main.kill()
    main.join()
    _wait_for_end(children, 10)


def _say_children_and_wait(writer: Connection) -> None:
    stream = iter(make(2, encoder=_large))
    next(stream)
    time.sleep(0.5)
    writer.send(_children(os.getpid()))
    time.sleep(1000)


def _large(sample: Sample) -> Encoded:
    found = encode(sample)
    return replace(found, tiles=np.zeros((len(found.tiles), 3, 500, 500), np.uint8))


def test_control_c_and_sigterm_are_for_the_main_process() -> None:
    """To the whole group, as terminals and schedulers send them: a run may finish its step first, and its workers go
    on. Afterwards they end at once."""
    code = """
        import signal, sys, time
        sys.path.insert(0, "tests")
        import sized_samples
        signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
        signal.signal(signal.SIGTERM, lambda *_: print("asked", flush=True))
        stream = iter(sized_samples.make(2, encoder=sized_samples.slowly))
        for word in ("ready", "on", "done"):
            next(stream)
            print(word, flush=True)
            for _ in range(20 if word != "done" else 0):
                next(stream)
        began = time.monotonic()
        stream.close()
        assert time.monotonic() - began < 3
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
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
        assert process.stdout.readline() == "on\n"
        os.killpg(process.pid, signal.SIGTERM)
        assert process.stdout.readline() == "asked\n"
        assert process.stdout.readline() == "done\n"
        assert process.stdout.readline() == "again\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.readline() == "ended\n"
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

    def fresh(workers: int, rank: int = 0, ranks: int = 1) -> PackedLoader:
        mixture = Mixture(groups, {"reds": len(source)})
        return PackedLoader(
            mixture,
            {"reds": source},
            processor.encode,
            processor.measure,
            tokens=128,
            tiles=16,
            rows=ranks,
            workers=workers,
            lookahead=3,
            rank=rank,
            world_size=ranks,
        )

    loader = fresh(0)
    found = steps(loader, 5)
    assert found == steps(fresh(1), 5)
    for rank in range(2):
        assert steps(fresh(0, rank, 2), 2) == found[rank:4:2]
    loader.state_dict()
    assert {one.id for one in loader.skipped} == {"4:red 4"} and "4:red 4" in loader.skipped[0].reason
    assert {ref.index for step in found for batch in step for ref in batch[0]} == {0, 1, 2, 3, 5}
    assert loader.realised["reds"].tiles > loader.realised["reds"].samples
