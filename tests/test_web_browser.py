"""Pages that misbehave, browsers that die, what leads outside; the same bytes each time, and the whole command."""

from __future__ import annotations

import io
import json
import os
import signal
import threading
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import Command
from PIL import Image as PILImage
from pydantic import TypeAdapter
from same import assert_same
from web_site import PLAIN, Site, blob, named, needs_chromium

from mm15.corpora.web import WebBuilder, WebSettings, browser
from mm15.corpora.web import capture as capturing
from mm15.corpora.web.browser import BrowserDiedError, chromium
from mm15.corpora.web.screen import read_screen
from mm15.data.sources import open_source
from mm15.errors import UserError
from mm15.recipe.sources import Source

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for all pages of these tests, so that one browser opens them all."""
    yield tmp_path_factory.mktemp("pages").resolve()
    browser.close()


@pytest.fixture(scope="module")
def site(folder: Path) -> Site:
    return Site(folder)


@pytest.fixture
def outside() -> Iterator[tuple[str, list[str]]]:
    """A server that is not the folder's: its address, and what it is asked for."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            body = b"<p>hello</p><button>press</button>"
            self.send_response(404 if self.path == "/no" else 302 if self.path == "/go" else 200)
            self.send_header("Location", "/page")
            self.send_header("Content-Type", "text/plain" if self.path == "/text" else "text/html")
            self.send_header("Content-Length", str(len(body)))
            if self.path == "/zip":
                self.send_header("Content-Disposition", "attachment; filename=a.zip")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", seen
    server.shutdown()
    server.server_close()


def test_pages_of_files_reach_nothing_outside(site: Site, outside: tuple[str, list[str]]) -> None:
    """Not by name, not by number, not by script; files beside them under absolute paths they do reach."""
    address, seen = outside
    PILImage.new("RGB", (90, 90), "blue").save(site.folder / "here.png")
    html = f"""<img src="{address}/a.png"><link rel=stylesheet href="{address.replace("127.0.0.1", "localhost")}/b.css">
      <script src="https://example.com/c.js"></script><img src="/here.png" alt=here><p id=p>waiting</p>
      <script>fetch("{address}/d").then(() => p.textContent = "reached", () => p.textContent = "shut")</script>"""
    screen, picture = site.look(PLAIN + html)
    assert not seen and "shut" in screen.strings and "here" in named(screen)
    left, _, right, _ = blob(picture, (0, 0, 255))
    assert right - left == 90


def test_addresses(outside: tuple[str, list[str]], tmp_path: Path) -> None:
    """A list of pages on the network; what is no page is skipped with the reason; a redirect is followed."""
    address, _ = outside
    (tmp_path / "list.txt").write_text("\n".join(f"{address}/{name}" for name in ("page", "go", "no", "text", "zip")))
    builder = WebBuilder(WebSettings(tmp_path / "list.txt", viewports=("tablet",)))
    made = [builder.make(item) for item in builder.items()]
    assert [len(one.samples) for one in made] == [1, 1, 0, 0, 0]
    assert made[0].samples[0].meta["page"] == f"{address}/page"
    reasons = [one.skipped[0].reason for one in made[2:]]
    assert reasons == ["it does not open (HTTP 404)", "it is not an HTML page (text/plain)", "it is a download"]


@pytest.mark.parametrize(
    ("html", "reason"),
    [
        ("", "it is empty"),
        ("<script>document.title = 'only'</script>", "it is empty"),
        ("<meta http-equiv=refresh content='0; url=elsewhere.html'>hi", "it leads to another page"),
        ("<p>hi<script>location.replace('elsewhere.html')</script>", "it leads to another page"),
        ("<p id=p>x<script>setInterval(() => p.textContent += ' x', 9)</script>", "it keeps moving"),
    ],
)
def test_bad_pages_are_skipped_with_a_reason(
    site: Site, html: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capturing, "_MOST", 300)
    site.page("<p>other", "elsewhere.html")
    page = site.page(html)
    made = site.builder().make([page, "desktop"])
    assert not made.samples and [skip.reason for skip in made.skipped] == [reason]


def test_hanging_pages_are_given_up(site: Site) -> None:
    """Scripts without end, before and after loading; and the page after is none the worse, dialogs and all."""
    scripts = ("while (true) {}", "setTimeout(() => { while (true) {} }, 30)")
    pages = [site.page(f"<p>hi<script>{script}</script>") for script in scripts]
    talk = "alert(1); confirm(2); prompt(3); print(); open('x'); onbeforeunload = () => 1"
    last = site.page(f"<p>after<script>{talk}</script>")
    for page in pages:
        assert [s.reason for s in site.builder(timeout=1.0).make([page, "desktop"]).skipped] == [
            "it took longer than 1 s"
        ]
    assert len(site.builder().make([last, "desktop"]).samples) == 1


def test_a_dead_browser_is_replaced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between pages or under one: the page is tried again; one that kills it twice is skipped."""
    builder, page = site.builder(), site.page("<button>press</button>")

    async def kill(opened: Any) -> None:
        session = await opened.new_browser_cdp_session()
        processes = (await session.send("SystemInfo.getProcessInfo"))["processInfo"]
        os.kill(next(process["id"] for process in processes if process["type"] == "browser"), signal.SIGKILL)
        await session.send("SystemInfo.getProcessInfo")

    room = chromium(builder.folder)
    with pytest.raises(BrowserDiedError):
        room.run(kill, timeout=20)
    assert len(builder.make([page, "desktop"]).samples) == 1
    kills: list[int] = []

    async def killing(opened: Any, *, times: int, **others: Any) -> Any:
        if len(kills) < times:
            kills.append(1)
            await kill(opened)
        return await real(opened, **others)

    from mm15.corpora.web import builder as module

    real = module.capture
    monkeypatch.setattr(module, "capture", partial(killing, times=1))
    assert len(builder.make([page, "desktop"]).samples) == 1 and len(kills) == 1
    monkeypatch.setattr(module, "capture", partial(killing, times=9))
    assert builder.make([page, "desktop"]).skipped[0].reason == "the browser died on it, twice"


def test_the_same_page_gives_the_same_bytes(site: Site) -> None:
    """In another browser too: chance, animations, a moving picture, a canvas that draws itself for a while."""
    frames = [PILImage.new("RGB", (80, 80), colour) for colour in ("red", "lime", "blue", "black")]
    frames[0].save(site.folder / "m.gif", save_all=True, append_images=frames[1:], duration=40, loop=0)
    html = """<style>@keyframes k { to { margin-left: 300px } }
      p { animation: k 1s infinite alternate } b { transition: 1s }
      i { animation: k 1s forwards; display: block }</style><p>moving<b>bold</b></p><i>end</i><img src=m.gif alt=moving>
      <canvas id=c width=200 height=50></canvas><div id=r></div><script>
      r.textContent = Math.random() + " " + new Date(0).toLocaleString(); let n = 0; const x = c.getContext("2d");
      const draw = () => { x.fillRect(0, 0, n += 9, 50); if (n < 200) requestAnimationFrame(draw) }; draw();
      document.querySelector("b").animate([{opacity: 1}, {opacity: .2}], {duration: 900, iterations: Infinity})
      </script>"""
    page, builder = site.page(PLAIN + html), site.builder()
    one = builder.make([page, "phone"]).samples[0]
    browser.close()
    other = builder.make([page, "phone"]).samples[0]
    assert one.images[0].data == other.images[0].data and one.meta == other.meta
    picture = np.asarray(PILImage.open(io.BytesIO(one.images[0].data)).convert("RGB")).astype(int)  # type: ignore[arg-type]
    left, _, right, _ = blob(picture, (255, 0, 0))
    assert right - left > 60


def test_screens_of_a_page(site: Site) -> None:
    """One after the other down to the end, not more than asked for, and none that shows next to nothing new."""
    tall = "".join(f"<p style='height: 100px'>row {n}</p>" for n in range(20))
    page, short = site.page(PLAIN + tall), site.page(PLAIN + "<p>hello</p><div style='height: 900px'></div>")
    samples = site.builder(screens=9).make([page, "desktop"]).samples
    assert [sample.meta["top"] for sample in samples] == [0, 800, 1200]
    assert [sample.id for sample in samples] == [f"{page}@desktop", f"{page}@desktop#1", f"{page}@desktop#2"]
    shots = site.builder(screens=9)._shots(page, "desktop")
    picture = PILImage.open(io.BytesIO(shots[2].png))
    assert [t.text for t in read_screen(shots[2].scan, picture).texts] == [f"row {n}" for n in range(12, 20)]
    assert len(site.builder(screens=2).make([page, "desktop"]).samples) == 2
    assert len(site.builder(screens=9).make([short, "desktop"]).samples) == 1


def test_the_command_builds_a_dataset(tmp_path: Path, mm15_command: Command) -> None:
    """Shards that read as the samples that are made here, by a worker of its own."""
    (tmp_path / "pages").mkdir()
    for name in ("a", "b"):
        (tmp_path / "pages" / f"{name}.html").write_text(f"{PLAIN}<h1>Page {name}</h1><button>Press {name}</button>")
    options = ("--out", tmp_path / "out", "--viewports", "tablet", "--heldout", "0", "--workers", "1", "--json")
    done = mm15_command("data", "build", "web", tmp_path / "pages", *options)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)["parts"]["train"]
    assert (told["items"], told["samples"], told["skipped"]) == (2, 2, {})
    source = TypeAdapter(Source).validate_python(told["source"])
    read = [open_source(source, "screens")[n] for n in range(2)]
    builder = WebBuilder(WebSettings(tmp_path / "pages", viewports=("tablet",)))
    for sample, item in zip(read, builder.items(), strict=True):
        [made] = builder.make(item).samples
        assert_same(sample, made)
        assert sample.meta == made.meta and sample.meta["elements"] == 1


def test_no_browser_is_a_clear_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A path that leads nowhere, none at all, a program that is no browser."""
    (tmp_path / "a.html").write_text("x")
    monkeypatch.setenv(browser.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match=r"MM15_CHROMIUM=.*nowhere is no program"):
        WebBuilder(WebSettings(tmp_path)).settings()
    monkeypatch.setenv(browser.VARIABLE, "/bin/true")
    with pytest.raises(UserError, match="/bin/true does not start"):
        WebBuilder(WebSettings(tmp_path)).settings()
    monkeypatch.delenv(browser.VARIABLE)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", str(tmp_path))
    with pytest.raises(UserError, match="no Chromium on the PATH"):
        WebBuilder(WebSettings(tmp_path)).settings()
