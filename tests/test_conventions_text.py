"""What conventions do with text: all of it kept, labels of every kind, malformed places listed, no text too much."""

from __future__ import annotations

import gc
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mm15.regions import CONVENTIONS, Box, Point, Region

SIZE = (640, 480)
NAMES = list(CONVENTIONS)
TAGS = {
    "internvl": ("<ref>", "</ref>", "<box>", "</box>"),
    "qwen-vl": ("<ref>", "</ref>", "<box>", "</box>"),
    "qwen2-vl": ("<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>", "<|box_end|>"),
    "deepseek-vl2": ("<|ref|>", "<|/ref|>", "<|det|>", "<|/det|>"),
    "kosmos-2": ("<phrase>", "</phrase>", "<object>", "</object>"),
}
# One place with four numbers to fill in (molmo: two, of the last; kosmos-2: the first is one patch, the last another).
FORMS = {
    "ferret": "a cat [{0}, {1}, {2}, {3}]",
    "internvl": "<ref>a cat</ref><box>[[{0}, {1}, {2}, {3}]]</box>",
    "qwen-vl": "<ref>a cat</ref><box>({0},{1}),({2},{3})</box>",
    "qwen2-vl": "<|object_ref_start|>a cat<|object_ref_end|><|box_start|>({0},{1}),({2},{3})<|box_end|>",
    "qwen2.5-vl": '[{{"bbox_2d": [{0}, {1}, {2}, {3}], "label": "a cat"}}]',
    "qwen3-vl": '[{{"bbox_2d": [{0}, {1}, {2}, {3}], "label": "a cat"}}]',
    "deepseek-vl2": "<|ref|>a cat<|/ref|><|det|>[[{0}, {1}, {2}, {3}]]<|/det|>",
    "molmo": '<point x="{0}" y="{1}" alt="a cat">a cat</point>',
    "paligemma": "<loc{0:0>4}><loc{1:0>4}><loc{2:0>4}><loc{3:0>4}> a cat",
    "gemini": '[{{"box_2d": [{0}, {1}, {2}, {3}], "label": "a cat"}}]',
    "kosmos-2": "<phrase>a cat</phrase><object><patch_index_{0:0>4}><patch_index_{3:0>4}></object>",
    "llava": "a cat [{0}, {1}, {2}, {3}]",
    "shikra": "a cat [{0},{1},{2},{3}]",
    "coco": "a cat [{0}, {1}, {2}, {3}]",
}


def fill(name: str, *numbers: object) -> str:
    return FORMS[name].format(*map(str, numbers))


def shape_of(name: str) -> Box | Point:
    return Point(100, 200) if name == "molmo" else Box(100, 130, 300, 400)


def regions(contents: list[Any]) -> list[Region]:
    return [c for c in contents if isinstance(c, Region)]


def refused(name: str, text: str) -> list[str]:
    """Why a text with one bad place is refused; it stays text as it is."""
    reading = CONVENTIONS[name].read(text, [SIZE], 0)
    assert reading.malformed, (name, text[:100])
    assert reading.contents == [text]
    return [bad.why for bad in reading.malformed]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "label",
    ["a cat", "a \"big\" 'cat'", "a (cat) {no} \\ dog", "cat [sic]", "猫 🐈 é", "x < 3 & y", "cat, dog and mouse"],
)
def test_labels_of_every_kind(name: str, label: str) -> None:
    """They stay words of the text and label their places: two of one label, then a third after more text."""
    one, shape = CONVENTIONS[name], shape_of(name)
    after = "\n" if name == "paligemma" else " and "
    contents: list[Any] = [f"Here {label} ", Region(shape, 0, label), " ", Region(shape, 0, label), after]
    contents += [f"{label} ", Region(shape, 0, label)]
    if name == "molmo" and "<" in label:
        return  # cannot be written: CANNOT
    text = one.write(contents, [SIZE])
    reading = one.read(text, [SIZE], 0)
    assert reading.malformed == [] and len(regions(reading.contents)) == 3
    said = "".join(c for c in reading.contents if isinstance(c, str)).split()
    assert said[: 1 + len(label.split())] == ["Here", *label.split()]
    if name not in ("ferret", "llava", "shikra", "coco"):  # their label is the phrase before, which ends at a sign
        assert {found.label for found in regions(reading.contents)} == {label}
    assert one.write(reading.contents, [SIZE]) == text


def test_several_places_of_one_label() -> None:
    """A second place takes the label of the first where only a space, a comma or "and" lies between."""
    found = CONVENTIONS["ferret"].read("cats [1, 2, 3, 4], [5, 6, 7, 8] and [9, 9]. [1, 1]", [SIZE], 0)
    assert [r.label for r in regions(found.contents)] == ["cats", "cats", "cats", ""]
    found = CONVENTIONS["internvl"].read("<box>[[1, 2, 3, 4]]</box> <ref>b</ref> <box>[1,2,3,4]</box>", [SIZE], 0)
    assert [r.label for r in regions(found.contents)] == ["", "b"]
    found = CONVENTIONS["shikra"].read("cats [0.1,0.2,0.3,0.4;0.1,0.2,0.9,1]", [SIZE], 0)
    assert [r.label for r in regions(found.contents)] == ["cats", "cats"]


@pytest.mark.parametrize("name", NAMES)
def test_text_around_places_is_kept_byte_for_byte(name: str) -> None:
    """Between, before and after, with white space, controls and every sign that is not the convention's own."""
    one = CONVENTIONS[name]
    odd = " \t  a — b\u200b\r\n\x00\x1b[fig. 2] {x: 1} </p>\\ 'q' \"z\" 100, 200 ; \n"
    numbers = {"llava": ("0.10", "0.25", "0.30", "0.50"), "shikra": ("0.100", "0.250", "0.300", "0.500")}
    numbers |= {"molmo": ("1.0", "2.0"), "coco": ("1.00", "2.00", "30.00", "40.00")}
    place = fill(name, *numbers.get(name, (1, 2, 30, 40)))
    text = f"{odd}{place}\n{odd}{place}\n{odd}"
    reading = one.read(text, [SIZE], 0)
    assert reading.malformed == []
    texts = [c for c in reading.contents if isinstance(c, str)]
    assert [t.replace("a cat ", "") for t in texts] == [odd, "\n" + odd, "\n" + odd]
    assert one.write(reading.contents, [SIZE]) == text
    assert one.read(odd, [], 0).contents == [odd]
    assert one.read("", [], 0).contents == []


@pytest.mark.parametrize("name", [n for n in NAMES if CONVENTIONS[n].boxes])
def test_what_is_read_in_one_is_written_in_another(name: str) -> None:
    """From InternVL's tags to everything and back: the words stay, the places move by no more than both resolutions."""
    text = "<ref>A man</ref><box>[[10, 20, 500, 600]]</box>\n<ref>a horse</ref><box>[[300, 300, 900, 1000]]</box>"
    one, internvl = CONVENTIONS[name], CONVENTIONS["internvl"]
    source = internvl.read(text, [SIZE], 0)
    back = one.read(one.write(source.contents, [SIZE]), [SIZE], 0)
    assert [c if isinstance(c, str) else c.label for c in back.contents] == ["A man ", "A man", "\na horse ", "a horse"]
    for before, after in zip(regions(source.contents), regions(back.contents), strict=True):
        limits = [a + b for a, b in zip(one.resolution(SIZE), internvl.resolution(SIZE), strict=True)] * 2
        assert all(abs(a - b) <= limit for a, b, limit in zip(before.shape, after.shape, limits, strict=True))
    assert internvl.write(back.contents, [SIZE]).count("<ref>A man</ref><box>") == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "bad", ["nan", "inf", "-Infinity", "-1", "1e2", "9" * 400, "9" * 5000, "1.2.3", "1O0", "+5", "", "٣"]
)
def test_numbers_that_are_none(name: str, bad: str) -> None:
    if name in ("kosmos-2", "paligemma") and not bad:
        bad = "x"  # their numbers are padded with zeros
    if name in ("ferret", "llava", "shikra", "coco") and bad in ("1O0", "٣"):
        # Letters in brackets are text, as for mm15's own parser.
        assert CONVENTIONS[name].read(fill(name, 0, 0, 0, bad), [SIZE], 0).malformed == []
        return
    assert all(len(why) < 400 for why in refused(name, fill(name, bad, 0, 0, 0)))


@pytest.mark.parametrize("name", NAMES)
def test_places_that_are_none(name: str) -> None:
    outside = {"kosmos-2": 1024, "paligemma": 1025, "llava": 1.02, "shikra": 1.002, "molmo": 100.2, "coco": 641}
    outside |= {"qwen2.5-vl": 646, "deepseek-vl2": 1000}
    beyond = outside.get(name, 1001)
    (why,) = refused(name, fill(name, beyond, beyond, beyond, beyond))
    assert "640x480" in why and "outside" in why
    if name == "coco":
        assert "inside out" not in refused(name, fill(name, 5, 5, -3, 5))[0]
    elif name != "molmo":
        upper = {"kosmos-2": 5, "llava": 0.8, "shikra": 0.8}.get(name, 400)
        (why,) = refused(name, fill(name, upper, upper, 0.3 if upper == 0.8 else 0, 0.3 if upper == 0.8 else 0))
        assert "inside out" in why and "640x480" in why
        crossed = {"kosmos-2": [33, 0, 0, 2], "gemini": [400, 5, 5, 400], "paligemma": [400, 5, 5, 400]}
        crossed |= {"llava": [0.3, 0.8, 0.6, 0.3], "shikra": [0.3, 0.8, 0.6, 0.3]}
        (why,) = refused(name, fill(name, *crossed.get(name, [5, 400, 400, 5])))
        assert "inside out" in why and "640x480" in why
    if name in ("qwen2.5-vl", "ferret", "gemini", "internvl"):
        assert "whole number" in refused(name, fill(name, 0.25, 0.5, 0.5, 0.75))[0]


MALFORMED = [
    ("ferret", "[1, 2, 3]", "neither a point"),
    ("ferret", "[3]", "neither a point"),
    ("ferret", "[1, 2, 3, 4, 5]", "neither a point"),
    ("ferret", "a cat [1, 2, 3, 4", "not closed"),
    ("ferret", "a cat [1, 2, [fig. 3]", "not closed"),
    ("ferret", "[1, 2; 3, 4]", "';'"),
    ("ferret", "[1,, 2]", "not a number"),
    ("llava", "[0.5, 0.5]", "llava has no points"),
    ("coco", "[5, 5]", "coco has no points"),
    ("internvl", "<ref>a</ref><box>[[1, 2, 3, 4]]", "'<box>' stands alone"),
    ("internvl", "[[1, 2, 3, 4]]</box>", "'</box>' stands alone"),
    ("internvl", "<box>[[1, 2, 3, 4], 5]</box>", "not a list of lists"),
    ("internvl", "<box>[[1, 2, 3, 4]]]</box>", "not a list of lists"),
    ("internvl", "<box></box>", "not a list of lists"),
    ("internvl", "<box>[]</box>", "not a number"),
    ("internvl", "<ref> </ref><box>[[1, 2, 3, 4]]</box>", "label is empty"),
    ("internvl", "<box>[[1, 2]]</box>", "internvl has no points"),
    ("qwen-vl", "<box>(1,2),(3,4),(5,6)</box>", "not (x1,y1)"),
    ("qwen-vl", "<box>(1,2)</box>", "qwen-vl has no points"),
    ("qwen-vl", "<box>(1,2,3),(3,4)</box>", "not (x1,y1)"),
    ("qwen2-vl", "<|box_start|>(1,2),(3,4)", "stands alone"),
    ("qwen2-vl", "<|box_start|>1,2,3,4<|box_end|>", "not (x1,y1)"),
    ("deepseek-vl2", "<|ref|>a<|/ref|><|det|>[[1, 2, 3, 4]]<|det|>", "stands alone"),
    ("kosmos-2", "<object><patch_index_0001></object>", "two patches"),
    ("kosmos-2", "a <patch_index_0001><patch_index_0002>", "stands alone"),
    ("kosmos-2", "<phrase> a</phrase><object><patch_index_0001><patch_index_0002>", "stands alone"),
    ("kosmos-2", "<object><patch_index_0001><patch_index_0002></delimiter_of_multi_objects/></object>", "two patches"),
    ("molmo", '<point x="1.0" y="2.0" alt="a">a', "stands alone"),
    ("molmo", '<point x="1.0" y="2.0" alt="a">a</points>', "stands alone"),
    ("molmo", '<point x="1.0" alt="a">a</point>', "not x, y"),
    ("molmo", '<points x1="1.0" y1="2.0" x3="1.0" y3="2.0" alt="a">a</points>', "not x1, y1"),
    ("molmo", '<points alt="a">a</points>', "not x1, y1"),
    ("molmo", '<point alt="a" x="1.0" y="2.0">a</point>', "not x, y"),
    ("molmo", '<point x="1.0" y="2.0" label="a">a</point>', "its tag is not"),
    ("paligemma", "<loc0001><loc0002><loc0003> cat", "3 location tokens"),
    ("paligemma", "<loc1><loc0002><loc0003><loc0004> cat", "four digits"),
    ("paligemma", "<loc0001><loc0002><loc0003><loc0004> <seg001> cat", "a mask follows"),
    ("paligemma", "<loc1024><loc0002><loc1030><loc0004> cat", "outside"),
    ("qwen3-vl", '[{"bbox_2d": [1, 2, 3], "label": "a"}]', "3 numbers"),
    ("qwen3-vl", '{"point_2d": [1, 2, 3, 4]}', "4 numbers"),
    ("qwen3-vl", '{"bbox_2d": [1, 2, 3, 4], "text": "a"}', "'text' beside the place would be lost"),
    ("qwen3-vl", '{"bbox_2d": [1, 2, 3, 4], "bbox_2d": [1, 2, 3, 4]}', "lists"),
    ("qwen3-vl", '{"bbox_2d": [1, 2, 3, 4], "label": "a", "label": "b"}', "twice"),
    ("qwen3-vl", '{"bbox_2d": [1, 2, 3, 4], "label": 7}', "not a string"),
    ("qwen3-vl", '{"bbox_2d": ["1", "2", "3", "4"]}', "not a list of numbers"),
    ("qwen3-vl", '{"bbox_2d": null}', "not a list of numbers"),
    ("qwen3-vl", "{'bbox_2d': [1, 2, 3, 4]}", "not JSON"),
    ("qwen3-vl", '{"bbox_2d": [1, 2, 3, 4], "label": "a\nb"}', "stands alone"),
    ("qwen3-vl", '{"bbox_2d": [1, 2, 3, 4,]}', "not JSON"),
    ("qwen3-vl", '{"bbox_2d": [1, 2, 3, 4], "label": "a"', "stands alone"),
    ("qwen3-vl", '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [1, 2', "not closed"),
    ("qwen3-vl", '[{"bbox_2d": [1, 2, 3, 4]}, {"name": "a"}]', "holds something else"),
    ("qwen3-vl", '{"bbox_2d": ' + "[" * 500 + "]" * 500 + "}", "lists in lists"),
    ("gemini", '[{"box_2d": [1, 2, 3, 4], "mask": "x", "label": "a"}]', "'mask'"),
    ("gemini", '[{"box_2d": [1, 2, 3, 4], "point": [1, 2]}]', "lists"),
    ("gemini", "a cat at [1, 2, 3]", "neither a point"),
]


@pytest.mark.parametrize(("name", "text", "why"), MALFORMED, ids=range(len(MALFORMED)))
def test_malformed_places_are_listed_with_the_reason(name: str, text: str, why: str) -> None:
    assert why in " - ".join(refused(name, text))


def test_the_edge_is_as_far_as_rounding_reaches() -> None:
    """Two rounded numbers of COCO may add up to a step beyond; two steps beyond are outside."""
    assert CONVENTIONS["coco"].from_numbers((600, 0, 40.01, 1), SIZE) == Box(600, 0, 640, 1)
    with pytest.raises(ValueError, match="outside"):
        CONVENTIONS["coco"].from_numbers((600, 0, 40.02, 1), SIZE)
    assert CONVENTIONS["qwen-vl"].from_numbers((0, 0, 1000, 1000), SIZE) == Box(0.32, 0.24, 640, 480)
    assert "too long" in refused("internvl", fill("internvl", "9" * 25, 0, 0, 0))[0]


def test_an_object_inside_another_is_read() -> None:
    text = '{"objects": [{"bbox_2d": [100, 100, 200, 200], "label": "a"}]} and {"bbox_2d": [1, 1, 2, 2]}'
    found = CONVENTIONS["qwen3-vl"].read(text, [SIZE], 0)
    assert [c if isinstance(c, str) else c.label for c in found.contents] == ['{"objects": a ', "a", "} and ", ""]


def test_a_good_place_beside_a_bad_one_is_read() -> None:
    found = CONVENTIONS["ferret"].read("a cat [1, 2, 3, 4] and [5]", [SIZE], 0)
    assert [r.label for r in regions(found.contents)] == ["a cat"]
    assert [(bad.text, found.contents[-1]) for bad in found.malformed] == [("[5]", " and [5]")]
    found = CONVENTIONS["internvl"].read("<ref>a<box>[[1, 2, 3, 4]]</box>", [SIZE], 0)
    assert len(regions(found.contents)) == 1 and "'<ref>' stands alone" in found.malformed[0].why
    long = "<box>" + "1" * 5000 + "</box>"
    assert len(CONVENTIONS["internvl"].read(long, [SIZE], 0).malformed[0].text) == 201


@pytest.mark.parametrize("name", NAMES)
def test_words_where_numbers_belong_are_instructions(name: str) -> None:
    """As prompts have them: say where as <box>[[x1, y1, x2, y2]]</box>."""
    for words in (("x1", "y1", "x2", "y2"), ("ymin", "xmin", "ymax", "xmax")):
        if name != "kosmos-2":
            text = f"Say where as {fill(name, *words)}."
            assert CONVENTIONS[name].read(text, [SIZE], 0).contents == [text]
            assert CONVENTIONS[name].read(text, [SIZE], 0).malformed == []
    for name, tags in TAGS.items():
        text = f"Where is {tags[0]}the cat{tags[1]}? {tags[0]}a cat{tags[1]}{tags[2]}None{tags[3]}"
        reading = CONVENTIONS[name].read(text, [SIZE], 0)
        assert (reading.contents, reading.malformed) == ([text], [])


# What each convention cannot write: `probes` by name.
CANNOT = {
    "ferret": {"own signs"},
    "internvl": {"point", "own signs"},
    "qwen-vl": {"point", "own signs"},
    "qwen2-vl": {"own signs"},
    "qwen2.5-vl": {"own signs"},
    "qwen3-vl": {"own signs"},
    "deepseek-vl2": {"point", "own signs"},
    "molmo": {"box", "own signs", "label with <"},
    "paligemma": {"point", "own signs", "text after", "label with ;", "label of two lines"},
    "gemini": {"own signs"},
    "kosmos-2": {"point", "own signs"},
    "llava": {"point", "own signs"},
    "shikra": {"own signs"},
    "coco": {"point", "own signs"},
}


def probes(name: str) -> Iterator[tuple[str, list[Any]]]:
    shape = shape_of(name)
    yield "box", [Region(Box(100, 130, 300, 400))]
    yield "point", [Region(Point(100, 130))]
    yield "no label", ["at ", Region(shape)]
    yield "label not in the text", ["at ", Region(shape, 0, "a cat")]
    yield "text after", ["a cat ", Region(shape, 0, "a cat"), " sits"]
    for kind, label in (("<", "x < 3"), (";", "a; b"), ("quotes", "\"'"), ("brackets", "[sic]")):
        yield f"label with {kind}", [label + " ", Region(shape, 0, label)]
    yield "label of two lines", ["a\nb ", Region(shape, 0, "a\nb")]
    yield "own signs", [fill(name, 0, 0, 0, 0) + "\n", Region(shape)]


@pytest.mark.parametrize("name", NAMES)
def test_what_each_convention_cannot_express(name: str) -> None:
    refused = set()
    for kind, contents in probes(name):
        try:
            CONVENTIONS[name].write(contents, [SIZE])
        except ValueError:
            refused.add(kind)
    assert refused == CANNOT[name]
    assert CONVENTIONS[name].points == ("point" not in CANNOT[name])


@pytest.mark.parametrize("name", NAMES)
def test_errors_carry_the_shape_and_the_size(name: str) -> None:
    one = CONVENTIONS[name]
    outside = [Point(641, 3)] if not one.boxes else [Box(0, 0, 641, 5), Box(-1, 0, 1, 1), Box(0, 0, 1, float("inf"))]
    for shape in outside:
        for act in (lambda s: one.to_numbers(s, SIZE), lambda s: one.write([Region(s)], [SIZE])):
            with pytest.raises(ValueError, match="640x480") as caught:
                act(shape)
            assert str(shape) in str(caught.value)
    wrong: Any = Point(7, 8) if one.boxes else Box(7, 8, 9, 10)
    if not (one.points and one.boxes):
        with pytest.raises(ValueError, match=r"has no (points|boxes): (Point|Box)\(.*640x480"):
            one.to_numbers(wrong, SIZE)
    for size in ((0, 5), (5, -1)):
        with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}"):
            one.to_numbers(shape_of(name), size)
    for numbers in ((1,), (float("nan"),) * 4, ("a",) * 4, (True,) * 4, (10**5000,) * 4, (10**400, 1), ()):
        with pytest.raises(ValueError, match="640x480"):
            one.from_numbers(numbers, SIZE)
    if name == "qwen2.5-vl":
        with pytest.raises(ValueError, match=r"Box\(.*1x201"):
            one.to_numbers(Box(0, 0, 1, 1), (1, 201))


@pytest.mark.parametrize("name", NAMES)
def test_mutated_texts_never_raise(name: str) -> None:
    """600 texts of a convention with random bytes changed, dropped, doubled or moved."""
    one, rng = CONVENTIONS[name], random.Random(name)
    seeds = [one.write([w, Region(shape_of(name), 0, "a cat")], [SIZE]) for w in ("See a cat ", 'x: "', "")]
    seeds.append("\n".join(seeds) + "\n" + FORMS[name].replace("{{", "{").replace("}}", "}"))
    for i in range(600):
        raw = bytearray(seeds[i % 4].encode())
        for _ in range(rng.randint(1, 6)):
            at, to = rng.randrange(len(raw) + 1), rng.randrange(len(raw) + 1)
            kind = rng.randrange(4)
            if kind == 0:
                raw[at:at] = bytes([rng.choice(b"[](){}<>\"'\\,;|/ 0123456789.-eE\n" + bytes(range(256)))])
            elif kind == 1:
                del raw[at : at + rng.randint(1, 3)]
            elif kind == 2:
                raw[at : at + 1] = bytes([rng.randrange(256)])
            else:
                raw[at:at] = raw[min(at, to) : max(at, to)]
        text = bytes(raw).decode(errors="replace")
        reading = one.read(text, [SIZE], 0)
        if not regions(reading.contents):
            assert "".join(c for c in reading.contents if isinstance(c, str)) == text
        elif not reading.malformed:
            try:
                again = one.read(one.write(reading.contents, [SIZE]), [SIZE], 0)
            except ValueError as error:
                assert "cannot write this so that it is read back" in str(error)
                continue
            limit = max(one.resolution(SIZE)) * 1.001
            for before, after in zip(regions(reading.contents), regions(again.contents), strict=True):
                assert tuple(after.shape) == pytest.approx(tuple(before.shape), abs=limit)


BOMBS = ["[", "{", '{"', '{ "{" ', '{"label":"', '{"\\"{', '\\"{', "[1,", "[1,2,3,4]", "<ref>", "<box>", "<ref>a</ref>"]
BOMBS += ["<box>[[1,2,3,4]]</box> ", '{"bbox_2d": [1,2,3,4]},', '"bbox_2d":', "<loc0001>", '<point x="1" y="1">']
BOMBS += ["<object><patch_index_0001>", " ", "\\n", "9", "e1", "<phrase>", '<points x1="']


@pytest.mark.parametrize("bomb", [*BOMBS, "lists", "spaces", "digits", "label"])
def test_time_is_linear_in_the_text(bomb: str) -> None:
    """Eight times the text takes nowhere near 64 times as long. 1 MB of `[` for each convention. Without the garbage
    collector, which looks through all that other tests have left."""

    def text(length: int) -> str:
        whole = {
            "lists": '{"bbox_2d": ' + "[" * length + "]" * length + "}<box>" + "[" * length + "</box>",
            "spaces": "<ref>a</ref><box>["
            + " " * length
            + '{"bbox_2d"'
            + " " * length
            + ":"
            + "<object>"
            + " " * length,
            "digits": '{"bbox_2d": [1,2,3,' + "9" * length + "]}[1,2,3," + "9" * length + "]<box>(" + "9" * length,
            "label": '{"bbox_2d": [1,2,3,4], "label": "' + '\\"' * length,
        }
        return whole.get(bomb) or (bomb * (length // len(bomb) + 1))[:length]

    def spent(length: int) -> float:
        given = text(length)
        gc.disable()
        try:
            begun = time.process_time()
            for one in CONVENTIONS.values():
                one.read(given, [SIZE], 0)
            return time.process_time() - begun
        finally:
            gc.enable()

    length = 1_000_000 if bomb == "[" else 100_000
    least = min(spent(length) for _ in range(2))  # what else the machine does comes in bursts
    assert least < 32 * max(spent(length // 8), 0.02)
