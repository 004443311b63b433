"""Preparers: the steps between examples and what is trained on; each says what became of every example."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import ClassVar

from luthier.choice import Choice
from luthier.seams import Dropped, Example


class Preparer(Choice):
    """One step of `prepare.steps`."""

    family: ClassVar[str] = "preparers"
    changes_input: ClassVar[bool] = False
    """Whether it changes what the model reads (cleans, redacts): then it is kept with the model and `apply` does it too."""

    def apply(self, examples: Iterable[Example]) -> Iterator[Example | Dropped]:
        """Each example in order: kept, perhaps changed, or dropped with the rule that says why.

        `examples` can be gone through again, is never held whole, and has its splits; test examples are kept unless
        they cannot be asked. A new example names its parent.
        """
        raise NotImplementedError
