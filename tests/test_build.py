"""The engine of all builders: the same bytes whatever happens on the way, and nothing dropped in silence."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from build_harness import Squares, run
from same import assert_same

from mm15.corpora.build import build, is_heldout
from mm15.corpora.engines import CRASHED, Failed, in_order
from mm15.data.sources import open_source
from mm15.errors import UserError
from mm15.recipe import ParquetSource, WebDatasetSource

HARNESS = Path(__file__).parent / "build_harness.py"
FORMS = ("webdataset", "parquet")


def content(out: Path) -> dict[str, bytes]:
    """All files of a build but what readers add; the path of `out` in its own descriptions is made one for all."""
    found = {path.name: path.read_bytes() for path in sorted(out.iterdir()) if path.suffix not in (".npz", "")}
    return {name: data.replace(str(out).encode(), b"OUT") for name, data in found.items()}


@pytest.fixture(scope="module", params=FORMS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """The form, and an uninterrupted build made in this process."""
    out = tmp_path_factory.mktemp("whole") / request.param
    run(out, request.param, 0)
    return request.param, out


@pytest.fixture(scope="module")
def tars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tars") / "out"
    run(out, "webdataset", 0)
    return out


def test_samples_come_in_order_and_nothing_is_lost(whole: tuple[str, Path]) -> None:
    to, out = whole
    squares = Squares()
    made = [s for i in squares.items() if i % 11 != 5 for s in squares.make(i).samples if s.id != "30.1"]
    block = json.loads((out / "dataset.json").read_text())["source"]
    settings = WebDatasetSource(**block) if to == "webdataset" else ParquetSource(**block)
    read = open_source(settings, "squares")
    assert len(read) == len(made)
    for i, sample in enumerate(made):
        assert_same(read[i], sample)
        assert read[i].meta == sample.meta
    ends = {"webdataset": "tar", "parquet": "parquet"}[to]
    assert sorted(p.name for p in out.glob("*." + ends)) == [f"shard-{i:06d}.{ends}" for i in range(-(-len(made) // 7))]


def test_what_is_left_out_is_counted_and_named(tars: Path) -> None:
    told = json.loads((tars / "dataset.json").read_text())
    torn = next(reason for reason in told["skipped"] if "picture 0" in reason)
    assert told["skipped"] == {"no square has eleven sides": 5, "too round": 5, torn: 1}
    lines = [json.loads(line) for line in (tars / "skipped.jsonl").read_text().splitlines()]
    assert [line["what"] for line in lines if line["reason"] == torn] == ["30.1"]
    sides = [line["what"] for line in lines if line["reason"].startswith("no ")]
    assert sides == ["5", "16", "27", "38", "49"]
    assert told["samples"] == sum(shard["samples"] for shard in told["shards"]) == sum(told["tasks"].values())
    assert told["coordinates"] == "pixels of the original picture"


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same_bytes(whole: tuple[str, Path], tmp_path: Path, workers: int) -> None:
    to, out = whole
    run(tmp_path / "out", to, workers)
    assert content(tmp_path / "out") == content(out)


def test_killed_at_random_moments_gives_the_same_bytes(whole: tuple[str, Path], tmp_path: Path) -> None:
    to, out = whole
    rng, began, lives = random.Random(to), 0, 0
    other = tmp_path / "out"
    while True:
        command = [sys.executable, str(HARNESS), str(other), to, "2"]
        life = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE)
        lives += 1
        try:
            if lives <= 4:  # from the first sign of life on, so that each life does something
                waited = time.monotonic() + 30
                while len(list(other.glob("shard-*"))) <= began and life.poll() is None and time.monotonic() < waited:
                    time.sleep(0.005)
                time.sleep(rng.uniform(0, 0.25))
                began = len(list(other.glob("shard-*[tr]")))
            else:
                assert life.wait(60) == 0, life.stderr and life.stderr.read().decode()
                break
        finally:
            if life.poll() is None:
                os.killpg(life.pid, signal.SIGKILL)
            life.wait()
    assert content(other) == content(out)


def test_ray_gives_the_same_bytes(tars: Path, tmp_path: Path) -> None:
    import ray

    path = {"env_vars": {"PYTHONPATH": str(HARNESS.parent)}}  # the workers import the builder from there
    former = signal.getsignal(signal.SIGTERM)
    ray.init(num_cpus=2, object_store_memory=80_000_000, include_dashboard=False, log_to_driver=False, runtime_env=path)
    try:
        build(Squares(), tmp_path / "out", shard_samples=7, engine="ray")
        assert content(tmp_path / "out") == content(tars)
        with pytest.raises(RuntimeError, match=r"item 20 .*ZeroDivisionError: a fault of ours"):
            build(Squares(trouble="bug"), tmp_path / "bug", engine="ray")
        with pytest.raises(UserError, match=r"Ray could not make item 0 \(0\): .*finished shards are kept"):
            list(in_order(Unknown(), [0], workers=1, engine="ray"))
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, former)


def test_a_ray_of_our_own_gives_sigterm_back() -> None:
    """Ray's handler only asks a process to end; a pool that another library forks later could wait for ever."""
    former = signal.getsignal(signal.SIGTERM)
    assert list(in_order(abs, [-3], workers=1, engine="ray")) == [3]
    assert signal.getsignal(signal.SIGTERM) is former


def test_a_fault_of_ours_stops_and_names_the_item(tars: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for workers in (0, 2):
        with pytest.raises(RuntimeError, match=r"(?s)item 20 \(20\): ZeroDivisionError: a fault of ours.*in misbehave"):
            run(out, "webdataset", workers, trouble="bug")
        assert (out / "shard-000000.tar").read_bytes() == (tars / "shard-000000.tar").read_bytes()
        assert not list(out.glob("*.partial")) and not (out / "dataset.json").exists()
    run(out, "webdataset", 2)
    assert content(out) == content(tars)


def test_a_crash_of_native_code_costs_its_item(tars: Path, tmp_path: Path) -> None:
    report = run(tmp_path / "out", "webdataset", 2, trouble="SIGSEGV")
    assert report.skipped[CRASHED] == 1
    assert report.samples == json.loads((tars / "dataset.json").read_text())["samples"]  # item 20 has none
    once = tmp_path / "mark"
    run(tmp_path / "once", "webdataset", 2, trouble=f"once:{once}")
    assert once.exists() and content(tmp_path / "once") == content(tars)


def test_a_killed_worker_is_one_line(tars: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"killed \(signal 9\) at item 20 .*--workers.*continues"):
        run(out, "webdataset", 2, trouble="SIGKILL")
    assert (out / "shard-000001.tar").exists()
    run(out, "webdataset", 1)
    assert content(out) == content(tars)


def test_control_c_ends_all_processes_quietly(tars: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, str(HARNESS), str(out), "webdataset", "2"]
    life = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    waited = time.monotonic() + 30
    while not list(out.glob("shard-*.tar")) and time.monotonic() < waited:
        time.sleep(0.01)
    os.killpg(life.pid, signal.SIGINT)  # a terminal sends it to all of them
    _, told = life.communicate(timeout=30)
    assert (life.returncode, told) == (130, "")
    with pytest.raises(ProcessLookupError):
        for _ in range(100):  # multiprocessing's own tracker ends a moment later
            os.killpg(life.pid, 0)
            time.sleep(0.05)
    run(out, "webdataset", 0)
    assert content(out) == content(tars)


def test_a_finished_build_is_not_made_again(tars: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in tars.glob("shard-*")}
    report = run(tars, "webdataset", 2, trouble="bug")
    assert report.items == 60
    assert {path.name: path.stat().st_mtime_ns for path in tars.glob("shard-*")} == before


def test_other_builds_and_other_files_are_left_alone(tars: Path, tmp_path: Path) -> None:
    before = content(tars)
    with pytest.raises(UserError, match=r"begun with settings.count=60 and this has 61; give another --out"):
        run(tars, "webdataset", 0, count=61)
    with pytest.raises(UserError, match=r'to="webdataset" and this has "parquet"'):
        run(tars, "parquet", 0)
    assert content(tars) == before
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds other files \(thesis.tex\)"):
        run(tmp_path, "webdataset", 0)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        run(tmp_path / "file" / "below", "webdataset", 0)


def test_one_folder_has_one_writer(tmp_path: Path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another build is writing here"):
        run(tmp_path, "webdataset", 0)


class Unknown:
    """A maker whose package the other machines do not have."""

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return elsewhere, ("nowhere",)

    def __call__(self, item: int) -> int:
        return item


def elsewhere(name: str) -> object:
    """What fails to be imported there."""
    raise ModuleNotFoundError(f"No module named {name!r}")


def mark(item: tuple[str, int]) -> int:
    """Leave a file behind for each item."""
    Path(item[0], str(item[1])).touch()
    return item[1]


def test_results_wait_within_bounds(tmp_path: Path) -> None:
    """While the first result waits to be taken, no more than 4 a worker are made ahead of it."""
    results: Iterator[int] = in_order(mark, [(str(tmp_path), i) for i in range(50)], workers=2)
    assert next(results) == 0
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) <= 8
    assert list(results) == list(range(1, 50))


def reciprocal(item: int) -> float:
    """UserError for 0."""
    if not item:
        raise UserError("nothing to divide by")
    return 1 / item


def test_user_errors_are_results() -> None:
    assert list(in_order(reciprocal, [2, 0, 4], workers=0)) == [0.5, Failed("nothing to divide by"), 0.25]
    assert list(in_order(reciprocal, [], workers=2)) == []


def test_heldout_is_a_share_that_only_grows() -> None:
    keys = [f"key {i}" for i in range(5000)]
    held = {share: {key for key in keys if is_heldout(key, share)} for share in (0.0, 0.02, 0.1, 1.0)}
    assert not held[0.0] and len(held[1.0]) == 5000
    assert abs(len(held[0.02]) - 100) < 40 and abs(len(held[0.1]) - 500) < 90
    assert held[0.02] < held[0.1]
