"""The command line: results on stdout, one clear line and status 2 for what the user can mend, nothing written then."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage

from mm15.recipe import shipped


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "photo.jpg"
    gradient = np.linspace(0, 255, 200 * 320 * 3).reshape(200, 320, 3).astype(np.uint8)
    PILImage.fromarray(gradient).save(path)
    return path


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Status 2, nothing on stdout, exactly one line on stderr with these words."""
    assert done.returncode == 2, (done.returncode, done.stderr[-2000:])
    assert done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0], lines[0]


def test_tiles_answers_as_documented(mm15_command) -> None:
    done = mm15_command("tiles", "640x480", "--json")
    told = json.loads(done.stdout)
    assert (told["rows"], told["cols"]) == (2, 2)
    assert "2" in mm15_command("tiles", "640x480").stdout


def test_tiles_draws_a_picture_file(mm15_command, photo: Path, tmp_path: Path) -> None:
    done = mm15_command("tiles", photo, "--tile", "64", "--draw", tmp_path / "grid.png", "--json")
    told = json.loads(done.stdout)
    assert (told["width"], told["height"]) == (320, 200)
    assert PILImage.open(tmp_path / "grid.png").size[0] > 64


def test_recipe_prints_names_schema_and_resolved_copies(mm15_command) -> None:
    assert mm15_command("recipe").stdout.split() == shipped()
    assert "stages" in json.loads(mm15_command("recipe", "--schema").stdout)["properties"]
    assert "steps: 7\n" in mm15_command("recipe", "pico", "stages.sft.steps=7").stdout


def test_chat_answers_in_json_and_draws(mm15_command, tiny_run: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "drawn.png"
    done = mm15_command("chat", tiny_run, photo, "-p", "Where is it?", "--box", "1,2,30,40", "--draw", out, "--json")
    assert done.returncode == 0, done.stderr
    assert {"text", "regions", "malformed"} <= json.loads(done.stdout).keys()
    assert PILImage.open(out).size[0] >= 320


def test_chat_is_a_conversation_without_a_prompt(mm15_command, tiny_run: Path, photo: Path) -> None:
    done = mm15_command("chat", tiny_run, photo, "--max-new-tokens", "4", input="What is it?\nAnd now?\n\n")
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stdout.splitlines() if not line.startswith("  ")]) == 2


def test_evaluate_scores_a_run(mm15_command, tiny_run: Path) -> None:
    done = mm15_command("evaluate", tiny_run, "--group", "refer-ground", "--limit", "2", "--json")
    assert list(json.loads(done.stdout)["groups"]) == ["refer-ground"]


def test_report_is_one_page_that_fetches_nothing(mm15_command, tiny_run: Path) -> None:
    page = Path(mm15_command("report", tiny_run).stdout.strip())
    text = page.read_text()
    assert page == tiny_run / "report.html"
    assert 'src="http' not in text and 'href="http' not in text and "<script src" not in text
    for word in ("pretrain", "continual", "sft", "refer-ground"):
        assert word in text


def test_bad_pictures_are_one_line(mm15_command, tiny_run: Path, photo: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.jpg"
    torn.write_bytes(photo.read_bytes()[:700])
    PILImage.new("RGB", (100_000, 1)).save(tmp_path / "strip.png")
    (tmp_path / "empty.png").write_bytes(b"")
    out = tmp_path / "out.png"
    for picture, word in [
        (tmp_path / "none.png", "none.png"),
        (torn, "torn.jpg"),
        (tmp_path / "strip.png", "100000x1"),
        (tmp_path / "empty.png", "empty.png"),
        (tmp_path, str(tmp_path)),
    ]:
        refused(mm15_command("chat", tiny_run, picture, "-p", "?", "--draw", out), word)
    refused(mm15_command("tiles", "0x0"), "0x0")
    refused(mm15_command("tiles", "100000x1"), "100000x1")
    assert not out.exists()


def test_bad_arguments_are_one_line(mm15_command, tiny_run: Path, photo: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    refused(mm15_command("run", "pico", "stages.sft.stesp=3", "--out", out), "stages.sft.stesp", "did you mean 'steps'")
    groups = ("single", "multi", "text")
    zero = [f"stages.sft.mixture.{group}.weight=0" for group in groups]
    refused(mm15_command("run", "pico", *zero, "--out", out), "sum to zero")
    refused(mm15_command("run", "pyco", "--out", out), "did you mean 'pico'")
    refused(mm15_command("run", "pico", "--stage", "sfd", "--out", out), "sfd", "sft")
    assert not out.exists()
    refused(mm15_command("chat", tiny_run, photo, "-p", "?", "--box", "0,0,400,10"), "400", "320x200")
    refused(mm15_command("chat", tiny_run, photo, "-p", "?", "--point", "1,2,3"), "--point", "X,Y")
    refused(mm15_command("chat", tmp_path / "none", photo, "-p", "?"), "no such folder")
    refused(mm15_command("tiles", "640x480", "--nosuch"), "--nosuch")
    refused(mm15_command("tiles", "640x480", "--max-tiles", "2"), "max_tiles")


def test_an_unreadable_checkpoint_is_one_line(mm15_command, tiny_run: Path, tmp_path: Path) -> None:
    import shutil

    run = tmp_path / "run"
    shutil.copytree(tiny_run, run)
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(mm15_command("chat", run, "-p", "?"), "run", "weights")
    shutil.rmtree(run / "model")
    for shard in run.glob("stages/*/step-*/*.distcp"):
        shard.write_bytes(b"")
    before = {path for path in run.rglob("*") if path.is_file()}
    done = mm15_command("run", Path(__file__).parent / "tiny.yaml", "--out", run)
    assert done.returncode == 2
    assert done.stderr.strip().splitlines()[-1].startswith("mm15: ")
    assert "unreadable checkpoint" in done.stderr.splitlines()[-1]
    assert {path for path in run.rglob("*") if path.is_file()} == before


def test_import_is_light() -> None:
    """Under two seconds, without torch or transformers; and the tiles command does without them too."""
    probe = "import sys, time; t = time.perf_counter(); import mm15; t = time.perf_counter() - t; "
    probe += "assert t < 2, t; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'heavy'"
    subprocess.run([sys.executable, "-c", probe], check=True, timeout=60)
    light = (
        "import sys\nsys.argv = ['mm15', 'tiles', '64x64']\nfrom mm15 import cli\n"
        "try:\n    cli.main()\nexcept SystemExit as end:\n    assert not end.code\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", light], check=True, timeout=60, stdout=subprocess.DEVNULL)


def test_control_c_says_how_to_go_on(tmp_path: Path) -> None:
    tiny = Path(__file__).parent / "tiny.yaml"
    command = [sys.executable, "-m", "mm15", "run", str(tiny), "stages.pretrain.steps=100000", "--out", str(tmp_path)]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    marker = tmp_path / "stages" / "pretrain" / "metrics.jsonl"
    waited = time.monotonic() + 120
    while not marker.exists() and time.monotonic() < waited:
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    _, told = run.communicate(timeout=60)
    assert run.returncode == 130
    assert told.splitlines()[-1] == "mm15: interrupted; the same command goes on from what was saved"
    assert "Traceback" not in told
