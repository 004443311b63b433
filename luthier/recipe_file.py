"""Recipe files: YAML 1.2 with changes applied, read into a typed recipe; every error is found at once, with its line."""

from __future__ import annotations

import copy
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from luthier.choice import Choice, Settings, find, unknown
from luthier.errors import Problems, UserError
from luthier.recipe import Recipe
from luthier.space import corners, shown

DATA_VARIABLE = "LUTHIER_DATA"
STEP = r"""\"[^\"]*\"|'[^']*'|[^.\[\]\"'=]+"""  # of the path of a change: a key, in quotes or not, or a place in a list
CHANGE = re.compile(rf"(?P<path>(?:{STEP}|[.\[\]])+)=(?P<value>.*)", re.DOTALL)
MOVED = {  # keys of earlier versions and where they stand now
    "prepare.max_length": "encode.max_length",
    "prepare.truncation": "encode.truncation",
    "prepare.deduplicate": "a step, prepare.steps: [{kind: dedup}]",
}


class RecipeFile(Settings):
    """A recipe together with where it came from."""

    recipe: Recipe
    folder: Path
    text: str
    part: str = ""
    """Of a recipe with several tasks, the one that this is about."""

    def alone(self, name: str) -> RecipeFile:
        """The recipe of one of several tasks; of a recipe with one, which has no name, this one."""
        return self.model_copy(update={"recipe": self.recipe.alone(name), "part": name}) if name else self

    def path(self, written: str, where: str, *, folder: bool = False) -> Path:
        """A path of the recipe: as it is, beside the recipe, or in the folder that LUTHIER_DATA names.

        UserError where none of these is there; `where` is the key that holds it, `folder` whether it is to be a folder.
        """
        data = os.environ.get(DATA_VARIABLE)
        roots = [self.folder, *([Path(data)] if data else [])]
        for place in (root / written for root in roots):
            if place.exists():
                return place.resolve()
        hint = "correct the path"
        if self.part and where.partition(".")[0] in ("task", *self._own()):
            where = f"tasks.{self.part}.{where}"
        if Path(written).is_absolute():
            looked = ""
        else:
            looked = f" in {' nor in '.join(map(str, roots))}"
            if not folder:
                hint += f", or set {DATA_VARIABLE} to the folder that holds it"
        raise UserError(f"there is no {'folder' if folder else 'file'} {written}{looked}", where=where, hint=hint)

    def _own(self) -> set[str]:
        written = parse(self.text, "recipe")["tasks"][self.part]
        return set(written)


def load(path: str | Path, changes: Sequence[str] = ()) -> RecipeFile:
    """A recipe file, with `path=value` changes applied; raises Problems with every error found."""
    path = Path(path)
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        near = sorted(p.name for p in folder.glob("*.y*ml")) if folder.is_dir() else []
        hint = f"in that folder: {', '.join(near)}" if near else "make one with `luthier init TABLE.csv`"
        problem = "is a folder, not a recipe" if path.is_dir() else "no such recipe file"
        raise UserError(problem, where=str(path), hint=hint)
    return loads(path.read_text(encoding="utf-8"), folder=path.parent.resolve(), changes=changes, name=str(path))


def loads(text: str, *, folder: Path, changes: Sequence[str] = (), name: str = "recipe") -> RecipeFile:
    """A recipe from text."""
    document = parse(text, name)
    if not isinstance(document, dict):
        raise UserError("a recipe is a list of `key: value` lines", where=name, hint="start with `version: 1`")
    changed = [apply_change(document, change) for change in changes]
    try:
        plain = json.dumps(document, ensure_ascii=False)
        plain.encode()
    except TypeError:
        raise UserError(
            "a recipe holds texts, numbers, lists and `key: value` lines, and this one something else",
            where=name,
            hint="write no tags such as !!binary, and no list as a key",
        ) from None
    except UnicodeEncodeError as problem:
        code = ord(problem.object[problem.start])
        raise UserError(
            f"the lone surrogate \\u{code:04x} is no character",
            where=name,
            hint="write the character itself; a file whose name has no characters must be renamed",
        ) from None
    try:
        recipe = Recipe.model_validate(json.loads(plain))
    except ValidationError as problem:
        raise Problems(explained(problem, document, name, changed), where=name) from None
    if recipe.search and (problems := unfit_space(text if not changes else written(document), recipe)):
        raise Problems(problems, where=name)
    return RecipeFile(recipe=recipe, folder=folder, text=written(document) if changes else text)


def written(document: Any) -> str:
    """A document as YAML, comments where they were."""
    from ruamel.yaml import YAML

    buffer = io.StringIO()
    YAML().dump(document, buffer)
    return buffer.getvalue()


def unfit_space(text: str, recipe: Recipe) -> list[UserError]:
    """Which values at the ends of the space make no valid recipe, each with the reason; the same reason once."""
    assert recipe.search is not None
    plain = json.loads(json.dumps(parse(text, "recipe"), ensure_ascii=False))
    plain.pop("search")
    found: dict[str, UserError] = {}
    for values in corners(recipe.search.space):
        if len(values) > 1 and found:
            break  # what is wrong with one value is wrong with it in all combinations
        try:
            tried = copy.deepcopy(plain)
            for path, value in values.items():
                put(tried, path, value)
            Recipe.model_validate(tried)
        except UserError as problem:
            found.setdefault(problem.what, UserError(problem.what, where="search.space", hint=problem.hint))
        except ValidationError:
            try:
                vary(text, values)  # which reads the text again, and so can tell the place
            except Problems as problems:
                named = ", ".join(f"{path}={shown(value)}" for path, value in values.items())
                for each in problems.problems:
                    told = UserError(f"{each.what} (with {named})", where=f"search.space: {each.where}", hint=each.hint)
                    found.setdefault(f"{each.where}: {each.what}", told)
    return list(found.values())


def vary(text: str, values: Mapping[str, Any], folder: Path = Path(), name: str = "") -> RecipeFile:
    """A recipe with other values at some paths and without its search; `name` is a new one for it."""
    document = parse(text, "recipe")
    document.pop("search", None)
    changed = [put(document, path, value) for path, value in values.items()]
    if name:
        document["name"] = name
    try:
        recipe = Recipe.model_validate(json.loads(json.dumps(document, ensure_ascii=False)))
    except ValidationError as problem:
        told = explained(problem, document, "recipe", changed)
        raise Problems(
            [UserError(each.what, where=each.where.removeprefix("--set "), hint=each.hint) for each in told]
        ) from None
    return RecipeFile(recipe=recipe, folder=folder, text=written(document))


def parse(text: str, name: str) -> Any:
    """YAML 1.2 with positions; duplicate keys and broken syntax are errors with line and column."""
    from ruamel.yaml.error import MarkedYAMLError
    from ruamel.yaml.reader import ReaderError

    reader = yaml_1_2()
    try:
        return reader.load(text)
    except MarkedYAMLError as problem:
        mark = problem.problem_mark
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        sentence = " ".join(str(problem.problem).split())
        raise UserError(sentence, where=where, hint="correct this line") from None
    except ReaderError as problem:
        sentence = f"the character U+{problem.character:04X} may not stand in a recipe as it is"
        raise UserError(sentence, where=name, hint="write it as an escape in double quotes") from None
    except (ValueError, RecursionError):
        sentence = "holds a number of more digits, or lists deeper in each other, than can be read"
        raise UserError(sentence, where=name, hint="put a long number in quotes") from None


def yaml_1_2() -> Any:
    """A reader of YAML 1.2's core types: dates stay the text that they are, comments and positions are kept."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import RoundTripConstructor

    class CoreConstructor(RoundTripConstructor):
        pass

    CoreConstructor.add_constructor("tag:yaml.org,2002:timestamp", RoundTripConstructor.construct_yaml_str)
    reader = YAML(typ="rt")
    reader.version = (1, 2)
    reader.Constructor = CoreConstructor
    return reader


def apply_change(document: dict[str, Any], change: str) -> tuple[int | str, ...]:
    """`train.epochs=2`, `score.metrics[0].kind=f1` or `prepare.hold_out."unit.price"=[1]`: set one value, written as in
    YAML. A key with a dot, bracket or `=` in it stands in quotes. Returns the keys and places that lead to the value."""
    found = CHANGE.fullmatch(change)
    if not found or not steps_of(found["path"]):
        raise UserError(f"'{change}' is not a change", where="--set", hint="write --set train.epochs=2")
    return put(document, found["path"], parse(found["value"], "--set") if found["value"] else "")


def steps_of(path: str) -> list[str]:
    """The keys and places that a path names."""
    return [step.strip(step[0]) if step[0] in "\"'" else step for step in re.findall(STEP, path)]


def put(document: dict[str, Any], path: str, value: Any) -> tuple[int | str, ...]:
    """Set the value at a path; blocks that are not there yet are made, and a name alone becomes the block that it is short
    for. Returns the keys and places."""
    from ruamel.yaml.comments import CommentedMap

    steps = steps_of(path)
    if not steps:
        raise UserError(f"'{path}' is no path", where="--set", hint="write one such as train.epochs")
    here: Any = document
    location: list[int | str] = []
    try:
        for n, step in enumerate(steps):
            key: Any = int(step) if isinstance(here, list) else step
            location.append(key)
            if n == len(steps) - 1:
                here[key] = value
            elif isinstance(here, dict) and here.get(key) is None:
                here[key] = CommentedMap()
            elif n and isinstance(here[key], str):  # at the top no name alone stands for a block
                here[key] = CommentedMap(kind=here[key])
            here = here[key]
    except (ValueError, IndexError, TypeError):
        raise UserError(
            f"there is no place '{path}' in the recipe", where="--set", hint="see `luthier schema`"
        ) from None
    return tuple(location)


def explained(
    problem: ValidationError, document: Any, name: str, changed: Sequence[tuple[int | str, ...]] = ()
) -> list[UserError]:
    """Each problem of a recipe as a sentence with line and path; of what `--set` has changed, with the path alone."""
    told = []
    for error in problem.errors():
        message = error["msg"].removeprefix("Value error, ")
        hint = ""
        location = list(error["loc"])
        if error["type"] == "extra_forbidden":
            moved = MOVED.get(".".join(map(str, location)))
            message = (
                f"is now {moved}" if moved else unknown("key", str(location[-1]), _known_keys(document, location[:-1]))
            )
            hint = "move it there" if moved else ""
        elif error["type"] == "missing":
            message, hint = "is required", "add it"
        elif not error["type"].startswith(("choice", "value_error")):
            message = f"{message} (found {_shown(error['input'])})"
        lines = message.split("\n")
        for line in lines:
            # a validator of the whole recipe writes its own paths, one line each
            where = _place(document, location, name, changed) if location else name
            if not location and (
                steps := next((each for each in changed if line.startswith(f"{_dotted(each)}: ")), None)
            ):
                where = f"--set {_dotted(steps)}"
                line = line.removeprefix(f"{_dotted(steps)}: ")
            told.append(UserError(line, where=where, hint=hint))
    return told


def _shown(value: Any) -> str:
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _place(document: Any, location: list[int | str], name: str, changed: Sequence[tuple[int | str, ...]] = ()) -> str:
    line = None
    here: Any = document
    for step in location:
        inside = step in here if isinstance(here, dict) else isinstance(here, list) and int(step) < len(here)
        if inside:
            line = here.lc.data[step][0] + 1 if step in (here.lc.data or {}) else line
        here = here[step] if inside else None
    path = _dotted(location)
    if any(tuple(location[: len(steps)]) == steps for steps in changed):
        return f"--set {path}"
    # what is wrong with a whole block may be what was changed inside of it
    within = [f"--set {_dotted(steps)}" for steps in changed if steps[: len(location)] == tuple(location)]
    changes = f" (changed by {', '.join(within)})" if within else ""
    return f"{name}:{line}: {path}{changes}" if line else f"{name}: {path}{changes}"


def _dotted(location: Sequence[int | str]) -> str:
    """`gate.checks[0].metric`, from keys and places."""
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in location).removeprefix(".")


def _known_keys(document: Any, location: Sequence[int | str]) -> list[str]:
    """The keys of the block at a place in a recipe, following Choices by the kind that the document names."""
    block: Any = Recipe
    here = document
    for step in location:
        here = here[step]
        if isinstance(step, str) and (field_name := _field_of(block, step)):  # else a name that the user chose
            inside = _settings_in(block.model_fields[field_name].annotation)
            if not inside:
                return []
            block = inside[0]
        if issubclass(block, Choice) and "family" in block.__dict__ and isinstance(here, dict):
            block = find(block.family, here["kind"])
    return [field.alias or name for name, field in block.model_fields.items()]


def _field_of(block: type[Settings], key: str) -> str:
    return next((name for name, field in block.model_fields.items() if key in (name, field.alias)), "")


def _settings_in(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [found for part in get_args(annotation) for found in _settings_in(part)]
