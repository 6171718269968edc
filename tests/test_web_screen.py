"""What a scan of a page says is on its screen, without a browser: types, names, and what may be asked about."""

from __future__ import annotations

from typing import Any

import pytest
from web_scans import NOISE, BoxLike, icon, link, raw, run, scan, screen

from mm15.corpora.web.icons import icon_name
from mm15.corpora.web.screen import read_screen


@pytest.mark.parametrize(
    ("element", "type_"),
    [
        ({"tag": "button", "role": "button"}, "button"),
        ({"tag": "a", "role": "link"}, "link"),
        ({"tag": "a", "role": "link", "classes": "nav btn btn-primary"}, "button"),
        ({"tag": "a", "role": "link", "classes": "subtnav"}, "link"),
        ({"tag": "a", "role": "button"}, "button"),
        ({"tag": "a", "role": "tab"}, "tab"),
        ({"tag": "input", "role": "textbox", "type": "email"}, "input field"),
        ({"tag": "input", "role": "combobox", "type": "text"}, "input field"),
        ({"tag": "input", "role": "checkbox", "type": "checkbox"}, "checkbox"),
        ({"tag": "input", "role": "switch", "type": "checkbox"}, "toggle"),
        ({"tag": "input", "role": "radio", "type": "radio"}, "radio button"),
        ({"tag": "input", "role": "slider", "type": "range"}, "slider"),
        ({"tag": "input", "role": "button", "type": "submit"}, "button"),
        ({"tag": "textarea", "role": "textbox", "type": "textarea"}, "input field"),
        ({"tag": "select", "role": "combobox", "type": "select-one"}, "dropdown"),
        ({"tag": "select", "role": "listbox", "type": "select-multiple"}, "list box"),
        ({"tag": "summary", "role": "DisclosureTriangle"}, "button"),
        ({"tag": "div", "role": "menuitemradio"}, "menu item"),
        ({"tag": "progress", "role": "progressbar"}, "progress bar"),
        ({"tag": "div", "role": "dialog"}, "dialog"),
        ({"kind": "glyph", "tag": "i", "role": ""}, "icon"),
        ({"kind": "picture", "tag": "svg", "role": "image", "box": [0, 0, 48, 40]}, "icon"),
        ({"kind": "picture", "tag": "svg", "role": "image", "box": [0, 0, 49, 40]}, "picture"),
        ({"kind": "picture", "tag": "img", "role": "image", "box": [0, 0, 40, 40], "file": "me.JPG"}, "picture"),
        ({"kind": "picture", "tag": "canvas", "role": "", "box": [0, 0, 40, 40]}, "picture"),
        ({"kind": "picture", "tag": "video", "role": "", "box": [0, 0, 400, 400]}, "video"),
        ({"kind": "other", "tag": "div", "role": "generic"}, ""),
    ],
)
def test_types(element: dict[str, Any], type_: str) -> None:
    """A type is a tag, a role, or a size; an icon is at most 48 CSS pixels."""
    [read] = screen([raw(**{"box": (0, 0, 100, 30), **element})]).elements
    assert read.type == type_


def test_an_icons_size_is_in_css_pixels() -> None:
    drawn = {"kind": "picture", "tag": "svg", "role": "image"}
    boxes: list[BoxLike] = [(0, 0, 96, 90), (0, 0, 98, 90)]
    assert [e.type for e in screen([raw(box, **drawn) for box in boxes], scale=2).elements] == ["icon", "picture"]


@pytest.mark.parametrize(
    ("known", "name"),
    [
        ({"classes": "fa fa-fw fa-2x fa-trash-alt"}, "trash"),
        ({"classes": "fas fa-shopping-cart fa-spin"}, "shopping cart"),
        ({"classes": "bi bi-house-door-fill"}, "house door fill"),
        ({"classes": "icon icon-tabler icon-tabler-settings"}, "settings"),
        ({"classes": "mdi mdi-24px mdi-account"}, "account"),
        ({"classes": "icon-link btn"}, ""),
        ({"classes": "css-1x2y3z chakra"}, ""),
        ({"classes": "icon", "names": ["Close"]}, "close"),
        ({"classes": "", "names": ["", "Open the menu"]}, "open the menu"),
        ({"classes": "fa fa-times", "names": ["Close"]}, "times"),
        ({"hint": "sprite.svg#icon-search", "names": ["Go"]}, "search"),
        ({"hint": "shopping_cart"}, "shopping cart"),
        ({"hint": "arrowLeft"}, "arrow left"),
        ({"hint": "a1b2c3d4e5f6"}, ""),
        ({"names": ["Five words are too many"]}, ""),
        ({"names": ["7"]}, ""),
        ({"names": ["[Tip]"]}, "tip"),
    ],
)
def test_icon_names(known: dict[str, Any], name: str) -> None:
    assert icon_name(**{"classes": "", "hint": "", "names": [], **known}) == name


def test_an_icon_that_is_all_of_a_button_has_its_name() -> None:
    """And one beside words has not."""
    button = raw((0, 0, 40, 40), name="Open menu")
    inner = raw((10, 10, 30, 30), "picture", "svg", "image", parent=0)
    assert screen([button, inner]).elements[1].name == "open menu"
    assert screen([button, inner], [run("Menu", 50, 0, owner=0)]).elements[1].name == ""


# ---------------------------------------------------------------------------------------------- what may be asked about


def test_what_is_not_seen_whole_is_not_asked_about() -> None:
    """Cut off, covered in the middle or at a side, in two pieces, or too small; half of it is enough to be listed."""
    box = (10.0, 10.0, 110.0, 40.0)
    cases = [
        ({}, True, True),
        ({"share": 0.9}, False, True),
        ({"share": 0.4}, False, False),
        ({"seen": False}, False, False),
        ({"clear": False}, False, True),
        ({"broken": True}, False, True),
        ({"drawn": False}, False, False),
        ({"box": [10, 10, 110, 15]}, False, True),
    ]
    for change, askable, listed in cases:
        [read] = screen([raw(**{"box": box, **change})]).elements
        assert (read.askable, read.listed) == (askable, listed), change


def test_where_nothing_is_drawn_nothing_is_asked() -> None:
    """Whatever the page says: words and controls in an even area are not there; an unseen control spoils listings."""
    picture = NOISE.copy()
    picture.paste((7, 7, 7), (0, 0, 300, 300))
    data = scan([raw((10, 10, 100, 40)), raw((400, 10, 500, 40))], [run("gone", 50, 100), run("here", 500, 100)])
    read = read_screen(data, picture)
    assert [e.askable for e in read.elements] == [False, True]
    assert [t.askable for t in read.texts] == [False, True]
    assert not read.complete and screen([raw((400, 10, 500, 40))]).complete


def test_boxes_are_whole_pixels_inside_the_picture() -> None:
    [read] = screen([raw((-3.2, 10.4, 1000.6, 20.6))]).elements
    assert tuple(read.box) == (0, 10, 1000, 21)


def test_words_are_joined_as_they_are_read() -> None:
    """Without a space on the page and without a gap they are one word; over a line's end too."""
    line = run("print () now", 0, 0)
    line["words"][1][5] = True
    line["words"][1][1] = [50, 0, 70, 20]
    assert [t.text for t in screen([], [line]).texts] == ["print() now"]
    line["words"][1][1] = [60, 0, 80, 20]
    assert [t.text for t in screen([], [line]).texts] == ["print () now"]
    line["words"][1][1], line["words"][2][1] = [0, 30, 20, 50], [30, 30, 60, 50]
    assert [t.text for t in screen([], [line]).texts] == ["print() now", "print", "() now"]


def test_lines_of_a_run() -> None:
    """Words that stand beside each other, superscripts included; a line can be whole in a run that is not."""
    block = run("one two three", 0, 0)
    block["words"][1][1] = [40, -6, 60, 8]
    block["words"][2][1] = [0, 24, 50, 44]
    block["whole"] = False
    whole, first, second = screen([], [block]).texts
    assert (first.text, second.text) == ("one two", "three")
    assert (whole.line, first.line) == (False, True) and tuple(first.box) == (0, 0, 60, 20)
    assert (whole.askable, first.askable, second.askable) == (False, True, True)
    block["exact"] = False
    assert not any(t.askable for t in screen([], [block]).texts)


def test_what_reacts_to_a_tap() -> None:
    """True and False only where the page says so; what lies over something that reacts is not said to be dead."""
    elements = [
        link((0, 0, 200, 40), "all of this"),
        icon((10, 10, 30, 30), "star", parent=0),
        raw((300, 0, 400, 40), disabled=True),
        icon((500, 0, 520, 20), "sun"),
        raw((0, 100, 200, 300), "other", "div", "", handler=True),
        icon((10, 110, 30, 130), "moon", parent=4, handler=True),
        raw((300, 100, 400, 140), "other", "div", "", pointer=True),
        raw((500, 100, 600, 140), tag="input", role="textbox", type="text"),
        icon((510, 110, 530, 130), "search"),
        raw((700, 0, 800, 20), tag="progress", role="progressbar"),
    ]
    runs = [run("go", 100, 10, owner=0), run("dead", 800, 400), run("over", 540, 110)]
    read = screen(elements, runs)
    assert [e.tappable for e in read.elements] == [True, True, None, False, None, None, True, True, None, False]
    assert [t.tappable for t in read.texts] == [True, False, None]
