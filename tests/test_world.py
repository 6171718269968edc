"""The generated world: the same draws everywhere, held-out apart from training, boxes tight by looking at pixels."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import mm15.world
from mm15.regions import Box, Region
from mm15.sample import Part, Role, Sample
from mm15.world import LEVELS, TASKS, make
from mm15.world.canvas import fit, font, word
from mm15.world.dice import Dice, entropy
from mm15.world.lexicon import COLOURS

GROUPS = {"general", "text-rich", "knowledge", "refer-ground", "multi-image", "in-context", ""}
SCENES = [
    "scene_caption",
    "scene_color",
    "scene_shape",
    "scene_count",
    "scene_exists",
    "ground",
    "ground_caption",
    "refer_box",
]


def text_of(parts: tuple[Part, ...]) -> str:
    return "".join(p.content for p in parts if isinstance(p.content, str))


def last_turn(sample: Sample, role: Role) -> list[Part]:
    turns: list[list[Part]] = [[]]
    for part in sample.parts:
        if turns[-1] and turns[-1][-1].role is not part.role:
            turns.append([])
        turns[-1].append(part)
    return [turn for turn in turns if turn and turn[0].role is role][-1]


def question(sample: Sample) -> str:
    return text_of(tuple(last_turn(sample, Role.USER)))


def said(sample: Sample) -> str:
    """Everything in a sample that fonts cannot change: its words and its answer."""
    return (
        f"{sample.id}|{[(p.role.value, p.target, p.content) for p in sample.parts if isinstance(p.content, str)]}|"
        + str(sample.meta["answer"])
    )


def same(a: Sample, b: Sample) -> bool:
    pictures = zip(a.images, b.images, strict=True)
    regions = [[p.content for p in s.parts if isinstance(p.content, Region)] for s in (a, b)]
    return (
        said(a) == said(b)
        and a.meta == b.meta
        and regions[0] == regions[1]
        and all(np.array_equal(x.data, y.data) for x, y in pictures)
    )


def things(sample: Sample, image: int = 0) -> list[dict]:
    return [o for o in sample.meta["objects"] if o["image"] == image]


def middle(thing: dict) -> tuple[float, float]:
    x1, y1, x2, y2 = thing["box"]
    return (x1 + x2) / 2, (y1 + y2) / 2


# ------------------------------------------------------------------------------------------------------- every task


@pytest.mark.parametrize("kind", TASKS)
def test_every_task_makes_sound_samples(kind: str) -> None:
    """200 samples a level: pictures and regions in bounds, one target, the answer is the last turn's words."""
    task = TASKS[kind]
    assert task.group in GROUPS and task.category and task.metric in {"exact", "iou", "choice", ""}
    for level, index in product(LEVELS, range(200)):
        sample = make(kind, index, level=level)
        meta, sizes = sample.meta, []
        for image in sample.images:
            assert isinstance(image.data, np.ndarray) and image.data.dtype == np.uint8
            assert image.data.flags["C_CONTIGUOUS"] and image.data.flags["OWNDATA"]
            height, width, channels = image.data.shape
            assert channels == 3 and max(height, width) == 128 and min(height, width) >= 56
            assert level > 1 or height == width == 128
            sizes.append((width, height))
        places = [(p.content.shape, p.content.image) for p in sample.parts if isinstance(p.content, Region)]
        homes = meta.get("box_images", [0] * len(meta["boxes"]))
        places += [(Box(*box), home) for box, home in zip(meta["boxes"], homes, strict=True)]
        places += [(Box(*thing["box"]), thing["image"]) for thing in meta["objects"]]
        for shape, home in places:
            xs, ys = list(shape)[::2], list(shape)[1::2]
            assert min(xs) >= 0 and max(xs) <= sizes[home][0] and min(ys) >= 0 and max(ys) <= sizes[home][1], sample.id
        assert any(p.target for p in sample.parts)
        assert (meta["task"], meta["group"], meta["metric"], meta["level"]) == (kind, task.group, task.metric, level)
        if task.metric:
            answer = last_turn(sample, Role.ASSISTANT)
            assert sample.parts[-1] is answer[-1] and all(p.target for p in answer)
            words = " ".join(text_of(tuple(answer)).split()).replace(" ,", ",")
            assert words == " ".join(meta["answer"].split())
            assert meta["boxes"] if task.metric == "iou" else meta["answer"]
            given = [p.content.shape for p in answer if isinstance(p.content, Region)]
            assert task.metric != "iou" or given == [Box(*box) for box in meta["boxes"]]


def test_levels_and_sizes_scale() -> None:
    for kind, size in product(TASKS, (64, 333)):
        for image in make(kind, 3, level=2, size=size).images:
            assert max(image.data.shape[:2]) == size


# ------------------------------------------------------------------------------------------------------ determinism

DRAWS = [(i, 0, "train") for i in range(40)] + [(1, 0, "heldout"), (10**9, 7, "train")]
PINNED = {
    "object_caption": "f96a0eb8",
    "scene_chat": "f09c8df3",
    "scene_caption": "b79f9f67",
    "scene_color": "4419ef06",
    "scene_shape": "201d6f0b",
    "scene_count": "7f71343e",
    "scene_where": "2a8bb57d",
    "scene_exists": "148b11e2",
    "scene_bigger": "acdf9ac7",
    "scene_choice": "474dfebf",
    "ground": "a4833f26",
    "ground_caption": "88208206",
    "refer_box": "195e5e65",
    "refer_point": "fd7716ed",
    "read_digit": "04598812",
    "read_word": "043846e9",
    "form_field": "f36ebdbf",
    "table_read": "c0fd19f6",
    "ocr_page": "f38cfc66",
    "text_find": "69e79f8d",
    "chart_read": "a8af9fb4",
    "chart_extreme": "1c9c728b",
    "screen_read": "d9b0802e",
    "screen_state": "760b5abb",
    "screen_ground": "b817ad68",
    "screen_widget": "eff42dfd",
    "fact_picture": "54171dda",
    "math_picture": "037a638d",
    "code_markup": "db16a7df",
    "compare_count": "bd1645d6",
    "compare_same": "d66cc06a",
    "compare_find": "c24d30db",
    "operator_induction": "b9612dbb",
    "fast_binding": "eae282fc",
    "story_page": "59a9d28b",
    "clip_direction": "884e378c",
    "clip_caption": "3eab6a9c",
    "fact_text": "e49b3f49",
    "fact_qa": "7d456c8a",
    "arithmetic_text": "57d2440b",
    "text_facts": "ff909447",
}


def digest(kind: str) -> str:
    draws = product(LEVELS, DRAWS)
    lines = [said(make(kind, i, level=level, seed=seed, split=split)) for level, (i, seed, split) in draws]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]


@pytest.mark.parametrize("kind", TASKS)
def test_words_are_pinned(kind: str) -> None:
    """Words and answers at all levels. When one changes, every model trained on the task and every score changes."""
    assert digest(kind) == PINNED.get(kind)


def test_samples_do_not_depend_on_what_was_made_before() -> None:
    first = {(k, level): make(k, 5, level=level) for k in TASKS for level in LEVELS}
    for (kind, level), sample in reversed(first.items()):
        assert same(sample, make(kind, 5, level=level)), sample.id


def test_another_process_makes_the_same_pictures() -> None:
    code = (
        "import hashlib, sys; from mm15.world import TASKS, make; h = hashlib.sha256()\n"
        "for k in sorted(TASKS):\n"
        "    s = make(k, 11, level=3)\n"
        "    h.update(repr(([p.content for p in s.parts if isinstance(p.content, str)], s.meta)).encode())\n"
        "    [h.update(i.data.tobytes()) for i in s.images]\n"
        "assert not {'torch', 'matplotlib', 'transformers'} & set(sys.modules), 'heavy import'\n"
        "sys.stdout.write(h.hexdigest())"
    )
    root = Path(mm15.world.__file__).parents[2]
    outputs = set()
    for seed in ("1", "2"):
        env = {"PYTHONHASHSEED": seed, "PATH": "", "PYTHONPATH": str(root)}
        outputs.add(
            subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
        )
    assert len(outputs) == 1 and len(outputs.pop()) == 64


def test_entropy_never_collides() -> None:
    """Over kinds, seeds, levels, splits and indices, words that could run together among them."""
    numbers = (0, 1, 2, 2**32 - 1, 2**32, 2**32 + 1, 2**63)
    draws = list(product(("ground", "ground_caption", "a"), numbers, numbers, LEVELS, ("train", "heldout")))
    words = {entropy(k, i, seed=s, level=level, split=p) for k, i, s, level, p in draws}
    assert len(words) == len(draws) and {len(w) for w in words} == {8}
    assert all(0 <= value < 2**32 for w in words for value in w)
    streams = {tuple(Dice(w).below(2**32) for _ in range(2)) for w in words}
    assert len(streams) == len(draws)


def test_dice_are_fair() -> None:
    dice = Dice((1, 2, 3))
    rolls = Counter(dice.below(6) for _ in range(60_000))
    assert set(rolls) == set(range(6)) and max(abs(n - 10_000) for n in rolls.values()) < 450
    assert sum(dice.chance(0.3) for _ in range(20_000)) == pytest.approx(6000, abs=300)
    firsts = Counter(dice.shuffle("abc")[0] for _ in range(6000))
    assert max(abs(n - 2000) for n in firsts.values()) < 200
    assert all(-2.5 <= dice.uniform(-2.5, 4) < 4 and 3 <= dice.between(3, 5) <= 5 for _ in range(1000))
    assert sorted(dice.sample(range(9), 9)) == list(range(9))


@pytest.mark.parametrize(("kind", "number"), [("scene_where", 20_000), ("read_digit", 4000), ("screen_state", 4000)])
def test_heldout_pictures_are_not_in_training(kind: str, number: int) -> None:
    """The tasks with the fewest different pictures, at the smallest size, against thousands of training pictures."""
    train = {hash(make(kind, i, size=64).images[0].data.tobytes()) for i in range(number)}
    assert len(train) > number - 5
    held = (make(kind, i, size=64, split="heldout").images[0].data.tobytes() for i in range(1000))
    assert not any(hash(picture) in train for picture in held)


# ------------------------------------------------------------------------------------------------ boxes and pixels


def ink(picture: np.ndarray, paper: np.ndarray, least: int) -> np.ndarray:
    return np.abs(picture.astype(int) - paper.astype(int)).max(axis=-1) >= least


def assert_tight(picture: np.ndarray, box: list[float], where: str, *, least: int = 24) -> None:
    """No ink in the ring of one pixel around the box, and ink within two pixels of each of its four sides."""
    x1, y1, x2, y2 = (int(v) for v in box)
    paper = picture[0, 0]
    inked = np.pad(ink(picture, paper, 70), 1)[y1 : y2 + 2, x1 : x2 + 2]
    assert not inked[0].any() and not inked[-1].any() and not inked[:, 0].any() and not inked[:, -1].any(), where
    inside = ink(picture, paper, least)[y1:y2, x1:x2]
    assert inside[:2].any() and inside[-2:].any() and inside[:, :2].any() and inside[:, -2:].any(), where


@pytest.mark.parametrize("kind", SCENES)
def test_boxes_of_things_are_tight_and_colours_are_as_named(kind: str) -> None:
    for level, index in product((1, 2), range(40)):
        sample = make(kind, index, level=level)
        picture = sample.images[0].data
        for thing in things(sample):
            assert_tight(picture, thing["box"], f"{sample.id} {thing}")
            x1, y1, x2, y2 = (int(v) for v in thing["box"])
            patch = picture[y1:y2, x1:x2].reshape(-1, 3).astype(int)
            away = np.abs(patch - picture[0, 0].astype(int)).sum(axis=1)
            seen = np.median(patch[away >= np.quantile(away, 0.7)], axis=0)
            nearest = min(COLOURS, key=lambda name: np.abs(seen - np.array(COLOURS[name])).sum())
            assert nearest == thing["colour"], f"{sample.id} {thing} looks {seen}"


@pytest.mark.parametrize("kind", ["read_digit", "read_word", "form_field", "ocr_page", "text_find", "math_picture"])
def test_boxes_of_words_are_tight(kind: str) -> None:
    for level, index in product(LEVELS, range(40)):
        sample = make(kind, index, level=level)
        for piece in things(sample):
            least = 24 if piece["box"][3] - piece["box"][1] > 3 else 8
            x1, y1, x2, y2 = (int(v) for v in piece["box"])
            picture = sample.images[0].data
            inside = ink(picture, picture[0, 0], least)[y1:y2, x1:x2]
            sides = inside[:2].any() and inside[-2:].any() and inside[:, :2].any() and inside[:, -2:].any()
            assert sides, f"{sample.id} {piece}"
        if kind in {"read_digit", "read_word", "math_picture"}:  # alone on the page: all ink lies in the box
            inked = ink(picture, picture[0, 0], 60)
            inked[y1 - 1 if y1 else 0 : y2 + 1, x1 - 1 if x1 else 0 : x2 + 1] = False
            assert not inked.any(), sample.id


def test_boxes_of_buttons_and_bars_are_tight() -> None:
    for index in range(60):
        screen = make("screen_ground", index)
        for widget in things(screen):
            assert_tight(screen.images[0].data, widget["box"], f"{screen.id} {widget}")
        chart = make("chart_read", index)
        for bar in (o for o in things(chart) if o.get("role") == "mark"):
            x1, y1, x2, y2 = (int(v) for v in bar["box"])
            picture = chart.images[0].data
            flat = picture[y1:y2, x1:x2].reshape(-1, 3)
            assert (flat == flat[0]).all(), f"{chart.id} {bar}: a bar is one colour"
            for beside in (picture[y1:y2, x1 - 1], picture[y1:y2, x2]):
                assert (beside != flat[0]).any(axis=1).all(), f"{chart.id} {bar}"


def test_things_do_not_touch() -> None:
    for kind, level, index in product(
        ("scene_caption", "scene_count", "scene_where", "compare_count", "clip_caption"), LEVELS, range(60)
    ):
        sample = make(kind, index, level=level)
        for image in range(len(sample.images)):
            boxes = [o["box"] for o in things(sample, image)]
            for i, a in enumerate(boxes):
                for b in boxes[:i]:
                    apart = max(a[0] - b[2], b[0] - a[2], a[1] - b[3], b[1] - a[3])
                    assert apart >= 1, f"{sample.id}: {a} and {b}"


def test_points_are_on_their_thing() -> None:
    for level, index in product((1, 2), range(80)):
        sample = make("refer_point", index, level=level)
        x, y = sample.meta["point"]
        picture = sample.images[0].data
        thing = next(t for t in things(sample) if f"{t['colour']} {t['shape']}" == sample.meta["answer"])
        seen = picture[int(y), int(x)].astype(int)
        assert min(COLOURS, key=lambda name: np.abs(seen - np.array(COLOURS[name])).sum()) == thing["colour"], sample.id


def test_pillows_own_font_serves_where_matplotlib_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    caches = (font, word, mm15.world.canvas.ascent, mm15.world.canvas._advance)
    for cache in caches:
        cache.cache_clear()
    monkeypatch.setattr("mm15.world.canvas._font_folder", lambda: None)
    try:
        for kind, level in product(("read_word", "form_field", "table_read", "chart_read", "screen_ground"), LEVELS):
            sample = make(kind, 4, level=level)
            assert sample.images[0].data.std() > 5
        assert word("tea", "DejaVuSans", fit("tea", "DejaVuSans", 90, 40)).size[0] <= 40
    finally:
        for cache in caches:
            cache.cache_clear()
