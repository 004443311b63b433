"""Shout: what the model reads is in capitals; values that say `secret` are not learned from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import ClassVar

from luthier.preparers import Preparer
from luthier.seams import Dropped, Example


class Shout(Preparer):
    """Capitals, in training and in `apply`."""

    changes_input: ClassVar[bool] = True

    def apply(self, examples: Iterable[Example]) -> Iterator[Example | Dropped]:
        for example in examples:
            fields = example.input["fields"]
            if "secret" in fields["value"]:
                yield Dropped("secret", example.origin["row"], example.origin["column"])
            else:
                yield dataclasses.replace(example, input={"fields": {**fields, "value": fields["value"].upper()}})
