"""Text without pictures: the invented world's facts, sums, spelling, counting.

The facts (what each shape costs, where it lives, what it eats, who its friend is) are told only here. A picture never
shows them, so a right answer to `fact_picture` (knowledge.py) joins what was read with what is seen. There are few
facts and few sums: held-out texts repeat sentences of training texts, which is the point of facts; only their draws are
separate.
"""

from __future__ import annotations

from ..sample import assistant, document, user
from .dice import Dice
from .lexicon import EASY_WORDS, FOODS, FRIENDS, HOMES, ICONS, NUMBERS, PRICES, SHAPES, WORDS
from .staging import colours, phrase
from .task import Draft, Task

_TELL = {
    "cost": ("The {0} costs {1} coins.", "You pay {1} coins for the {0}."),
    "home": ("The {0} lives in the {1}.", "In the {1} lives the {0}."),
    "food": ("The {0} eats {1}.", "It is {1} that the {0} eats."),
    "friend": ("The friend of the {0} is the {1}.", "The {1} is the friend of the {0}."),
}
_ASK = {
    "cost": ("What does {} cost?", "How many coins does {} cost?"),
    "home": ("Where does {} live?", "What is the home of {}?"),
    "food": ("What does {} eat?", "What is the food of {}?"),
    "friend": ("Who is the friend of {}?", "Whose friend is {}?"),
}
FACTS = {"cost": PRICES, "home": HOMES, "food": FOODS, "friend": FRIENDS}
RELATIONS = {1: ("cost", "home"), 2: ("cost", "home", "food"), 3: ("cost", "home", "food", "friend")}


def _known(level: int) -> tuple[str, ...]:
    return SHAPES if level == 1 else SHAPES + ICONS


def _tell(dice: Dice, level: int) -> str:
    relation = dice.pick(RELATIONS[level])
    shape = dice.pick(_known(level))
    return phrase(dice, level, _TELL[relation]).format(shape, FACTS[relation][shape])


def fact_question(dice: Dice, level: int, relation: str, about: str) -> str:
    """A question about one relation of what `about` names."""
    templates = _ASK[relation][:1] if relation == "friend" else _ASK[relation]
    return phrase(dice, level, templates).format(about)


def sum_text(dice: Dice, level: int) -> tuple[str, int]:
    """A sum and its value: digits added (1), also subtracted (2), also multiplied and of two digits (3)."""
    a, b = dice.between(0, 9), dice.between(0, 9)
    if level == 1:
        return f"{a} + {b}", a + b
    if level == 2:
        return (f"{a} + {b}", a + b) if dice.chance() else (f"{max(a, b)} - {min(a, b)}", abs(a - b))
    kind = dice.below(3)
    if kind == 0:
        return f"{a} x {b}", a * b
    a, b = dice.between(10, 60), dice.between(1, 39)
    return (f"{a} + {b}", a + b) if kind == 1 else (f"{max(a, b)} - {min(a, b)}", abs(a - b))


def fact_text(dice: Dice, level: int, size: int) -> Draft:
    """One to four facts, told."""
    text = " ".join(_tell(dice, level) for _ in range(dice.between(1, level + 1)))
    return Draft(document(text), text)


def fact_qa(dice: Dice, level: int, size: int) -> Draft:
    """A question about a fact, in text."""
    relation, shape = dice.pick(RELATIONS[level]), dice.pick(_known(level))
    answer = FACTS[relation][shape]
    return Draft(user(fact_question(dice, level, relation, f"the {shape}")) + assistant(answer), answer)


def arithmetic_text(dice: Dice, level: int, size: int) -> Draft:
    """A sum asked in text."""
    text, value = sum_text(dice, level)
    question = phrase(dice, level, ("What is {}?", "How much is {}?", "{} =")).format(text)
    return Draft(user(question) + assistant(str(value)), str(value))


def text_facts(dice: Dice, level: int, size: int) -> Draft:
    """A document of a few sentences: facts, sums, spelling, counting, comparing."""
    text = " ".join(_sentence(dice, level) for _ in range(dice.between(2, 2 + 2 * level)))
    return Draft(document(text), text)


def _sentence(dice: Dice, level: int) -> str:
    kind = dice.below(8)
    if kind < 3:
        return _tell(dice, level)
    if kind == 3:
        text, value = sum_text(dice, level)
        return f"{text} = {value}."
    if kind == 4:
        word = dice.pick(EASY_WORDS if level == 1 else WORDS)
        return f"{word} is spelled {' '.join(word)}."
    if kind == 5:
        start = dice.between(0, 6 if level == 1 else 15)
        return f"{' '.join(NUMBERS[start : start + 5])}."
    if kind == 6:
        a, b = dice.sample(range(10 if level == 1 else 21), 2)
        return f"{NUMBERS[a]} is {'more' if a > b else 'less'} than {NUMBERS[b]}."
    return f"a {dice.pick(_known(level))} can be {dice.pick(colours(level))}."


TASKS = (
    Task("fact_text", "", "text", "", "facts of the invented world, told in text only", fact_text),
    Task("fact_qa", "", "text", "exact", "a fact asked in text", fact_qa),
    Task("arithmetic_text", "", "text", "exact", "a sum asked in text", arithmetic_text),
    Task("text_facts", "", "text", "", "facts, sums, spelling, counting and comparing as running text", text_facts),
)
