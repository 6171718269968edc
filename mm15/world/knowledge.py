"""Pictures that need more than eyes: facts that only texts tell (science), sums (math), and markup (code)."""

from __future__ import annotations

from .canvas import BOLD, FONTS, Canvas, dark, fit, light, word
from .dice import Dice
from .lexicon import FRIENDS
from .staging import Scene, Thing, cast, count, phrase, stage
from .task import Draft, Task, ask
from .texts import FACTS, RELATIONS, fact_question, sum_text


def fact_picture(dice: Dice, level: int, size: int) -> Draft:
    """A fact asked about a thing in a picture: the only one (1), the one of a color (2), or that one's friend (3)."""
    looks = cast(dice, level, 1 if level == 1 else min(3, count(dice, 2)), unique="colour")
    scene = stage(dice, level, size, looks, scale=(0.3, 0.5) if level == 1 else (0.2, 0.32))
    look, box = looks[0], scene.things[0].box
    relation = dice.pick(RELATIONS[level])
    about = "this" if level == 1 else f"the {look.colour} thing"
    shape = look.shape
    if level == 3 and relation != "friend" and dice.chance():
        about, shape = f"the friend of {about}", FRIENDS[shape]
    question = fact_question(dice, level, relation, about)
    return ask(scene.image, question, FACTS[relation][shape], boxes=[box], objects=scene.records())


def math_picture(dice: Dice, level: int, size: int) -> Draft:
    """A sum shown as text: results 2-10 of digits added (1), also subtracted (2), also multiplied and longer (3)."""
    if level == 1:
        value = dice.between(2, 10)
        a = dice.between(max(1, value - 5), min(5, value - 1))
        text = f"{a}+{value - a}"
    else:
        text, value = sum_text(dice, level)
    name = BOLD if level == 1 else dice.pick(FONTS[:4])
    canvas = Canvas(size, size, light(dice, level))
    scale = dice.uniform(*{1: (0.36, 0.46), 2: (0.2, 0.32), 3: (0.13, 0.22)}[level])
    pixels = fit(text, name, round(size * scale), size * 15 // 16)
    wide, high = word(text, name, pixels).size
    x, y = dice.between(1, size - wide - 1), dice.between(1, size - high - 1)
    box = canvas.write_at(text, x, y, size=pixels, colour=dark(dice), name=name)
    pieces = [{"text": text, "box": list(box), "image": 0}]
    question = phrase(dice, level, ("What is the result?", "Work out the sum.", "Calculate."))
    return ask(canvas.finish(), question, str(value), boxes=[box], objects=pieces)


def code_markup(dice: Dice, level: int, size: int) -> Draft:
    """A picture as markup: `<circle red/>` (1), a line a thing, left to right (2), with places on a 10x10 grid (3)."""
    number = {1: 1, 2: dice.between(2, 3), 3: dice.between(2, 4)}[level]
    scale = {1: (0.3, 0.5), 2: (0.2, 0.32), 3: (0.14, 0.26)}[level]
    scene = stage(dice, level, size, cast(dice, level, number), scale=scale, spread=0.1)
    things = sorted(scene.things, key=lambda thing: thing.x)
    lines = [_tag(scene, thing, places=level == 3) for thing in things]
    question = phrase(dice, level, ("Write the markup.", "Give the code of this picture.", "Turn this into markup."))
    answer = "\n".join(lines)
    draft = ask(scene.image, question, answer, boxes=[t.box for t in things], objects=scene.records())
    return Draft(draft.parts, answer, draft.boxes, draft.objects)


def _tag(scene: Scene, thing: Thing, *, places: bool) -> str:
    where = f" x={int(10 * thing.x / scene.width)} y={int(10 * thing.y / scene.height)}" if places else ""
    return f"<{thing.look.shape} {thing.look.colour}{where}/>"


TASKS = (
    Task(
        "fact_picture",
        "knowledge",
        "science",
        "exact",
        "a fact known from text, about a thing seen",
        fact_picture,
        1 / 8,
    ),
    Task("math_picture", "knowledge", "math", "exact", "the result of a sum in a picture", math_picture, 1 / 9),
    Task("code_markup", "knowledge", "code", "exact", "a scene as lines of markup", code_markup, 1 / 64),
)
