"""Errors that a user can act on: what is wrong, where, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Sequence


class UserError(Exception):
    """Something that the user must change. Shown bare, without a traceback; exit code 2."""

    exit_code = 2

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        super().__init__(self.sentence())

    def sentence(self) -> str:
        """`where: what; hint` on one line, empty parts left out."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        return f"{head}; {self.hint}" if self.hint else head


class Problems(UserError):
    """Several problems found in one pass, all told at once."""

    def __init__(self, problems: Sequence[UserError], *, where: str = "") -> None:
        self.problems = list(problems)
        super().__init__("\n".join(problem.sentence() for problem in problems), where="")
        self.where = where


class DivergedError(UserError):
    """Training that ran into numbers which are none; a search counts it as a failed trial and goes on."""


class MachineError(UserError):
    """The machine, not the recipe, is short of something (disk, memory); exit code 4."""

    exit_code = 4


def first_line(problem: BaseException) -> str:
    """The first line of what a library says, or the kind of its error where it says nothing."""
    return next((line.strip() for line in str(problem).splitlines() if line.strip()), type(problem).__name__)


def typed(path: str) -> str:
    """A path as it is typed into a shell; one that begins with a dash is no option there."""
    return shlex.quote(f"./{path}" if path.startswith("-") else path)
