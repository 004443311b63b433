"""Looks: which texts a reader cannot tell apart, whatever characters they are written with."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

CONTROL = dict.fromkeys(
    [*range(9), *range(14, 28), 127]
)  # ASCII that shows nothing; the rest of it below 32 is white space
FILLERS = "\u034f\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"  # they show nothing either and are no format characters
SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]")  # which shape a character takes
CONFUSED = str.maketrans(
    "асеһіјӏорԛѕυνԝхуѵαο", "acehijlopqsuvwxyvao"
)  # after Unicode's confusables, small letters alone
SAME = str.maketrans(  # how keyboards and word processors write the same mark, and Turkish capitals their letter
    {**dict.fromkeys("\u2018\u2019\u201b\u02bc\u00b4`", "'"), **dict.fromkeys("\u201c\u201d\u201e\u00ab\u00bb", '"')}
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
    | {"\u0131": "i", "\u0130": "i"}
)
STRESS = re.compile("([\u03b1-\u03c9])\u0301")  # Greek capitals are written without it
JOINERS = "\u200c\u200d"  # they change the shape of Persian or Indic words and of emoji


def tidy(text: str) -> str:
    """A name as it looks: composed (NFC), without characters that show nothing, one blank for each run of white space.

    Joiners stay where they shape what stands around them: between two characters beyond the Latin alphabets.
    """
    if text.isascii():
        return " ".join(text.translate(CONTROL).split())
    composed = unicodedata.normalize("NFC", text)
    shown = [
        character
        for at, character in enumerate(composed)
        if not invisible(character)
        or (character in JOINERS and shapes(composed[at - 1 : at]) and shapes(composed[at + 1 : at + 2]))
    ]
    return " ".join("".join(shown).split())


def look_alike(text: str) -> str:
    """A key that is equal for texts which differ in blanks, case, Unicode form or invisible characters alone.

    NFKC, so that full-width letters, ligatures and the like are the plain ones; quotes and dashes are those of a keyboard,
    a Turkish i is one with or without its dot, and Greek stress is left off, as capitals have none. For comparing, never
    for showing.
    """
    if text.isascii():
        return " ".join(text.translate(CONTROL).translate(SAME).casefold().split())
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).translate(SAME).casefold()).translate(
        SAME
    )
    if not folded.isascii():
        folded = unicodedata.normalize("NFC", STRESS.sub(r"\1", unicodedata.normalize("NFD", folded)))
    return " ".join(SELECTORS.sub("", "".join(c for c in folded if not invisible(c))).split())


def unconfused(text: str) -> str:
    """A `look_alike` key with the small Cyrillic and Greek letters that pass for Latin ones as those."""
    return text.translate(CONFUSED)


def looked_through(value: Any) -> Any:
    """A JSON value with each text in it, names of keys aside, as its `look_alike`."""
    if isinstance(value, str):
        return look_alike(value)
    if isinstance(value, dict):
        return {name: looked_through(part) for name, part in value.items()}
    return [looked_through(part) for part in value] if isinstance(value, list) else value


def invisible(character: str) -> bool:
    """Whether it shows nothing and parts nothing: format and control characters but for white space, and fillers."""
    if character.isspace():
        return False
    return unicodedata.category(character) in ("Cf", "Cc") or character in FILLERS


def shapes(beside: str) -> bool:
    """Whether a joiner beside this character may shape it."""
    return bool(beside) and ord(beside) > 0x24F and not invisible(beside)
