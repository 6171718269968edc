"""Conversations of several turns about one picture, as LLaVA-style data has them.

One picture, every question that can be asked about it: the costly part, seeing, is paid once for all answers. Used for
training only; evaluation asks one question at a time.
"""

from __future__ import annotations

from collections.abc import Callable

from ..regions import Region
from ..sample import Part, assistant, user
from .dice import Dice
from .scenes import point_on
from .staging import Scene, Thing, article, cast, count, shapes, stage
from .task import Draft, Task, place

Turn = tuple[list, list]


def _color(_dice: Dice, _scene: Scene, thing: Thing, _level: int) -> Turn:
    return [f"What color is the {thing.look.shape}?"], [thing.look.colour]


def _shape(_dice: Dice, _scene: Scene, thing: Thing, _level: int) -> Turn:
    return [f"What shape is {thing.look.colour}?"], [thing.look.shape]


def _box(_dice: Dice, _scene: Scene, thing: Thing, _level: int) -> Turn:
    return [f"Where is the {thing.look}?"], [place(thing.box, label=str(thing.look))]


def _at_box(_dice: Dice, _scene: Scene, thing: Thing, _level: int) -> Turn:
    return ["What is at ", place(thing.box), "?"], [str(thing.look)]


def _at_point(dice: Dice, _scene: Scene, thing: Thing, _level: int) -> Turn:
    return ["What is at ", Region(point_on(dice, thing)), "?"], [str(thing.look)]


def _count(_dice: Dice, scene: Scene, _thing: Thing, _level: int) -> Turn:
    return ["How many objects are there?"], [str(len(scene.things))]


def _exists(dice: Dice, scene: Scene, thing: Thing, level: int) -> Turn:
    truth = dice.chance()
    absent = [s for s in shapes(level) if all(t.look.shape != s for t in scene.things)]
    asked = thing.look.shape if truth else dice.pick(absent)
    return [f"Is there {article(asked)}?"], ["yes" if truth else "no"]


_QUESTIONS: tuple[Callable[[Dice, Scene, Thing, int], Turn], ...] = (
    _color,
    _shape,
    _box,
    _box,
    _at_box,
    _at_point,
    _count,
    _exists,
)


def chat(dice: Dice, level: int, size: int) -> Draft:
    """Four to six questions about one scene, in any order; every turn's answer is a target."""
    number = count(dice, level)
    looks = cast(dice, level, number, unique="look")
    clear = len({look.shape for look in looks}) == len({look.colour for look in looks}) == number
    scene = stage(dice, level, size, looks)
    asked = [q for q in dice.shuffle(list(_QUESTIONS)) if clear or q not in (_color, _shape)]
    parts: tuple[Part, ...] = ()
    said: list = []
    for i, question in enumerate(asked[: dice.between(4, 6)]):
        words, said = question(dice, scene, dice.pick(scene.things), level)
        parts += user(*([scene.image] if i == 0 else []), *words) + assistant(*said)
    answer = " ".join(word for word in said if isinstance(word, str))
    return Draft(parts, answer, [thing.box for thing in scene.things], scene.records())


TASKS = (Task("scene_chat", "", "general", "", "several questions about one scene", chat),)
