"""The pieces of `mm15 data check` against independent references: Pillow's decoders, the processor, brute force."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PILImage
from planted import scene, stored

from mm15.data.check import pictures
from mm15.data.check.alike import copies, mixed, most_alike, near, unite
from mm15.data.check.counting import TokenCounter
from mm15.data.check.findings import Kind
from mm15.data.check.looking import questions_of, text_number
from mm15.data.check.pictures import Probe, digest, likeness, look_alike, probe
from mm15.data.check.samples import TextRules, faults
from mm15.image import Indicators, Tiling, picture_size
from mm15.processor import MM15Processor, build_processor
from mm15.regions import Box, Coordinates, Point, Region
from mm15.sample import Image, Part, Sample, assistant, document, system, user
from mm15.text import tokenizer as tokenizers
from mm15.text.chat import SPECIAL_TOKENS, segments

TEXTS = [
    "Where is the red circle? It is there.",
    "What number? 12 and 7, a total of 19.",
    "é漢字 🙂 naïve",
    " ",
    "\n",
    "Yes.",
]

# ------------------------------------------------------------------------------------------------------------- pictures


def animated(kind: str) -> bytes:
    out = io.BytesIO()
    scene(1).save(out, kind, save_all=True, append_images=[scene(2), scene(3)])
    return out.getvalue()


def with_thumbnail() -> bytes:
    """A JPEG whose header holds another, end marker and all."""
    content, small = stored(scene(1), "JPEG"), b"Exif\0\0" + stored(scene(1, 32, 24), "JPEG")
    return content[:2] + b"\xff\xe1" + (len(small) + 2).to_bytes(2, "big") + small + content[2:]


FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: stored(scene(1), "JPEG"),
    "progressive": lambda: stored(scene(1), "JPEG", progressive=True),
    "jpeg with a thumbnail": with_thumbnail,
    "grey jpeg": lambda: stored(scene(1).convert("L"), "JPEG"),
    "png": lambda: stored(scene(1, 400, 300), "PNG"),
    "gif": lambda: stored(scene(1), "GIF"),
    "animated gif": lambda: animated("GIF"),
    "webp": lambda: stored(scene(1), "WEBP"),
    "lossless webp": lambda: stored(scene(1), "WEBP", lossless=True),
    "animated webp": lambda: animated("WEBP"),
    "tiff": lambda: stored(scene(1), "TIFF"),
    "lzw tiff": lambda: stored(scene(1), "TIFF", compression="tiff_lzw"),
    "bmp": lambda: stored(scene(1), "BMP"),
    "bmp with a palette": lambda: stored(scene(1).convert("P"), "BMP"),
    "ppm": lambda: stored(scene(1), "PPM"),
    "pgm": lambda: stored(scene(1).convert("L"), "PPM"),
    "avif": lambda: stored(scene(1), "AVIF"),
    "jpeg 2000": lambda: stored(scene(1), "JPEG2000"),
}
TRAILERS = {"nothing": b"", "zeros": b"\0" * 100, "a phone's": b"SEFH" + b"\xff\xd8words" * 12_000}


@pytest.mark.parametrize("name", FILES)
def test_whole_pictures_are_whole_whatever_follows_them(name: str, tmp_path: Path) -> None:
    for trailer in TRAILERS.values():
        content = FILES[name]() + trailer
        (tmp_path / "picture").write_bytes(content)
        for data in (content, tmp_path / "picture"):
            found = probe(Image(data), "x")
            assert (found.fault, found.why) == (None, "")
            assert found.size == picture_size(Image(content), "x") and found.bytes == len(content)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("name", FILES)
def test_cut_short_is_what_pillow_cannot_decode(name: str) -> None:
    """Pillow decodes the first frame: a file cut behind it is whole enough."""
    content = FILES[name]()
    for share in (0.02, 0.2, 0.4, 0.5, 0.8, 0.97):
        cut = content[: int(len(content) * share)]
        found = probe(Image(cut), "x")
        try:
            PILImage.open(io.BytesIO(cut)).load()
        except (OSError, SyntaxError, ValueError, EOFError):
            assert found.fault is Kind.TRUNCATED or (found.fault is Kind.UNREADABLE and share < 0.1), share
        else:
            assert name == "animated gif" and found.fault is None


def test_sizes_are_those_of_upright_pictures_with_long_headers(tmp_path: Path) -> None:
    exif = PILImage.Exif()
    exif[0x0112] = 6
    turned = stored(scene(1, 90, 40), "JPEG", exif=exif.tobytes(), icc_profile=bytes(60_000))
    assert turned.index(b"\xff\xda") > pictures.HEAD
    (tmp_path / "a.jpg").write_bytes(turned)
    assert probe(Image(tmp_path / "a.jpg"), "").size == (40, 90)
    assert probe(Image(np.zeros((5, 7, 3), np.uint8)), "") == Probe((7, 5))


@pytest.mark.parametrize(
    ("data", "kind", "words"),
    [
        ("nowhere.jpg", Kind.MISSING, "nowhere.jpg: no such file"),
        (".", Kind.MISSING, "this is a folder"),
        ("zero\0byte.jpg", Kind.MISSING, "byte"),
        (b"", Kind.EMPTY_PICTURE, "0 bytes"),
        (b"GIF89a", Kind.UNREADABLE, "not a picture"),
        (stored(PILImage.new("RGB", (900, 2)), "PNG"), Kind.UNREADABLE, "at most 200 times"),
    ],
)
def test_pictures_that_cannot_be_used(data: str | bytes, kind: Kind, words: str) -> None:
    found = probe(Image(data), "")
    assert found.fault is kind or (kind is Kind.UNREADABLE and found.fault is Kind.TRUNCATED)
    assert words in found.why or found.fault is Kind.TRUNCATED


def test_files_and_bytes_of_equal_content_have_equal_keys(tmp_path: Path) -> None:
    content = stored(scene(1, 400, 300), "PNG")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(content)
    a, b, inside = (
        probe(Image(data), "s\0007\0000") for data in (tmp_path / "a.png", str(tmp_path / "b.png"), content)
    )
    assert a.key == b.key == inside.key and len({a.name, b.name, inside.name}) == 3
    assert inside.whole == digest(Image(tmp_path / "a.png")) == digest(Image(content))
    assert probe(Image(stored(scene(2, 400, 300), "PNG")), "").key != a.key


def test_content_decides_where_keys_agree(tmp_path: Path) -> None:
    """Three files of equal length with the same first and last kilobyte: two are the same, one differs inside."""
    start = stored(scene(1, 200, 100), "BMP")
    other = start[:30_000] + bytes(8) + start[30_008:]
    for name, content in (("a", start), ("b", other), ("c", start), ("d", stored(scene(2), "BMP"))):
        (tmp_path / name).write_bytes(content)
    images = [Image(tmp_path / name) for name in "abcd"]
    probes = [probe(image, "") for image in images]
    assert probes[0].key == probes[1].key == probes[2].key != probes[3].key
    names, keys = (np.array([getattr(p, key) for p in probes], np.uint64) for key in ("name", "key"))
    read: list[int] = []

    def image(place: int) -> Image:
        read.append(place)
        return images[place]

    contents = unite(names, keys, np.zeros(4, np.uint64), image)
    assert contents[0] == contents[2] and len(set(contents.tolist())) == 3 and read == [0, 1, 2]
    (tmp_path / "b").unlink()
    assert len(set(unite(names, keys, np.zeros(4, np.uint64), image).tolist())) == 3
    wholes = np.array([5, 5, 6, 0], np.uint64)
    assert unite(names, keys, wholes, image)[:3].tolist() == [5, 5, 6]


# ---------------------------------------------------------------------------------------------------------------- alike


def test_near_agrees_with_counting_bits() -> None:
    rng = np.random.default_rng(0)
    others = rng.integers(0, 2**63, 300, dtype=np.uint64)
    looks = np.concatenate([rng.integers(0, 2**63, 700, dtype=np.uint64), others[:50]])
    for i in range(0, 750, 3):
        for bit in rng.integers(0, 64, i % 14):
            looks[i] ^= np.uint64(1) << np.uint64(bit)
    apart = [[(a ^ b).bit_count() for b in others.tolist()] for a in looks.tolist()]
    expected = {}
    for i, row in enumerate(apart):
        close = sorted((j for j in range(300) if row[j] <= 8), key=lambda j: (row[j], j))
        expected |= {i: close} if close else {}
    assert dict(near(looks, others)) == expected and len(expected) == 47
    assert list(near(looks, others[:0])) == [] and list(near(looks[:0], others)) == []


def test_saved_again_looks_alike_and_nothing_else_does() -> None:
    """60 pictures saved worse, smaller, lighter, turned and as another format: each finds its own and only that."""
    changes: list[Callable[[PILImage.Image], bytes]] = [
        lambda p: stored(p, "JPEG", quality=25),
        lambda p: stored(p.resize((48, 36)), "JPEG", quality=60),
        lambda p: stored(p.resize((333, 250), PILImage.Resampling.BICUBIC), "PNG"),
        lambda p: stored(p.point(lambda v: min(255, int(v * 0.8 + 40))), "WEBP", quality=50),
        lambda p: stored(p.convert("L"), "BMP"),
        lambda p: stored(p.rotate(90, expand=True), "JPEG", exif=_turned(6)),
    ]
    originals = [Image(stored(scene(seed, 192, 144), "PNG")) for seed in range(60)]
    again = [Image(changes[seed % len(changes)](scene(seed, 192, 144))) for seed in range(60)]
    looks = [np.array([look_alike(image)[0] for image in some], np.uint64) for some in (again, originals)]
    found = {}
    for place, nearest in near(*looks):
        best = most_alike(again[place], (originals[i] for i in nearest))
        if best is not None:
            found[place] = nearest[best[0]]
    assert found == {i: i for i in range(60)}
    assert max(likeness(a, b) for a, b in pairwise(originals)) < 0.9


def test_equal_looks_alone_do_not_make_look_alikes() -> None:
    """Two slopes that both grow lighter to the right, one downwards too, the other upwards."""
    across, down = np.meshgrid(np.linspace(0, 60, 96), np.linspace(0, 190, 72))
    one, other = (Image(stored(PILImage.fromarray((across + d).astype(np.uint8)), "PNG")) for d in (down, down[::-1]))
    assert look_alike(one) == look_alike(other) == (0, False)
    assert most_alike(one, [other]) is None and most_alike(one, [other, one]) == (1, pytest.approx(1))


def _turned(orientation: int) -> bytes:
    exif = PILImage.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


def test_plain_pictures_say_so_and_damaged_ones_are_told() -> None:
    assert look_alike(Image(stored(PILImage.new("RGB", (90, 60), "teal"), "JPEG"))) == (0, True)
    assert not look_alike(Image(stored(scene(1), "JPEG")))[1]
    for kind in ("JPEG", "PNG"):
        content = stored(scene(1, 400, 300), kind)
        with pytest.raises(ValueError, match=r"picture|pixels"):
            look_alike(Image(content[: len(content) // 2]))


def test_copies_and_mixed_numbers() -> None:
    values = np.array([3, 0, 5, 3, 0, 7, 5, 3], np.uint64)
    assert list(copies(values)) == [(3, 0), (6, 2), (7, 0)]
    assert list(copies(values[:0])) == []
    texts = np.array([9, 9, 9, 9, 0, 9], np.uint64)
    rows, numbers = np.array([0, 0, 1, 1, 2, 2, 3, 4]), np.array([0, 1, 0, 1, 0, 1, 0, 0])
    contents = np.array([4, 6, 6, 4, 4, 6, 4, 4], np.uint64)
    found = mixed(texts, rows, numbers, contents)
    assert found[0] == found[2] and found[4] == 0
    assert len({*found[[0, 1, 3, 5]].tolist()}) == 4, "order and number of pictures count"


def test_a_sample_is_its_parts() -> None:
    first = Sample("1", "s", user(Image("a.jpg"), "Where?") + assistant(Region(Box(1, 2, 3, 4))))
    for same in (replace(first, id="2"), replace(first, parts=user(Image("b.jpg"), "Where?") + first.parts[2:])):
        assert text_number(same) == text_number(first)
    for other in (
        user(Image("a.jpg"), "Where?") + assistant(Region(Box(1, 2, 3, 5))),
        user("Where?", Image("a.jpg")) + assistant(Region(Box(1, 2, 3, 4))),
        system("Where?") + first.parts,
        first.parts[:2] + assistant(Region(Box(1, 2, 3, 4)), target=False),
    ):
        assert text_number(replace(first, parts=other)) != text_number(first)
    generated = user(Image(np.zeros((4, 4, 3), np.uint8)), "Where?") + assistant("There.")
    assert text_number(replace(first, parts=generated)) == 0
    turns = user("One  two ", Image("a.jpg"), "three") + assistant("x") + user(Image("a.jpg")) + assistant("y")
    asked = Sample("", "", turns + user(" one two\nthree"))
    assert len(questions_of(asked)) == 2
    assert questions_of(asked)[0] == questions_of(Sample("", "", user("One two three")))[0]


# ------------------------------------------------------------------------------------------------------------- counting


@pytest.fixture(scope="module")
def processor() -> MM15Processor:
    contract = Coordinates(bins=20, tokens=True)
    tokenizer = tokenizers.prepare(tokenizers.train(TEXTS * 20, vocab_size=400), coordinates=contract)
    return build_processor(tokenizer, tiling=Tiling(tile=32), coordinates=contract, tokens_per_tile=4)


def random_sample(rng: random.Random) -> Sample:
    parts: tuple[Part, ...] = document(*rng.choices(TEXTS, k=rng.randint(0, 2))) if rng.random() < 0.3 else ()
    for _ in range(rng.randint(1, 4)):
        shown = [
            Image(np.zeros((rng.randint(20, 90), rng.randint(20, 90), 3), np.uint8)) for _ in range(rng.randint(0, 2))
        ]
        content = [*shown, *rng.choices([*TEXTS, "<image>", "<|im_end|>"], k=rng.randint(0, 3))]
        rng.shuffle(content)
        parts += user(*content) + assistant(*rng.choices(TEXTS, k=rng.randint(0, 3)), target=rng.random() < 0.7)
        parts += assistant("What num", target=False) + assistant("ber? 12 and 7")
        if any(isinstance(part.content, Image) for part in parts):
            parts += assistant(Region(Box(1, 2, 10, 15)), " or ", Region(Point(3, 4)))
    return Sample("x", "test", parts)


@pytest.mark.filterwarnings("ignore:min_tiles=1 is below the trained")
def test_lengths_are_those_of_measure(processor: MM15Processor) -> None:
    tilings = [
        Tiling(tile=32, rule="none"),
        *(Tiling(tile=32, min_tiles=1, max_tiles=4, indicators=kind) for kind in Indicators),
        Tiling(tile=16, overview="before", split_below=9),
    ]
    processors = [processor.with_tiling(**vars(tiling)) for tiling in tilings]
    counter, rng = TokenCounter(processor), random.Random(0)
    for _ in range(150):
        sample = random_sample(rng)
        sizes = [picture_size(image, "") for image in sample.images]
        written = segments(sample.parts, coordinates=processor.coordinates, sizes=sizes)
        for length, one in zip(counter.lengths(written, sizes, tilings), processors, strict=True):
            expected = one.measure(sample)
            assert (length.tokens, length.target_tokens, length.tiles) == (
                expected.tokens,
                expected.target_tokens,
                expected.tiles,
            )


# -------------------------------------------------------------------------------------------------------------- samples


def kinds(*parts: tuple[Part, ...], sizes: tuple[tuple[int, int], ...] = (), **rules: bool) -> list[str]:
    found = TextRules(SPECIAL_TOKENS, **rules)
    sample = Sample("x", "test", sum(parts, ()))
    return [
        f"{f.kind.value}: {f.message}" for f in faults(sample, [Probe(size) for size in sizes], found, found.special)
    ]


def test_clean_samples_have_no_faults() -> None:
    shown = Image("a.jpg")
    assert kinds(document(shown, "a cat"), sizes=((9, 9),)) == []
    assert kinds(user(shown) + assistant("a cat"), sizes=((9, 9),)) == []
    assert (
        kinds(user(shown, "Where?") + assistant(Region(Box(0, 0, 9, 9)), " and ", Region(Point(9, 0))), sizes=((9, 9),))
        == []
    )
    assert kinds(system("Be brief.\n\tVery.\f") + user("a", "b") + assistant("c")) == []
    assert kinds(user("x") + assistant("y", target=False) + user("z") + assistant("w")) == []


def test_turns_that_are_not_as_they_should_be() -> None:
    assert kinds(document("words", target=False)) == ["nothing-to-learn: no part of it is a target"]
    assert kinds(document(" \n")) == ["empty-text: turn 0: the document has no text"]
    assert kinds(user("Q") + assistant("")) == ["empty-answer: turn 1: the assistant says nothing"]
    assert kinds(user("Q") + assistant("A") + user("Q")) == [
        "empty-answer: turn 2, the last one, is a question without answer"
    ]


def test_letters() -> None:
    bad = "\x00\x07\x7f\x80\ufffd\ud800"
    found = kinds(user("Q") + assistant(bad + "\ud800"))
    assert len(found) == 1 and found[0].startswith("damaged-text: 2 x U+D800 half a surrogate pair")
    assert [found.split(":")[0] for found in kinds(user("Q <image>") + assistant("<|im_start|>"))] == ["special-token"]
    for text in ("<box>[[1,2,3,4]]</box>", '{"bbox_2d": [1, 2]}', "<loc0012><loc0100>", '<point x="4" y="2">'):
        assert kinds(user(text) + assistant("A")) == []
        assert [found.split(":")[0] for found in kinds(user(text) + assistant("A"), declared=False)] == [
            "undeclared-regions"
        ]
