"""Recaptioning against a real server on this machine, with everything that goes wrong there, and with our own model."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as PILImage
from same import picture_bytes

from mm15.corpora.build import build
from mm15.corpora.recaption import Endpoint, EndpointCaptioner, Filters, Form, ModelCaptioner, recaption
from mm15.data.sources import open_source
from mm15.errors import UserError
from mm15.recipe import WebDatasetSource
from mm15.sample import Image, Sample, document

TINY = Path(__file__).parent / "tiny.yaml"
Reply = tuple[int, Any, dict[str, str]]


def square(number: int) -> bytes:
    """A picture whose colour says its number."""
    buffer = io.BytesIO()
    PILImage.new("RGB", (40, 24), (number * 20 % 256, 100, 50)).save(buffer, "PNG")
    return buffer.getvalue()


def number_of(request: dict[str, Any]) -> int:
    """The number of the picture in a request, from its pixels."""
    address = next(c for c in request["messages"][0]["content"] if c["type"] == "image_url")["image_url"]["url"]
    assert address.startswith("data:image/jpeg;base64,")
    picture = PILImage.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))
    assert picture.size == (40, 24)
    return round(float(np.asarray(picture)[..., 0].mean()) / 20)


def prompt_of(request: dict[str, Any]) -> str:
    return next((c["text"] for c in request["messages"][0]["content"] if c["type"] == "text"), "")


class Pictures:
    """A source of samples."""

    def __init__(self, samples: list[Sample | UserError]) -> None:
        self.samples, self.name, self.fingerprint = samples, "pictures", f"pictures:{len(samples)}:abc"

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample = self.samples[index]
        if isinstance(sample, UserError):
            raise sample
        return sample


def pictures(count: int, old: str = "") -> Pictures:
    return Pictures([Sample(f"p{i}", "x", document(Image(square(i)), *([old] if old else []))) for i in range(count)])


WORDS = ("red", "green", "blue", "small", "large", "old", "new", "round", "flat", "tall", "wide", "thin")


def caption(number: int) -> str:
    """A caption unlike all others."""
    return " ".join(f"{word}{number}" for word in WORDS) + " thing stands on a table."


def said(text: str | None, finish: str = "stop") -> Reply:
    return 200, {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}, {}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server on this machine: set `reply`, look at `requests`; `slow` seconds pass before each answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                web.busy += 1
                web.most_busy = max(web.most_busy, web.busy)
                web.requests.append((self.path, dict(self.headers), request))
                web.tries[number_of(request), prompt_of(request)] += 1
            time.sleep(web.slow)
            status, content, headers = web.reply(request)
            with lock:
                web.busy -= 1
            raw = content if isinstance(content, bytes) else json.dumps(content).encode()
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it did not wait for us

        def log_message(self, *_: object) -> None:
            pass

    lock = threading.Lock()
    web: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    web.daemon_threads = True
    web.requests, web.tries, web.busy, web.most_busy, web.slow = [], Counter(), 0, 0, 0.0
    web.reply = lambda request: said(caption(number_of(request)))
    web.url = f"http://127.0.0.1:{web.server_port}/v1"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # must not be used for this machine
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    thread = threading.Thread(target=web.serve_forever, args=(0.02,))
    thread.start()
    yield web
    web.shutdown()
    thread.join()
    web.server_close()


def asker(server: Any, **changes: Any) -> EndpointCaptioner:
    quick: dict[str, Any] = {"parallel": 3, "timeout": 5.0, "retries": 3, "pause": 0.01}
    return EndpointCaptioner(Endpoint(server.url, "llava", **{**quick, **changes}))


def written(out: Path) -> list[Sample]:
    source = open_source(WebDatasetSource(format="webdataset", path=str(out / "train" / "*.tar")), "c")
    return [source[i] for i in range(len(source))]


def left_out(out: Path) -> dict[str, str]:
    return {(row := json.loads(line))["what"]: row["reason"] for line in (out / "train" / "skipped.jsonl").open()}


def make(source: Pictures, captioner: Any, out: Path, **options: Any) -> list[Sample]:
    builder = recaption(source, captioner, out, **{"prompts": ["Describe it."], **options})
    build(builder, out / "train", workers=0)
    return written(out)


# ------------------------------------------------------------------------------------------------------------ endpoint


def test_pictures_come_back_with_their_own_captions(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server.slow = 0.02
    source = pictures(10, old="an old caption")
    samples = make(source, asker(server), tmp_path)
    assert [s.meta["from"] for s in samples] == [f"p{i}" for i in range(10)]
    for i, sample in enumerate(samples):
        image, text = (part.content for part in sample.parts)
        assert text == caption(i) and picture_bytes(image) == square(i) and sample.parts[1].target
        assert sample.meta["old"] == "an old caption"
    path, headers, request = server.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert (request["model"], request["temperature"], request["max_tokens"]) == ("llava", 0.0, 256)
    assert prompt_of(request) == "Describe it." and server.most_busy == 3
    told = (tmp_path / "train" / "dataset.json").read_text()
    assert (
        "secret" not in told + (tmp_path / "answers.jsonl").read_text()
        and str(tmp_path) not in told.split('"source": {')[0]
    )
    chat = make(source, asker(server), tmp_path / "chat", form=Form.CHAT, answers=tmp_path / "answers.jsonl")
    assert [p.role for p in chat[0].parts] == ["user", "user", "assistant"] and len(server.requests) == 10


def test_what_may_pass_is_tried_again(server: Any, tmp_path: Path) -> None:
    """Each picture fails first in its own way, and gets its caption in the end."""
    first: dict[int, Callable[[], Reply]] = {
        0: lambda: (500, {"error": {"message": "boom"}}, {}),
        1: lambda: (429, {"error": "slow down"}, {"Retry-After": "0"}),
        2: lambda: (200, b"<html>not json", {}),
        3: lambda: (200, {"choices": []}, {}),
        4: lambda: (time.sleep(0.6), said("too late"))[1],
        5: lambda: (503, b"", {"Retry-After": "soon"}),
    }

    def reply(request: dict[str, Any]) -> Reply:
        number = number_of(request)
        return (
            first[number]() if server.tries[number, "Describe it."] == 1 and number in first else said(caption(number))
        )

    server.reply = reply
    samples = make(pictures(8), asker(server, timeout=0.3), tmp_path)
    assert [s.parts[1].content for s in samples] == [caption(i) for i in range(8)]
    assert all(server.tries[i, "Describe it."] == (2 if i in first else 1) for i in range(8))


def test_retries_wait_longer_and_longer_and_as_asked(server: Any, tmp_path: Path) -> None:
    times: list[float] = []

    def reply(request: dict[str, Any]) -> Reply:
        times.append(time.monotonic())
        return (
            (429, {}, {"Retry-After": "1"})
            if len(times) == 3
            else (500, {}, {})
            if len(times) < 5
            else said(caption(0))
        )

    server.reply = reply
    make(pictures(1), asker(server, pause=0.05, retries=5), tmp_path)
    gaps = np.diff(times)
    assert 0.05 <= gaps[0] < 0.1 <= gaps[1] < 0.3 and 1.0 <= gaps[2] < 1.6 and gaps[3] >= 0.4


def test_unanswered_pictures_are_asked_again_and_nothing_twice(server: Any, tmp_path: Path) -> None:
    server.reply = lambda r: (500, {}, {}) if number_of(r) in (2, 4) else said(caption(number_of(r)))
    with pytest.raises(UserError, match=r"2 of 6 pictures went unanswered.*'p2'.*--give-up"):
        recaption(pictures(6), asker(server, retries=1), tmp_path, prompts=["Describe it."])
    assert not (tmp_path / "train").exists() and server.tries[2, "Describe it."] == 2
    done = make(
        pictures(6), asker(server, retries=0), tmp_path / "given-up", give_up=True, answers=tmp_path / "answers.jsonl"
    )
    assert len(done) == 4 and left_out(tmp_path / "given-up")["sample 'p2', picture 0"] == "was never answered"
    server.reply = lambda r: said(caption(number_of(r)))
    server.requests.clear()
    assert len(make(pictures(6), asker(server), tmp_path)) == 6
    assert sorted(number_of(request) for _, _, request in server.requests) == [2, 4]
    shard = (tmp_path / "train" / "shard-000000.tar").read_bytes()
    rows = (tmp_path / "answers.jsonl").read_text().splitlines()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "answers.jsonl").write_text("\n".join(reversed(rows)) + '\n{"key": "torn')
    make(pictures(6), asker(server), tmp_path / "other")
    assert len(server.requests) == 2 and (tmp_path / "other" / "train" / "shard-000000.tar").read_bytes() == shard
    assert (tmp_path / "other" / "answers.jsonl").read_text().splitlines() == rows[::-1]  # the torn line is gone


def test_refused_pictures_are_left_out(server: Any, tmp_path: Path) -> None:
    replies = {1: (400, {"error": {"message": "not\nallowed"}}, {}), 2: said(None), 3: said(caption(3), "length")}
    server.reply = lambda r: replies.get(number_of(r), said(caption(number_of(r))))
    source = pictures(6)
    source.samples += [
        UserError("damaged row"),
        Sample("text", "x", document("no picture")),
        Sample("bad", "x", document(Image(b"no picture"))),
        Sample("again", "x", document(Image(square(0)))),
    ]
    assert [s.meta["from"] for s in make(source, asker(server), tmp_path)] == ["p0", "p4", "p5"]
    reasons = left_out(tmp_path)
    assert reasons["sample 'p1', picture 0"] == "the endpoint refuses it (400: not allowed)"
    assert reasons["sample 'p2', picture 0"] == "the endpoint gave no text"
    assert reasons[f"sample 'p3', picture 0: \"{caption(3)}\""] == "was cut off at the token limit"
    assert reasons["sample 6"] == "damaged row" and reasons["sample 'text'"] == "has no picture"
    assert "not a picture" in reasons["sample 'bad', picture 0"]
    assert reasons[f"sample 'again', picture 0: \"{caption(0)}\""] == "is the picture of an earlier sample"
    assert server.tries[0, "Describe it."] == 1


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ((401, {"error": {"message": "bad key"}}, {}), r"401 \(bad key\); check OPENAI_API_KEY"),
        ((404, {"message": "no model"}, {}), "404 .*the model's name"),
        ((302, b"", {"Location": "http://127.0.0.1:9/"}), "answers 302"),
        ((500, {}, {}), r"answered none of \d+ requests"),
        ((400, {}, {}), r"answered none of \d+ requests"),
    ],
)
def test_hopeless_servers_are_given_up_soon(server: Any, tmp_path: Path, reply: Reply, why: str) -> None:
    server.reply = lambda _: reply
    with pytest.raises(UserError, match=why):
        recaption(pictures(12), asker(server, retries=2), tmp_path, prompts=["a"])
    assert len(server.requests) <= 14


def test_addresses_that_are_none(server: Any, tmp_path: Path) -> None:
    nobody = EndpointCaptioner(Endpoint("http://127.0.0.1:9/v1", "m", retries=1, pause=0.01))
    with pytest.raises(UserError, match="no connection"):
        recaption(pictures(12), nobody, tmp_path, prompts=["a"])
    for bad in ("ftp://x/v1", "localhost:80", "http://me:secret@host/v1", "file:///etc/passwd"):
        with pytest.raises(UserError):
            Endpoint(bad, "m")
    for name, value in (("parallel", 0), ("timeout", 0.0), ("retries", -1)):
        with pytest.raises(UserError, match=name):
            Endpoint(server.url, "m", **{name: value})


def test_several_answers_have_to_agree(server: Any, tmp_path: Path) -> None:
    """Two prompts, two draws each: the first answer is the caption where all four agree."""
    server.reply = lambda r: said(caption(number_of(r) + (20 if number_of(r) == 1 and prompt_of(r) == "b" else 0)))
    samples = make(
        pictures(3), asker(server, temperature=0.5), tmp_path, prompts=["a", "b"], draws=2, filters=Filters(agree=0.9)
    )
    assert [s.meta["from"] for s in samples] == ["p0", "p2"] and samples[0].meta["agreement"] == 1.0
    assert Counter((prompt_of(r), r["seed"]) for _, _, r in server.requests) == {
        (p, d): 3 for p in "ab" for d in (0, 1)
    }
    assert list(left_out(tmp_path).values()) == ["the answers agree by less than 0.9"]
    old = pictures(2, old=caption(1))
    make(old, asker(server), tmp_path / "old", prompts=["a"], filters=Filters(agree_old=0.5))
    assert [s.meta["from"] for s in written(tmp_path / "old")] == ["p1"]


def test_another_run_in_the_same_place(server: Any, tmp_path: Path) -> None:
    make(pictures(2), asker(server), tmp_path)
    make(pictures(2), asker(server), tmp_path)  # again: nothing to do
    with pytest.raises(UserError, match=r"filters\.words"):
        make(pictures(2), asker(server), tmp_path, filters=Filters((1, 9)))
    (tmp_path / "answers.jsonl").write_text('{"key": 1}\n')
    with pytest.raises(UserError, match=r"answers.jsonl line 1: not an answer"):
        make(pictures(2), asker(server), tmp_path)


# ---------------------------------------------------------------------------------------------------------- our models


def test_our_own_model_and_the_command(tiny_run: Path, mm15_command: Any, tmp_path: Path) -> None:
    """The same captions as a conversation gives, alone or in batches; then the whole command, twice."""
    from mm15.generate import Conversation, load

    source = pictures(5)
    mine = ModelCaptioner(tiny_run, max_new_tokens=6, batch=3)
    loose = Filters((1, 300), repeated=1.0, alike=1.0)
    recaption(source, mine, tmp_path, prompts=["What is this?"], filters=loose)
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").open()]
    model, processor = load(tiny_run)
    for row, sample in zip(answers, source.samples, strict=True):
        assert isinstance(sample, Sample)
        expected = Conversation(model, processor, max_new_tokens=6).ask("What is this?", images=[sample.images[0]]).text
        assert row["text"] == expected
    arguments = ["data", "recaption", tiny_run, f"{TINY}:object_caption", "--out", tmp_path / "out", "--limit", 6]
    options = ["--max-new-tokens", 6, "--words", "1,300", "--repeated", 1, "--prompt", "", "--json"]
    first, second = (mm15_command(*arguments, *options) for _ in range(2))
    assert (first.returncode, first.stdout) == (second.returncode, second.stdout), first.stderr
    if first.returncode:  # so little trained, it may never come to an end of a caption
        assert "no samples came of it (was cut off at the token limit)" in first.stderr
    else:
        assert json.loads(first.stdout)["parts"]["train"]["items"] == 6
    assert 1 <= len((tmp_path / "out" / "answers.jsonl").read_text().splitlines()) <= 6
    wrong = mm15_command("data", "recaption", tiny_run, f"{TINY}:captoin", "--out", tmp_path / "out")
    assert wrong.returncode == 2 and "no source 'captoin'" in wrong.stderr
