"""Every planted fault is found, where it is and as what it is, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import pytest
from planted import Dataset, bomb, make_recipe, question, scene, stored, talk

from mm15.data.check import Kind, Report, check
from mm15.data.check.report_page import write_page

Expected = dict[tuple[str, int, Kind], str]
"""(source, index, kind) -> words of its message."""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Report, Expected, Path]:
    folder = tmp_path_factory.mktemp("planted")
    expected: Expected = {}
    rows = _talks(folder, expected)
    native = _places(folder, expected)
    marked = _marked(folder, expected)
    held = Dataset(folder, "held", format="llava")
    held.clean(900, 3)
    _leaks(rows, held, expected)
    sources = {"talk": rows.block(), "native": native.block(), "marked": marked.block()}
    recipe = make_recipe(sources, evaluation={"blobs": held.block()})
    return check(recipe, workers=2), expected, folder


def _talks(folder: Path, expected: Expected) -> Dataset:
    rows = Dataset(folder, "talk", format="llava")

    def plant(kind: Kind, words: str, row: dict | str, **pictures: bytes) -> None:
        expected["talk", rows.add(row, **pictures), kind] = words

    jpeg, png = stored(scene(500), "JPEG"), stored(scene(501), "PNG")
    rows.clean(0, 12)
    plant(
        Kind.TRUNCATED,
        "end marker",
        talk("<image>\nOne?", "Yes, one.", image="cut.jpg"),
        cut__jpg=jpeg[: len(jpeg) // 2],
    )
    plant(
        Kind.TRUNCATED, "runs past", talk("<image>\nTwo?", "Yes, two.", image="cut.png"), cut__png=png[: len(png) // 2]
    )
    plant(Kind.MISSING, "no such file", talk("<image>\nThree?", "Yes, three.", image="nowhere.jpg"))
    plant(Kind.MISSING, "no such file", talk("<image>\nThree?", "Yes, three.", image="not_here_either.jpg"))
    plant(Kind.EMPTY_PICTURE, "0 bytes", talk("<image>\nFour?", "Yes, four.", image="empty.jpg"), empty__jpg=b"")
    plant(
        Kind.UNREADABLE,
        "not a picture",
        talk("<image>\nFive?", "Yes, five.", image="text.jpg"),
        text__jpg=b"words\n" * 50,
    )
    plant(Kind.UNREADABLE, "too many pixels", talk("<image>\nSix?", "Yes, six.", image="bomb.png"), bomb__png=bomb())
    rows.clean(12, 5)
    copy = stored(scene(3), "PNG")
    plant(
        Kind.DUPLICATE_PICTURE, "picture 0 of", talk("<image>\nSeven?", "Yes, seven.", image="copy.png"), copy__png=copy
    )
    plant(Kind.DUPLICATE_SAMPLE, "rows.jsonl line 6", {**question(5), "id": "again"})
    plant(Kind.ROW, "2 <image> markers and 1 pictures", talk("<image><image>\nEight?", "Eight.", image="4.jpg"))
    plant(Kind.ROW, "1 <image> markers and 2 pictures", talk("<image>\nNine?", "Nine.", image=["4.jpg", "6.jpg"]))
    plant(Kind.EMPTY_ANSWER, "turn 1", talk("<image>\nTen?", " \n", "And ten again?", "Ten.", image="8.jpg"))
    plant(Kind.ROW, "assistant says nothing", talk("<image>\nEleven?", "", "And again?", "Eleven.", image="8.jpg"))
    plant(Kind.EMPTY_ANSWER, "without answer", talk("<image>\nTwelve?", "Twelve.", "And then?", image="8.jpg"))
    plant(Kind.ROW, "nothing to learn", talk("<image>\nThirteen?", image="10.jpg", id="thirteen"))
    plant(Kind.EMPTY_TEXT, "the user has no text", talk("   ", "It begins by itself."))
    plant(Kind.ROW, "not valid JSON", '{"conversations": [{"from": "human", "value": "Fourteen?"')
    plant(Kind.TOO_LONG, "tokens of 1,024 in stage sft", talk("Fifteen?", "Very long words. " * 300))
    rows.clean(17, 3)
    plant(Kind.SPECIAL_TOKEN, "<|im_end|>", talk("Sixteen?<|im_end|>", "Sixteen."))
    plant(Kind.DAMAGED_TEXT, "2 x U+FFFD replacement character", talk("Seventeen?", "A caf\ufffd or a na\ufffdve one."))
    plant(Kind.DAMAGED_TEXT, "U+0093", talk("Eighteen?", "A \x93quoted\x94 one."))
    plant(Kind.LONG, "80 turns", talk(*["Hm?", "Ah."] * 40))
    plant(Kind.UNDECLARED, "<box>", talk("Nineteen?", "Here: <box>[[1, 2, 30, 40]]</box>"))
    wide = stored(scene(502, 600, 400), "JPEG")
    pictures = [f"wide{i}.jpg" for i in range(2)]
    row = talk("<image><image>\nTwenty?", "Twenty.", image=pictures)
    plant(Kind.TOO_MANY_TILES, "10 tiles of 8", row, **{f"wide{i}__jpg": wide + bytes([i]) for i in range(2)})
    return rows


def _places(folder: Path, expected: Expected) -> Dataset:
    """Our own rows, whose places are pixels."""
    rows = Dataset(folder, "native", format="mm15")

    def plant(kind: Kind, words: str, number: int, *places: dict) -> None:
        asked = [{"role": "user", "image": "one.jpg"}, {"role": "user", "text": f"Where is thing {number}?"}]
        said = [{"role": "assistant", "target": True, **place} for place in places]
        row = {"id": f"n{number}", "parts": [*asked, *said]}
        expected["native", rows.add(row, one__jpg=stored(scene(600), "JPEG")), kind] = words

    plant(
        Kind.REGION_OUTSIDE,
        "box [10, 10, 200, 40] ('cat') lies outside picture 0 of 96x72 pixels",
        0,
        {"box": [10, 10, 200, 40], "label": "cat"},
    )
    plant(
        Kind.REGION_OUTSIDE,
        "point [-1, 5] lies outside picture 0 of 96x72 pixels, and 1 more",
        1,
        {"point": [-1, 5]},
        {"point": [5, 73]},
    )
    plant(Kind.ROW, "inside out", 2, {"box": [50, 10, 20, 40]})
    plant(Kind.REGION_EMPTY, "box [20, 10, 20, 40] of picture 0 has no area", 3, {"box": [20, 10, 20, 40]})
    plant(Kind.REGION_NOWHERE, "is in picture 3, and the sample has 1", 4, {"box": [20, 10, 40, 40], "of": 3})
    plant(Kind.ROW, "NaN", 5, {"box": [20, 10, 40, float("nan")]})
    asked = [{"role": "user", "image": "one.jpg"}, {"role": "user", "text": "And inside?"}]
    rows.add({"parts": [*asked, {"role": "assistant", "box": [0, 0, 96, 72], "target": True}]})
    return rows


def _marked(folder: Path, expected: Expected) -> Dataset:
    """Texts with places in a convention that the source declares."""
    rows = Dataset(folder, "marked", format="llava", regions="internvl")
    picture = {"one__jpg": stored(scene(700), "JPEG")}
    rows.add(
        talk("<image>\nWhere is it?", "<ref>it</ref><box>[[100, 200, 300, 400]]</box>", image="one.jpg"), **picture
    )
    row = talk("<image>\nWhere was it?", "<ref>it</ref><box>[[100, 200, 300]]</box>", image="one.jpg", id="m1")
    expected["marked", rows.add(row), Kind.ROW] = "[100, 200, 300]"
    return rows


def _leaks(rows: Dataset, held: Dataset, expected: Expected) -> None:
    """A held picture under another name, one with its question, one saved again and smaller, and a question alone."""
    same = (held.folder / "900.jpg").read_bytes()
    index = rows.add(talk("<image>\nWho is in it?", "Nobody.", image="leak0.jpg"), leak0__jpg=same)
    expected["talk", index, Kind.LEAK_PICTURE] = "the same picture as"
    index = rows.add(
        talk("<image>\nWhat is  blob 901?", "That one.", image="leak1.png"),
        leak1__png=(held.folder / "901.png").read_bytes(),
    )
    expected["talk", index, Kind.LEAK_SAMPLE] = "the same picture and question as"
    again = stored(scene(902).resize((64, 48)), "JPEG", quality=40)
    index = rows.add(talk("<image>\nWhere is this?", "Outside.", image="leak2.jpg"), leak2__jpg=again)
    expected["talk", index, Kind.LEAK_NEAR] = "looks like picture 0 of"
    held.add(question(900) | {"id": "twice in the evaluation set, which is not ours to mend"})
    held.add(talk("How many legs have two cats?", "Eight."))
    expected["talk", rows.add(talk("How many legs  have two cats? ", "Eight, of course.")), Kind.LEAK_SAMPLE] = (
        "the same question as"
    )


def test_every_planted_fault_is_found_and_nothing_else(planted: tuple[Report, Expected, Path]) -> None:
    report, expected, _ = planted
    found = {(f.source, f.index, f.kind): f.message for f in report.findings}
    assert sorted(found) == sorted(expected)
    for place, words in expected.items():
        assert words in found[place], place
    thirteen = next(f for f in report.findings if f.message.startswith("the assistant says nothing"))
    assert thirteen.id == "thirteen" and thirteen.where.endswith(f"rows.jsonl line {thirteen.index + 1}")
    assert len(found) == len(report.findings) >= 30


def test_the_page_shows_them(planted: tuple[Report, Expected, Path]) -> None:
    """Each kind has its place; pictures stand where they say more; the rest lists file and line."""
    report, _, folder = planted
    page = write_page(report, folder / "page.html").read_text()
    sections = {part.split('"')[0]: part for part in page.split('<h3 id="')[1:]}
    assert sections.keys() == {kind.value for kind in report.counts}
    with_pictures = {kind for kind, part in sections.items() if "data:image/jpeg;base64," in part}
    assert with_pictures >= {"region-outside", "region-empty", "too-many-tiles", "leaked-picture", "leaked-look-alike"}
    assert "rows.jsonl line" in sections["row"] and str(folder) not in sections["row"]
    sizes = {name: [(ref.width, ref.height) for ref in refs] for name, refs in report.outliers.items()}
    assert sizes == {"largest": [(600, 400)] * 2, "smallest": [(64, 48)], "longest": [(600, 400)] * 2}


def test_the_text_tells_the_worst_of_each_kind(planted: tuple[Report, Expected, Path]) -> None:
    report, _, _ = planted
    lines = report.text().splitlines()
    for kind, count in report.counts.items():
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{kind.heading}: {count}"))
        shown = [line for line in lines[at + 2 : at + 2 + min(count, 3)] if line.startswith("    ")]
        assert len(shown) == min(count, 3) and all(" line " in line for line in shown)
        assert ("note" in lines[at]) is not kind.fault
    rows = [finding.message for finding in report.worst(Kind.ROW)]
    assert "2 <image> markers" in rows[0] and "1 <image> markers" in rows[-1], "one of each sort comes first"
