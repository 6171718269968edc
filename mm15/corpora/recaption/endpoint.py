"""Any server that speaks OpenAI's /v1/chat/completions: vLLM, llama.cpp, Ollama, mm15's own, a paid one.

Pictures travel as data: addresses. `parallel` requests are under way at a time. What may go well another time (429,
5xx, timeouts, broken connections, answers that are no JSON) is tried again after 1, 2, 4, ... seconds, or when the
server says (Retry-After); what will not (400, 413, 415, 422) is an answer: the server refuses this picture. A wrong
key, address or model stops at once, and so do 8 failures before the first success.

The key is the OPENAI_API_KEY variable; it is sent to the given server only: redirects are not followed.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections import deque
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from PIL import Image as PILImage

from ...errors import UserError
from .captioners import Answer, Question

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_WRONG = frozenset({401, 403, 404, 405})
_REFUSED = frozenset({400, 413, 415, 422})
_HOPELESS = 8
"""So many failures before the first success, and it is given up."""
_LONGEST_WAIT = 120.0
_BODY = 1 << 22
"""Bytes of an answer that are read at most."""


@dataclass(frozen=True)
class Endpoint:
    """A server and how to ask it. url: up to /v1. timeout: seconds a request. retries: after the first try. pause:
    seconds before the first retry, doubled each time. longest: larger pictures are made smaller first, in pixels."""

    url: str
    model: str
    max_tokens: int = 256
    temperature: float = 0.0
    parallel: int = 8
    timeout: float = 120.0
    retries: int = 6
    pause: float = 1.0
    longest: int = 2048

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError(f"--endpoint {self.url!r} is no address; write http://HOST:PORT/v1")
        if parts.username or parts.password:
            raise UserError("--endpoint holds a password; give it as the OPENAI_API_KEY variable")
        for name, low in (("parallel", 1), ("retries", 0), ("max_tokens", 1), ("longest", 64)):
            if getattr(self, name) < low:
                raise UserError(f"{name}={getattr(self, name)}; give {low} or more")
        if self.timeout <= 0:
            raise UserError(f"timeout={self.timeout}; give seconds above 0")


class _TryAgainError(Exception):
    """Went wrong in a way that may pass; `after` are the seconds the server asks for."""

    def __init__(self, why: str, after: float | None = None) -> None:
        super().__init__(why)
        self.after = after


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key and the pictures elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        return None


class EndpointCaptioner:
    """Asks an endpoint; answers come in the order the server gives them."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.ahead = 2 * endpoint.parallel
        self._key = os.environ.get("OPENAI_API_KEY", "")
        handlers: list[urllib.request.BaseHandler] = [_NoRedirect()]
        if urllib.parse.urlsplit(endpoint.url).hostname in _LOCAL:
            handlers.append(urllib.request.ProxyHandler({}))
        self._opener = urllib.request.build_opener(*handlers)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._answered = self._failed = 0

    def identity(self) -> dict[str, Any]:
        """The model's name and how it is asked; not the address, which may change."""
        e = self.endpoint
        return {"model": e.model, "max_tokens": e.max_tokens, "temperature": e.temperature, "longest": e.longest}

    def answer(self, questions: Iterator[Question]) -> Iterator[Answer]:
        """`parallel` at a time, and as many waiting. UserError when the server cannot be used."""
        waiting: deque[Future[Answer]] = deque()
        with ThreadPoolExecutor(self.endpoint.parallel) as pool:
            try:
                for question in questions:
                    waiting.append(pool.submit(self._ask, question))
                    if len(waiting) >= self.ahead:
                        yield from _finished(waiting)
                while waiting:
                    yield from _finished(waiting)
            finally:  # also on Ctrl-C: nobody waits out a pause
                self._stop.set()
                for future in waiting:
                    future.cancel()

    def _ask(self, question: Question) -> Answer:
        body = self._body(question)
        for attempt in range(self.endpoint.retries + 1):
            try:
                answer = self._request(question, body)
            except _TryAgainError as error:
                self._count(str(error), failed=True)
                pause = error.after if error.after is not None else self.endpoint.pause * 2**attempt
                if attempt == self.endpoint.retries or self._stop.wait(min(pause, _LONGEST_WAIT)):
                    return Answer(question.key, refused=str(error), final=False)
            else:
                self._count(answer.refused, failed=bool(answer.refused))
                return answer
        raise AssertionError("unreachable")

    def _count(self, why: str, *, failed: bool) -> None:
        with self._lock:
            self._failed += failed
            self._answered += not failed
            if not self._answered and self._failed >= _HOPELESS:
                raise UserError(f"{self.endpoint.url} answered none of {self._failed} requests ({why}); check it")

    def _body(self, question: Question) -> bytes:
        content: list[dict[str, Any]] = [
            {"type": "image_url", "image_url": {"url": data_address(question.picture, self.endpoint.longest)}}
        ]
        if question.prompt:
            content.append({"type": "text", "text": question.prompt})
        request: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.endpoint.max_tokens,
            "temperature": self.endpoint.temperature,
        }
        if self.endpoint.temperature:
            request["seed"] = question.draw
        return json.dumps(request).encode()

    def _request(self, question: Question, body: bytes) -> Answer:
        """One request. _TryAgainError for what may pass, UserError for what concerns all questions."""
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        address = self.endpoint.url.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(address, body, headers)
        try:
            with self._opener.open(request, timeout=self.endpoint.timeout) as response:
                raw = response.read(_BODY)
        except urllib.error.HTTPError as error:
            with error:
                return self._refusal(question, error.code, error.headers, error.read(2000))
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            why = getattr(error, "reason", error)
            timed = isinstance(why, TimeoutError)
            raise _TryAgainError(
                "no answer in time" if timed else f"no connection ({why or type(error).__name__})"
            ) from None
        return _read(question.key, raw)

    def _refusal(self, question: Question, status: int, headers: Any, raw: bytes) -> Answer:
        said = _message(raw)
        if status in _WRONG or 300 <= status < 400:
            mend = "check OPENAI_API_KEY" if status in (401, 403) else "check --endpoint and the model's name"
            raise UserError(f"{self.endpoint.url} answers {status} ({said}); {mend}")
        if status in _REFUSED:
            return Answer(question.key, refused=f"the endpoint refuses it ({status}: {said})")
        after = headers.get("Retry-After", "")
        raise _TryAgainError(f"the endpoint answers {status} ({said})", float(after) if after.isdigit() else None)


def _finished(waiting: deque[Future[Answer]]) -> Iterator[Answer]:
    """At least one answer, once it is there."""
    wait(waiting, return_when=FIRST_COMPLETED)
    for future in [one for one in waiting if one.done()]:
        waiting.remove(future)
        yield future.result()


def _read(key: str, raw: bytes) -> Answer:
    try:
        choice = json.loads(raw)["choices"][0]
        text = choice["message"]["content"]
        if text is None:
            return Answer(key, refused="the endpoint gave no text")
        if not isinstance(text, str):
            raise TypeError(f"content is {type(text).__name__}")
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise _TryAgainError(f"the endpoint's answer is no chat completion ({type(error).__name__})") from None
    return Answer(key, text.strip(), cut=choice.get("finish_reason") == "length")


def _message(raw: bytes) -> str:
    """What an error of the server says, in one short line."""
    try:
        error = json.loads(raw)
        said = error.get("error", error) if isinstance(error, dict) else error
        text = str(said.get("message", said) if isinstance(said, dict) else said)
    except ValueError:
        text = raw.decode("utf-8", "replace")
    return " ".join(text.split())[:160] or "nothing said"


def data_address(picture: PILImage.Image, longest: int) -> str:
    """A picture as data: address, JPEG of quality 92, no side above `longest`."""
    if max(picture.size) > longest:
        by = longest / max(picture.size)
        size = (max(1, round(picture.width * by)), max(1, round(picture.height * by)))
        picture = picture.resize(size, PILImage.Resampling.BICUBIC, reducing_gap=3.0)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=92)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
