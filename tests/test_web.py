"""What Chromium shows of a page: boxes are where things are drawn, what is hidden is not there, names are its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from PIL import Image as PILImage
from web_site import PLAIN, Site, blob, named, needs_chromium

from mm15.corpora.web import browser
from mm15.corpora.web.capture import VIEWPORTS

pytestmark = needs_chromium
MOBILE = '<meta name="viewport" content="width=device-width">'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for all pages of these tests, so that one browser opens them all."""
    yield tmp_path_factory.mktemp("pages").resolve()
    browser.close()


@pytest.fixture(scope="module")
def site(folder: Path) -> Site:
    return Site(folder)


@pytest.mark.parametrize(("viewport", "head"), [*((name, MOBILE) for name in VIEWPORTS), ("phone", "")])
def test_boxes_are_where_things_are_drawn(site: Site, viewport: str, head: str) -> None:
    """To the pixel, at every viewport and on a page shrunk to a phone: in flow, placed, turned, scrolled inside."""
    colours = {"red": (255, 0, 0), "lime": (0, 255, 0), "blue": (0, 0, 255), "fuchsia": (255, 0, 255)}
    css = {
        "red": "margin: 20.5px 0 0 30.3px; width: 101px; height: 33px",
        "lime": "position: fixed; right: 11px; bottom: 17px; width: 60px; height: 60px",
        "blue": "position: absolute; left: 50px; top: 300px; width: 80px; height: 40px; transform: rotate(90deg)",
        "fuchsia": "position: absolute; left: 40px; top: 70px; width: 90px; height: 50px",
    }
    button = '<button aria-label="{0}" style="border: 0; background: {0}; {1}"></button>'
    picture = "<span style='display: inline-block; width: 70px; height: 90px; background: teal'></span>"
    link = f"<p><a href=x aria-label='around the picture'>{picture}</a></p>"
    parts = {name: button.format(name, style) for name, style in css.items()}
    inner = '<div id=s style="position: absolute; top: 500px; width: 200px; height: 150px; overflow: auto">'
    inner += parts.pop("fuchsia") + '<div style="height: 900px"></div></div><script>s.scrollTop = 30</script>'
    screen, picture = site.look(head + PLAIN + link + "".join(parts.values()) + inner, viewport)
    assert screen.size == (picture.shape[1], picture.shape[0])
    colours["around the picture"] = (0, 128, 128)
    for name, colour in colours.items():
        assert np.abs(np.subtract(tuple(named(screen)[name].box), blob(picture, colour))).max() <= 1, name


def test_words_hold_their_ink(site: Site) -> None:
    """Each line's box holds its ink and touches it left and right; the rest of the page is white."""
    text = "Sphinx of black quartz, judge my vow. Jackdaws love my big sphinx of quartz. "
    screen, picture = site.look(PLAIN + f"<p style='width: 300px; padding: 20px; color: black'>{text * 2}</p>")
    ink = (picture < 128).any(axis=2)
    lines = [line for line in screen.texts if line.line]
    assert len(lines) >= 4 and " ".join(line.text for line in lines) == " ".join((text * 2).split())
    for line in lines:
        x1, y1, x2, y2 = map(int, line.box)
        assert ink[y1:y2, x1 : x1 + 4].any() and ink[y1:y2, x2 - 4 : x2].any()
        ink[y1:y2, x1 - 1 : x2 + 1] = False
    assert not ink.any()


def test_what_is_hidden_is_not_there(site: Site) -> None:
    """All the ways of a page to have words that nobody sees."""
    hidden = {
        "none": "display: none",
        "invisible": "visibility: hidden",
        "clear": "opacity: 0",
        "away": "position: absolute; left: -9999px",
        "below": "position: absolute; top: 5000px",
        "sr": "position: absolute; width: 1px; height: 1px; overflow: hidden; clip: rect(0, 0, 0, 0)",
        "inset": "position: absolute; clip-path: inset(50%)",
        "indent": "text-indent: -9999px; white-space: nowrap; overflow: hidden",
        "ink": "color: transparent",
        "white": "color: white; background: white",
        "flat": "height: 0; overflow: hidden",
        "behind": "position: relative; z-index: -1",
        "small": "font-size: 1px",
    }
    said = "".join(f"<p style='{css}'>word{name}</p>" for name, css in hidden.items())
    covered = (
        "<div style='position: relative'><p>wordcovered</p><p>wordhalf</p><div style='pointer-events: none; "
        "position: absolute; inset: 0 0 50% 0; background: linear-gradient(#eee, #ddd)'></div>"
        "<div style='position: absolute; top: 50%; left: 40px; width: 17px; height: 50%; background: #eee'></div></div>"
    )
    rest = "<details><summary>open</summary>worddetails</details><div style='width: 60px; overflow: hidden'>"
    rest += "<p style='white-space: nowrap; overflow: hidden; text-overflow: ellipsis'>seen then wordcut off</p></div>"
    over = "<div style='position: relative'><p>wordseen</p><a href=x style='position: absolute; inset: 0'></a></div>"
    screen, _ = site.look(PLAIN + "<body style='background: #fff'>" + said + covered + rest + over)
    assert {text.text for text in screen.texts if text.askable} == {"open", "wordseen"}
    assert not {"wordaway", "wordflat", "wordindent"} & {text.text for text in screen.texts}


def test_names_types_and_taps(site: Site) -> None:
    """Chromium's own names; types and taps by tag, role, cursor, handlers and what lies around."""
    html = """
      <button aria-label="Close it">x</button> <a href="#">Go <b>there</b></a>
      <p><label for=i>Your name</label></p><input id=i>
      <input type=checkbox aria-label=agree> <input type=range aria-label=volume>
      <select aria-label=size><option>S</select>
      <div role=tab tabindex=0>Tab one</div> <div role=switch aria-checked=true>Dark</div> <button disabled>Off</button>
      <div style="cursor: pointer">card</div> <p>plain</p> <div id=h>handled</div> <span title="x">nothing</span>
      <button style="pointer-events: none">Untouchable</button> <textarea placeholder="Say it"></textarea>
      <script>h.addEventListener("click", () => {})</script>"""
    screen, _ = site.look(PLAIN + html)
    found = {e.name: (e.type, e.tappable) for e in screen.elements if e.type}
    assert found == {
        "Close it": ("button", True),
        "Go there": ("link", True),
        "Your name": ("input field", True),
        "agree": ("checkbox", True),
        "volume": ("slider", True),
        "size": ("dropdown", True),
        "Tab one": ("tab", True),
        "Dark": ("toggle", True),
        "Off": ("button", None),
        "Untouchable": ("button", None),
        "Say it": ("input field", True),
    }
    taps = {text.text: text.tappable for text in screen.texts}
    assert taps["card"] is True and taps["plain"] is False and taps["handled"] is None and taps["Your name"] is None
    assert {"Say it", "S"} <= {s.title() if s == "s" else s.capitalize() for s in screen.strings}


def test_icons(site: Site, folder: Path) -> None:
    """Private letters and ligatures of fonts that are there, pictures, symbols, backgrounds; no photographs."""
    fonts = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    (folder / "f.ttf").write_bytes((fonts / "DejaVuSans.ttf").read_bytes())
    picture = PILImage.linear_gradient("L").resize((24, 24))
    picture.save(folder / "i.png")
    picture.save(folder / "i.jpg")
    letter = "\uf400"  # a private letter that this font has
    css = """<style>@font-face { font-family: Mono Icons; src: url(f.ttf) }
      i { font: 24px Mono Icons; display: inline-block }
      .fa-star::before { content: "%s" } @font-face { font-family: Gone Icons; src: url(gone.ttf) }
      .lost { font-family: Gone Icons } .bg { width: 24px; height: 24px }</style>"""
    html = f"""<i class="fa fa-star"></i> <i class="fa fa-trash">{letter}</i> <i>shopping_cart</i>
      <i class="fa fa-bell lost">{letter}</i> <img src=i.png alt=Home> <img src=i.png alt="" class="icon-gear">
      <img src=none.png alt=broken> <i class="bg icon-moon" style="background: url(i.png)"></i> <img src=i.jpg alt=me>
      <i class="bg icon-photo" style="background: url(i.jpg)"></i>
      <svg width=24 height=24 role=img aria-label=Sun><circle r=9 cx=12 cy=12 /></svg>
      <button aria-label="Open menu"><svg width=24 height=24><circle r=9 cx=12 cy=12 /></svg></button>"""
    screen, _ = site.look(PLAIN + css % letter + html)
    icons = {element.name for element in screen.elements if element.type == "icon" and element.listed}
    assert icons == {"star", "trash", "shopping cart", "home", "gear", "moon", "sun", "open menu"}
    assert not screen.texts


def test_texts_as_they_are_shown(site: Site) -> None:
    """Cases that the browser changes, words of several elements, broken words, letters that no font has."""
    html = """<p style="text-transform: uppercase">shout</p><p>print<b>()</b>, <i>now</i><br>next</p>
      <p style="width: 66px; font: 16px monospace; overflow-wrap: anywhere">abcdefghij</p>
      <p>αβγ</p><p>a\u0378c</p><p style="text-transform: capitalize">odd one</p>
      <p style="font-variant-caps: small-caps">caps</p><style>.g::after { content: " more" }</style><p class=g>less</p>
      <p>Note <span>it</span><em>alic</em></p><svg width=100 height=20><text x=5 y=15>drawn</text></svg>
      <p id=m style="animation: k 9s; transition: all 9s; scroll-behavior: smooth">moves</p><script>
      const style = getComputedStyle(m);
      m.textContent = [style.animationDuration, style.transitionDuration, style.scrollBehavior].join(" ")</script>"""
    screen, _ = site.look(PLAIN + html)
    texts = {text.text: text.askable for text in screen.texts}
    expected = {"SHOUT": True, "print(), now next": True, "print(), now": True, "next": True, "abcdefghij": True}
    expected |= {
        "abcdef": True,
        "ghij": True,
        "αβγ": True,
        "a\u0378c": False,
        "odd one": False,
        "caps": False,
        "less": False,
        "Note italic": True,
    }
    assert texts == {**expected, "drawn": True, "0s 0s auto": True}
    assert "more" in screen.strings


def test_frames_and_inputs_drawn_by_others_are_noticed(site: Site) -> None:
    site.page("<p>inner", "inner.html")
    screen, _ = site.look("<p>outer</p><iframe src=inner.html></iframe>")
    assert screen.framed and not screen.complete
    box = "<style>input {{ {} }} label::before {{ content: '[ ]' }}</style><input type=checkbox id=a>"
    box += "<label for=a>yes</label>"
    for css in ("opacity: 0", "display: none", "position: absolute; clip: rect(0,0,0,0)"):
        screen, _ = site.look(box.format(css))
        assert not screen.complete and not screen.framed
    assert site.look(box.format(""))[0].complete
