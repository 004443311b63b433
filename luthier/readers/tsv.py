"""TSV: CSV whose fields are divided by tabs."""

from __future__ import annotations

from luthier.readers.csv import Csv


class Tsv(Csv):
    """As `csv`, with a tab between fields."""

    delimiter: str = "\t"
    """One character between fields: a tab unless said otherwise."""
