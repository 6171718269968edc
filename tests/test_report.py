"""The report: everything of a run is on the page, nothing is fetched, and what is missing is said."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from fake_run import fake_run

from mm15 import page
from mm15.errors import UserError
from mm15.evaluate.plots import loss_curve, running_mean
from mm15.evaluate.report import write_report
from mm15.evaluate.run_record import read_run

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Checker(HTMLParser):
    """Collects text and addresses, and insists that every tag is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [
            value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "xlink:href")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


def check(html: str) -> Checker:
    checker = Checker()
    checker.feed(html)
    assert not checker.open, f"never closed: {checker.open}"
    return checker


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_run(tmp_path_factory.mktemp("run") / "whole")


@pytest.fixture(scope="module")
def html(run: Path) -> str:
    path = write_report(run)
    assert path == run / "report.html"
    return path.read_text(encoding="utf-8")


def test_page_stands_alone(html: str) -> None:
    checker = check(html)
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in checker.addresses)
    assert not {"script", "link", "iframe", "object"} & set(checker.tags)
    assert not re.search(r"url\((?!#)|@import", html)
    outside = set(re.findall(r"https?://[^\s\"'<]+", html))
    assert outside <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}, "names of XML, not addresses"


def test_page_tells_the_run(html: str) -> None:
    text = check(html).text
    for word in ("pico-made-up", "pretrain", "continual", "sft", "general", "refer-ground", "scene_color"):
        assert word in text
    assert "152k parameters" in text, "96*768 + 128*96 + 512*128 = 151,552"
    assert "13 min 30 s time training" in text, "900 steps of 0.9 s"
    assert "54k samples seen" in text
    assert html.count("<svg") == 3
    assert "1,234 of ground in continual" in text and "lies outside its picture" in text and "1,233 more" in text
    assert "siglip, from scratch, hidden_size 96" in text and "100 bins a side, written in digits" in text
    assert "cosine, warm-up 20" in text


def test_scores_are_those_of_the_files(run: Path, html: str) -> None:
    for stage in ("pretrain", "continual", "sft"):
        found = json.loads((run / "evaluation" / f"{stage}.json").read_text())
        for kind, marks in (("groups", ""), ("blank", " blank")):
            for score in found[kind].values():
                assert f'<span class="dot{marks}" style="left:{100 * score["score"]:.2f}%">' in html
                width = 100 * (score["high"] - score["low"])
                assert f'<span class="range{marks}" style="left:{100 * score["low"]:.2f}%;width:{width:.2f}%">' in html


def test_mixture_shows_asked_against_realised(run: Path, html: str) -> None:
    shares = json.loads((run / "stages" / "sft" / "mixture.json").read_text())
    total = sum(one["samples"] for one in shares["realised"].values())
    text = check(html).text
    for source, asked in shares["asked"].items():
        realised = shares["realised"][source]["samples"]
        assert f"{source} {100 * asked:.2f} % {100 * realised / total:.2f} % {realised:,}" in text


def test_examples_carry_their_picture_and_every_stages_reply(run: Path, html: str) -> None:
    examples = json.loads((run / "evaluation" / "examples" / "sft" / "examples.json").read_text())
    assert len(examples) == 8, "four a group"
    for example in examples:
        assert page.picture(run / "evaluation" / "examples" / "sft" / example["file"]) in html
    text = check(html).text
    first = examples[0]
    assert f"{first['question']} true {first['answer']} pretrain" in text


def test_what_models_say_cannot_become_html(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run")
    path = folder / "evaluation" / "examples" / "sft" / "examples.json"
    examples = json.loads(path.read_text())
    examples[0]["reply"] = "</dd><script>alert(1)</script>\x00"
    path.write_text(json.dumps(examples))
    html = write_report(folder).read_text()
    assert "<script" not in html and "&lt;script&gt;" in html and "\x00" not in html
    check(html)


def test_unfinished_run_says_what_is_missing(tmp_path: Path) -> None:
    html = write_report(fake_run(tmp_path / "run", evaluated=False)).read_text()
    text = check(html).text
    assert "Stage pretrain has no evaluation yet." in text
    assert "Stage continual is at step 77 of 200." in text
    assert "Stage sft has not started." in text
    assert "Scores on held-out samples" not in text
    assert "parameters" not in text


def test_run_without_any_step(tmp_path: Path) -> None:
    folder = fake_run(tmp_path / "run", evaluated=False)
    for path in folder.glob("stages/*/*"):
        path.unlink()
    text = check(write_report(folder).read_text()).text
    assert "No step has been trained yet." in text and "Stage pretrain has not started." in text


def test_user_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a run folder"):
        write_report(tmp_path)
    folder = fake_run(tmp_path / "run")
    (folder / "evaluation" / "sft.json").write_text("{")
    with pytest.raises(UserError, match=r"sft\.json: damaged"):
        write_report(folder)


def test_cut_off_line_of_metrics_is_left_out(run: Path) -> None:
    stage = read_run(run).stages[0]
    assert len(stage.metrics) == 400 and stage.done


def test_running_mean() -> None:
    values = np.random.default_rng(0).random(50)
    got = running_mean(values, 6)
    for i in range(50):
        assert got[i] == pytest.approx(values[max(i - 3, 0) : i + 4].mean())
    values[10] = np.nan
    assert running_mean(values, 2)[10] == pytest.approx((values[9] + values[11]) / 2)
    assert running_mean(values, 0)[9] == pytest.approx(values[9])


def test_curve_takes_the_pages_colours() -> None:
    svg = loss_curve([1, 2, 3], [3.0, float("nan"), 1.0], name="sft")
    assert "currentColor" in svg and "var(--blue)" in svg and "#010203" not in svg
    assert "width=" not in svg.split(">")[0]
    assert svg == loss_curve([1, 2, 3], [3.0, float("nan"), 1.0], name="sft"), "the same every time"
    assert loss_curve([1], [float("nan")], name="one")


def test_numbers_as_people_write_them() -> None:
    assert [page.amount(n) for n in (7, 950, 12_345, 4_560_000, 1.2e9)] == ["7", "950", "12.3k", "4.56M", "1.2B"]
    assert [page.duration(s) for s in (42, 750, 11_100)] == ["42 s", "12 min 30 s", "3 h 05 min"]
