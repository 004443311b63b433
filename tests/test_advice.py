"""Advice rests on figures that it names: from sizes before training, from a run's own curves after it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny

from luthier.advice import Situation, advised, after, memory, memory_of, parameters_in

SMALL = Situation(examples=4000, classes=6, parameters=22_700_000, memory=16_000_000_000, encoder=True)


@pytest.mark.parametrize(
    ("changes", "technique", "said"),
    [
        ({}, "full", "4,000 examples of 6 classes are 666.7 for each: enough to train a small encoder whole"),
        (
            {"examples": 60},
            "full",
            "60 examples of 6 classes are 10.0 for each, fewer than 16: compare freeze and lora",
        ),
        ({"memory": 400_000_000}, "lora", "training it whole would take more than 70% of that"),
        ({"memory": 50_000_000}, "quantized_base", "LoRA on a base in 4 bits, or a smaller base, is what fits"),
        ({"classes": 0, "encoder": False, "examples": 200}, "lora", "200 examples are few for a model that writes"),
        ({"classes": 0, "encoder": False, "examples": 200}, "lora", "this base has 23 M"),
    ],
)
def test_memory_decides_first_and_then_the_data(changes: dict[str, Any], technique: str, said: str) -> None:
    advice = advised(replace(SMALL, **changes))
    assert advice.technique == technique
    assert any(said in reason for reason in advice.reasons), advice.reasons


def test_the_memory_of_full_training_is_16_bytes_a_parameter_and_a_frozen_one_takes_4() -> None:
    assert memory_of(1_000_000, 0) == 16_000_000
    assert memory_of(20_000, 1_000_000) == 4_320_000
    said = advised(SMALL).reasons[0]
    assert said.startswith("23 M parameters take 0.4 GB to train whole (16 bytes each) and about 0.1 GB with LoRA")
    assert said.endswith("this machine has 16.0 GB")


def test_what_a_training_step_holds_is_what_the_formula_says(tmp_path: Path) -> None:
    import torch

    from luthier.model import Head, load

    model = load(
        tiny.build(tmp_path / "bert", "bert"), Head("AutoModelForSequenceClassification", ("a", "b")), device="cpu"
    )
    optimizer = torch.optim.AdamW(model.forward.parameters(), lr=1e-3, fused=True)
    model.forward(input_ids=torch.tensor([[1, 5, 6, 2]])).logits.sum().backward()
    optimizer.step()
    parameters = list(model.forward.parameters())
    held = sum(p.numel() * 4 for p in parameters) + sum(p.grad.numel() * 4 for p in parameters if p.grad is not None)
    held += sum(t.numel() * 4 for state in optimizer.state.values() for t in state.values() if t.ndim)
    n = sum(p.numel() for p in parameters)
    assert 0.95 * memory_of(n, 0) <= held <= 1.05 * memory_of(n, 0)


def test_parameters_are_counted_without_reading_weights(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    folder = tiny.build(tmp_path / "bert", "bert")
    whole = AutoModelForMaskedLM.from_pretrained(folder)
    assert parameters_in(folder) == sum(p.numel() for p in whole.parameters())
    assert memory() > 0


def curve(*values: float, losses: tuple[float, ...] = (2.0, 1.0), unseen: float = 1.1) -> list[dict[str, object]]:
    steps: list[dict[str, object]] = [{"epoch": 0.1 * n, "loss": loss} for n, loss in enumerate(losses)]
    checks = [{"epoch": float(n + 1), "validation": {"accuracy": v, "loss": unseen}} for n, v in enumerate(values)]
    return [*steps, *checks]


def said(history: list[dict[str, object]], **more: object) -> list[str]:
    settings = {"higher_is_better": True, "epochs": 4.0, "techniques": ["full"], "share_trained": 1.0}
    return after(history, "accuracy", **(settings | more))  # type: ignore[arg-type]


def test_a_curve_that_still_rises_asks_for_more_epochs() -> None:
    (sentence,) = said(curve(0.5, 0.6, 0.7, 0.8))
    assert sentence == (
        "Validation accuracy still improved at the last evaluation (0.7 to 0.8 at epoch 4): train longer than 4 epochs."
    )


def test_a_best_that_comes_early_asks_for_less() -> None:
    (sentence,) = said(curve(0.8, 0.7, 0.6, 0.6))
    assert sentence.startswith("Validation accuracy was best at epoch 1 of 4 (0.8, 0.6 at the end)")
    assert "LoRA or freeze; 100.0% trained" in sentence


def test_a_difference_within_the_spread_of_seeds_says_nothing() -> None:
    assert said(curve(0.79, 0.795, 0.8, 0.805), deviation=0.02) == []


def test_the_spread_of_repeats_is_told_whatever_metric_watched_the_training() -> None:
    found = said(curve(0.8, 0.8), varies=("f1", 0.02))
    assert found == [
        "Repeated trainings differ in f1 by 0.02 (one standard deviation): a smaller difference between two settings is chance."
    ]


def test_memory_is_what_a_container_may_take(tmp_path: Path) -> None:
    (tmp_path / "limit").write_text("123456789\n")
    (tmp_path / "none").write_text("max\n")
    assert memory([str(tmp_path / "limit")]) == 123456789
    assert memory([str(tmp_path / "none"), str(tmp_path / "nothing")]) == memory([])


def test_rows_that_were_not_looked_at_are_not_counted_as_all() -> None:
    reasons = advised(replace(SMALL, more=True)).reasons
    assert reasons[-1].startswith("4,000 examples or more of 6 classes")


def test_what_is_learned_by_heart_asks_for_more_examples() -> None:
    found = said(curve(0.8, 0.8, losses=(2.0, 0.05), unseen=0.9))
    assert found == [
        "At the end the loss was 0.05 nats in training and 0.9 on validation: more examples would help more than a larger model."
    ]


def test_an_adapter_that_cannot_learn_more_asks_for_a_higher_rank() -> None:
    found = said(curve(0.8, 0.8, losses=(2.0, 1.05)), techniques=["lora"], share_trained=0.012)
    assert found == [
        "The loss in training (1.1 nats) is as high as on validation (1.1) with 1.2% of the parameters trained: a higher rank, or "
        "full training, may still learn more."
    ]


def test_a_model_that_is_not_better_than_its_rivals_asks_for_better_data() -> None:
    assert said(curve(0.8, 0.8), gain=(-0.05, -0.01))[-1].startswith("The model is not better than the best baseline")
