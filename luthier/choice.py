"""Choice: a typed block of a recipe that carries its verb; one class in one file is schema, registry entry and code."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import sys
from collections.abc import Iterable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, GetJsonSchemaHandler, model_serializer
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

Self = TypeVar("Self", bound="Choice")


class Settings(BaseModel):
    """A typed block of a recipe: unknown keys are errors and values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)
    unkeyed: ClassVar[dict[str, Any]] = {}
    """Of a stage's config: what reaches the stage but changes none of its bytes, in the form of pydantic's `exclude`."""


class Choice(Settings):
    """Base of every family. A family's own base class sets `family` and declares the verb.

    In a recipe a Choice is `{kind: name, ...settings}`, or just `name` where no setting is required. The name is that
    of the file which holds the class, or of the entry point of a third party (group `luthier.<family>`).
    """

    family: ClassVar[str] = ""
    kind: ClassVar[str] = ""
    outside: ClassVar[tuple[str, ...]] = ()
    """Settings that only say where an outside file lies: it enters a key by its bytes, so its path does not."""

    def placeless(self: Self) -> Self:
        """A copy without the paths of outside files, fit to enter a key: moving a table changes nothing."""
        return self.model_copy(update=dict.fromkeys(self.outside, ""))

    def paths(self) -> dict[str, str]:
        """Outside files that are named, by setting: path as written in the recipe."""
        return {name: str(getattr(self, name)) for name in self.outside if getattr(self, name)}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "kind" not in cls.__dict__ and "family" not in cls.__dict__:
            cls.kind = cls.__module__.rpartition(".")[2]

    @classmethod
    def pick(cls: type[Self], value: Any) -> Self:
        """The member of this family that a recipe's block names."""
        if isinstance(value, cls):
            return value
        block = {"kind": value} if isinstance(value, str) else value
        if not isinstance(block, dict) or not isinstance(block.get("kind"), str):
            raise PydanticCustomError(
                "choice", "needs a block with `kind`, one of {names}", {"names": ", ".join(members(cls.family))}
            )
        settings = {key: setting for key, setting in block.items() if key != "kind"}
        return find(cls.family, block["kind"]).model_validate(settings)  # type: ignore[return-value]

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        if "family" in cls.__dict__:
            return core_schema.no_info_plain_validator_function(
                cls.pick,
                serialization=core_schema.plain_serializer_function_ser_schema(lambda choice: choice.model_dump()),
            )
        return handler(source)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        if "family" not in cls.__dict__:
            return handler(schema)
        variants: list[dict[str, Any]] = []
        for name in members(cls.family):
            member = find(cls.family, name).model_json_schema(mode="validation")
            member.get("properties", {}).pop("kind", None)
            member["properties"] = {"kind": {"const": name}, **member.get("properties", {})}
            member["required"] = ["kind", *member.get("required", [])]
            variants.append(member)
            if member["required"] == ["kind"]:
                variants.append({"const": name})
        return {"anyOf": variants}

    @model_serializer(mode="wrap")
    def _with_kind(self, handler: Any) -> dict[str, Any]:
        return {"kind": self.kind, **handler(self)}


@cache
def families() -> dict[str, type[Choice]]:
    """Every family with its base class: the folders of luthier/ whose package defines a Choice with that family."""
    found = {}
    for folder in sorted(Path(__file__).parent.iterdir()):
        if (folder / "__init__.py").exists():
            package = importlib.import_module(f"luthier.{folder.name}")
            for value in vars(package).values():
                if (
                    isinstance(value, type)
                    and issubclass(value, Choice)
                    and value.__dict__.get("family") == folder.name
                ):
                    found[folder.name] = value
    return found


@cache
def members(family: str) -> dict[str, str]:
    """Names in a family and the module (or entry point) that holds each, without importing any of them."""
    spec = importlib.util.find_spec(f"luthier.{family}")
    found: dict[str, str] = {}
    if spec is not None and spec.submodule_search_locations:
        for folder in spec.submodule_search_locations:
            for file in sorted(Path(folder).glob("[a-z]*.py")):
                found[file.stem] = f"luthier.{family}.{file.stem}"
    for entry in entry_points(group=f"luthier.{family}"):
        found.setdefault(entry.name, entry.value)
    return found


def find(family: str, name: str) -> type[Choice]:
    """The class of one member; an unknown name is told with the nearest known one."""
    known = members(family)
    if name not in known:
        raise PydanticCustomError(
            "choice", "{problem}", {"problem": unknown(f"{singular(family)} called", name, known)}
        )
    module_name, _, attribute = known[name].partition(":")
    module = importlib.import_module(module_name)
    return getattr(module, attribute or class_name(name))  # type: ignore[no-any-return]


def source_file(family: str, name: str) -> Path:
    """The file a reader opens to see this member."""
    return Path(str(sys.modules[find(family, name).__module__].__file__))


def class_name(name: str) -> str:
    """`edit_similarity` -> `EditSimilarity`: the class has the file's name."""
    return "".join(part.capitalize() for part in name.split("_"))


def singular(family: str) -> str:
    """`techniques` -> `technique`, `bases` -> `base`."""
    return {"bases": "base", "baselines": "baseline", "checks": "check"}.get(family, family.removesuffix("s"))


def unknown(noun: str, name: str, known: Iterable[str]) -> str:
    """`no technique called 'lorra'; did you mean 'lora'?`, or the known names where none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
    return f"no {noun} '{name}'; {hint}"
