"""Make the supplier tables of the demo: messy entries and their canonical forms, from real locale data and a seed.

Dates, month names, number and currency formats and country names come from CLDR (Babel), telephone numbers from the
example numbers of phonenumbers with other last digits that are still valid. Companies and legal forms are listed below.
Every messy value can be read by a careful person who sees the country and knows the suppliers: typing noise, abbreviations
and lost accents never change the meaning.

    python examples/make_suppliers.py [--seed 10] [--out examples]
"""

from __future__ import annotations

import argparse
import csv
import random
import unicodedata
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import phonenumbers
from babel import Locale
from babel.dates import format_date
from babel.numbers import format_decimal, get_currency_symbol
from phonenumbers import PhoneNumberFormat, PhoneNumberType

LOCALES = {
    "DE": "de_DE",
    "FR": "fr_FR",
    "GB": "en_GB",
    "US": "en_US",
    "IT": "it_IT",
    "ES": "es_ES",
    "PL": "pl_PL",
    "SE": "sv_SE",
    "AT": "de_AT",
    "DK": "da_DK",
    "NL": "nl_NL",
    "JP": "ja_JP",
    "BR": "pt_BR",
}
SEEN = ["DE", "FR", "GB", "US", "IT", "ES", "PL", "SE", "AT", "DK"]
HELD_OUT = ["NL", "JP", "BR"]  # countries that training never sees
CURRENCIES = {"GB": "GBP", "US": "USD", "PL": "PLN", "SE": "SEK", "DK": "DKK", "JP": "JPY", "BR": "BRL"}  # else EUR
NUMERIC = {
    "US": "M/d/y",
    "GB": "dd/MM/y",
    "FR": "dd/MM/y",
    "IT": "d/M/y",
    "ES": "d/M/y",
    "PL": "dd.MM.y",
    "SE": "y-MM-dd",
    "DE": "dd.MM.y",
    "AT": "d.M.y",
    "DK": "dd.MM.y",
    "NL": "dd-MM-y",
    "JP": "y/MM/dd",
    "BR": "dd/MM/y",
}
ROMAN = ["I", "II", "III", "IV", "V", "VI", "VII", "VIII", "IX", "X", "XI", "XII"]
FOUNDED = {
    "de": "gegr. ",
    "en": "est. ",
    "fr": "depuis ",
    "it": "dal ",
    "es": "desde ",
    "pl": "od ",
    "sv": "sedan ",
    "da": "siden ",
    "nl": "sinds ",
    "ja": "創業 ",
    "pt": "desde ",
}
LANGUAGES = ["en", "de", "fr", "es", "it", "pl"]  # country names are written in any of these

# canonical legal form -> how it is written; per country
FORMS = {
    "DE": {"GmbH": ["GmbH", "G.m.b.H.", "gmbh"], "AG": ["AG", "A.G."], "KG": ["KG", "K.G."]},
    "AT": {"GmbH": ["GmbH", "Ges.m.b.H."], "AG": ["AG", "A.G."]},
    "FR": {"SARL": ["SARL", "S.A.R.L.", "Sarl"], "SAS": ["SAS", "S.A.S."]},
    "GB": {"Ltd": ["Ltd", "Ltd.", "Limited"], "PLC": ["PLC", "plc", "P.L.C."]},
    "US": {"Inc": ["Inc", "Inc.", "Incorporated"], "LLC": ["LLC", "L.L.C."], "Corp": ["Corp.", "Corporation"]},
    "IT": {"Srl": ["Srl", "S.r.l.", "SRL"], "SpA": ["SpA", "S.p.A."]},
    "ES": {"SL": ["SL", "S.L."], "SA": ["SA", "S.A."]},
    "PL": {"Sp. z o.o.": ["Sp. z o.o.", "sp.z o.o.", "Sp. z o. o."], "SA": ["SA", "S.A."]},
    "SE": {"AB": ["AB", "Aktiebolag", "ab"]},
    "DK": {"ApS": ["ApS", "APS"], "A/S": ["A/S", "a/s"]},
    "NL": {"BV": ["BV", "B.V."], "NV": ["NV", "N.V."]},
    "JP": {"KK": ["KK", "K.K.", "株式会社"]},
    "BR": {"Ltda": ["Ltda", "Ltda.", "LTDA"], "SA": ["SA", "S/A"]},
}
NAMES = {
    "DE": ["Bauer", "Schäfer", "Vogt", "Krüger", "Lindner"],
    "AT": ["Gruber", "Moser", "Pichler", "Huber"],
    "FR": ["Moreau", "Lefèvre", "Girard", "Dupont"],
    "GB": ["Walker", "Hughes", "Carter", "Bennett"],
    "US": ["Summit", "Redwood", "Miller", "Pioneer"],
    "IT": ["Ferrari", "Ricci", "Conti", "Moretti"],
    "ES": ["García", "Navarro", "Molina", "Ortega"],
    "PL": ["Nowak", "Zieliński", "Wójcik", "Kamiński"],
    "SE": ["Lindberg", "Åkesson", "Norden", "Holm"],
    "DK": ["Jensen", "Sørensen", "Møller", "Dahl"],
    "NL": ["Bakker", "Visser", "De Boer", "Smit"],
    "JP": ["Tanaka", "Sakura", "Yamada", "Fuji"],
    "BR": ["Silva", "Souza", "Moreira", "Lima"],
}
TRADES = {  # trade -> how it is abbreviated
    "Foods": ["Fds", "Food"],
    "Logistics": ["Logist.", "Log."],
    "Steel": ["Stl"],
    "Textil": ["Text.", "Tex."],
    "Papier": ["Pap."],
    "Chemie": ["Chem."],
    "Motors": ["Mot.", "Mtrs"],
    "Glass": ["Gls"],
    "Tools": ["Tls"],
    "Energy": ["Enrgy", "En."],
    "Agro": ["Agr."],
    "Print": ["Prnt"],
}
LETTERS = {
    "ä": "ae",
    "ö": "oe",
    "ü": "ue",
    "ø": "oe",
    "å": "aa",
    "ł": "l",
}  # letters as a keyboard without them writes them
ADJECTIVES = {
    "DE": "German",
    "FR": "French",
    "GB": "British",
    "US": "American",
    "IT": "Italian",
    "ES": "Spanish",
    "PL": "Polish",
    "SE": "Swedish",
    "AT": "Austrian",
    "DK": "Danish",
    "NL": "Dutch",
    "JP": "Japanese",
    "BR": "Brazilian",
}

Pair = tuple[str, str]  # messy, canonical


def founded(country: str, rare: bool, draw: random.Random) -> Pair:
    """A founding date as people of the country write it -> ISO 8601."""
    day = date(1950, 1, 1) + timedelta(days=draw.randrange(25000))
    locale = Locale.parse(LOCALES[country])
    if rare:
        return draw.choice([f"{day.day}.{ROMAN[day.month - 1]}.{day.year}", f"{day:%Y.%m.%d}"]), day.isoformat()
    style = draw.choice(["numeric", "numeric", "long", "medium"])
    if style == "numeric":
        text = format_date(day, NUMERIC[country], locale=locale)
    elif style == "medium" and locale.language not in ("ja",):
        text = format_date(day, "d MMM y", locale=locale)
    else:
        text = format_date(day, "long", locale=locale)
    if style != "numeric" and draw.random() < 0.2:
        text = swapped(text, draw)
    if draw.random() < 0.3:
        text = FOUNDED[locale.language] + text
    return spaced(text, draw), day.isoformat()


def phone(country: str, rare: bool, draw: random.Random) -> Pair:
    """A telephone number in national or international writing -> E.164."""
    example = phonenumbers.example_number_for_type(country, PhoneNumberType.FIXED_LINE)
    assert example is not None
    while True:
        digits = str(example.national_number)
        number = phonenumbers.PhoneNumber(
            country_code=example.country_code,
            italian_leading_zero=example.italian_leading_zero,
            national_number=int(digits[:-4] + f"{draw.randrange(10000):04d}"),
        )
        if phonenumbers.is_valid_number_for_region(number, country):
            break
    canonical = phonenumbers.format_number(number, PhoneNumberFormat.E164)
    international = phonenumbers.format_number(number, PhoneNumberFormat.INTERNATIONAL)
    if rare:
        return "00" + international[1:].replace(" ", "-"), canonical
    text = draw.choice([international, *[phonenumbers.format_number(number, PhoneNumberFormat.NATIONAL)] * 2])
    if draw.random() < 0.4:
        text = text.replace(" ", draw.choice([".", "-", "/"]))
    if draw.random() < 0.15 and "0" in text[1:]:
        at = draw.choice([place for place, c in enumerate(text) if c == "0" and place])
        text = text[:at] + "O" + text[at + 1 :]
    if draw.random() < 0.3:
        text = draw.choice(["tel. ", "Tel: ", "ph. ", "fon "]) + text
    elif draw.random() < 0.1:
        text += " (office)"
    return spaced(text, draw), canonical


def revenue(country: str, rare: bool, draw: random.Random) -> Pair:
    """An amount with the country's separators and currency -> ISO code and plain decimal."""
    currency, locale = CURRENCIES.get(country, "EUR"), LOCALES[country]
    whole = draw.randrange(1, 10 ** draw.randint(1, 4)) * 100
    cents = draw.choice([0, 0, 0, 50, 25]) if currency != "JPY" else 0
    canonical = f"{currency} {whole}" + (f".{cents:02d}" if cents else "")
    if rare:
        return f"{whole / 1000:g}k {currency}".replace(".", separator(locale)), f"{currency} {whole}"
    grouped = "#,##0" if draw.random() < 0.8 else "0"
    amount = format_decimal(whole + cents / 100, grouped + (".00" if cents else ""), locale=locale)
    amount = amount.replace("\u202f", " ").replace("\xa0", " ")
    sign = draw.choice([currency, get_currency_symbol(currency, locale=locale)])
    text = draw.choice(
        [f"{amount} {sign}", f"{sign} {amount}", f"{sign}{amount}" if len(sign) == 1 else f"{amount} {sign}"]
    )
    if draw.random() < 0.3:
        text = draw.choice(["ca. ", "approx. ", "~", "~ "]) + text
    return spaced(text, draw), canonical


def company(country: str, rare: bool, draw: random.Random) -> Pair:
    """A company name with its legal form, however written -> name | legal form."""
    owner, trade = draw.choice(NAMES[country]), draw.choice(list(TRADES))
    name = f"{owner} {trade}"
    form, ways = draw.choice(list(FORMS[country].items()))
    written = draw.choice(ways)
    if rare:
        return f"{written} {name}", f"{name} | {form}"
    if draw.random() < 0.5:
        owner = without_accents(owner, draw)
    if draw.random() < 0.15:
        owner = swapped(owner, draw)
    if draw.random() < 0.35:
        trade = draw.choice(TRADES[trade])
    written_name = f"{owner} {trade}"
    shown = draw.choice([written_name, written_name, written_name.upper(), written_name.lower()])
    text = shown + draw.choice([" ", ", ", " "]) + written
    if draw.random() < 0.2:
        text += draw.choice([" (HQ)", ".", " - new"])
    return spaced(text, draw), f"{name} | {form}"


def origin(country: str, rare: bool, draw: random.Random) -> Pair:
    """A country by its name in some language -> ISO 3166 code."""
    code = draw.choice(SEEN + HELD_OUT)
    if rare:
        return {"GB": "U.K.", "US": "U.S.A."}.get(code, f"Rep. {Locale('en').territories[code]}"), code
    text = ADJECTIVES[code] if draw.random() < 0.2 else str(Locale(draw.choice(LANGUAGES)).territories[code])
    if draw.random() < 0.2:
        text = swapped(text, draw)
    text = draw.choice([text, text, text.upper(), text.lower()])
    if draw.random() < 0.25:
        text = draw.choice(["made in ", "from ", "orig. "]) + text
    return spaced(text, draw), code


def separator(locale: str) -> str:
    """The decimal separator."""
    return str(Locale.parse(locale).number_symbols["latn"]["decimal"])


def swapped(text: str, draw: random.Random) -> str:
    """Two neighbouring letters inside a word change places, where a word is long enough to stay readable."""
    places = [i for i in range(1, len(text) - 2) if text[i - 1 : i + 3].isalpha() and text[i] != text[i + 1]]
    if not places:
        return text
    at = draw.choice(places)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def without_accents(text: str, draw: random.Random) -> str:
    """A name on a keyboard that lacks its letters: Schäfer as Schaefer or Schafer."""
    if draw.random() < 0.5:
        for letter, plain in LETTERS.items():
            text = text.replace(letter, plain).replace(letter.upper(), plain.capitalize())
    text = text.replace("ø", "o").replace("Ø", "O").replace("ł", "l").replace("Ł", "L")
    return "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c))


def spaced(text: str, draw: random.Random) -> str:
    """Now and then a stray blank."""
    if draw.random() < 0.08:
        return f" {text}" if draw.random() < 0.5 else text.replace(" ", "  ", 1)
    return text


COLUMNS: dict[str, Callable[[str, bool, random.Random], Pair]] = {
    "founded": founded,
    "phone": phone,
    "revenue": revenue,
    "company": company,
    "origin": origin,
}


def supplier(number: int, country: str, rare: bool, draw: random.Random) -> dict[str, str]:
    """One row: messy columns, canonical columns, and what it was made from."""
    row = {"supplier": f"S{number:04d}", "country": country, "style": "rare" if rare else "common"}
    pairs = {name: make(country, rare, draw) for name, make in COLUMNS.items()}
    if draw.random() < 0.03:
        pairs[draw.choice(list(pairs))] = ("", "")  # real tables have gaps
    return (
        row
        | {name: messy for name, (messy, _) in pairs.items()}
        | {f"{name}_clean": clean for name, (_, clean) in pairs.items()}
    )


def tables(seed: int) -> dict[str, list[dict[str, str]]]:
    """File name -> rows."""
    draw = random.Random(seed)
    known = [(country, False) for _ in range(21) for country in SEEN]
    unseen = [(country, False) for country in HELD_OUT for _ in range(4)] + [(c, True) for c in SEEN[:8]]
    kinds = known + unseen
    draw.shuffle(kinds)
    labelled = [supplier(1 + n, country, rare, draw) for n, (country, rare) in enumerate(kinds)]
    fresh = [(SEEN[n % len(SEEN)], False) for n in range(32)] + [(HELD_OUT[n % 3], False) for n in range(8)]
    new = [supplier(1001 + n, country, rare, draw) for n, (country, rare) in enumerate(fresh)]
    clean = [f"{name}_clean" for name in COLUMNS]
    return {
        "suppliers.csv": labelled,
        "suppliers_new.csv": [{k: v for k, v in row.items() if k not in clean and k != "style"} for row in new],
        "suppliers_new_truth.csv": [{k: v for k, v in row.items() if k in ("supplier", *clean)} for row in new],
    }


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seed", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    options = parser.parse_args()
    for name, rows in tables(options.seed).items():
        with (options.out / name).open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(f"wrote {options.out / name}: {len(rows)} rows")


if __name__ == "__main__":
    main()
