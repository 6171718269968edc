"""The samples of a page, by task:

    ocr          document   the page and its text, line by line in reading order
    read         chat       the same as an answer to "Read this page."
    refer        chat       "What does this box say?" + box -> text of a word, a line or a paragraph
    ground       chat       'Where is "..."?' -> box, for words that occur once on the page
    words lines  chat       small pictures of single words or lines, cut out of the page -> their text
    interleaved  document   text and figures of several pages in reading order

To store a page's picture no more often than needed, a page that is wanted for both `ocr` and `read` becomes one of
them, by lot, and `refer` and `ground` are asked in one conversation. All draws are a pure function of the seed, the
file's content and the page. Text is as it is printed, with hyphens at the ends of lines; only interleaved documents
join lines and mend words that pdfium knows to be hyphenated.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

from ...regions import Box, Region
from ...sample import Content, Image, Part, Sample, assistant, document, user
from ...world.dice import Dice
from .document import Page, Word
from .figures import MARK, place_words
from .layout import Line, Paragraph, around, arrange, inside, middle

TASKS = ("ocr", "read", "refer", "ground", "words", "lines", "interleaved")
DEFAULT_TASKS = ("ocr", "read", "refer", "ground")
SURE = 0.98
"""A page is read as a whole when at least this share of its words is readable."""
_MOST_LINES = 12
"""Paragraphs that are asked about have at most so many lines."""
_MOST_WORDS = 4
"""Words that are looked for are at most so many together."""
_TRIES = 20
_MOST_FIGURES, _MOST_CHARACTERS = 4, 4000
"""An interleaved document ends with the paragraph in which it reaches one of these."""

READ = (
    "Read this page.",
    "Write out the text of this page.",
    "What does this page say?",
    "Transcribe this page in reading order.",
    "Give me all the text on this page.",
)
REFER = (
    ("What does this box say? ", ""),
    ("Read the text in ", "."),
    ("What is written in ", "?"),
    ("What does the text at ", " say?"),
    ("Transcribe what is in ", "."),
)
GROUND = (
    'Where is "{}"?',
    'Find "{}".',
    'Where does it say "{}"?',
    'Give the box of "{}".',
    'Where on the page is "{}" written?',
)
CUT = ("Read the text.", "What does it say?", "What is written here?", "Read this.")


def dice_of(*key: object) -> Dice:
    """Draws that are a function of `key`."""
    digest = hashlib.sha256(":".join(map(str, key)).encode()).digest()
    return Dice([int.from_bytes(digest[i : i + 4]) for i in range(0, len(digest), 4)])


@dataclass(frozen=True)
class Choice:
    """What is made of a page. `turns` questions a conversation, `cuts` small pictures a page and task."""

    tasks: tuple[str, ...] = DEFAULT_TASKS
    picture: str = "jpeg"
    quality: int = 90
    turns: int = 6
    cuts: int = 8
    seed: int = 0


@dataclass(frozen=True, eq=False)
class View:
    """A page with its layout, and where it is from: `file` as people know it, `digest` of its content, page from 1."""

    page: Page
    file: str
    digest: str
    number: int
    figures: tuple[Box, ...] = ()

    @property
    def readable(self) -> bool:
        """Whether nearly all words can be read; SURE."""
        words = self.page.words
        return sum(word.readable for word in words) >= SURE * len(words)

    def dice(self, seed: int, task: str) -> Dice:
        """Draws for a task on this page."""
        return dice_of(seed, self.digest, self.number, task)

    def sample(self, task: str, parts: tuple[Part, ...], end: str = "", **meta: Any) -> Sample:
        """A sample of this page."""
        known = {"task": task, "file": self.file, "page": self.number, **meta}
        return Sample(f"{self.file}:{self.number}:{task}{end}", "pdf", parts, known)


def page_samples(view: View, choice: Choice) -> list[Sample]:
    """All samples of one page but the interleaved documents, in a fixed order."""
    paragraphs = arrange(view.page.words)
    whole = [task for task in ("ocr", "read") if task in choice.tasks]
    places = [task for task in ("refer", "ground") if task in choice.tasks]
    samples = []
    picture = None
    if (whole and view.readable) or places:
        picture = Image(view.page.encoded(format=choice.picture, quality=choice.quality))
    if whole and view.readable and picture:
        samples.append(_whole(view, paragraphs, picture, whole, choice))
    if places and picture:
        samples += _places(view, paragraphs, picture, places, choice)
    for task in ("words", "lines"):
        if task in choice.tasks:
            samples += _cuts(view, paragraphs, task, choice)
    return samples


def _whole(view: View, paragraphs: list[Paragraph], picture: Image, tasks: Sequence[str], choice: Choice) -> Sample:
    """The page and its text, as one of `tasks`; `meta` has the words with their boxes."""
    dice = view.dice(choice.seed, "whole")
    text = "\n".join(line.text for paragraph in paragraphs for line in paragraph)
    words = [[word.text, *word.box] for word in view.page.words]
    task = dice.pick(tasks)
    if task == "ocr":
        return view.sample(task, document(picture, text), words=words)
    return view.sample(task, user(picture, dice.pick(READ)) + assistant(text), words=words)


# --------------------------------------------------------------------------------------------------------------- places


def _places(
    view: View, paragraphs: list[Paragraph], picture: Image, tasks: Sequence[str], choice: Choice
) -> Iterator[Sample]:
    """One conversation about places on the page; nothing when there is nothing to ask."""
    dice = view.dice(choice.seed, "places")
    ask = {"refer": _refer(paragraphs), "ground": _ground(paragraphs)}
    parts: tuple[Part, ...] = ()
    asked: set[Box] = set()
    for _ in range(choice.turns):
        turn = ask[dice.pick(tasks)](dice, asked)
        if turn is not None:
            question, answer = turn
            shown: tuple[Content, ...] = () if parts else (picture,)
            parts += user(*shown, *question) + assistant(*answer)
    if parts:
        yield view.sample("-".join(tasks), parts)


Turn = tuple[tuple[Content, ...], tuple[Content, ...]]
Ask = Callable[[Dice, set[Box]], Turn | None]


def _refer(paragraphs: list[Paragraph]) -> Ask:
    """Asks for the text of a word, a line or a paragraph that can be read and has no other words in its box."""
    lines = [line for paragraph in paragraphs for line in paragraph if _certain(line.words)]
    words = [word for line in lines for word in line.words if any(map(str.isalnum, word.text))]
    several = [
        paragraph
        for paragraph in paragraphs
        if 1 < len(paragraph) <= _MOST_LINES and all(_certain(line.words) for line in paragraph)
    ]
    kinds: list[list[Paragraph]] = [[(Line((word,)),) for word in words], [(line,) for line in lines], several]
    kinds = [kind for kind in kinds if kind]
    middles = [middle(word.box) for paragraph in paragraphs for line in paragraph for word in line.words]

    def ask(dice: Dice, asked: set[Box]) -> Turn | None:
        for _ in range(_TRIES if kinds else 0):
            chosen = dice.pick(dice.pick(kinds))
            box, text = around([line.box for line in chosen]), "\n".join(line.text for line in chosen)
            alone = sum(inside(at, box) for at in middles) == sum(len(line.words) for line in chosen)
            if box not in asked and alone:
                asked.add(box)
                before, after = dice.pick(REFER)
                question: tuple[Content, ...] = (before, Region(box), after) if after else (before, Region(box))
                return question, (text,)
        return None

    return ask


def _ground(paragraphs: list[Paragraph]) -> Ask:
    """Asks for the box of words that stand once on the page, whatever their case."""
    lines = [line for paragraph in paragraphs for line in paragraph]
    page = " ".join(line.text for line in lines).casefold()

    def ask(dice: Dice, asked: set[Box]) -> Turn | None:
        for _ in range(_TRIES if lines else 0):
            line = dice.pick(lines).words
            first = dice.below(len(line))
            words = line[first : first + dice.between(1, _MOST_WORDS)]
            text, box = " ".join(word.text for word in words), around([word.box for word in words])
            near = all(b.line[0] - a.line[2] <= a.height for a, b in pairwise(words))
            known = near and _certain(words) and _askable(text)
            if box not in asked and known and page.count(text.casefold()) == 1:
                asked.add(box)
                return (dice.pick(GROUND).format(text),), (Region(box, 0, text),)
        return None

    return ask


def _certain(words: tuple[Word, ...]) -> bool:
    return all(word.readable and word.upright for word in words)


def _askable(text: str) -> bool:
    return len(text) >= 3 and text[0].isalnum() and text[-1].isalnum() and '"' not in text


# ----------------------------------------------------------------------------------------------------------------- cuts


def _cuts(view: View, paragraphs: list[Paragraph], task: str, choice: Choice) -> Iterator[Sample]:
    """Small pictures of single words or of lines, with their text."""
    dice = view.dice(choice.seed, task)
    lines = [line.words for paragraph in paragraphs for line in paragraph if _certain(line.words)]
    units = lines if task == "lines" else [(word,) for line in lines for word in line if len(word.text) > 1]
    for number, words in enumerate(dice.sample(units, min(choice.cuts, len(units)))):
        x1, y1, x2, y2 = Line(words).extent
        inked = around([word.box for word in words])
        margin = dice.uniform(0.05, 0.15) * (y2 - y1)
        width, height = view.page.size
        box = (
            max(0, round(min(x1, inked.x1) - margin)),
            max(0, round(min(y1, inked.y1) - margin)),
            min(width, round(max(x2, inked.x2) + margin)),
            min(height, round(max(y2, inked.y2) + margin)),
        )
        picture = Image(view.page.encoded(box, format=choice.picture, quality=choice.quality))
        text = " ".join(word.text for word in words)
        parts = user(picture, dice.pick(CUT)) + assistant(text)
        yield view.sample(task, parts, f":{number}", box=list(box))


# ---------------------------------------------------------------------------------------------------------- interleaved


def interleaved_samples(views: list[View], choice: Choice) -> Iterator[Sample]:
    """Documents of text and figures over pages that follow each other; text without any figure makes none."""
    contents: list[Content] = []
    begun = views[0]
    made: Counter[int] = Counter()
    for view in views:
        begun = begun if contents else view
        for content in _flow(view, choice):
            if isinstance(content, str) and contents and isinstance(contents[-1], str):
                contents[-1] += "\n\n" + content
            else:
                contents.append(content)
            if isinstance(content, str) and _full(contents):
                yield from _document(begun, contents, made)
                contents, begun = [], view
    yield from _document(begun, contents, made)


def _document(begun: View, contents: list[Content], made: Counter[int]) -> Iterator[Sample]:
    """One document, named after the page it begins on and how many were `made` before from there."""
    figures = sum(isinstance(content, Image) for content in contents)
    if figures:
        yield begun.sample("interleaved", document(*contents), f":{made[begun.number]}", figures=figures)
        made[begun.number] += 1


def _full(contents: list[Content]) -> bool:
    figures = sum(isinstance(content, Image) for content in contents)
    characters = sum(len(content) for content in contents if isinstance(content, str))
    return figures >= _MOST_FIGURES or characters >= _MOST_CHARACTERS


def _flow(view: View, choice: Choice) -> Iterator[str | Image]:
    """Paragraphs and figures of a page in reading order, without its number."""
    placed = place_words(view.page.words, list(view.figures))
    figures = {id(word): word for word in placed[len(placed) - len(view.figures) :]}
    paragraphs = arrange(placed)
    for number, paragraph in enumerate(paragraphs):
        words = [word for line in paragraph for word in line.words]
        if number in (0, len(paragraphs) - 1) and not any(c.isalpha() or c == MARK for w in words for c in w.text):
            continue
        for figure, run in groupby(words, key=lambda word: figures.get(id(word))):
            if figure is None:
                yield _joined(list(run))
                continue
            x1, y1, x2, y2 = (round(side) for side in figure.box)
            yield Image(view.page.encoded((x1, y1, x2, y2), format=choice.picture, quality=choice.quality))


def _joined(words: list[Word]) -> str:
    """Words as running text: those that a line's end parted are one again."""
    parts = [word.text[:-1] if word.hyphenated else f"{word.text} " for word in words[:-1]]
    return "".join(parts) + words[-1].text
