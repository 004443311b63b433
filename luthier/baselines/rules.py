"""Rules: what a data engineer writes in a day: dates, telephone numbers, amounts, company forms and country names."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.baselines import Baseline
from luthier.seams import Answered, Example, Text

if TYPE_CHECKING:
    from luthier.tasks import Cell

# (value, ISO country or "") -> canonical value, or None where it does not apply
Rule = Callable[[str, str], str | None]


class Rules(Baseline):
    """For each column, the rule that is right most often on the training split; where it fails, the value, its blanks squeezed."""

    answers: ClassVar[tuple[str, ...]] = ("text",)
    needs_cells: ClassVar[bool] = True

    def fit(self, train: Sequence[Example], task: Any) -> dict[str, Any]:
        """Column -> name of its rule, and the share of the training cells that it answers rightly."""
        learned: dict[str, list[tuple[Cell, str]]] = {}
        for example in train:
            cell = task.cell(example)
            learned.setdefault(cell.column, []).append((cell, str(example.target)))
        return {column: best_rule(pairs) for column, pairs in learned.items()}

    def answer(self, fitted: Mapping[str, Any], example: Example, task: Any) -> Answered:
        cell = task.cell(example)
        name, share = fitted.get(cell.column, (unchanged.__name__, 0.0))
        return Answered(Text(applied(NAMED[name], cell)), share)


def best_rule(pairs: Sequence[tuple[Cell, str]]) -> tuple[str, float]:
    """The rule that answers most cells rightly, and the share of them."""
    scored = [(sum(applied(rule, cell) == answer for cell, answer in pairs), rule) for rule in RULES]
    right, rule = max(scored, key=lambda pair: pair[0])
    return rule.__name__, right / len(pairs)


def applied(rule: Rule, cell: Cell) -> str:
    """A rule's answer, or the value with its blanks squeezed."""
    value = " ".join(cell.value.split())
    country = next((str(v) for v in cell.context.values() if re.fullmatch(r"[A-Z]{2}", str(v))), "")
    answer = rule(value, country)
    return value if answer is None else answer


def unchanged(value: str, country: str) -> str | None:
    """No rule: blanks are squeezed, that is all."""
    return value


def iso_date(value: str, country: str) -> str | None:
    """A date by dateutil, day first but in the countries that write the month first; free text around it is ignored.

    Month names of the country's languages are read from CLDR. dateutil fills a part that it cannot read from a
    default, which is today unless one is given: two defaults that share no part must lead to the same date, or the
    value does not hold a whole one. Time zones say nothing of a date and are not looked up (`ignoretz`): dateutil warns
    of each that it does not know, MEZ for one.
    """
    from dateutil import parser

    months = month_names(country)
    text = re.sub(r"[^\W\d_]+", lambda word: months.get(word.group().lower(), word.group()), without_remark(value))
    text = re.sub(r"(\d{4})年 ?(\d\d?)月 ?(\d\d?)日", r"\1-\2-\3", text)
    year_first = bool(re.match(r"\D*\d{4}\D", text))
    day_first = country not in ("US", "") and not year_first
    try:
        found = {
            parser.parse(
                text, default=default, dayfirst=day_first, yearfirst=year_first, fuzzy=True, ignoretz=True
            ).date()
            for default in (datetime(2000, 1, 1), datetime(2001, 3, 2))  # noqa: DTZ001  dates have no time zone
        }
    except (parser.ParserError, OverflowError):
        return None
    return found.pop().isoformat() if len(found) == 1 else None


def e164(value: str, country: str) -> str | None:
    """A telephone number by phonenumbers, national ones read with the row's country; words beside it are dropped."""
    import phonenumbers

    text = re.sub(r"(?<=[\d ./-])[oO](?=[\d ./-]|$)", "0", without_remark(value))  # the letter for the digit
    text = re.sub(r"[^\W\d_]+", " ", text)
    with contextlib.suppress(phonenumbers.NumberParseException):
        number = phonenumbers.parse(text, country or None)
        if phonenumbers.is_possible_number(number):
            return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    for found in phonenumbers.PhoneNumberMatcher(text, country or None, phonenumbers.Leniency.POSSIBLE):
        return phonenumbers.format_number(found.number, phonenumbers.PhoneNumberFormat.E164)
    return None


def amount(value: str, country: str) -> str | None:
    """An amount with a currency, its separators read as the country writes them; k, Mio. and the like are multiplied."""
    from babel.numbers import NumberFormatError, get_territory_currencies, parse_decimal

    value = without_remark(value).rpartition(": ")[2]  # a label such as "2023: "
    code = re.search(r"\b[A-Z]{3}\b", value)
    found = re.search(r"(\d[\d.,' ]*)([^\W\d_]*)", value)
    if found is None:
        return None
    currency = (
        code.group() if code else next(iter(get_territory_currencies(country, CURRENCIES_OF)), "") if country else ""
    )
    try:
        digits = parse_decimal(found[1].strip(" .,").replace(" ", "\xa0"), locale=locale_of(country))
    except NumberFormatError:
        return None
    times = next((times for times, words in MULTIPLES.items() if found[2].lower() in words), 1)
    if times != 1:
        digits = (digits * times).quantize(1)
    return f"{currency} {digits}".strip()


def number(value: str, country: str) -> str | None:
    """The first number in the text, without zeros that say nothing."""
    found = re.search(r"-?\d+(?:\.\d+)?", value)
    return None if found is None else f"{Decimal(found.group()).normalize():f}"


def company(value: str, country: str) -> str | None:
    """A company name in title case and its legal form, found in a list, behind the name or before it."""
    value = re.sub(r"^(?:firma|fa\.|messrs\.?|c/o|attn[.:]) *", "", value, flags=re.IGNORECASE)
    for form, pattern in LEGAL_FORMS.items():
        behind = re.search(rf"^(.+?)[\s,]+(?:{pattern})(?=$|[\s.,;(-])", value, re.IGNORECASE)
        before = re.search(rf"^(?:{pattern})[\s,]+(.+)$", value, re.IGNORECASE)
        found = behind or before
        if found:
            name = found[1].strip(" ,")
            return f"{name.title() if name.isupper() or name.islower() else name} | {form}"
    return None


def without_remark(value: str) -> str:
    """The text without brackets that hold words, and without what follows a semicolon."""
    return re.sub(r"\([^)]*[^\W\d_][^)]*\)|;.*", "", value).strip()


def country_code(value: str, country: str) -> str | None:
    """The country whose name, in any of the common languages, is nearest to some words of the text that stand together."""
    from rapidfuzz import fuzz, process

    words = re.findall(r"[\w'-]+", value.lower().replace(".", ""))
    runs = [" ".join(words[start:end]) for start in range(len(words)) for end in range(start + 1, len(words) + 1)]
    names = country_names()
    nearest = [(process.extractOne(run, names.keys(), scorer=fuzz.ratio, score_cutoff=75), run) for run in runs]
    found = [(match[1], len(run), names[match[0]]) for match, run in nearest if match is not None]
    return max(found)[2] if found else None


@cache
def country_names() -> dict[str, str]:
    """Country name in lower case -> ISO code, in seven languages, from CLDR."""
    from babel import Locale

    found: dict[str, str] = {"uk": "GB", "usa": "US"}
    for language in ("en", "de", "fr", "es", "it", "pl", "pt"):
        for code, name in Locale(language).territories.items():
            if re.fullmatch(r"[A-Z]{2}", code):
                found.setdefault(str(name).lower(), code)
    return found


@cache
def month_names(country: str) -> dict[str, str]:
    """Month name in lower case -> English abbreviation, in English and the country's official languages, from CLDR."""
    from babel import Locale, UnknownLocaleError
    from babel.languages import get_official_languages

    english = Locale("en").months["format"]["abbreviated"]
    found: dict[str, str] = {}
    for language in ("en", *(get_official_languages(country) if country else ())):
        try:
            months = Locale.parse(language).months
        except (UnknownLocaleError, ValueError):
            continue
        for context in ("format", "stand-alone"):
            for width in ("wide", "abbreviated"):
                for number, name in months[context][width].items():
                    if str(name).rstrip(".").isalpha():
                        found.setdefault(str(name).lower().rstrip("."), str(english[number]))
    return found


@cache
def locale_of(country: str) -> str:
    """The commonest language of a country with the country: `de_DE`."""
    from babel import Locale, UnknownLocaleError
    from babel.languages import get_official_languages

    for language in get_official_languages(country) if country else ():
        try:
            return str(Locale.parse(f"{language}_{country}"))
        except (UnknownLocaleError, ValueError):
            continue
    return "en_US"


CURRENCIES_OF = date(2025, 1, 1)  # a fixed day: what the rules say must not change with the calendar
MULTIPLES = {
    1_000: {"k", "tsd", "thousand", "mil", "tys", "t"},
    1_000_000: {"m", "mio", "mn", "mln", "million", "millions", "mill"},
    1_000_000_000: {"bn", "mrd", "md", "mld", "billion"},
}
LEGAL_FORMS = {
    "GmbH": r"(?:ges\.?|gesellschaft) ?m\.?b\.?h\.?|g\.?m\.?b\.?h\.?",
    "AG": r"a\.?g\.?",
    "KG": r"k\.?g\.?",
    "SARL": r"s\.?a\.?r\.?l\.?",
    "SAS": r"s\.?a\.?s\.?",
    "Ltda": r"ltda\.?",
    "Ltd": r"ltd\.?|limited",
    "PLC": r"p\.?l\.?c\.?",
    "LLC": r"l\.?l\.?c\.?",
    "Inc": r"inc\.?|incorporated",
    "Corp": r"corp\.?|corporation",
    "Srl": r"s\.?r\.?l\.?",
    "SpA": r"s\.?p\.?a\.?",
    "Sp. z o.o.": r"sp\. ?z ?o\.? ?o\.?",
    "SL": r"s\.?l\.?",
    "SA": r"s\.?/?a\.?",
    "AB": r"ab|aktiebolag",
    "ApS": r"aps",
    "A/S": r"a/s",
    "BV": r"b\.?v\.?",
    "NV": r"n\.?v\.?",
    "KK": r"k\.?k\.?|株式会社",
}

RULES: tuple[Rule, ...] = (unchanged, iso_date, e164, amount, number, company, country_code)
NAMED = {rule.__name__: rule for rule in RULES}
