"""Who may import whom: walks every file's syntax tree, imports inside functions included."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mm15

ROOT = Path(mm15.__file__).parent
GROUND = {"errors", "files", "page", "pretrained", "progress", "regions", "sample", "recipe"}
MAY = {
    "errors": set(),
    "files": {"errors"},
    "page": set(),
    "progress": set(),
    "pretrained": {"errors"},
    "regions": set(),
    "sample": {"regions"},
    "recipe": {"errors", "regions"},
    "image": GROUND,
    "text": GROUND,
    "world": {"errors", "regions", "sample"},
    "processor": GROUND | {"image", "text"},
    "model": GROUND | {"image"},
    "data": GROUND | {"image", "text", "processor", "world"},
    "corpora": GROUND | {"image", "text", "processor", "data", "world", "generate"},
    "generate": GROUND | {"image", "text", "processor", "model", "data"},
    "evaluate": GROUND | {"image", "text", "processor", "model", "data", "world", "generate", "train"},
    "train": GROUND | {"image", "text", "processor", "model", "data", "world"},
    "plan": GROUND | {"model"},
    "cli": GROUND | {"image", "processor", "data", "corpora", "generate", "evaluate", "train", "plan"},
    "registration": {"model", "processor"},
}
HEAVY = {"torch", "transformers"}


def imports(path: Path) -> set[str]:
    """Rooms of mm15 and other packages that a file imports, as their first names."""
    found = set()
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                found.add(node.module or "")
            else:
                base = ["mm15", *package][: len(package) + 2 - node.level]
                names = [node.module] if node.module else [alias.name for alias in node.names]
                found |= {".".join([*base, name]) for name in names}
    return found


FILES = [p for p in sorted(ROOT.rglob("*.py")) if p.name != "__main__.py" and p.parent != ROOT] + [
    ROOT / f"{name}.py" for name in MAY if (ROOT / f"{name}.py").exists()
]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_rooms_import_only_what_they_may(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0].removesuffix(".py")
    rooms = {name.split(".")[1] for name in imports(path) if name.startswith("mm15.")}
    assert rooms - {room} <= MAY[room]


def test_the_test_sees_imports() -> None:
    assert "mm15.errors" in imports(ROOT / "recipe" / "reading.py")
    assert "mm15.model.configuration" in imports(ROOT / "registration.py")
    assert set(MAY) >= {p.parts[0].removesuffix(".py") for p in (f.relative_to(ROOT) for f in FILES)}


@pytest.mark.parametrize("room", ["world", "image", "recipe", "regions", "sample.py"])
def test_light_rooms_do_without_torch(room: str) -> None:
    """But for resizing, which imports it when a picture is first cut."""
    for path in [ROOT / room] if room.endswith(".py") else (ROOT / room).rglob("*.py"):
        if path == ROOT / "image" / "resize.py":
            assert (
                not {alias.name for node in ast.parse(path.read_text()).body for alias in getattr(node, "names", [])}
                & HEAVY
            )
            continue
        assert not {name.split(".")[0] for name in imports(path)} & HEAVY, path


def test_data_knows_nothing_of_distributed() -> None:
    for path in (ROOT / "data").rglob("*.py"):
        assert not any("distributed" in name for name in imports(path)), path


def test_files_and_functions_stay_small() -> None:
    """400 lines a file, 80 a function (docs: CONTRIBUTING.md)."""
    for path in ROOT.rglob("*.py"):
        text = path.read_text()
        assert text.count("\n") <= 400, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert node.end_lineno - node.lineno <= 80, f"{path}: {node.name}"
