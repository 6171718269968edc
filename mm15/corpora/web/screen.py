"""What is on a screenshot, from the scan of its page: widgets with their types, texts and their lines.

Everything here is a pure function of what page.js found and of the picture. It only says what the page itself says;
where that does not settle what a person would see (something covers it, it is cut off, nothing is drawn there, its name
is shared), the element is kept for counting and comparing, but marked as not to be asked about.

Types are the widget classes of Ferret-UI (arXiv 2404.05719) as far as the web has them, and those it has besides.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from PIL import Image as PILImage

from ...regions import Box
from .icons import icon_name

_INPUTS = {
    "checkbox": "checkbox",
    "radio": "radio button",
    "range": "slider",
    "button": "button",
    "submit": "button",
    "reset": "button",
    "image": "button",
    "file": "button",
    "color": "color picker",
}
_ROLES = {
    "button": "button",
    "checkbox": "checkbox",
    "switch": "toggle",
    "radio": "radio button",
    "link": "link",
    "tab": "tab",
    "slider": "slider",
    "textbox": "input field",
    "searchbox": "input field",
    "spinbutton": "input field",
    "combobox": "dropdown",
    "listbox": "list box",
    "option": "list item",
    "treeitem": "list item",
    "menuitem": "menu item",
    "menuitemcheckbox": "menu item",
    "menuitemradio": "menu item",
    "progressbar": "progress bar",
    "meter": "meter",
    "dialog": "dialog",
    "alertdialog": "dialog",
}
_INERT = {"progress bar", "meter", "dialog", "icon", "picture", "text"}
"""Types that do nothing by themselves when they are tapped."""
_ICON_SIDE = 48
"""An image up to so many CSS pixels on its longer side is an icon, unless it is a photograph's format."""
_PHOTO = re.compile(r"\.(?:jpe?g|webp|avif)$", re.IGNORECASE)
_BUTTON_CLASS = re.compile(r"(?:^|[\s_-])(?:btn|button)(?:$|[\s_-])")
_WHOLE = 0.98
"""Share of an element that must be left for it to be asked about: a row of pixels may be lost to rounding."""
_HALF = 0.5
"""Share of an element that must be left for it to be listed."""
_GAP = 0.2
"""Heights of a word that look like a space before it."""
_SMALL = 6
"""Shortest side, in CSS pixels, of what is asked about."""


@dataclass(frozen=True)
class Element:
    """A control, icon or picture. `box` is its visible part, in pixels of the screenshot."""

    type: str
    """"" for something that can be tapped and has no type."""
    name: str
    box: Box
    number: int
    """Its place in the order of the page."""
    parent: int
    """The number of the element it lies in, or -1."""
    listed: bool
    """At least half of it is seen."""
    askable: bool
    """It is seen whole, in one piece, and something is drawn there."""
    tappable: bool | None
    """None where the page does not tell."""


@dataclass(frozen=True)
class Text:
    """A run of words, or one line of it. `box` is around its words, in pixels of the screenshot."""

    text: str
    box: Box
    words: int
    run: int
    """The number of the run, which its lines share."""
    owner: int
    """The number of the element that all its words lie in, or -1."""
    askable: bool
    """All of it is seen, and exactly as written here."""
    tappable: bool | None
    heading: bool = False
    line: bool = False
    """It is one of several lines."""


T = TypeVar("T", Element, Text)


@dataclass(frozen=True)
class Screen:
    """A screenshot's elements and texts in the order of the page, and every string that it shows."""

    size: tuple[int, int]
    elements: tuple[Element, ...]
    texts: tuple[Text, ...]
    strings: tuple[str, ...]
    words: tuple[Box, ...] = field(repr=False)
    framed: bool
    """Other pages are shown in frames; what they hold is not known."""
    complete: bool
    """Every control on it is known and can be seen: no frames, no inputs that something else draws."""

    def ancestors(self, number: int) -> set[int]:
        """The numbers of the elements around an element, its own included."""
        found: set[int] = set()
        while number >= 0:
            found.add(number)
            number = self.elements[number].parent
        return found


def read_screen(scan: dict[str, Any], picture: PILImage.Image) -> Screen:
    """The screen of a scan; `picture` is its screenshot, asked only whether anything is drawn in a box."""
    canvas = _Canvas(picture.convert("RGB"), float(scan["scale"]))
    labelled = {word[3] for run in scan["runs"] for word in run["words"]}
    elements = tuple(_element(n, scan["elements"], labelled, canvas) for n in range(len(scan["elements"])))
    reacting = [e for e in elements if e.tappable is not False]
    elements = tuple(_doubtful(element, reacting) for element in elements)
    texts = tuple(text for number, run in enumerate(scan["runs"]) for text in _texts(number, run, elements, canvas))
    texts = tuple(_doubtful(text, reacting) for text in texts)
    framed = any(raw["kind"] == "frame" for raw in scan["elements"])
    invisible = any(
        raw["kind"] == "control" and raw["seen"] and raw["share"] >= _HALF and not canvas.drawn(element.box)
        for raw, element in zip(scan["elements"], elements, strict=True)
    )
    strings = [_joined(run["words"]) for run in scan["runs"]]
    strings += [raw["shows"] for raw in scan["elements"]]
    strings += scan["generated"]
    return Screen(
        size=picture.size,
        elements=elements,
        texts=texts,
        strings=tuple(filter(None, map(plain, strings))),
        words=tuple(canvas.box(word[1]) for run in scan["runs"] for word in run["words"] if word[2]),
        framed=framed,
        complete=not framed and not scan["ghosts"] and not invisible,
    )


def plain(text: str) -> str:
    """A text as it is compared: letters and digits in words, without case."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    wide, high = min(one.x2, other.x2) - max(one.x1, other.x1), min(one.y2, other.y2) - max(one.y1, other.y1)
    shared = max(0.0, wide) * max(0.0, high)
    union = one.area + other.area - shared
    return shared / union if union else 0.0


@dataclass(frozen=True)
class _Canvas:
    """The screenshot and its pixels a CSS pixel."""

    picture: PILImage.Image
    scale: float

    def box(self, numbers: Sequence[float]) -> Box:
        """Whole pixels, inside the picture."""
        width, height = self.picture.size
        x1, y1, x2, y2 = (round(number) for number in numbers)
        return Box(*(min(max(v, 0), side) for v, side in ((x1, width), (y1, height), (x2, width), (y2, height))))

    def drawn(self, box: Box) -> bool:
        """Whether the pixels of a box differ at all."""
        if box.area == 0:
            return False
        extremes = self.picture.crop((box.x1, box.y1, box.x2, box.y2)).getextrema()
        return any(low != high for low, high in extremes)  # type: ignore[misc]

    def large(self, box: Box) -> bool:
        return min(box.x2 - box.x1, box.y2 - box.y1) >= _SMALL * self.scale


# ------------------------------------------------------------------------------------------------------------ elements


def _element(number: int, everything: Sequence[dict[str, Any]], labelled: set[int], canvas: _Canvas) -> Element:
    """`labelled` are the numbers of the elements that words lie in."""
    raw = everything[number]
    box = canvas.box(raw["box"])
    kind, name = _type(raw, canvas.scale), raw["name"]
    if kind == "icon":
        parent = raw["parent"]
        alone = parent >= 0 and everything[parent]["kind"] == "control" and parent not in labelled
        names = [name, everything[parent]["name"] if alone else ""]
        name = icon_name(classes=raw["classes"], hint=raw["hint"], names=names)
    visible = raw["seen"] and raw["drawn"] and canvas.drawn(box)
    return Element(
        type=kind,
        name=name,
        box=box,
        number=number,
        parent=raw["parent"],
        listed=visible and raw["share"] >= _HALF,
        askable=visible and raw["clear"] and raw["share"] >= _WHOLE and not raw["broken"] and canvas.large(box),
        tappable=_tappable(number, everything, kind),
    )


def _doubtful(one: T, reacting: Sequence[Element]) -> T:
    """`one` without a word on taps where it does nothing itself, but lies over something else that may."""
    x, y = (one.box.x1 + one.box.x2) / 2, (one.box.y1 + one.box.y2) / 2
    if one.tappable is False and any(e.box.x1 <= x <= e.box.x2 and e.box.y1 <= y <= e.box.y2 for e in reacting):
        return replace(one, tappable=None)
    return one


def _type(raw: dict[str, Any], scale: float) -> str:
    """The type of an element by its tag, then its role."""
    kind, tag, role = raw["kind"], raw["tag"], raw["role"]
    if kind == "glyph":
        return "icon"
    if kind == "picture":
        side = max(raw["box"][2] - raw["box"][0], raw["box"][3] - raw["box"][1]) / scale
        small = side <= _ICON_SIDE and tag in ("img", "svg") and raw["share"] > _HALF
        return "icon" if small and not _PHOTO.search(raw["file"]) else "video" if tag == "video" else "picture"
    if kind != "control":
        return ""
    if role == "switch":
        return "toggle"
    if tag == "input":
        return _INPUTS.get(raw["type"], "input field")
    if role == "link" and tag == "a" and _BUTTON_CLASS.search(raw["classes"]):
        return "button"
    return {"textarea": "input field", "summary": "button"}.get(tag) or _ROLES.get(role, "")


def _tappable(number: int, everything: Sequence[dict[str, Any]], kind: str) -> bool | None:
    """Whether something happens at a tap: by what the element is, or by what it lies in."""
    raw = everything[number]
    if raw["disabled"]:
        return None
    if raw["kind"] == "control" and kind not in _INERT:
        return True
    if raw["pointer"]:
        return True
    if raw["parent"] >= 0:
        around = _tappable(raw["parent"], everything, _type(everything[raw["parent"]], 1.0))
        if around is not False:
            return around
    return None if raw["handler"] or raw["kind"] in ("other", "frame") else False


# --------------------------------------------------------------------------------------------------------------- texts


def _texts(number: int, run: dict[str, Any], elements: Sequence[Element], canvas: _Canvas) -> list[Text]:
    """A run as a whole, then its lines where it has several."""
    lines = _lines(run["words"])

    def text(words: Sequence[Any], *, whole: bool, line: bool) -> Text:
        sides = list(zip(*(word[1] for word in words), strict=True))
        owners = {word[3] for word in words}
        seen = whole and run["exact"] and all(word[2] for word in words)
        return Text(
            text=_joined(words),
            box=canvas.box((min(sides[0]), min(sides[1]), max(sides[2]), max(sides[3]))),
            words=len(words),
            run=number,
            owner=owners.pop() if len(owners) == 1 else -1,
            askable=seen and all(canvas.drawn(canvas.box(word[1])) for word in words),
            tappable=_text_tappable(words, elements),
            heading=run["heading"],
            line=line,
        )

    texts = [text(run["words"], whole=run["whole"], line=False)]
    return texts + [text(line, whole=True, line=True) for line in lines if len(lines) > 1]


def _joined(words: Sequence[Any]) -> str:
    """The words as they are read: those without a space between them on the page, and no gap either, are one."""
    text = ""
    for before, word in zip([None, *words], words, strict=False):
        text += ("" if not text or _one(before, word) else " ") + word[0]
    return text


def _one(before: Any, word: Any) -> bool:
    if not word[5]:
        return False
    x1, y1, _, y2 = word[1]
    beside = y1 < before[1][3] and before[1][1] < y2
    return not beside or abs(x1 - before[1][2]) < _GAP * (y2 - y1)


def _text_tappable(words: Sequence[Any], elements: Sequence[Element]) -> bool | None:
    answers = {elements[word[3]].tappable if word[3] >= 0 else (None if word[4] else False) for word in words}
    return answers.pop() if len(answers) == 1 else None


def _lines(words: Sequence[Any]) -> list[list[Any]]:
    """Words in groups that stand beside each other."""
    lines: list[list[Any]] = []
    for word in words:
        _, y1, _, y2 = word[1]
        if lines:
            _, above, _, below = lines[-1][-1][1]
            if min(below, y2) - max(above, y1) > 0.5 * min(below - above, y2 - y1):
                lines[-1].append(word)
                continue
        lines.append([word])
    return lines
