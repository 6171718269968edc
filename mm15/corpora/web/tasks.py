"""From a screen to a conversation about it: the elementary tasks of Ferret-UI (arXiv 2404.05719).

    refer (a box in the question)    ocr, icon_recognition, widget_classification, taperception
    ground (a box in the answer)     find_text, find_icon, find_widget
    the whole screen                 description, widget_listing

Answers are only what the page says. What is asked for by name has that name alone on its screen; a box that is asked
about holds one thing; no element is asked about twice in a conversation; the questions whose answers name many elements
come last, so that nothing can be copied from an answer before.

One conversation a screen, because its picture is stored once so. All draws come from the dice that are passed in.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ...regions import Box, Region
from ...sample import Content, Part, assistant, user
from ...world.dice import Dice
from .screen import Element, Screen, Text, overlap, plain
from .wordings import ASKED, EVERYTHING

_LONGEST_NAME = 60
_MOST_WORDS = 8
"""Words of what is asked for by name."""
_LONGEST_TEXT = 30
"""Words of a text that is to be read."""
_SAME = 0.6
"""Intersection over union from which a box could be meant for another element too."""
_MOST_LISTED = 15
_MUCH = 8
"""So many times as large, a box around another says nothing of it."""
_NO_WIDGETS = ("icon", "picture", "video", "")
"""Types that are not listed or counted."""

T = TypeVar("T", bound=Element | Text)
Key = tuple[str, int]


@dataclass(frozen=True)
class Turn:
    """A question and its answer. `about` are the elements (or texts) that it gives away."""

    task: str
    asked: list[Content]
    said: list[Content]
    about: frozenset[Key] = frozenset()

    def record(self) -> dict[str, object]:
        """Task, answer in words, and its boxes, for `meta`."""
        text = "".join(piece for piece in self.said if isinstance(piece, str))
        boxes = [list(piece.shape) for piece in (*self.asked, *self.said) if isinstance(piece, Region)]
        return {"task": self.task, "answer": text, "boxes": boxes}


@dataclass
class _Room:
    """What the makers of turns work with: the screen, the dice, and what has been asked about."""

    screen: Screen
    dice: Dice
    used: set[Key] = field(default_factory=set)

    def pick(self, candidates: Sequence[T]) -> T | None:
        """One of the candidates that has nothing to do with what has been asked about."""
        fresh = [one for one in candidates if not self.keys(one) & self.used]
        return self.dice.pick(fresh) if fresh else None

    def keys(self, one: Element | Text) -> set[Key]:
        """What a question about `one` gives away: it, its run, and what lies around it unless that is much larger."""
        own: set[Key] = {("run", one.run)} if isinstance(one, Text) else set()
        number = one.owner if isinstance(one, Text) else one.number
        around = self.screen.ancestors(number)
        return own | {("element", n) for n in around if self.screen.elements[n].box.area <= _MUCH * one.box.area}

    def wording(self, task: str, **values: str) -> tuple[str, str]:
        """A wording of a question, before and after its box."""
        before, _, after = self.dice.pick(ASKED[task]).partition("{box}")
        return before.format(**values), after.format(**values)


def converse(screen: Screen, dice: Dice, *, tasks: Sequence[str], turns: int) -> list[Turn]:
    """Up to `turns` turns about a screen, of the given tasks in turn; fewer where it does not hold enough."""
    room = _Room(screen, dice)
    asked: list[Turn] = []
    closing = [turn for name in _CLOSING if name in tasks and (turn := TASKS[name](room))][:turns]
    single = [name for name in TASKS if name in tasks and name not in _CLOSING]
    more = bool(single)
    while more:
        before = len(asked)
        for name in dice.shuffle(single):
            turn = TASKS[name](room) if len(asked) + len(closing) < turns else None
            if turn is not None:
                asked.append(turn)
                room.used |= turn.about
        more = len(asked) > before
    return asked + closing


def parts(turns: Sequence[Turn], opening: Content) -> tuple[Part, ...]:
    """The turns as a sample's parts, the picture before the first question."""
    written: tuple[Part, ...] = ()
    for turn in turns:
        asked = turn.asked if written else [opening, *turn.asked]
        written += user(*asked) + assistant(*turn.said)
    return written


# ----------------------------------------------------------------------------------------------------------- referring


def _refer(room: _Room, task: str, one: Element | Text, answer: str) -> Turn:
    before, after = room.wording(task)
    return Turn(task, [before, Region(one.box), *([after] if after else [])], [answer], frozenset(room.keys(one)))


def ocr(room: _Room) -> Turn | None:
    """The words of a text in a box; no other words lie in that."""
    texts = [t for t in room.screen.texts if t.askable and len(t.text.split()) <= _LONGEST_TEXT]
    text = room.pick([t for t in texts if any(map(str.isalnum, t.text)) and _alone(room.screen, t)])
    return _refer(room, "ocr", text, text.text) if text else None


def icon_recognition(room: _Room) -> Turn | None:
    """The name of an icon in a box."""
    icon = room.pick(_icons(room.screen))
    return _refer(room, "icon_recognition", icon, icon.name) if icon else None


def widget_classification(room: _Room) -> Turn | None:
    """The type of an element in a box; each type of the screen is as likely."""
    by_type: dict[str, list[Element | Text]] = {}
    for one in _typed(room.screen):
        if not room.keys(one) & room.used and _unambiguous(room.screen, one):
            by_type.setdefault(_type(one), []).append(one)
    if not by_type:
        return None
    kind = room.dice.pick(sorted(by_type))
    return _refer(room, "widget_classification", room.dice.pick(by_type[kind]), kind)


def taperception(room: _Room) -> Turn | None:
    """Whether something can be tapped; as often yes as no where the screen has both."""
    everything: list[Element | Text] = [*room.screen.elements, *room.screen.texts]
    groups = [[one for one in everything if one.askable and one.tappable is answer] for answer in (True, False)]
    first, second = groups if room.dice.chance() else groups[::-1]
    one = room.pick(first) or room.pick(second)
    return _refer(room, "taperception", one, "yes" if one.tappable else "no") if one else None


# ----------------------------------------------------------------------------------------------------------- grounding


def _find(room: _Room, task: str, one: Element | Text, name: str, **values: str) -> Turn:
    asked, _ = room.wording(task, name=name, **values)
    return Turn(task, [asked], [Region(one.box, label=name)], frozenset(room.keys(one)))


def find_text(room: _Room) -> Turn | None:
    """The box of a text whose words stand nowhere else on the screen."""
    texts = [t for t in room.screen.texts if t.askable and _sayable(t.text)] if not room.screen.framed else []
    text = room.pick([t for t in texts if _occurs(t.text, room.screen.strings) == 1])
    return _find(room, "find_text", text, text.text) if text else None


def find_icon(room: _Room) -> Turn | None:
    """The box of the only icon of its name."""
    icon = room.pick([e for e in _icons(room.screen) if not room.screen.framed and _only(room.screen, e)])
    return _find(room, "find_icon", icon, icon.name) if icon else None


def find_widget(room: _Room) -> Turn | None:
    """The box of the only element of its name."""
    named = [e for e in room.screen.elements if e.type not in ("", "icon") and e.askable and _sayable(e.name)]
    widget = room.pick([e for e in named if not room.screen.framed and _only(room.screen, e)])
    return _find(room, "find_widget", widget, widget.name, type=widget.type) if widget else None


# ---------------------------------------------------------------------------------------------------------- the screen


def description(room: _Room) -> Turn | None:
    """The heading of a screen and how many widgets of each type it has."""
    screen = room.screen
    counts = Counter(e.type for e in _widgets(screen))
    heading = next((t for t in screen.texts if t.heading and t.askable and not t.line), None)
    if not screen.complete or not counts:
        return None
    kinds = [
        f"{n} {_plural(kind) if n > 1 else kind}" for kind, n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))
    ]
    listed = kinds[0] if len(kinds) == 1 else ", ".join(kinds[:-1]) + " and " + kinds[-1]
    headed = f' headed "{heading.text}"' if heading is not None else ""
    asked, _ = room.wording("description")
    return Turn("description", [asked], [f"A page{headed} with {listed}."])


def widget_listing(room: _Room) -> Turn | None:
    """Every widget of the screen (of one type, where there are many) with type, name and box, in reading order."""
    widgets = _widgets(room.screen) if room.screen.complete else []
    types = sorted({e.type for e in widgets})
    fitting = [kind for kind in types if sum(e.type == kind for e in widgets) <= _MOST_LISTED]
    if len(widgets) > _MOST_LISTED:
        kind = room.dice.pick(fitting) if fitting else None
        widgets = [e for e in widgets if e.type == kind]
        called = _plural(kind or "")
    else:
        called = EVERYTHING
    if not widgets:
        return None
    asked, _ = room.wording("widget_listing", types=called)
    said: list[Content] = []
    for widget in sorted(widgets, key=lambda e: (e.box.y1, e.box.x1)):
        short = widget.name and len(widget.name) <= _LONGEST_NAME
        named = f'{widget.type} "{widget.name}" ' if short else f"{widget.type} "
        said += ["\n" + named if said else named, Region(widget.box, label=widget.name or widget.type)]
    return Turn("widget_listing", [asked], said)


TASKS: dict[str, Callable[[_Room], Turn | None]] = {
    "ocr": ocr,
    "icon_recognition": icon_recognition,
    "widget_classification": widget_classification,
    "taperception": taperception,
    "find_text": find_text,
    "find_icon": find_icon,
    "find_widget": find_widget,
    "description": description,
    "widget_listing": widget_listing,
}
_CLOSING = ("description", "widget_listing")


# ------------------------------------------------------------------------------------------------------------- helpers


def _plural(kind: str) -> str:
    return kind + ("es" if kind.endswith("x") else "s")


def _sayable(name: str) -> bool:
    """Short enough to be asked for, on one line, with a letter or digit in it, and without quotes of its own."""
    words = len(name.split())
    return 0 < words <= _MOST_WORDS and len(name) <= _LONGEST_NAME and '"' not in name and any(map(str.isalnum, name))


def _widgets(screen: Screen) -> list[Element]:
    return [e for e in screen.elements if e.listed and e.type not in _NO_WIDGETS]


def _icons(screen: Screen) -> list[Element]:
    return [e for e in screen.elements if e.type == "icon" and e.askable and _sayable(e.name)]


def _typed(screen: Screen) -> Iterator[Element | Text]:
    """Elements with a type, and texts that lie in no element."""
    yield from (e for e in screen.elements if e.askable and e.type)
    yield from (t for t in screen.texts if t.askable and not t.line and t.owner < 0)


def _type(one: Element | Text) -> str:
    return one.type if isinstance(one, Element) else "text"


def _unambiguous(screen: Screen, one: Element | Text) -> bool:
    """Nothing of another type fills the same box; the words of an element are part of it."""
    kind = _type(one)
    others: list[Element | Text] = [e for e in screen.elements if e.listed and e.type != kind]
    if isinstance(one, Element):
        others += [t for t in screen.texts if not t.line and one.number not in screen.ancestors(t.owner)]
    return not any(overlap(one.box, other.box) > _SAME for other in others)


def _alone(screen: Screen, text: Text) -> bool:
    """No words but its own have their centres in its box."""
    return sum(_holds(text.box, word) for word in screen.words) <= text.words


def _holds(box: Box, word: Box) -> bool:
    x, y = (word.x1 + word.x2) / 2, (word.y1 + word.y2) / 2
    return box.x1 <= x <= box.x2 and box.y1 <= y <= box.y2


def _occurs(text: str, strings: Sequence[str]) -> int:
    """How often a text stands in the strings of a screen as whole words."""
    needle = f" {plain(text)} "
    return sum(_count(f" {string} ", needle) for string in strings)


def _count(hay: str, needle: str) -> int:
    """Occurrences, those that share a space included."""
    found, at = 0, hay.find(needle)
    while at >= 0:
        found, at = found + 1, hay.find(needle, at + 1)
    return found


def _only(screen: Screen, element: Element) -> bool:
    """Nothing else on the screen has the element's name: neither another element, unless one lies in the other, nor a
    text outside it."""
    name, around = plain(element.name), screen.ancestors(element.number)
    for other in screen.elements:
        related = other.number in around or element.number in screen.ancestors(other.number)
        if not related and plain(other.name) == name:
            return False
    texts = (t for t in screen.texts if not t.line and element.number not in screen.ancestors(t.owner))
    return not any(plain(text.text) == name for text in texts)
