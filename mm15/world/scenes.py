"""Scenes of shapes and icons: captions, what, which, how many, where, is there, and boxes in and out.

All pictures hold things that do not overlap, at least one of which the question singles out. Asked-for answers are
drawn first (uniformly) and the picture is made to fit them, so a model that does not look scores `Task.chance`.
"""

from __future__ import annotations

import numpy as np

from ..regions import Point, Region
from ..sample import Content, assistant, document, user
from .dice import Dice
from .staging import Look, Scene, Thing, article, cast, colours, count, listing, phrase, put, shapes, stage
from .task import Draft, Task, ask, place

SIDES = ("left", "right", "top", "bottom")


def _left_to_right(scene: Scene) -> list[Thing]:
    return sorted(scene.things, key=lambda thing: thing.x)


def _crowd(dice: Dice, level: int, size: int, *, unique: str = "look") -> Scene:
    """A scene whose first thing can be named by `unique`; sizes and number as usual for the level."""
    return stage(dice, level, size, cast(dice, level, count(dice, level), unique=unique))


def zone(scene: Scene, thing: Thing) -> str:
    """Which ninth of the picture the middle of a thing lies in: "top left" ... "middle" ... "bottom right"."""
    column = ("left", "", "right")[min(2, int(3 * thing.x / scene.width))]
    row = ("top", "", "bottom")[min(2, int(3 * thing.y / scene.height))]
    return " ".join(part for part in (row, column) if part) or "middle"


def _at(where: str) -> str:
    return " in the middle" if where == "middle" else f" at the {where}"


def single(dice: Dice, level: int, size: int) -> Draft:
    """Picture of one thing and its name: the easiest caption there is."""
    scene = stage(dice, level, size, cast(dice, level, 1))
    text = article(str(scene.things[0].look))
    return Draft(document(scene.image, text), text, [scene.things[0].box], scene.records())


def caption(dice: Dice, level: int, size: int) -> Draft:
    """Picture and caption; things are told from left to right, from level 2 with their places."""
    scene = stage(dice, level, size, cast(dice, level, count(dice, level)), spread=(0.12, 0.08, 0.05)[level - 1])
    things = _left_to_right(scene)
    told = [article(str(t.look)) + ("" if level == 1 else _at(zone(scene, t))) for t in things]
    text = listing(told) if level < 3 else f"{len(things)} objects: {listing(told)}"
    return Draft(document(scene.image, text), text, [t.box for t in things], scene.records())


def color(dice: Dice, level: int, size: int) -> Draft:
    """What color a thing named by its shape is."""
    scene = _crowd(dice, level, size, unique="shape")
    thing = scene.things[0]
    templates = ("What color is the {}?", "Which color does the {} have?", "Name the color of the {}.")
    question = phrase(dice, level, templates).format(thing.look.shape)
    return ask(scene.image, question, thing.look.colour, boxes=[thing.box], objects=scene.records())


def shape(dice: Dice, level: int, size: int) -> Draft:
    """Which shape has a given color."""
    scene = _crowd(dice, level, size, unique="colour")
    thing = scene.things[0]
    templates = ("What shape is {}?", "Which shape is {}?", "Name the {} shape.")
    question = phrase(dice, level, templates).format(thing.look.colour)
    return ask(scene.image, question, thing.look.shape, boxes=[thing.box], objects=scene.records())


def counting(dice: Dice, level: int, size: int) -> Draft:
    """How many things (level 1: 1-4), or how many of one shape (2: 1-5) or one look (3: 0-6), there are."""
    if level == 1:
        number = dice.between(1, 4)
        scene = stage(dice, level, size, cast(dice, level, number), scale=(0.22, 0.34))
        return ask(scene.image, "How many objects are there?", str(number), objects=scene.records())
    number = dice.between(1, 5) if level == 2 else dice.between(0, 6)
    target = Look(dice.pick(shapes(level)), dice.pick(colours(level)))
    looks = []
    for _ in range(number):
        looks.append(target if level == 3 else Look(target.shape, dice.pick(colours(level))))
    for _ in range(dice.between(1, 3)):
        other = dice.pick([s for s in shapes(level) if s != target.shape])
        looks.append(Look(other, target.colour if dice.chance() else dice.pick(colours(level))))
    scene = stage(dice, level, size, looks, scale=(0.14, 0.24) if level == 2 else (0.12, 0.2))
    what = plural(target.shape) if level == 2 else f"{target.colour} {plural(target.shape)}"
    question = phrase(dice, level, ("How many {} are there?", "Count the {}.")).format(what)
    boxes = [thing.box for thing in scene.things[:number]]
    return ask(scene.image, question, str(number), boxes=boxes, objects=scene.records())


def plural(noun: str) -> str:
    """More than one of a shape."""
    return noun if noun == "fish" else noun + ("es" if noun.endswith("s") else "s")


def where(dice: Dice, level: int, size: int) -> Draft:
    """Which side of the picture a thing is at (level 1), or which side of another thing (above)."""
    return _where_in_picture(dice, level, size) if level == 1 else _where_from_other(dice, level, size)


def _where_in_picture(dice: Dice, level: int, size: int) -> Draft:
    look = cast(dice, level, 1)[0]
    side = dice.pick(SIDES)
    near, across = dice.uniform(0.14, 0.26), dice.uniform(0.38, 0.62)
    along = near if side in ("left", "top") else 1 - near
    x, y = (along, across) if side in ("left", "right") else (across, along)
    scene = put(dice, level, size, [look], [(x, y, round(size * dice.uniform(0.25, 0.42)))])
    return ask(scene.image, f"Where is the {look.shape}?", side, boxes=[scene.things[0].box], objects=scene.records())


def _where_from_other(dice: Dice, level: int, size: int) -> Draft:
    """Two things on one axis, clearly apart; level 3 adds others that do not matter."""
    side = dice.pick(("left", "right", "above", "below"))
    looks = cast(dice, level, 2 if level == 2 else dice.between(3, 5))
    low, high = dice.uniform(0.14, 0.28), dice.uniform(0.6, 0.86)
    first, second = (low, high) if side in ("left", "above") else (high, low)
    middle, slack = dice.uniform(0.2, 0.8), 0.08
    across = [middle + dice.uniform(-slack, slack) for _ in range(2)]
    spots = []
    for along, off in zip((first, second), across, strict=True):
        x, y = (along, off) if side in ("left", "right") else (off, along)
        spots.append((x, y, round(size * dice.uniform(0.12, 0.22))))
    far = middle + 0.4 if middle < 0.5 else middle - 0.4
    for i in range(len(looks) - 2):
        along = 0.15 + 0.32 * i
        x, y = (along, far) if side in ("left", "right") else (far, along)
        spots.append((x, y, round(size * dice.uniform(0.1, 0.16))))
    scene = put(dice, level, size, looks, spots)
    a, b = scene.things[:2]
    templates = ("On which side of the {1} is the {0}?", "Where is the {0}, seen from the {1}?")
    question = phrase(dice, level, templates).format(a.look, b.look)
    return ask(scene.image, question, side, boxes=[a.box, b.box], objects=scene.records())


def exists(dice: Dice, level: int, size: int) -> Draft:
    """Whether a thing is there; as often yes as no. Above level 1 what is absent shares shape or color with a thing."""
    scene = _crowd(dice, level, size)
    truth = dice.chance()
    looks = [thing.look for thing in scene.things]
    if level == 1:
        absent = [s for s in shapes(level) if all(look.shape != s for look in looks)]
        asked = dice.pick(looks).shape if truth else dice.pick(absent)
    else:
        wanted = dice.pick(looks)
        while not truth and wanted in looks:
            seen = dice.pick(looks)
            change = dice.chance()
            wanted = Look(
                dice.pick(shapes(level)) if change else seen.shape, seen.colour if change else dice.pick(colours(level))
            )
        asked = str(wanted)
    question = phrase(dice, level, ("Is there {}?", "Do you see {}?", "Does the picture show {}?"))
    boxes = [t.box for t in scene.things if asked in (t.look.shape, str(t.look))] if truth else []
    return ask(
        scene.image, question.format(article(asked)), "yes" if truth else "no", boxes=boxes, objects=scene.records()
    )


def bigger(dice: Dice, level: int, size: int) -> Draft:
    """Which of two things is bigger."""
    looks = cast(dice, level, 2, unique="shape")
    large = dice.uniform(0.36, 0.46)
    small = large * dice.uniform(0.4, (0.6, 0.68, 0.76)[level - 1])
    first = dice.chance()
    pair = (large, small) if first else (small, large)
    x, turn = dice.uniform(0.24, 0.3), dice.chance()
    spots = [(x, dice.uniform(0.25, 0.75)), (1 - x, dice.uniform(0.25, 0.75))]
    if turn:
        spots = [(y, x) for x, y in spots]
    if dice.chance():
        spots.reverse()
    scene = put(dice, level, size, looks, [(x, y, round(size * s)) for (x, y), s in zip(spots, pair, strict=True)])
    answer = looks[0 if first else 1].shape
    question = phrase(dice, level, ("Which is bigger, the {} or the {}?", "Is the {} or the {} larger?"))
    names = dice.shuffle([look.shape for look in looks])
    box = scene.things[0 if first else 1].box
    return ask(scene.image, question.format(*names), answer, boxes=[box], objects=scene.records())


def choice(dice: Dice, level: int, size: int) -> Draft:
    """A multiple-choice question about the color of a thing; the answer is a letter."""
    scene = _crowd(dice, level, size, unique="shape")
    thing = scene.things[0]
    letter = dice.below(4)
    options = dice.sample([c for c in colours(level) if c != thing.look.colour], 3)
    options.insert(letter, thing.look.colour)
    lines = "\n".join(f"{name}. {option}" for name, option in zip("ABCD", options, strict=True))
    question = f"What color is the {thing.look.shape}?\n{lines}"
    return ask(scene.image, question, "ABCD"[letter], boxes=[thing.box], objects=scene.records())


def ground(dice: Dice, level: int, size: int) -> Draft:
    """Where a thing is: the answer is its box and nothing else."""
    scene = _crowd(dice, level, size)
    thing = scene.things[0]
    templates = ("Where is the {}?", "Find the {}.", "Give the box of the {}.", "Locate the {} in the picture.")
    question = phrase(dice, level, templates).format(thing.look)
    answer = [place(thing.box, label=str(thing.look))]
    return ask(scene.image, question, answer, boxes=[thing.box], objects=scene.records())


def ground_caption(dice: Dice, level: int, size: int) -> Draft:
    """A caption with a box after each thing, from left to right."""
    number = min(count(dice, level), 5)
    scene = stage(dice, level, size, cast(dice, level, number), spread=(0.12, 0.08, 0.05)[level - 1])
    things = _left_to_right(scene)
    said: list[Content] = []
    for i, thing in enumerate(things):
        before = "" if i == 0 else (" and " if i == len(things) - 1 else ", ")
        said += [f"{before}{article(str(thing.look))} ", place(thing.box, label=article(str(thing.look)))]
    question = phrase(dice, level, ("Describe the picture with boxes.", "What is where? Give boxes."))
    text = listing([article(str(t.look)) for t in things])
    parts = user(scene.image, question) + assistant(*said)
    return Draft(parts, text, [t.box for t in things], scene.records())


def refer_box(dice: Dice, level: int, size: int) -> Draft:
    """What lies in a box that the user gives."""
    scene = _crowd(dice, level, size)
    thing = scene.things[0]
    before = phrase(dice, level, ("What is at ", "What do you see in ", "Name the object in "))
    asked: list[Content] = [before, place(thing.box), "." if before.startswith("Name") else "?"]
    return ask(scene.image, asked, str(thing.look), boxes=[thing.box], objects=scene.records())


def refer_point(dice: Dice, level: int, size: int) -> Draft:
    """What lies under a point that the user gives; the point is on the thing's own pixels, not in a ring's hole."""
    scene = _crowd(dice, level, size)
    thing = scene.things[0]
    point = point_on(dice, thing)
    before = phrase(dice, level, ("What is at ", "What do you see at ", "Name the object at "))
    asked: list[Content] = [before, Region(point), "." if before.startswith("Name") else "?"]
    return ask(
        scene.image, asked, str(thing.look), boxes=[thing.box], objects=scene.records(), extra={"point": [*point]}
    )


def point_on(dice: Dice, thing: Thing) -> Point:
    """The middle of a random pixel that the thing covers (nearly) wholly: of 40 tries the one covered most."""
    wide, high = thing.mask.size
    covered = np.asarray(thing.mask)
    best, cover = (wide // 2, high // 2), -1
    for _ in range(40):
        x, y = dice.below(wide), dice.below(high)
        if covered[y, x] > cover:
            best, cover = (x, y), int(covered[y, x])
        if cover >= 250:
            break
    return Point(thing.box.x1 + best[0] + 0.5, thing.box.y1 + best[1] + 0.5)


TASKS = (
    Task("object_caption", "", "caption", "", "picture of one thing and its name", single),
    Task("scene_caption", "", "caption", "", "picture and caption; left to right, with places from level 2", caption),
    Task("scene_color", "general", "general", "exact", "the color of a thing named by its shape", color, 1 / 8),
    Task("scene_shape", "general", "general", "exact", "the shape that has a given color", shape, 1 / 8),
    Task("scene_count", "general", "general", "exact", "how many things, shapes or looks there are", counting, 1 / 4),
    Task("scene_where", "general", "general", "exact", "the side of the picture, or of another thing", where, 1 / 4),
    Task("scene_exists", "general", "general", "exact", "whether a thing is there; yes or no", exists, 1 / 2),
    Task("scene_bigger", "general", "general", "exact", "which of two named shapes is bigger", bigger, 1 / 2),
    Task("scene_choice", "general", "general", "choice", "color of a thing as a letter A-D", choice, 1 / 4),
    Task("ground", "refer-ground", "refer-ground", "iou", "box of a named thing", ground, 0.08),
    Task(
        "ground_caption",
        "refer-ground",
        "refer-ground",
        "iou",
        "caption with a box after each thing",
        ground_caption,
        0.11,
    ),
    Task("refer_box", "refer-ground", "refer-ground", "exact", "what lies in a given box", refer_box, 1 / 64),
    Task("refer_point", "refer-ground", "refer-ground", "exact", "what lies under a given point", refer_point, 1 / 64),
)
