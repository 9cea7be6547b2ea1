"""Build src/dclm/data/characters.bin.xz: Word_Break class and a few properties of every code point.

    python tests/scripts/build_characters.py OUT

Word_Break and Extended_Pictographic come from the Unicode tables inside the `regex` package, the rest from this
Python's `str` methods; surrogates have no properties. `test_words.py` compares the shipped file with a new build.
"""

import lzma
import sys

import numpy as np
import regex

CLASSES = (
    "Other", "CR", "LF", "Newline", "Extend", "ZWJ", "Format", "Katakana", "Hebrew_Letter", "ALetter", "Single_Quote",
    "Double_Quote", "MidNumLet", "MidLetter", "MidNum", "Numeric", "ExtendNumLet", "Regional_Indicator", "WSegSpace",
)  # fmt: skip
ALPHA, ALNUM, SPACE, UPPER, DIGIT, PICTURE, PUNCTUATION, TERMINAL = (1 << bit for bit in range(5, 13))
# CCNet's list of punctuation, which Gopher's and FineWeb's implementations share; control characters belong to it.
CCNET = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«´»–—’“”„…∶━►、。〈〉《》「」【】！％（），．１：；？～"
CONTROL = {*range(9), 11, 12, *range(13, 32), *range(127, 160)}


def build() -> np.ndarray:
    """Return uint16 [0x110000]: the class in the low five bits, then the flags."""
    table = np.zeros(0x110000, dtype="<u2")
    everything = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x110000)]))
    for number, name in enumerate(CLASSES[1:], start=1):
        for match in regex.finditer(rf"\p{{Word_Break={name}}}", everything):
            table[ord(match.group())] |= number
    for match in regex.finditer(r"\p{Extended_Pictographic}", everything):
        table[ord(match.group())] |= PICTURE
    for match in regex.finditer(r"\p{Sentence_Terminal}", everything):
        table[ord(match.group())] |= TERMINAL | PUNCTUATION
    for character in everything:
        table[ord(character)] |= (
            ALPHA * character.isalpha()
            | ALNUM * character.isalnum()
            | SPACE * character.isspace()
            | UPPER * character.isupper()
            | DIGIT * character.isdigit()
            | PUNCTUATION * (character in CCNET or ord(character) in CONTROL)
        )
    return table


if __name__ == "__main__":
    with open(sys.argv[1], "wb") as file:
        file.write(lzma.compress(build().tobytes(), preset=9))
