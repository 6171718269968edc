"""Few-shot episodes: a hidden operator to infer, nonsense names to bind, as in VL-ICL (arXiv 2403.13164).

An episode is one conversation; its last turn is the question. Answers of shots are targets only where the shots before
them determine the answer (the operator, from the second shot on); the others are context.
"""

from __future__ import annotations

from ..regions import Box
from ..sample import Image, Part, assistant, document, user
from .canvas import BOLD, FONTS, Canvas, dark, fit, light
from .dice import Dice
from .lexicon import NONSENSE
from .staging import Look, article, colours, phrase, shapes, stage
from .task import Draft, Task

OPERATORS = {"+": lambda a, b: a + b, "-": lambda a, b: a - b, "x": lambda a, b: a * b}
_SHOTS = {1: 2, 2: 2, 3: 3}
_LARGEST = {1: 4, 2: 6, 3: 9}


def _pair(dice: Dice, largest: int) -> tuple[int, int]:
    """Two numbers, the first not smaller, whose sum, difference and product all differ."""
    while True:
        a = dice.between(1, largest)
        b = dice.between(1, a)
        if (a, b) != (2, 2):
            return a, b


def _puzzle(dice: Dice, level: int, size: int, a: int, b: int) -> tuple[Image, Box]:
    text = f"{a} ? {b}" if level > 1 else f"{a}?{b}"
    name = BOLD if level == 1 else dice.pick(FONTS[:4])
    canvas = Canvas(size, size, light(dice, level))
    pixels = fit(
        text, name, round(size * dice.uniform(*((0.36, 0.46) if level == 1 else (0.2, 0.34)))), size * 15 // 16
    )
    low, high = round(0.32 * size), round(0.68 * size)
    middle = dice.between(low, high)
    box = canvas.write_centred(text, Box(0, middle, size, middle), size=pixels, colour=dark(dice), name=name)
    return canvas.finish(), box


def operator_induction(dice: Dice, level: int, size: int) -> Draft:
    """Pictures of "a ? b" with results under one hidden operator; the last result is asked.

    Level 1: + or -, two shots, numbers 1-4. Level 2: also x, numbers to 6. Level 3: three shots, numbers to 9. Every
    shot alone tells the operator, and the asked pair is none of the shots'.
    """
    sign = dice.pick(("+", "-") if level == 1 else tuple(OPERATORS))
    pairs: list[tuple[int, int]] = []
    while len(pairs) < _SHOTS[level] + 1:
        pair = _pair(dice, _LARGEST[level])
        if pair not in pairs:
            pairs.append(pair)
    parts: tuple[Part, ...] = ()
    objects = []
    for i, (a, b) in enumerate(pairs):
        image, box = _puzzle(dice, level, size, a, b)
        answer = str(OPERATORS[sign](a, b))
        objects.append({"text": f"{a}?{b}", "box": list(box), "image": i})
        parts += user(image, "What is the result?") + assistant(answer, target=i > 0)
    return Draft(
        parts, answer, [box], objects, {"shots": len(pairs) - 1, "operator": sign, "box_images": [len(pairs) - 1]}
    )


def fast_binding(dice: Dice, level: int, size: int) -> Draft:
    """Nonsense names are given to shapes (from level 2: or to colors), one a shot; a new picture asks for its name.

    Two names at level 1, three at 2, four at 3. What is not named (color, size, place) varies freely.
    """
    number = level + 1
    names = dice.sample(NONSENSE, number)
    by_shape = level == 1 or dice.chance()
    bound = dice.sample(shapes(level) if by_shape else colours(level), number)
    # the other attribute is the same in all pictures of a coloured episode, and varies in one of shapes
    varied = [dice.pick(colours(level) if by_shape else shapes(level)) for _ in range(number + 1)]
    asked = dice.below(number)
    parts: tuple[Part, ...] = ()
    objects = []
    kind = "shape" if by_shape else "color"
    for i in range(number + 1):
        which = asked if i == number else i
        look = Look(bound[which], varied[i]) if by_shape else Look(varied[i], bound[which])
        scene = stage(dice, level, size, [look], scale=(0.3, 0.5) if level < 3 else (0.2, 0.4))
        objects += scene.records(i)
        question = phrase(dice, level, (f"What {kind} is this?", f"Name this {kind}."))
        parts += user(scene.image, question) + assistant(names[which], target=i == number)
    extra = {"shots": number, "bindings": dict(zip(names, bound, strict=True))}
    return Draft(parts, names[asked], objects=objects, extra=extra)


def story_page(dice: Dice, level: int, size: int) -> Draft:
    """An interleaved page: texts before pictures announce them, texts after tell them, the end remembers them all."""
    number = dice.between(2, 2 if level == 1 else level + 1)
    contents: list[str | Image] = []
    objects, told = [], []
    for i in range(number):
        look = Look(dice.pick(shapes(level)), dice.pick(colours(level)))
        scene = stage(dice, level, size, [look], scale=(0.28, 0.5) if level < 3 else (0.18, 0.4))
        name = article(str(look))
        objects += scene.records(i)
        told.append(name)
        before = i > 0 and dice.chance(0.4)
        if before:
            contents += [f" next comes {name}: ", scene.image]
            contents.append(phrase(dice, level, (" there it is.", " this is it.")))
        else:
            contents.append(scene.image)
            contents.append(phrase(dice, level, (f" this is {name}.", f" here you see {name}.", f" that was {name}.")))
    contents.append(f" first {', then '.join(told)}.")
    text = "".join(c for c in contents if isinstance(c, str)).strip()
    return Draft(document(*contents), text, objects=objects)


TASKS = (
    Task("operator_induction", "in-context", "in-context", "exact", "infer + - x from shots", operator_induction, 0.2),
    Task("fast_binding", "in-context", "in-context", "exact", "nonsense names bound by shots", fast_binding, 1 / 2),
    Task("story_page", "", "interleaved", "", "texts and pictures that speak of each other", story_page),
)
