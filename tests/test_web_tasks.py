"""From what is on a screen to questions about it, without a browser: true answers, nothing ambiguous; and the builder's
items, parts and settings."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from web_scans import NOISE, asked, dice, icon, link, raw, regions, run, scan, screen

from mm15.corpora.web import TASKS, VIEWPORTS, WebBuilder, WebSettings
from mm15.corpora.web.screen import Text, read_screen
from mm15.corpora.web.tasks import Turn, converse, parts
from mm15.corpora.web.wordings import ASKED
from mm15.errors import UserError
from mm15.regions import Box, Region
from mm15.sample import Image, Role


def rich() -> dict[str, Any]:
    """A screen with something of everything, traps included."""
    elements = [
        link((0, 0, 120, 40), "Home"),
        link((140, 0, 260, 40), "Help"),
        raw((300, 0, 420, 40), name="Save"),
        raw((440, 0, 560, 40), name="Save"),
        raw((600, 0, 800, 40), tag="input", role="searchbox", type="search", name="Find a page", shows="Find a page"),
        raw((0, 100, 30, 130), tag="input", role="checkbox", type="checkbox", name="Wrap lines"),
        icon((100, 100, 130, 130), "star"),
        icon((150, 100, 180, 130), "trash"),
        icon((200, 100, 230, 130), "trash"),
        raw((300, 100, 600, 300), "picture", "img", "image", name="A tree"),
        raw((700, 100, 740, 140), name="Close", parent=-1),
        raw((702, 102, 738, 138), "picture", "svg", "image", parent=10),
    ]
    runs = [
        run("Home", 30, 10, owner=0),
        run("Help", 170, 10, owner=1),
        run("Reading list", 0, 200, heading=True),
        run("Wrap lines", 40, 104),
        run("Save your work before it ends", 0, 400),
        run("Nothing else", 0, 440),
        run("twice", 0, 480),
        run("not (twice), surely", 0, 520),
        run("find a page", 600, 600),
    ]
    return scan(elements, runs)


def conversations(seeds: int = 150) -> list[list[Turn]]:
    shown = read_screen(rich(), NOISE)
    return [converse(shown, dice(seed), tasks=tuple(TASKS), turns=8) for seed in range(seeds)]


def test_every_answer_is_true() -> None:
    """Against the fixture by hand: texts, types and places by their boxes, and only what is unique is asked for."""
    texts = {(0, 200): "Reading list", (40, 104): "Wrap lines", (0, 440): "Nothing else", (0, 480): "twice"}
    texts |= {(30, 10): "Home", (170, 10): "Help", (600, 600): "find a page", (0, 520): "not (twice), surely"}
    texts |= {(0, 400): "Save your work before it ends"}
    types = {(0, 0): "link", (140, 0): "link", (300, 0): "button", (440, 0): "button", (600, 0): "input field"}
    types |= {(0, 100): "checkbox", (100, 100): "icon", (150, 100): "icon", (200, 100): "icon", (300, 100): "picture"}
    types |= {(700, 100): "button", (702, 102): "icon"}
    found = {"Home": (0, 0), "Help": (140, 0), "A tree": (300, 100), "Close": (700, 100)}
    readable = {"Home": (30, 10), "Help": (170, 10), "Reading list": (0, 200), "Wrap lines": (40, 104)}
    readable |= {"Nothing else": (0, 440), "Save your work before it ends": (0, 400), "not (twice), surely": (0, 520)}
    icons = {(100, 100): "star", (150, 100): "trash", (200, 100): "trash", (702, 102): "close"}
    dead = {*texts, (300, 100), (100, 100), (150, 100), (200, 100)} - {(30, 10), (170, 10)}
    seen: Counter[str] = Counter()
    named: set[str] = set()
    for turn in itertools.chain.from_iterable(conversations()):
        seen[turn.task] += 1
        corner = (regions(turn)[0].shape.x1, regions(turn)[0].shape.y1) if regions(turn) else None
        label, said = (regions(turn)[0].label if regions(turn) else ""), turn.said[0]
        if turn.task == "ocr":
            assert said == texts[corner]
        elif turn.task == "widget_classification":
            assert said == types.get(corner, "text") and corner not in ((702, 102), (30, 10))
        elif turn.task == "icon_recognition":
            assert said == icons[corner]
        elif turn.task == "taperception":
            assert said == ("no" if corner in dead else "yes")
        elif turn.task.startswith("find"):
            targets = {"find_text": readable, "find_icon": {"star": (100, 100), "close": (702, 102)}}
            assert targets.get(turn.task, found)[label] == corner
            named.add(f"{turn.task} {label}")
    assert set(seen) == set(TASKS) and min(seen.values()) > 20, seen
    assert len(named) == 7 + 2 + 4, named


def test_screen_answers() -> None:
    """The listing is every widget in reading order with its box; the description counts them."""
    shown = read_screen(rich(), NOISE)
    [listing] = asked(shown, "widget_listing", 1)
    lines = "".join(piece if isinstance(piece, str) else str(tuple(piece.shape)) for piece in listing.said).split("\n")
    assert lines == [
        'link "Home" (0, 0, 120, 40)',
        'link "Help" (140, 0, 260, 40)',
        'button "Save" (300, 0, 420, 40)',
        'button "Save" (440, 0, 560, 40)',
        'input field "Find a page" (600, 0, 800, 40)',
        'checkbox "Wrap lines" (0, 100, 30, 130)',
        'button "Close" (700, 100, 740, 140)',
    ]
    [told] = asked(shown, "description", 1)
    assert told.said == ['A page headed "Reading list" with 3 buttons, 2 links, 1 checkbox and 1 input field.']


def test_long_listings_are_of_one_type() -> None:
    """More than 15 widgets: one type with at most 15, named in the question."""
    links = [link((0, 20 * n, 100, 20 * n + 15), f"link {n}") for n in range(16)]
    boxes = [raw((200, 40 * n, 230, 40 * n + 30), tag="input", role="checkbox", type="checkbox") for n in range(3)]
    for turn in asked(screen(links + boxes), "widget_listing", 10):
        assert "checkboxes" in turn.asked[0] and len(regions(turn)) == 3
    assert not asked(screen(links), "widget_listing", 5)


def test_conversations_are_in_order_and_give_nothing_away() -> None:
    """At most so many turns; the screen's come last; no box and no words are asked about twice."""
    for turns in conversations(60):
        tasks = [turn.task for turn in turns]
        assert len(tasks) == 8 and tasks[-2:] == ["description", "widget_listing"]
        assert not set(tasks[:-2]) & {"description", "widget_listing"}
        boxes = [tuple(region.shape) for turn in turns[:-2] for region in regions(turn)]
        assert len(set(boxes)) == len(boxes)
        for one, other in itertools.combinations(boxes, 2):
            inside = one[0] <= other[0] and one[1] <= other[1] and other[2] <= one[2] and other[3] <= one[3]
            assert not inside, (one, other)
    shown = read_screen(rich(), NOISE)
    for most in (1, 2, 5):
        assert len(converse(shown, dice(), tasks=tuple(TASKS), turns=most)) == most


def test_lines_of_a_text_that_was_read_are_not_asked_for() -> None:
    block = run("some words in two lines here", 0, 0)
    for word in block["words"][3:]:
        word[1] = [word[1][0] - 130, 30, word[1][2] - 130, 50]
    shown = screen([], [block])
    assert len(shown.texts) == 3
    assert all(len(converse(shown, dice(s), tasks=("ocr", "find_text"), turns=9)) == 1 for s in range(20))


def test_much_larger_elements_around_do_not_block() -> None:
    """A page-wide clickable area gives nothing away; a button around an icon does."""
    area = raw((0, 0, 1000, 800), "other", "div", "", handler=True)
    icons = [icon((50 * n, 0, 50 * n + 20, 20), name, parent=0) for n, name in enumerate(("sun", "moon", "star"))]
    assert len(converse(screen([area, *icons]), dice(), tasks=("icon_recognition",), turns=9)) == 3
    button = raw((0, 0, 30, 30), name="Sun")
    both = screen([button, icon((5, 5, 25, 25), "sun", parent=0)])
    assert len(converse(both, dice(), tasks=("icon_recognition", "find_widget"), turns=9)) == 1


@pytest.mark.parametrize(
    ("runs", "more"),
    [
        ([run("Save", 0, 0), run("Save as", 0, 100)], {}),
        ([run("Save", 0, 0), run("Then (save).", 0, 100)], {}),
        ([run("Save", 0, 0)], {"generated": ["Save"]}),
        ([run("Save", 0, 0), {**run("SAVE", 0, 100), "whole": False}], {}),
        ([run("Save", 0, 0)], {"elements": [raw((0, 200, 90, 220), tag="input", type="text", shows="save")]}),
        ([run("Save", 0, 0)], {"elements": [raw((0, 200, 90, 220), tag="input", type="submit", shows="Save")]}),
        ([run("Save", 0, 0)], {"elements": [raw((0, 200, 90, 220), "frame", "iframe", "")]}),
        ([{**run("Save", 0, 0), "exact": False}], {}),
        ([run("This text is far too long to be asked for", 0, 0)], {}),
        ([run('a "quoted" word', 0, 0)], {}),
        ([run("--- ***", 0, 0)], {}),
    ],
)
def test_ambiguous_texts_are_not_asked_for(runs: list[Any], more: dict[str, Any]) -> None:
    """Words that stand elsewhere too, in whatever form, or that cannot be named."""
    names = {r.label for turn in asked(screen(runs=runs, **more), "find_text") for r in regions(turn)}
    assert "Save" not in names and not names & {"This text is far too long to be asked for", "--- ***"}
    assert {r.label for turn in asked(screen(runs=[run("Save", 0, 0)]), "find_text") for r in regions(turn)} == {"Save"}


def test_ambiguous_widgets_are_not_asked_for() -> None:
    """Two of a name, whatever their types and whether whole; a text of that name elsewhere; not the element's own."""
    one = raw((0, 0, 90, 30), name="Save")
    own = run("Save", 10, 5, owner=0)
    assert asked(screen([one], [own]), "find_widget")
    assert not asked(screen([one, link((200, 0, 290, 30), "save…", share=0.2)], [own]), "find_widget")
    assert not asked(screen([one], [own, run("Save", 300, 300)]), "find_widget")
    assert not asked(screen([one, raw((0, 400, 90, 430), "frame", "iframe", "")], [own]), "find_widget")
    nested = [one, raw((10, 5, 30, 25), "picture", "img", "image", name="Save", file="a.jpg", parent=0)]
    assert asked(screen(nested), "find_widget")


def test_doubtful_boxes_are_not_asked_about() -> None:
    """A box with other words in it is not read, one that fits two types is not classified."""
    words = [run("outer words", 0, 0, high=60), run("inner", 30, 20)]
    assert {turn.said[0] for turn in asked(screen(runs=words), "ocr")} == {"inner"}
    link_of_icon = [link((0, 0, 40, 40), "Home"), icon((2, 2, 38, 38), "house", parent=0), raw((500, 0, 600, 40))]
    assert {turn.said[0] for turn in asked(screen(link_of_icon), "widget_classification")} == {"button"}
    own_words = screen([link((0, 0, 44, 20), "Home")], [run("Home", 0, 0, owner=0)])
    assert {turn.said[0] for turn in asked(own_words, "widget_classification")} == {"link"}


@pytest.mark.parametrize(
    "more", [{"ghosts": 1}, {"elements": [raw((0, 0, 90, 30)), raw((0, 50, 9, 80), "frame", "iframe")]}]
)
def test_incomplete_screens_are_not_listed(more: dict[str, Any]) -> None:
    data = {"elements": [raw((0, 0, 90, 30))], **more}
    assert not asked(screen(**data), "widget_listing") and not asked(screen(**data), "description")
    assert asked(screen(data["elements"][:1]), "widget_listing")


def test_yes_and_no_are_as_likely() -> None:
    """Where the screen has both, however many there are of each."""
    shown = screen([raw((0, 0, 90, 30))], [run(f"text {n}", 0, 100 + 30 * n) for n in range(20)])
    said = Counter(converse(shown, dice(seed), tasks=("taperception",), turns=1)[0].said[0] for seed in range(400))
    assert 160 < said["yes"] < 240 and said["yes"] + said["no"] == 400


def test_wordings() -> None:
    """Several for each task, all of them used, each with its place for what is asked about."""
    assert set(ASKED) == set(TASKS)
    shown = read_screen(rich(), NOISE)
    for task, wordings in ASKED.items():
        assert len(set(wordings)) == len(wordings) >= 5
        place = {"description": "", "widget_listing": "{types}"}.get(task, "{name}" if "find" in task else "{box}")
        assert all(place in wording and (place != "{box}" or not wording.startswith(place)) for wording in wordings)
        beginnings = {turn.asked[0] for turn in asked(shown, task, 60)}
        used = [any(b.startswith(w.partition("{")[0]) for b in beginnings) for w in wordings]
        assert all(used), (task, wordings, used)


def test_a_conversation_is_a_pure_function_of_its_dice() -> None:
    shown = read_screen(rich(), NOISE)
    one, same, other = (converse(shown, dice(seed), tasks=tuple(TASKS), turns=8) for seed in (3, 3, 4))
    assert one == same and one != other


def test_parts() -> None:
    """The picture once, before the first question; only answers are targets; turns alternate."""
    shown = read_screen(rich(), NOISE)
    written = parts(converse(shown, dice(), tasks=tuple(TASKS), turns=6), Image(b"png"))
    assert [isinstance(part.content, Image) for part in written].index(True) == 0
    assert sum(isinstance(part.content, Image) for part in written) == 1
    assert all(part.target == (part.role is Role.ASSISTANT) for part in written)
    assert len(list(itertools.groupby(written, key=lambda part: part.role))) == 12
    assert all(not isinstance(part.content, Region) or part.content.image == 0 for part in written)


# ------------------------------------------------------------------------------------------------------------ builder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.html", "a.HTM", "deep/er/c.xhtml", "no.txt", "no.js"):
        path = tmp_path / "pages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"<p>{name}")
    return tmp_path / "pages"


def test_items(folder: Path) -> None:
    """Pages by name through all folders, each at each viewport; picklable."""
    builder = WebBuilder(WebSettings(folder, viewports=("phone", "desktop")))
    assert builder.items() == [
        [page, viewport] for page in ("a.HTM", "b.html", "deep/er/c.xhtml") for viewport in ("phone", "desktop")
    ]
    assert pickle.loads(pickle.dumps(builder)).items() == builder.items()
    assert VIEWPORTS["phone"].scale == 2


def test_held_out_pages_are_in_one_part(tmp_path: Path) -> None:
    """By content: copies of a page fall to the same part, and a change of a page is noticed."""
    for n in range(200):
        for copy in "xy":
            (tmp_path / f"{n}{copy}.html").write_text(f"page {n}")
    train, held = (WebBuilder(WebSettings(tmp_path, split=split, heldout=0.3)) for split in ("train", "heldout"))  # type: ignore[arg-type]
    assert not set(train.pages) & set(held.pages) and len(train.pages) + len(held.pages) == 400
    assert {p[:-6] for p in train.pages}.isdisjoint(p[:-6] for p in held.pages)
    assert 80 < len(held.pages) < 160
    (tmp_path / train.pages[0]).write_text("changed")
    assert WebBuilder(WebSettings(tmp_path, heldout=0.3)).digest != train.digest
    assert WebBuilder(WebSettings(tmp_path)).pages == sorted(f"{n}{copy}.html" for n in range(200) for copy in "xy")


def test_a_list_of_addresses(tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    path.write_text("# mine\nhttps://a.example/x#top\n\n  http://b.example/y?z=1 # why\nhttps://a.example/x#top\n")
    assert WebBuilder(WebSettings(path)).pages == ["https://a.example/x#top", "http://b.example/y?z=1"]
    for text, why in (("ftp://x/y\n", "line 1"), ("\nfoo.html", "line 2"), ("# nothing", "no addresses")):
        path.write_text(text)
        with pytest.raises(UserError, match=why):
            WebBuilder(WebSettings(path))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        WebBuilder(WebSettings(path))
    with pytest.raises(UserError, match="cannot be read"):
        WebBuilder(WebSettings(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pages"):
        WebBuilder(WebSettings(tmp_path / "empty"))


@pytest.mark.parametrize(
    "settings",
    [{"turns": 0}, {"screens": 0}, {"timeout": 0}, {"viewports": ("watch",)}, {"tasks": ("dance",)}, {"tasks": ()}],
)
def test_bad_settings(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=next(iter(settings))):
        WebSettings(Path("x"), **settings)


def test_text_is_its_own_type() -> None:
    """What `widget_classification` may answer for words outside of any element."""
    assert {turn.said[0] for turn in asked(screen(runs=[run("plain words", 0, 0)]), "widget_classification")} == {
        "text"
    }
    [text] = screen(runs=[run("plain words", 0, 0)]).texts
    assert isinstance(text, Text) and text.box == Box(0, 0, 110, 20)
