"""PDFs for the tests: typeset by matplotlib with text at known places, or written by hand, byte for byte."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

WIDTH, HEIGHT = 420.0, 595.0
"""Of a page in points (A5)."""


def typeset(pages: Sequence[Sequence[tuple]], path: Path, *, size: tuple[float, float] = (WIDTH, HEIGHT)) -> Path:
    """A PDF of pages of (text, x, y, points[, keywords of Axes.text]): baselines at (x, y) points from the lower left.
    A text that is an array of pixels is a picture of 100 points from there."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib.backends.backend_pdf import PdfPages
    from matplotlib.figure import Figure

    stamp = {"CreationDate": None, "ModDate": None, "Producer": None, "Creator": None}
    with (
        matplotlib.rc_context({"pdf.fonttype": 42, "font.family": "DejaVu Sans"}),
        PdfPages(path, metadata=stamp) as pdf,
    ):
        for page in pages:
            figure = Figure(figsize=(size[0] / 72, size[1] / 72))
            for text, x, y, *more in page:
                if isinstance(text, np.ndarray):
                    axes = figure.add_axes((x / size[0], y / size[1], 100 / size[0], 100 / size[1]))
                    axes.imshow(text)
                    axes.set_axis_off()
                else:
                    points, known = more[0], more[1] if len(more) > 1 else {}
                    figure.text(
                        x / size[0], y / size[1], text, fontsize=points, va="baseline", parse_math=False, **known
                    )
            pdf.savefig(figure)
    return path


def ink(text: str, x: float, y: float, points: float) -> tuple[float, float, float, float]:
    """Left, bottom, right, top of a text's outlines in points, by matplotlib's own glyph paths."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    box = TextPath((x, y), text, size=points, prop=FontProperties(family="DejaVu Sans")).get_extents()
    return box.x0, box.y0, box.x1, box.y1


def by_hand(objects: Sequence[str | bytes], *, trailer: str = "") -> bytes:
    """A PDF of these objects, numbered from 1; the first is the catalogue."""
    out = io.BytesIO(b"")
    out.write(b"%PDF-1.4\n")
    places = []
    for number, text in enumerate(objects, 1):
        places.append(out.tell())
        body = text.encode() if isinstance(text, str) else text
        out.write(b"%d 0 obj\n%s\nendobj\n" % (number, body))
    start = out.tell()
    out.write(b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1))
    out.write(b"".join(b"%010d 00000 n \n" % place for place in places))
    out.write(
        b"trailer\n<</Size %d /Root 1 0 R %s>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, trailer.encode(), start)
    )
    return out.getvalue()


def stream(text: str) -> str:
    """A content stream."""
    return f"<</Length {len(text)}>>\nstream\n{text}\nendstream"


def plain(contents: Sequence[str], *, box: str = "0 0 420 595", extra: str = "", trailer: str = "") -> bytes:
    """Pages of these contents with Helvetica as /F."""
    n = len(contents)
    kids = " ".join(f"{4 + 2 * i} 0 R" for i in range(n))
    objects = [
        "<</Type /Catalog /Pages 2 0 R>>",
        f"<</Type /Pages /Count {n} /Kids [{kids}]>>",
        "<</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>",
    ]
    for i, content in enumerate(contents):
        objects.append(
            f"<</Type /Page /Parent 2 0 R /MediaBox [{box}] /Contents {5 + 2 * i} 0 R {extra} "
            "/Resources <</Font <</F 3 0 R>>>>>>"
        )
        objects.append(stream(content))
    return by_hand(objects, trailer=trailer)
