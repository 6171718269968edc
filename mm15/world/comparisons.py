"""Questions about two pictures: which has more, whether they show the same, which one shows a thing."""

from __future__ import annotations

from collections.abc import Sequence

from ..regions import Box
from .dice import Dice
from .staging import Look, Scene, article, cast, colours, phrase, shapes, stage
from .task import Draft, Task, ask

WHICH = ("first", "second", "third", "fourth")


def _draft(scenes: Sequence[Scene], question: str, answer: str, boxes: Sequence[tuple[Box, int]] = ()) -> Draft:
    objects = [record for i, scene in enumerate(scenes) for record in scene.records(i)]
    extra = {"box_images": [image for _, image in boxes]} if boxes else {}
    pictures = [scene.image for scene in scenes]
    return ask(pictures, question, answer, boxes=[box for box, _ in boxes], objects=objects, extra=extra)


def compare_count(dice: Dice, level: int, size: int) -> Draft:
    """Which picture has more objects (level 1: at least two more; 2: at least one), or more of one shape (3)."""
    low, high, apart = {1: (1, 4, 2), 2: (1, 6, 1), 3: (0, 4, 1)}[level]
    more = dice.between(low + apart, high)
    less = dice.between(low, more - apart)
    answer = dice.below(2)
    numbers = (more, less) if answer == 0 else (less, more)
    scale = {1: (0.2, 0.32), 2: (0.14, 0.26), 3: (0.13, 0.22)}[level]
    target = dice.pick(shapes(level))
    scenes = []
    for number in numbers:
        if level == 3:
            looks = [Look(target, dice.pick(colours(level))) for _ in range(number)]
            others = [s for s in shapes(level) if s != target]
            looks += [Look(dice.pick(others), dice.pick(colours(level))) for _ in range(dice.between(1, 4))]
        else:
            looks = cast(dice, level, number)
        scenes.append(stage(dice, level, size, looks, scale=scale))
    what = "objects" if level < 3 else f"objects of the shape {target}"
    templates = ("Which picture has more {}, first or second?", "Are there more {} in the first or the second picture?")
    return _draft(scenes, phrase(dice, level, templates).format(what), WHICH[answer])


def compare_same(dice: Dice, level: int, size: int) -> Draft:
    """Whether both pictures show the same shape (level 1), also the same color (2), or the same set of things (3)."""
    same = dice.chance()
    if level < 3:
        attribute = "shape" if level == 1 else dice.pick(("shape", "color"))
        a = Look(dice.pick(shapes(level)), dice.pick(colours(level)))
        pool_shapes = [s for s in shapes(level) if s != a.shape]
        pool_colours = [c for c in colours(level) if c != a.colour]
        if attribute == "shape":
            b = Look(a.shape if same else dice.pick(pool_shapes), dice.pick(colours(level)))
        else:
            b = Look(dice.pick(shapes(level)), a.colour if same else dice.pick(pool_colours))
        casts = [[a], [b]]
        question = f"Do both pictures show the same {attribute}?"
    else:
        looks = cast(dice, level, dice.between(2, 4))
        other = dice.shuffle(looks)
        while not same and set(other) == set(looks):
            old = other[0]
            new = (
                Look(dice.pick(shapes(level)), old.colour)
                if dice.chance()
                else Look(old.shape, dice.pick(colours(level)))
            )
            other = other if new in looks else [new, *other[1:]]
        casts = [looks, dice.shuffle(other)]
        question = phrase(
            dice, level, ("Do both pictures show the same objects?", "Are the same things in both pictures?")
        )
    scale = (0.28, 0.5) if level < 3 else (0.16, 0.28)
    scenes = [stage(dice, level, size, looks, scale=scale) for looks in casts]
    return _draft(scenes, question, "yes" if same else "no")


def compare_find(dice: Dice, level: int, size: int) -> Draft:
    """Which picture shows a shape (1: of two pictures), a look (2: of two, 3: of three)."""
    pictures = 3 if level == 3 else 2
    answer = dice.below(pictures)
    each = {1: 1, 2: 2, 3: 3}[level]
    looks = cast(dice, level, each * pictures)
    scale = {1: (0.28, 0.5), 2: (0.2, 0.32), 3: (0.15, 0.24)}[level]
    target, others = looks[0], looks[1:]
    scenes, box = [], None
    for i in range(pictures):
        some = [target, *others[: each - 1]] if i == answer else others[:each]
        others = others[len(some) - (i == answer) :]
        scenes.append(stage(dice, level, size, some, scale=scale))
        if i == answer:
            box = scenes[-1].things[0].box
    what = article(target.shape if level == 1 else str(target))
    templates = ("Which picture shows {}?", "In which picture is {}?", "Where do you see {}: which picture?")
    boxes = [(box, answer)] if box else []
    return _draft(scenes, phrase(dice, level, templates).format(what), WHICH[answer], boxes)


TASKS = (
    Task("compare_count", "multi-image", "comparison", "exact", "which of two pictures has more", compare_count, 1 / 2),
    Task(
        "compare_same", "multi-image", "comparison", "exact", "whether two pictures show the same", compare_same, 1 / 2
    ),
    Task("compare_find", "multi-image", "comparison", "exact", "which picture shows a thing", compare_find, 1 / 2),
)
