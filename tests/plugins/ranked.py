"""Ranked: for each query, the things of a second table in the order of their use."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from luthier.readers import Table
from luthier.seams import Answer, Dropped, Example, Prediction, Ranking
from luthier.tasks import Task, suggestion


class Ranked(Task):
    """Query -> order of the things that share its kind."""

    answers: ClassVar[str] = "ranking"
    outside: ClassVar[tuple[str, ...]] = ("table", "things")

    table: str
    """File with queries: kind, and best, the order wanted."""
    things: str
    """File with the things that can be ranked: id and kind."""

    def columns(self) -> list[str]:
        return ["kind"]

    def targets(self) -> list[str]:
        return ["best"]

    def examples(self, tables: Mapping[str, Table], *, targets: bool = True) -> Iterator[Example | Dropped]:
        tables["things"].require(["id", "kind"])
        of_kind: dict[str, list[str]] = {}
        for thing in tables["things"]:
            of_kind.setdefault(thing.values["kind"], []).append(thing.values["id"])
        for row in tables["table"]:
            known = of_kind.get(row.values["kind"])
            if not known:
                yield Dropped("no thing of this kind", row.line, "kind")
                continue
            target = Ranking(tuple(row.values["best"].split())) if targets else None
            fields = {"kind": row.values["kind"], "things": known}
            origin = {"file": row.file, "row": row.line, "column": "kind"}
            yield Example(str(row.line), self.kind, {"fields": fields}, target, origin=origin, row=row.values)

    def prompt(self, example: Example) -> str:
        return f"{example.input['fields']['kind']}: {' '.join(example.input['fields']['things'])} =>"

    def completion(self, answer: Answer) -> str:
        return " " + " ".join(answer.ranking) if isinstance(answer, Ranking) else ""

    def parse(self, text: str, example: Example) -> Answer:
        known = example.input["fields"]["things"]
        return Ranking(tuple(word for word in dict.fromkeys(text.split()) if word in known))

    def readable(self, example: Example) -> str:
        return self.prompt(example)

    def cells(self, row: Mapping[str, Any], predictions: list[Prediction]) -> dict[str, Any]:
        return suggestion("best", predictions[0] if predictions else None)
