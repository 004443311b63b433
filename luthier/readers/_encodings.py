"""Encodings of old: which one a text that is no UTF-8 was written in, by the letters that its bytes would be.

Each encoding is tried with the languages that were written in it. The words that hold other bytes than ASCII are judged
by letters: how common each is in the language, and whether capitals stand inside lower-case words, symbols inside words
or two alphabets in one word. How common letters are is taken from Babel's names of languages, countries, cities,
currencies and months, so no table of frequencies has to be kept. The encodings are compared as sums of logarithms, and
one is believed that is ahead of every other that reads the file differently.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache, lru_cache
from math import exp, log
from typing import NamedTuple

SURE, SURE_OF_ONE = 5.0, 6.5  # nats by which an encoding must be ahead to be believed, and by one word among few
MOST_WORDS = 400  # different words that are looked at
MOST_PLAIN = 1500  # and different words of ASCII alone, which tell of the language
PLAIN_WEIGHS, PLAIN_AT_MOST = 0.5, 6.0  # letters of one word are not independent, and a table has several languages
WORD = re.compile(rb"[^\x00-\x3f]+")  # no byte below 0x40 is the second one of a character of two bytes
HALF_WIDTH = re.compile("[\uff61-\uff9f]+")
OTHER_LANGUAGE = 0.15  # share of words that are none of the file's main language
BESIDE_ASCII = 0.15  # share of such letters in words that hold one, where the alphabet is Latin
NO_TEXT, ODD_SYMBOL, SYMBOL, FOREIGN = log(1e-7), log(1e-6), log(5e-3), log(2e-5)
CAPITAL_INSIDE, TWO_CAPITALS, TWO_ALPHABETS, SYMBOL_INSIDE = log(0.005), log(0.15), log(1e-3), log(1e-3)
UNOPENED = log(0.02)  # a file's quotation marks end words and begin none
ONE_LETTER = log(0.01)  # a word of a single letter
SYMBOLS = frozenset("’“”‘„–—…€°§«»£©®½¼²³µºª·¿¡×•™‹›\xa0")
APOSTROPHES = frozenset("’·´ʼ\xa0–—…")
OPENING, CLOSING = frozenset("“‘„«‹»’¿¡€£–—…\xa0"), frozenset("’”“»›«…–—°®™©ªº²³€\xa0")

ALPHABETS = {  # letters beyond ASCII that a language is written with
    "en": "éèáóíñüöäçêôï",
    "de": "äöüß",
    "fr": "àâæçèéêëîïôœùûü",
    "es": "áéíñóúü",
    "pt": "ãáâàçéêíóôõú",
    "it": "àèéìòù",
    "nl": "éëïóöü",
    "ca": "àçèéíïòóúü",
    "sv": "åäöé",
    "da": "æøåé",
    "nb": "æøåéô",
    "fi": "äöå",
    "is": "áðéíóúýþæö",
    "pl": "ąćęłńóśźż",
    "cs": "áčďéěíňóřšťúůýž",
    "sk": "áäčďéíĺľňóôŕšťúýž",
    "hu": "áéíóöőúüű",
    "sl": "čšž",
    "hr": "čćđšž",
    "ro": "ăâîșşțţ",
    "sq": "ëç",
    "tr": "çğıöşüİâî",
    "lt": "ąčęėįšųūž",
    "lv": "āčēģīķļņšūž",
    "et": "õäöüšž",
    "ru": "абвгдеёжзийклмнопрстуфхцчшщъыьэюя",
    "uk": "абвгґдеєжзиіїйклмнопрстуфхцчшщьюя",
    "be": "абвгдеёжзійклмнопрстуўфхцчшыьэюя",
    "bg": "абвгдежзийклмнопрстуфхцчшщъьюя",
    "sr": "абвгдђежзијклљмнњопрстћуфхцчџш",
    "mk": "абвгдѓежзѕијклљмнњопрстќуфхцчџш",
    "el": "αβγδεζηθικλμνξοπρσςτυφχψωάέήίόύώϊϋΐΰ",
    "he": "אבגדהוזחטיךכלםמןנסעףפץצקרשת",
    "ar": "ابتثجحخدذرزسشصضطظعغفقكلمنهويءآأؤإئةى",
    "fa": "ابپتثجچحخدذرزژسشصضطظعغفقکگلمنهویءآأؤئيك",
    "th": "",
    "ja": "",
    "zh": "",
    "zh_Hant": "",
    "ko": "",
}
WESTERN = ("en", "de", "fr", "es", "pt", "it", "nl", "ca", "sv", "da", "nb", "fi", "is")
CENTRAL = ("pl", "cs", "sk", "hu", "sl", "hr", "ro", "sq")
CANDIDATES: dict[str, tuple[float, tuple[str, ...]]] = {  # encoding -> how rare it is beforehand, nats; languages
    "cp1252": (0, WESTERN),
    "latin-1": (1.5, WESTERN),
    "iso-8859-15": (3, WESTERN),
    "cp1250": (2.5, CENTRAL),
    "iso-8859-2": (3, CENTRAL),
    "cp1254": (2.5, ("tr",)),
    "cp1257": (3, ("lt", "lv", "et")),
    "cp1251": (1.5, ("ru", "uk", "be", "bg", "sr", "mk")),
    "koi8-r": (2.5, ("ru",)),
    "koi8-u": (3, ("uk",)),
    "iso-8859-5": (4, ("ru", "bg", "sr")),
    "cp1253": (1.5, ("el",)),
    "iso-8859-7": (2.5, ("el",)),
    "cp1255": (1.5, ("he",)),
    "cp1256": (1.5, ("ar", "fa")),
    "iso-8859-6": (3, ("ar",)),
    "cp874": (1.5, ("th",)),
    "cp932": (1.5, ("ja",)),
    "euc_jp": (2, ("ja",)),
    "gb18030": (1.5, ("zh",)),
    "big5": (2, ("zh_Hant",)),
    "cp949": (1.5, ("ko",)),
    "mac_roman": (6, WESTERN),
    "cp850": (6, WESTERN),
    "cp852": (6, CENTRAL),
    "cp866": (6, ("ru",)),
    "mac_cyrillic": (6, ("ru", "uk", "bg", "sr")),
    "mac_latin2": (7, ("pl", "cs", "sk", "hu")),
    "mac_greek": (7, ("el",)),
    "cp737": (6, ("el",)),
    "cp862": (6, ("he",)),
    "cp720": (6, ("ar",)),
}


class Guess(NamedTuple):
    """What a text's bytes say of its encoding."""

    encoding: str
    language: str  # code of the one that fits best
    sure: bool
    shown: tuple[tuple[str, str], ...]  # (encoding, a cell as it reads in it) of the two or three likeliest


@lru_cache(maxsize=8)  # each pass over a file asks again
def guess(sample: bytes) -> Guess:
    """The likeliest encoding of a text whose bytes are not all ASCII."""
    found = dict.fromkeys(WORD.findall(sample))
    words = [word for word in found if not word.isascii()][:MOST_WORDS]
    plain = Counter("".join(word.decode() for word in found if word.isascii()).lower()[: 8 * MOST_PLAIN])
    ranked: list[tuple[float, str, str, list[str]]] = []
    for encoding, (rare, languages) in CANDIDATES.items():
        texts = [word.decode(encoding, "luthier.bytes") for word in words]
        if sum("\ud800" <= character <= "\udfff" for text in texts for character in text) > 1 + len(words) / 20:
            continue
        capitals = sum(
            len(text) > 1 and (text.isupper() or bool(HALF_WIDTH.fullmatch(text))) for text in texts
        ) > 0.8 * len(texts)  # the file's way, not that of a word
        scores = [[_word(text, language, capitals=capitals) for text in texts] for language in languages]
        chances = [sum(map(exp, column)) / len(languages) for column in zip(*scores, strict=True)]
        best, language = max(
            (sum(map(_either, of, chances)) + _plain(plain, name), name)
            for of, name in zip(scores, languages, strict=True)
        )
        odds = TWO_CAPITALS * capitals + UNOPENED * _unopened(texts)
        ranked.append((best - rare + odds, encoding, language, texts))
    ranked.sort(key=lambda each: -each[0])
    score, encoding, language, texts = ranked[0]
    others = [each for each in ranked if each[3] != texts]
    likeliest: list[tuple[float, str, str, list[str]]] = []
    for each in ranked:  # of those that read the file alike the first alone
        if all(each[3] != other[3] for other in likeliest):
            likeliest.append(each)
    sure = SURE if len(words) > 1 or len(found) > 20 else SURE_OF_ONE
    shown = _shown(sample, words, likeliest[:3])
    return Guess(encoding, language, not others or score - others[0][0] >= sure, shown)


def language_name(code: str) -> str:
    """The English name of a language."""
    from babel import Locale

    return str(Locale.parse(code).get_language_name("en"))


def _unopened(texts: list[str]) -> bool:
    """Whether quotation marks stand behind words and never before one."""
    return any(text[-1] in "“”«»" and text[:-1] for text in texts) and not any(text[0] in "„“”«»" for text in texts)


def _either(score: float, chance: float) -> float:
    """A word of the main language, or of any of those that the encoding has."""
    return log((1 - OTHER_LANGUAGE) * exp(max(score, -300)) + OTHER_LANGUAGE * chance + 1e-300)


def _shown(
    sample: bytes, words: list[bytes], ranked: list[tuple[float, str, str, list[str]]]
) -> tuple[tuple[str, str], ...]:
    """The cell around the first word that all of them read differently, or around the first that two do."""
    readings = zip(words, zip(*(texts for _, _, _, texts in ranked), strict=True), strict=True)
    word = max(readings, key=lambda each: (each[1][0] != each[1][-1] and len(set(each[1][:2])), len(set(each[1]))))[0]
    at = sample.index(word)
    start = max(sample.rfind(mark, 0, at) for mark in (b",", b";", b"\t", b"|", b"\n", b"\r", b'"')) + 1
    end = min((n for mark in b',;\t|\r\n"' if (n := sample.find(mark, at + len(word))) >= 0), default=len(sample))
    cell = sample[start:end].strip() if end - start <= 80 else word
    return tuple((encoding, cell.decode(encoding, "replace")) for _, encoding, _, _ in ranked)


def _word(text: str, language: str, *, capitals: bool) -> float:
    """How likely the letters of a word are in a language, where words of capitals are the rule or are not; nats."""
    letters = _letters(language, unmarked=capitals)
    latin = language in _LATIN
    score, before = 0.0, ""
    last = len(text) - 1
    for at, character in enumerate(text):
        lower = character.lower()
        if "\ud800" <= character <= "\udfff" or ("\x80" <= character <= "\x9f"):
            score += NO_TEXT
        elif character in SYMBOLS or not (character.isalpha() or lower in letters):
            if character >= "\x80":
                score += SYMBOL if character in SYMBOLS else ODD_SYMBOL
                behind = at > 0 and text[at - 1].isalpha()
                ahead = at < last and text[at + 1].isalpha()
                if behind and ahead:
                    score += 0 if character in APOSTROPHES else SYMBOL_INSIDE
                elif (behind and character not in CLOSING) or (ahead and character not in OPENING):
                    score += SYMBOL_INSIDE
        else:
            score += letters.get(lower, FOREIGN if latin or character > "\x7f" else log(0.03))
            if last == 0 and language not in CHARACTERS and (not latin or character.isupper()):
                score += ONE_LETTER
            if before:
                if character.isupper() and before.islower():
                    score += CAPITAL_INSIDE
                elif character.isupper() and before.isupper() and at == 1:
                    score += 0 if capitals else TWO_CAPITALS
                if not latin and (character < "\x80") != (before < "\x80"):
                    score += TWO_ALPHABETS
            before = character
            continue
        before = ""
    return score


def _plain(counts: Counter[str], language: str) -> float:
    """What the words of ASCII alone say for a language, against English; nats, within limits."""
    if language not in _LATIN:
        return 0.0
    letters, english = _letters(language), _letters("en")
    odds = sum(n * (letters[c] - english[c]) for c, n in counts.items() if "a" <= c <= "z")
    return max(-PLAIN_AT_MOST, min(PLAIN_AT_MOST, PLAIN_WEIGHS * odds))


CHARACTERS = ("ja", "zh", "zh_Hant", "ko")  # of which one may be a word
_LATIN = {language for language, letters in ALPHABETS.items() if letters and letters[0] < "\u0250"}


@cache
def _letters(language: str, *, unmarked: bool = False) -> dict[str, float]:
    """Logarithm of how common each letter is in words that hold one beyond ASCII; `unmarked`: as capitals are written, which
    have no accents in Greek, or katakana of half the width."""
    from babel import Locale

    names = Locale.parse(language)
    told = [*names.languages.values(), *names.territories.values(), *names.currencies.values()]
    told += [zone["city"] for zone in names.time_zones.values() if "city" in zone]
    told += [*names.months["format"]["wide"].values(), *names.days["format"]["wide"].values()]
    words = {word for name in told for word in str(name).lower().split()}
    counts = Counter("".join(words))
    alphabet = ALPHABETS[language]
    if unmarked and language == "el":
        bare = {c: unicodedata.normalize("NFD", c)[0] for c in alphabet}
        counts = Counter("".join(bare.get(c, c) for c in counts.elements()))
        alphabet = "".join(dict.fromkeys(bare.values()))
    if unmarked and language == "ja":
        halves = {c: counts[unicodedata.normalize("NFKC", c)] + 5 for c in map(chr, range(0xFF66, 0xFFA0))}
        return {c: log(n / sum(halves.values())) for c, n in halves.items()}
    if not alphabet:  # a script of very many characters
        common = {c: n for c, n in counts.items() if c > "\x7f" and (c.isalpha() or language == "th")}
        total = sum(n**0.75 for n in common.values())
        return {c: log(0.8 * n**0.75 / total) for c, n in common.items()}
    own = {c: counts[c] ** 0.7 + 1 for c in alphabet}
    total = sum(own.values())
    if language not in _LATIN:
        return {c: log(n / total) for c, n in own.items()}
    latin = {c: counts[c] + 3 for c in "abcdefghijklmnopqrstuvwxyz"}
    found = {c: log((1 - BESIDE_ASCII) * n / sum(latin.values())) for c, n in latin.items()}
    return found | {c: log(BESIDE_ASCII * n / total) for c, n in own.items()}
