"""What an icon is called, from what its page calls it: a symbol (`#icon-search`) or ligature (`shopping_cart`), a class
(`fa-trash-alt`), or an accessible name. Words in lower case, or "" when the page gives none."""

from __future__ import annotations

import re
from collections.abc import Iterable

_FAMILIES = (
    "fa",
    "fas",
    "far",
    "fab",
    "bi",
    "ti",
    "mdi",
    "ri",
    "la",
    "bx",
    "bxs",
    "pi",
    "ph",
    "ion",
    "feather",
    "lucide",
    "tabler",
    "icon-tabler",
    "glyphicon",
    "octicon",
    "dashicons",
    "material-icons",
    "icon",
    "icons",
    "ic",
    "symbol",
    "uk-icon",
)
"""First parts of icon classes; what follows is the name."""
_FAMILY = re.compile(rf"^(?:{'|'.join(sorted(_FAMILIES, key=len, reverse=True))})[-_](?P<name>.+)$")
_STYLE = re.compile(
    r"^(?:\d*x[sl]|\d+x|[xsml]{1,3}|lg|sm|fw|ul|li|border|inverse|spin\w*|pulse|stack.*|rotate.*|flip.*|pull.*|"
    r"solid|regular|light|thin|duotone|brands|filled|outlined?|round(?:ed)?|sharp|two-tone|"
    r"link|button|image|overlay|wrapper|box|container|left|right|muted|primary|secondary|white|dark|"
    r"\d+|size-.*|color-.*|bg-.*|text-.*)$"
)
"""What follows a family and is not a name but a size, a turn, or a style."""
_NOISE = re.compile(r"^(?:icons?|ico?|svg|img|glyph|symbol)$")
_SIZE = re.compile(r"^(?:\d+(?:x\d+)?(?:px)?|[12]x|white|black|dark|light|filled?|outlined?|o|alt|solid|regular)$")


def icon_name(*, classes: str, hint: str, names: Iterable[str]) -> str:
    """The name of an icon: its symbol or ligature, else its class, else the first of its accessible names that will do
    (its own, that of the button that it is all of)."""
    return _words(hint) or _from_classes(classes) or next(filter(None, map(_plain, names)), "")


def _from_classes(classes: str) -> str:
    for token in classes.split():
        match = _FAMILY.match(token)
        if match and match["name"] not in _FAMILIES and not _STYLE.match(match["name"]):
            words = _words(match["name"])
            if words:
                return words
    return ""


def _plain(name: str) -> str:
    """An accessible name that can be an icon's: up to four words with a letter among them."""
    words = re.findall(r"[^\W_]+", name.casefold())
    return " ".join(words) if len(words) <= 4 and len(name) <= 40 and any(map(str.isalpha, name)) else ""


def _words(text: str) -> str:
    """Words of an identifier: ``#icon-shopping_cart`` is "shopping cart"; "" when it is no plain English."""
    identifier = re.sub(r"([a-z])([A-Z])", r"\1 \2", text.rpartition("#")[2].rpartition(":")[2])
    words = [word for word in re.split(r"[^0-9A-Za-z]+", identifier.casefold()) if word]
    words = [word for word in words if not _NOISE.match(word)]
    while len(words) > 1 and _SIZE.match(words[-1]):
        words.pop()
    sound = all((word.isalpha() and len(word) < 20) or (word.isdigit() and len(word) < 3) for word in words)
    named = any(len(word) > 1 and word.isalpha() for word in words)
    return " ".join(words) if words and len(words) <= 4 and sound and named else ""
