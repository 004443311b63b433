"""Replay: a kept sample of the former task's examples is learned beside the new ones (Robins 1995; Rolnick et al. 2019)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from luthier.techniques import Technique


class Replay(Technique):
    """Go on learning a share of the training examples of the run that `former` names, through its own head."""

    needs_former: ClassVar[bool] = True

    share: float = Field(0.1, gt=0, le=1)
    """Share of the former task's training examples that is kept, a sample drawn once; each comes once in an epoch."""
    weight: float = Field(1.0, gt=0)
    """What each of their losses is multiplied by, beside 1 for the new task's."""
