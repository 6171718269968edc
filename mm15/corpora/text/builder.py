"""Pictures of text with exact answers: what stands there, what stands in this box, where that line is.

    passage -> words -> blocks (font, size, alignment) -> one projective map -> ink on a ground -> blur, noise, JPEG

The picture is made as large as the moved text needs, so nothing is ever cut off. The box of a line is the hull of its
moved corners, in pixels of the picture. A font is used for a text only when it writes all of it right
(`mm15.corpora.fonts`); texts for which there is none are skipped, each once, with the reason.

`meta` of a sample: task, text (all of it: a line break between lines, a blank line between blocks), lines [{text, box,
block}], blocks [{font, size, contrast}], layout, ground, distortions. A picture takes 5-60 ms on one core.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image as PILImage

from ...errors import UserError
from ...image import open_picture, picture_size
from ...regions import Box, Region
from ...sample import Image, Part, Sample, assistant, user
from ...world.dice import Dice, entropy
from ..build import Made, Skip, is_heldout
from ..fonts import Face, find_fonts, has_raqm, unwritable, why_not
from .distort import Distortion, blurred, hull, noisy, shift, stored, warp
from .ground import Ground, choose_ink, draw_ground
from .layout import Layout, Plane, geometry, set_plane
from .passages import Passage, invent, read_passages, words

TASKS = ("read", "read-box", "find")
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
_READ = ("Read the text.", "What does the picture say?", "Write down all of the text.", "Transcribe the picture.")
_READ_BOX = (("What does ", " say?"), ("Read the text in ", "."), ("What is written in ", "?"))
_FIND = ('Where is "{}"?', 'Find "{}".', 'Where does it say "{}"?')


@dataclass(frozen=True)
class TextSettings:
    """What to make.

    texts: a file or folder; None makes texts up. fonts: folders besides the system's (`system_fonts`). pictures: a
    folder of backgrounds. size: longest side in pixels. turns: most questions about one picture. contrast: the least
    (WCAG ratio, 1 to 21).
    """

    samples: int
    texts: Path | None = None
    fonts: tuple[Path, ...] = ()
    system_fonts: bool = True
    pictures: Path | None = None
    size: int = 1024
    seed: int = 0
    tasks: tuple[str, ...] = TASKS
    turns: int = 3
    layouts: tuple[Layout, ...] = tuple(Layout)
    grounds: tuple[Ground, ...] = tuple(Ground)
    distortions: tuple[Distortion, ...] = tuple(Distortion)
    contrast: float = 3.0
    split: Literal["train", "heldout"] = "train"
    heldout: float = 0.0
    """Share of the passages that only the held-out part has; made-up texts have draws of their own there."""

    def __post_init__(self) -> None:
        for name, low, high in (("samples", 1, 10**9), ("size", 128, 8192), ("turns", 1, 20), ("contrast", 1.5, 15)):
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name}={getattr(self, name)}; give a value from {low} to {high}")
        for name in ("tasks", "layouts", "grounds"):
            if not getattr(self, name):
                raise UserError(f"{name} is empty; name at least one")
        for task in self.tasks:
            if task not in TASKS:
                raise UserError(f"there is no task {task!r} of text; tasks: {', '.join(TASKS)}")


class TextBuilder:
    """A `corpora.build.Builder`: one item, one picture. UserError when texts, fonts or pictures cannot be used."""

    name = "text"

    def __init__(self, settings: TextSettings) -> None:
        self.options = settings
        found = find_fonts(settings.fonts, system=settings.system_fonts)
        self.faces: tuple[Face, ...] = found.faces
        self.left_out = list(found.left_out)
        self.passages: list[Passage] = []
        self.text_digests: list[str] = []
        if settings.texts is not None:
            self.passages, bad, self.text_digests = read_passages(settings.texts)
            self.left_out += bad
        self.photos: list[Path] = []
        if settings.pictures is not None:
            self.photos, bad = _photos(settings.pictures)
            self.left_out += bad

    def settings(self) -> dict[str, Any]:
        """Options, and the hashes of the fonts, texts and pictures used."""
        o = self.options
        return {
            "samples": o.samples,
            "size": o.size,
            "seed": o.seed,
            "tasks": list(o.tasks),
            "turns": o.turns,
            "layouts": list(o.layouts),
            "grounds": list(self.grounds),
            "distortions": list(o.distortions),
            "contrast": o.contrast,
            "split": o.split,
            "heldout": o.heldout,
            "shaping": has_raqm(),
            "fonts": {f"{face.digest}#{face.number}": face.name for face in self.faces},
            "texts": self.text_digests if o.texts is not None else "made up",
            "pictures": _digests(self.photos),
        }

    @cached_property
    def grounds(self) -> tuple[Ground, ...]:
        """Those that there are means for."""
        return tuple(g for g in self.options.grounds if g is not Ground.PICTURE or self.photos) or (Ground.PLAIN,)

    def items(self) -> list[dict[str, Any]]:
        """First what cannot be used and why, then a number and a passage for each sample."""
        o = self.options
        unused = [{"skip": what, "reason": reason} for what, reason in self.left_out if o.split == "train"]
        if o.texts is None:
            return [*unused, *({"number": n} for n in range(o.samples))]
        ours = [n for n, p in enumerate(self.passages) if is_heldout(p.text, o.heldout) == (o.split == "heldout")]
        why = {number: self._unwritten(self.passages[number].text) for number in ours}
        usable = [number for number, reason in why.items() if reason is None]
        if not usable and o.split == "train":
            bad = [f"{self.passages[number].where}: {reason}; add --fonts" for number, reason in why.items()]
            raise UserError(f"{o.texts}: nothing to write ({bad[0] if bad else 'all of it is held out'})")
        unused += [{"skip": self.passages[n].where, "reason": reason} for n, reason in why.items() if reason]
        order: list[int] = []
        dice = self._dice("corpora/text order", 0)
        while usable and len(order) < o.samples:
            order += dice.shuffle(usable)
        pairs = enumerate(order[: o.samples])
        return [*unused, *({"number": number, "passage": passage} for number, passage in pairs)]

    def make(self, item: dict[str, Any]) -> Made:
        """The sample of an item."""
        if "skip" in item:
            return Made([], [Skip(item["skip"], item["reason"])])
        dice = self._dice("corpora/text", item["number"])
        passage = self.passages[item["passage"]] if "passage" in item else Passage(invent(dice), "made up")
        what = f"sample {item['number']} ({passage.where})"
        layout = dice.pick(self.options.layouts)
        able = (face for face in dice.shuffle(self.faces) if why_not(face, passage.text) is None)
        faces = list(islice(able, 4))
        if not faces:
            return Made([], [Skip(what, self._unwritten(passage.text) or "no font can write it")])
        plane = set_plane(dice, words(passage.text), faces, layout, self.options.size)
        if plane is None:
            return Made([], [Skip(what, f"a word of it is wider than the picture of {self.options.size} pixels")])
        return Made([self._sample(item["number"], dice, plane, layout, passage)])

    def _dice(self, what: str, number: int) -> Dice:
        return Dice(entropy(what, number, seed=self.options.seed, level=0, split=self.options.split))

    def _unwritten(self, text: str) -> str | None:
        """Why `text` cannot be written with these fonts; None when it can."""
        reason = unwritable(text)
        if reason is not None or any(why_not(face, text) is None for face in self.faces):
            return reason
        for character in sorted(set(text)):
            if not any(why_not(face, character) is None for face in self.faces):
                return f"no font here can write {character!r} (U+{ord(character):04X})"
        return "no single font here has all its characters"

    def _sample(self, number: int, dice: Dice, plane: Plane, layout: Layout, passage: Passage) -> Sample:
        distortions = _some(dice, self.options.distortions)
        matrix, size = geometry(dice, plane, layout, distortions, self.options.size)
        ground = dice.pick(self.grounds)
        photo = _photo(dice.pick(self.photos)) if ground is Ground.PICTURE else None
        pixels = draw_ground(ground, dice, size, photo)
        moves = [matrix @ shift(x, y) for _, x, y in plane.blocks]
        areas = [
            _within(hull([line.box for line in b.lines], m), size)
            for (b, _, _), m in zip(plane.blocks, moves, strict=True)
        ]
        inks = self._inks(dice, pixels, areas, low=Distortion.LOW_CONTRAST in distortions)
        lines: list[dict[str, Any]] = []
        blocks: list[dict[str, Any]] = []
        for (block, _, _), move, (ink, ratio) in zip(plane.blocks, moves, inks, strict=True):
            share = np.asarray(warp(block.mask, move, size), np.float32)[..., None] / 255
            pixels = np.rint(pixels * (1 - share) + np.array(ink, np.float32) * share).astype(np.uint8)
            for line in block.lines:
                box = _within(hull([line.box], move), size)
                lines.append({"text": line.text, "box": [round(v, 2) for v in box], "block": len(blocks)})
            style = block.style
            blocks.append({"font": style.face.name, "size": style.size, "contrast": round(ratio, 3), "ink": list(ink)})
        picture = PILImage.fromarray(pixels)
        letter = min(block["size"] for block in blocks) * float(np.sqrt(abs(np.linalg.det(matrix[:2, :2]))))
        if Distortion.BLUR in distortions:
            picture = blurred(picture, dice, letter)
        if Distortion.NOISE in distortions:
            picture = noisy(picture, dice, min(block["contrast"] for block in blocks))
        quality = dice.between(25, 80) if Distortion.JPEG in distortions else (None if ground is Ground.PLAIN else 95)
        known = {
            "lines": lines,
            "blocks": blocks,
            "layout": layout.value,
            "ground": ground.value,
            "distortions": [d.value for d in distortions],
            "from": passage.where,
        }
        return _ask(f"{self.options.split}-{number:07d}", dice, self.options, Image(stored(picture, quality)), known)

    def _inks(
        self, dice: Dice, pixels: np.ndarray, areas: list[Box], *, low: bool
    ) -> list[tuple[tuple[int, int, int], float]]:
        """(ink, contrast) of each block; the ground below them is made plainer, in place, where it must be.

        Blocks whose areas overlap share their ink and their ground, so that none spoils the other's.
        """
        overlap = any(not _apart(one, other) for one, other in combinations(areas, 2))
        common = Box(
            min(a.x1 for a in areas), min(a.y1 for a in areas), max(a.x2 for a in areas), max(a.y2 for a in areas)
        )
        found = []
        for area in [common] if overlap else areas:
            part = np.s_[int(area.y1) : int(np.ceil(area.y2)), int(area.x1) : int(np.ceil(area.x2))]
            ink, pixels[part], ratio = choose_ink(dice, pixels[part], floor=self.options.contrast, low=low)
            found.append((ink, ratio))
        return found * len(areas) if overlap else found


def _apart(one: Box, other: Box) -> bool:
    return one.x2 < other.x1 or other.x2 < one.x1 or one.y2 < other.y1 or other.y2 < one.y1


def _some(dice: Dice, options: tuple[Distortion, ...]) -> tuple[Distortion, ...]:
    """None of the distortions for four pictures in ten, else one to three of them."""
    if not options or dice.chance(0.4):
        return ()
    return tuple(sorted(dice.sample(options, min(len(options), dice.between(1, 3)))))


def _within(box: Box, size: tuple[int, int]) -> Box:
    return Box(max(0.0, box.x1), max(0.0, box.y1), min(size[0], box.x2), min(size[1], box.y2))


# ---------------------------------------------------------------------------------------------------------- questions


def _ask(name: str, dice: Dice, options: TextSettings, image: Image, known: dict[str, Any]) -> Sample:
    """One task about the picture, in one turn or more. UserError when none of the tasks can be asked."""
    lines = known["lines"]
    text = ""
    for i, line in enumerate(lines):
        text += ("" if i == 0 else "\n" if line["block"] == lines[i - 1]["block"] else "\n\n") + line["text"]
    pools = {"read": lines[:1], "read-box": _clear(lines), "find": _only(lines)}
    possible = [task for task in options.tasks if pools[task]]
    if not possible:
        raise UserError(
            f"no line in it can be told from the others, so there is no {' or '.join(options.tasks)} to ask"
        )
    task = dice.pick(possible)
    pool = dice.shuffle(pools[task])[: dice.between(1, options.turns)]
    parts: tuple[Part, ...] = ()
    for line in pool:
        box = Box(*line["box"])
        shown = () if parts else (image,)
        if task == "read":
            parts += user(*shown, dice.pick(_READ)) + assistant(text)
        elif task == "find":
            parts += user(*shown, dice.pick(_FIND).format(line["text"])) + assistant(Region(box, 0, line["text"]))
        else:
            before, after = dice.pick(_READ_BOX)
            parts += user(*shown, before, Region(box), after) + assistant(line["text"])
    return Sample(name, "text", parts, {"task": task, "text": text, **known})


def _only(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines whose text stands nowhere else in the picture."""
    return [line for line in lines if sum(line["text"] in other["text"] for other in lines) == 1]


def _clear(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Lines whose box holds the middle of no other: where text is turned, the boxes of lines overlap."""

    def middle_in(box: list[float], other: list[float]) -> bool:
        x, y = (other[0] + other[2]) / 2, (other[1] + other[3]) / 2
        return box[0] <= x <= box[2] and box[1] <= y <= box[3]

    return [a for a in lines if not any(middle_in(a["box"], b["box"]) for b in lines if b is not a)]


# ----------------------------------------------------------------------------------------------------------- pictures


def _photos(folder: Path) -> tuple[list[Path], list[tuple[str, str]]]:
    """Pictures below a folder by name, and those that cannot be read. UserError when there is none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of pictures")
    good, bad = [], []
    for path in sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES):
        name = path.relative_to(folder).as_posix()
        try:
            picture_size(Image(path), name)
        except UserError as error:
            bad.append((name, str(error)))
        else:
            good.append(path)
    if not good:
        raise UserError(f"{folder}: no picture in it that can be read; give a folder of {', '.join(PICTURES)} files")
    return good, bad


def _photo(path: Path) -> PILImage.Image:
    return open_picture(Image(path), path.name)


def _digests(paths: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in paths]
