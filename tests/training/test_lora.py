"""LoRA: which modules it touches, and that what was drawn anew travels with the adapter."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny
import torch

from luthier.choice import find
from luthier.model import Head, load, load_trained, save

LABELS = Head("AutoModelForSequenceClassification", ("a", "b"))


@pytest.mark.parametrize("shape", ["bert", "gpt2", "llama"])
@pytest.mark.parametrize("targets", ["all-linear", "attention"])
def test_an_adapter_says_what_the_trained_model_said_whatever_the_seed(
    tmp_path: Path, shape: str, targets: str
) -> None:
    base = tiny.build(tmp_path / shape, shape)
    model = load(base, LABELS, device="cpu", precision="float32", seed=1)
    find("techniques", "lora")(rank=2, targets=targets).start(model, {})  # type: ignore[attr-defined]
    ids = torch.tensor([[1, 5, 6, 2]])
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.add_(0.1)
        said = model.forward.eval()(input_ids=ids).logits
        save(model, tmp_path / "out", base_name="b", extra={})
        again = load_trained(tmp_path / "out", base, device="cpu", precision="float32").forward(input_ids=ids).logits
    torch.testing.assert_close(again, said)
    touched = {name.partition(".lora_")[0] for name in model.trainable() if ".lora_" in name}
    assert touched
    assert not [name for name in touched if "pooler" in name or "score" in name or "classifier" in name]
    if targets == "attention":
        assert all("attn" in name or "attention" in name for name in touched)
        assert not [name for name in touched if "mlp" in name or "intermediate" in name]
