"""The metrics of the paper's tables (its section 4), in plain Python and numpy.

A metric of one reply takes the reply and the truth and returns a score from 0 to 1; a metric of a whole set (`pope`,
`mme`, `cider`) takes all replies. Nothing here knows about models or files, so stored replies can be scored again at
any time: 100,000 short replies take seconds (`anls` is quadratic in their length).

Paper: greedy replies, multiple choice by exact match with case and punctuation kept, and no judge model; a category's
score is the plain mean of its metrics.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ..regions import Box


class Matching(StrEnum):
    """How a reply is compared with an answer."""

    STRICT = "strict"
    """Case and punctuation kept, outer spaces ignored: the paper's way."""
    LENIENT = "lenient"
    """Case, punctuation and runs of spaces ignored."""


# -------------------------------------------------------------------------------------------------------- short answers


def exact_match(reply: str, answers: str | Sequence[str], *, matching: Matching = Matching.STRICT) -> float:
    """1 when the reply is one of the answers, else 0."""
    return float(any(_plain(reply, matching) == _plain(answer, matching) for answer in _listed(answers)))


def multiple_choice(
    reply: str, answer: str, *, choices: Mapping[str, str] | None = None, matching: Matching = Matching.STRICT
) -> float:
    """1 when the reply names the option `answer` (a letter), else 0.

    Strict: the reply is the letter. Lenient: also ``(b)``, ``B.``, ``B) text``, ``The answer is B``, or the option's
    own text, where `choices` maps letters to texts.
    """
    if exact_match(reply, answer):
        return 1.0
    if matching is Matching.STRICT:
        return 0.0
    if choices and _plain(reply, matching) in {_plain(text, matching) for text in choices.values()}:
        return exact_match(reply, choices[answer], matching=matching)
    letter = r"\(?([A-Za-z])\)?"
    found = re.match(rf"\s*{letter}\s*(?:[.):,]|$)", reply) or re.search(
        rf"(?:answer|option|choice)(?:\s+is|\s*:)?\s+{letter}(?![A-Za-z])", reply, re.IGNORECASE
    )
    return float(found is not None and found.group(1).upper() == answer.strip().upper())


def anls(reply: str, answers: str | Sequence[str], *, threshold: float = 0.5) -> float:
    """Normalised Levenshtein similarity to the nearest answer; 0 below `threshold` (DocVQA, arXiv 2007.00398).

    Case and runs of spaces do not count. A similarity of exactly the threshold counts, as in the benchmark's script.
    """
    best = max(_similarity(_squeezed(reply), _squeezed(answer)) for answer in _listed(answers))
    return best if best >= threshold else 0.0


def relaxed_accuracy(reply: str, answers: str | Sequence[str], *, tolerance: float = 0.05) -> float:
    """1 for a number within 5 % of the true number, or the same text in any case, else 0 (ChartQA, arXiv 2203.10244).

    ``12%`` is 0.12 on both sides. A true zero is met by zero only.
    """
    return float(any(_relaxed(reply.strip(), answer.strip(), tolerance) for answer in _listed(answers)))


def vqa_accuracy(reply: str, answers: Sequence[str]) -> float:
    """Agreement with people asked (VQAv2, TextVQA; arXiv 1505.00468): mean over them of min(others agreeing / 3, 1).

    Reply and answers are normalised by `vqa_normalise`. Of the usual ten answers, 2 that agree give 0.6, 3 give 0.9 and
    4 give 1.
    """
    if len(answers) < 2:
        raise ValueError(
            f"VQA accuracy compares with several people's answers, got {len(answers)}; use exact_match for one"
        )
    said = vqa_normalise(reply)
    agrees = [vqa_normalise(answer) == said for answer in answers]
    return sum(min((sum(agrees) - own) / 3, 1.0) for own in agrees) / len(agrees)


_ARTICLES = {"a", "an", "the"}
_NUMBER_WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
_DIGITS = {"none": "0"} | {word: str(i) for i, word in enumerate(_NUMBER_WORDS)}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_CONTRACTIONS = """
    ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd
    he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've
    needn't not've o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've
    somebody'll somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll
    that's there'd there'd've there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've
    weren't what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's who've
    why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're
    you've
""".split()  # noqa: SIM905 - a table of words reads better so
_APOSTROPHES = {w[:i] + w[i + 1 :]: w for w in _CONTRACTIONS for i, c in enumerate(w) if c == "'"}
"""Each contraction with one of its apostrophes forgotten -> the contraction."""


def vqa_normalise(text: str) -> str:
    """The text as VQA's evaluation compares it: lower case, no articles, number words as digits, apostrophes restored,
    punctuation removed (or made a space where it stands between two letters), full stops kept only before digits.

    After the benchmark's own script (vqaEval.py of GT-Vision-Lab/VQA, BSD), whose order of steps is kept.
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    remove_all = re.search(r"\d,\d", text) is not None
    out = text
    for mark in _PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        out = out.replace(mark, "" if beside_space or remove_all else " ")
    out = re.sub(r"\.(?!\d)", "", out)
    words = (_DIGITS.get(word, word) for word in out.lower().split())
    return " ".join(_APOSTROPHES.get(word, word) for word in words if word not in _ARTICLES)


# ------------------------------------------------------------------------------------------------------------ grounding


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes; two equal boxes of no area have 0."""
    width = min(a.x2, b.x2) - max(a.x1, b.x1)
    height = min(a.y2, b.y2) - max(a.y1, b.y1)
    if width <= 0 or height <= 0:
        return 0.0
    both = width * height
    return both / (a.area + b.area - both)


def recall_at_iou(predicted: Sequence[Box | None], true: Sequence[Box], *, threshold: float = 0.5) -> float:
    """Share of the true boxes met with at least `threshold` IoU by the prediction of the same place in the list.

    None is a reply without a readable box: a miss (RefCOCO's R@1, as Ferret scores it, arXiv 2310.07704).
    """
    _same_length(predicted, true)
    return sum(p is not None and iou(p, t) >= threshold for p, t in zip(predicted, true, strict=True)) / len(true)


# ----------------------------------------------------------------------------------------------------------- yes and no


def yes_or_no(reply: str) -> str:
    """``yes``, ``no`` or ``other``, by the rule of MME's tool: the whole reply, or what its first four letters hold."""
    text = reply.lower().strip().replace(".", "")
    if len(text) == 1:
        return {"y": "yes", "n": "no"}.get(text, "other")
    return next((word for word in ("yes", "no") if word in text[:4]), "other")


@dataclass(frozen=True)
class Pope:
    """POPE's numbers (arXiv 2305.10355), each 0 to 1; ``yes`` is the positive class."""

    accuracy: float
    precision: float
    recall: float
    f1: float
    yes_ratio: float


def pope(replies: Sequence[str], answers: Sequence[str]) -> Pope:
    """Object hallucination: replies against ``yes``/``no`` answers. A reply that is neither is wrong and no yes."""
    _same_length(replies, answers)
    said, true = [yes_or_no(r) for r in replies], [a.strip().lower() for a in answers]
    if wrong := set(true) - {"yes", "no"}:
        raise ValueError(f"POPE's answers are yes or no, found {sorted(wrong)[0]!r}")
    hits = sum(s == t for s, t in zip(said, true, strict=True))
    true_yes = sum(s == t == "yes" for s, t in zip(said, true, strict=True))
    precision = _ratio(true_yes, said.count("yes"))
    recall = _ratio(true_yes, true.count("yes"))
    f1 = _ratio(2 * precision * recall, precision + recall)
    return Pope(hits / len(true), precision, recall, f1, said.count("yes") / len(true))


MME_PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
MME_COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


@dataclass(frozen=True)
class MmeReply:
    """One of the two questions MME asks of each picture."""

    task: str
    picture: str
    reply: str
    answer: str


@dataclass(frozen=True)
class Mme:
    """MME's numbers (arXiv 2306.13394): each task up to 200, perception up to 2000, cognition up to 800."""

    perception: float
    cognition: float
    tasks: dict[str, float]

    @property
    def normalised(self) -> float:
        """(perception + cognition) / 28: 0 to 100, as the paper averages it."""
        return (self.perception + self.cognition) / 28


def mme(replies: Sequence[MmeReply]) -> Mme:
    """Per task, accuracy of questions plus accuracy+ of pictures (both questions right), in percent; summed by kind.

    Raises ValueError for an unknown task, or a picture that has not exactly two questions.
    """
    by_task: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for r in replies:
        if r.task not in MME_PERCEPTION + MME_COGNITION:
            raise ValueError(f"MME has no task {r.task!r}; its tasks: {', '.join(MME_PERCEPTION + MME_COGNITION)}")
        by_task[r.task][r.picture].append(yes_or_no(r.reply) == r.answer.strip().lower())
    scores = {}
    for task, pictures in by_task.items():
        for picture, hits in pictures.items():
            if len(hits) != 2:
                raise ValueError(f"MME asks 2 questions of each picture; {picture!r} of task {task!r} has {len(hits)}")
        n = len(pictures)
        scores[task] = 100 * sum(sum(h) / 2 for h in pictures.values()) / n + 100 * sum(map(all, pictures.values())) / n
    perception = sum(scores.get(task, 0.0) for task in MME_PERCEPTION)
    return Mme(perception, sum(scores.values()) - perception, scores)


# ------------------------------------------------------------------------------------------------------------- captions


def cider(replies: Sequence[str], references: Sequence[Sequence[str]], *, sigma: float | None = 6.0) -> float:
    """CIDEr of a whole set (Vedantam et al., arXiv 1411.5726): 10 x the mean over n = 1..4 of tf-idf cosines.

    Document frequencies are the references' own, over the set's pictures. `sigma` is the length penalty of CIDEr-D, the
    clipped form that captioning papers report; None is the plain CIDEr of the paper's equation 2. Words are lower-cased
    and stripped of punctuation (the COCO tool uses the Penn Treebank tokenizer instead). A set of one picture scores 0,
    because every n-gram is then in every picture.
    """
    _same_length(replies, references)
    if empty := [i for i, refs in enumerate(references) if not refs]:
        raise ValueError(f"caption {empty[0]} has no reference")
    spoken = [_ngrams(reply) for reply in replies]
    written = [[_ngrams(ref) for ref in refs] for refs in references]
    frequency = Counter(gram for refs in written for gram in set().union(*refs))
    scores = []
    for hypothesis, refs in zip(spoken, written, strict=True):
        vectors = _tf_idf(hypothesis, frequency, len(replies))
        scores += [sum(_cider_pair(vectors, _tf_idf(ref, frequency, len(replies)), sigma) for ref in refs) / len(refs)]
    return 10 * float(np.mean(scores))


def _ngrams(text: str) -> Counter[tuple[str, ...]]:
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)?", text.lower())
    return Counter(tuple(words[i : i + n]) for n in range(1, 5) for i in range(len(words) - n + 1))


_Vectors = dict[int, dict[tuple[str, ...], float]]


def _tf_idf(grams: Counter[tuple[str, ...]], frequency: Counter[tuple[str, ...]], pictures: int) -> _Vectors:
    """Weights by n; key 0 holds the number of bigrams, which stands for the length as in the COCO tool."""
    vectors: _Vectors = {n: {} for n in range(5)}
    for gram, count in grams.items():
        vectors[len(gram)][gram] = count * math.log(pictures / max(frequency[gram], 1))
    vectors[0][()] = sum(count for gram, count in grams.items() if len(gram) == 2)
    return vectors


def _cider_pair(hypothesis: _Vectors, reference: _Vectors, sigma: float | None) -> float:
    """Mean over n of the cosine between two captions; clipped and length-penalised when there is a `sigma`."""
    cosines = []
    for n in range(1, 5):
        h, r = hypothesis[n], reference[n]
        dot = sum((min(w, r[g]) if sigma else w) * r[g] for g, w in h.items() if g in r)
        norms = math.hypot(*h.values()) * math.hypot(*r.values())
        cosines.append(_ratio(dot, norms))
    if sigma is None:
        return sum(cosines) / 4
    distance = hypothesis[0][()] - reference[0][()]
    return sum(cosines) / 4 * math.exp(-(distance**2) / (2 * sigma**2))


# -------------------------------------------------------------------------------------------------------------- helpers


def _listed(answers: str | Sequence[str]) -> Sequence[str]:
    listed = [answers] if isinstance(answers, str) else answers
    if not listed:
        raise ValueError("there is no answer to compare with")
    return listed


def _plain(text: str, matching: Matching) -> str:
    return text.strip() if matching is Matching.STRICT else " ".join(re.sub(r"[^\w\s]|_", " ", text.lower()).split())


def _squeezed(text: str) -> str:
    return " ".join(text.lower().split())


def _similarity(a: str, b: str) -> float:
    """1 - Levenshtein distance / length of the longer; one row of the table at a time."""
    row = list(range(len(b) + 1))
    for i, ca in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, cb in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (ca != cb))
    return 1 - row[-1] / max(len(a), len(b), 1)


def _relaxed(reply: str, answer: str, tolerance: float) -> bool:
    said, true = _number(reply), _number(answer)
    if said is not None and true:
        return abs(said - true) <= tolerance * abs(true)
    return reply.lower() == answer.lower()


def _number(text: str) -> float | None:
    """The number a text is; None for any other text, infinities and NaN among them."""
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0


def _same_length(a: Sequence[object], b: Sequence[object]) -> None:
    if len(a) != len(b) or not a:
        raise ValueError(f"got {len(a)} and {len(b)}; a comparison needs the same number on both sides, at least 1")
