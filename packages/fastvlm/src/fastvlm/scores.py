"""What an answer is worth, benchmark by benchmark, equal to the scripts that are used for them.

TextVQA: VQA accuracy on EvalAI-normalised answers (LLaVA's `m4c_evaluator.py`). DocVQA and InfoVQA: ANLS; ChartQA:
relaxed accuracy; MMMU: letter or free answer found in the text; OCRBench: the answer stands in the text (all
lmms-eval). POPE: yes or no in the first sentence (LLaVA's `eval_pope.py`). Every score is from 0 to 1.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from itertools import product

ANLS_THRESHOLD = 0.5
CHART_TOLERANCE = 0.05
VOTES_FOR_FULL_SCORE = 3
PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
MAX_PERIODS = 32  # the script passes a flag where the number of replacements goes
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# Words that are written with an apostrophe; each is also known with one of its apostrophes left out.
_CONTRACTED = """
ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't he'd he'd've
he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't mightn't've might've mustn't must've needn't not've
o'clock oughtn't 'ow's'at shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll somebody's
someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd there'd've there're
there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't what'll what're what's what've
when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's won't would've wouldn't
wouldn't've y'all y'all'll y'all'd've you'd you'd've you'll you're you've
"""


def _leave_out_one(word: str) -> list[str]:
    return [word[:i] + word[i + 1 :] for i, letter in enumerate(word) if letter == "'"]


CONTRACTIONS = {short: word for word in _CONTRACTED.split() for short in _leave_out_one(word)}
CONTRACTIONS["somebody'd"] = "somebodyd"


def normalize_answer(text: str) -> str:
    """Return an answer as EvalAI compares it: no case, articles, punctuation; digits for numbers to ten.

    Example:
        >>> normalize_answer("The two dogs, isnt it?")
        "2 dogs isn't it"
    """
    text = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    text = text.replace("\n", " ").replace("\t", " ").strip()
    thousands = re.search(r"\d,+\d", text) is not None
    cleaned = text
    for mark in PUNCTUATION:
        beside_space = f"{mark} " in text or f" {mark}" in text
        cleaned = cleaned.replace(mark, "" if beside_space or thousands else " ")
    cleaned = re.sub(r"\.(?!\d)", "", cleaned, count=MAX_PERIODS)
    digits = {"none": "0", **{word: str(number) for number, word in enumerate(NUMBERS)}}
    words = [digits.get(word, word) for word in cleaned.split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ("a", "an", "the"))


def score_textvqa(answer: str, references: Sequence[str]) -> float:
    """Return VQA accuracy: with each person left out in turn, a third per other person who said the same.

    An answer that nobody gave has none, however many people there are.
    """
    given, said = normalize_answer(answer), [normalize_answer(text) for text in references]
    votes = said.count(given)
    shares = [min(1.0, (votes - (other == given)) / VOTES_FOR_FULL_SCORE) for other in said]
    return sum(shares) / len(shares)


def edit_distance(a: str, b: str) -> int:
    """Return how many insertions, deletions and substitutions lead from one text to the other."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def score_anls(answer: str, references: Sequence[str]) -> float:
    """Return ANLS: the best similarity to a reference, 0 where it is under one half."""
    best = 0.0
    for reference in references:
        length = max(len(reference.upper()), len(answer.upper()))
        distance = edit_distance(*(" ".join(text.lower().split()) for text in (reference, answer)))
        best = max(best, 1 - (distance / length if length else 0.0))
    return best if best >= ANLS_THRESHOLD else 0.0


def score_chartqa(answer: str, reference: str) -> float:
    """Return relaxed accuracy: numbers may be off by 5 %, other answers must be the same but for case."""
    given, wanted = _to_number(answer), _to_number(reference)
    if given is not None and wanted:
        return float(abs(given - wanted) / abs(wanted) <= CHART_TOLERANCE)
    return float(answer.lower() == reference.lower())


def _to_number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def read_yes_no(answer: str) -> str:
    """Return "no" where the first sentence has a no or not of its own, else "yes" (POPE)."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def summarize_pope(answers: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Return accuracy, precision, recall, F1 (0 where undefined) and the share of yes.

    Args:
        answers: "yes" or "no".
        labels: "yes" or "no".
    """
    pairs = list(zip(answers, labels, strict=True))
    count = {pair: pairs.count(pair) for pair in product(("yes", "no"), repeat=2)}
    right, wrong, missed = count["yes", "yes"], count["yes", "no"], count["no", "yes"]
    return {
        "accuracy": (right + count["no", "no"]) / len(pairs),
        "precision": right / (right + wrong) if right + wrong else 0.0,
        "recall": right / (right + missed) if right + missed else 0.0,
        "f1": 2 * right / (2 * right + wrong + missed) if right else 0.0,
        "yes_share": (right + wrong) / len(pairs),
    }


def read_choice(answer: str, options: Sequence[str], seed: str = "") -> str:
    """Return the letter that an answer to a multiple-choice question means (MMMU).

    A letter in brackets, else a letter before a space, else before a full stop, else (in more than five words) an
    option's own words; of several the last. Where nothing is found a letter is drawn, as the benchmark's script
    does; here from a seed, so that a sample's score does not depend on the others.

    Args:
        answer: What the model said.
        options: The choices' texts, A first.
        seed: For drawing, such as the sample's name.
    """
    letters = [chr(ord("A") + i) for i in range(len(options))]
    for mark in ",.!?;:'":
        answer = answer.strip(mark)
    text = f" {answer} "
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [letter for letter in letters if form.format(letter) in text]
        if found:
            return _last(found, [text.rfind(place.format(letter)) for letter in found])
    if len(text.split()) > 5:
        lowered = text.lower()
        named = {a: lowered.rfind(o.lower()) for a, o in zip(letters, options, strict=True) if o.lower() in lowered}
        if named:
            return _last(list(named), list(named.values()))
    return random.Random(f"{seed} {answer}").choice(letters)


def _last(letters: Sequence[str], places: Sequence[int]) -> str:
    """Return the letter that stands last; of equals the first."""
    return letters[places.index(max(places))]


def score_open(answer: str, references: Sequence[str]) -> float:
    """Return whether a free answer holds a reference: a text within it, or an equal number (MMMU)."""
    wanted = [value for reference in references for value in _normalize_open(reference)]
    texts = [value for value in wanted if isinstance(value, str)]
    for given in _read_open(answer):
        if given in wanted if isinstance(given, float) else any(text in str(given) for text in texts):
            return 1.0
    return 0.0


_SIGNS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_NUMBER_FORMS = (
    r"-?\b\d{1,3}(?:,\d{3})+\b",  # thousands apart
    r"-?\d+(?:\.\d+)?[eE][+-]?\d+",  # scientific
    r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])",  # plain
)


def _read_open(answer: str) -> list[str | float]:
    """Return what a free answer may mean: the ends of its telling sentences, and the numbers in them."""
    text = answer.strip().strip(".").lower()
    sentences = re.split(r"\.\s(?=[A-Z])|\n", text)
    ends = []
    for index, sentence in enumerate(sentences):
        signs = (*_SIGNS, "=") if index == len(sentences) - 1 else _SIGNS
        tails = [sentence.split(sign)[-1].strip() for sign in signs if sign in sentence]
        tail = _shortest(tails)
        if tail and tail not in ":,.!?;'":
            ends.append(tail)
    ends = ends or [text]
    numbers = [number for end in ends for form in _NUMBER_FORMS for number in re.findall(form, end)]
    return [value for part in (*ends, *numbers) for value in _normalize_open(part)]


def _shortest(tails: Sequence[str]) -> str:
    """Return the shortest tail as the script finds it: an empty one is replaced by whatever comes next."""
    best = ""
    for tail in tails:
        if not best or len(tail) < len(best):
            best = tail
    return best


def _normalize_open(text: str) -> list[str | float]:
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
    return [f" {text}", f"{text} "] if len(text) == 1 else [text]


def score_ocrbench(answer: str, references: Sequence[str], dataset: str) -> float:
    """Return whether a reference stands in the answer: case and line ends aside, for formulas also spaces.

    Args:
        answer: What the model said.
        references: Any of them will do.
        dataset: The benchmark's source; formulas (HME100k) are compared without spaces but with case.
    """
    given = _fold_ocr(answer.strip(), dataset)
    return float(any(_fold_ocr(reference, dataset) in given for reference in references))


def _fold_ocr(text: str, dataset: str) -> str:
    if dataset == "HME100k":
        return text.strip().replace("\n", " ").replace(" ", "")
    return text.translate(_FULL_WIDTH).lower().strip().replace("\n", " ")


_FULL_WIDTH: Mapping[int, int] = {0x3000: 0x20, **{code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}}
