"""What every test relies on: no model hub is asked, and tokenizers start no threads of their own."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["OMP_NUM_THREADS"] = (
    "1"  # tiny models: a second thread only waits, and two processes with two each stand still
)


FACTS = Path(__file__).parent / "facts"


@pytest.fixture
def full() -> dict[str, Any]:
    """A run with everything measured, one failed check and one without enough data."""
    return json.loads((FACTS / "full.json").read_text(encoding="utf-8"))


@pytest.fixture
def minimal() -> dict[str, Any]:
    """A run without checks, slices, history and latency."""
    return json.loads((FACTS / "minimal.json").read_text(encoding="utf-8"))
