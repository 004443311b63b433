"""Random: each example is drawn by chance."""

from __future__ import annotations

from luthier.splits._sized import Sized


class Random(Sized):
    """By chance, whatever the examples are; use `grouped` where rows of one customer or author resemble each other."""
