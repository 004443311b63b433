"""The tuners of peft: those that train on a tiny model, and those that are refused with the reason."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch

from luthier.batching import Encoded
from luthier.choice import find
from luthier.errors import UserError
from luthier.fit import gradients
from luthier.model import Head, Model, architecture_of, load, load_trained, merged, quiet, save, writing_head
from luthier.objectives import Objective
from luthier.recipe_file import loads
from luthier.techniques import Running, learning_rate_for
from luthier.techniques.peft import REFUSED, Peft, divisor, tuners

pytestmark = pytest.mark.slow

LABELS = Head("AutoModelForSequenceClassification", ("a", "b"))
SETTINGS: dict[str, dict[str, Any]] = {
    "trainable_tokens": {"token_indices": [5, 6, 7, 8]},
    "frod": {"progressbar": False},
}
NO_MERGE = {"lily", "adaption_prompt"}  # nor can beft where a base has no biases
LLAMA_ALONE = {"adaption_prompt"}  # and GPT-2
# every tuner of peft 0.21 that trains on a llama; all but adaption_prompt on a BERT and a T5 too
NAMES = """
adamss adaption_prompt beft boft c3a deft delora fourierft frod glora gralora hira hra ia3 lily
ln_tuning loha lokr miss oft osf peanut psoft pvera randlora road shira supertuning tinylora
trainable_tokens unilora vblora vera waveft
"""
TRAINS = set(NAMES.split())


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("peft")
    return {name: tiny.build(root / name, name) for name in ("llama", "gpt2", "bert", "t5")}


@pytest.fixture(autouse=True)
def told_by_peft() -> Iterator[None]:
    """What single tuners warn of while they compute, which says nothing of us: a missing compiler, sparse matrices."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Converting a tensor with requires_grad=True", UserWarning)  # adamss
        warnings.filterwarnings("ignore", "Sparse invariant checks are implicitly disabled", UserWarning)  # frod
        yield


def opened(folder: Path) -> Model:
    architecture = architecture_of(folder)
    head = LABELS if architecture == "encoder" else writing_head(architecture)
    return load(folder, head, device="cpu", precision="float32", seed=1)


def started(folder: Path, tuner: str, **settings: Any) -> Model:
    model = opened(folder)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        Peft(tuner=tuner, settings={**SETTINGS.get(tuner, {}), **settings}).start(model, {})
    model.packed = False
    return model


def batch(model: Model) -> tuple[Objective, list[Encoded]]:
    if model.head.labels:
        examples = [Encoded([5, 50 + n % 2, 7 + n, 8, 2], (), [int(n == 3)], (), 1) for n in range(4)]
    elif model.architecture == "encoder-decoder":
        examples = [Encoded([5, 6, 7 + n], (), [8, 9, 2], (), 3) for n in range(4)]
    else:
        examples = [Encoded([5, 6, 7 + n, 8, 9, 2], [False] * 3 + [True] * 3, (), (), 3) for n in range(4)]
    return Objective.pick("classify" if model.head.labels else "causal"), examples


def logits(model: Model) -> torch.Tensor:
    objective, examples = batch(model)
    with torch.no_grad():
        found = objective.outputs(model, examples, "logits").logits
    assert found is not None
    return found


def trained(model: Model, steps: int = 8, rate: float = 0.05) -> list[float]:
    """The losses of some steps."""
    objective, examples = batch(model)
    optimizer = torch.optim.AdamW(model.trainable().values(), lr=rate)
    losses = []
    for step in range(steps):
        torch.manual_seed(step)
        losses.append(gradients(model, [examples], objective, Running()))
        optimizer.step()
        optimizer.zero_grad()
    model.forward.eval()
    return losses


def test_each_tuner_of_the_installed_peft_is_listed_here() -> None:
    assert sorted(tuners()) == sorted(TRAINS | REFUSED.keys())


@pytest.mark.parametrize("tuner", sorted(REFUSED))
def test_a_tuner_that_cannot_be_trained_here_is_refused_with_the_reason(tuner: str) -> None:
    with pytest.raises(ValueError, match=f"{tuner} {REFUSED[tuner]}"):
        Peft(tuner=tuner)


@pytest.mark.parametrize("tuner", sorted(TRAINS))
@pytest.mark.parametrize(
    "name", ["llama", pytest.param("bert", marks=pytest.mark.slow), pytest.param("t5", marks=pytest.mark.slow)]
)
def test_a_tuner_trains_and_is_loaded_and_merged_as_it_was(
    folders: dict[str, Path], tmp_path: Path, name: str, tuner: str
) -> None:
    if tuner in LLAMA_ALONE and name != "llama":
        with pytest.raises(UserError, match="peft cannot adapt this base: Unsupported model type"):
            started(folders[name], tuner)
        return
    model = started(folders[name], tuner)
    frozen = {n: p.clone() for n, p in model.named_parameters() if n not in model.trainable()}
    buffers = {n: b.clone() for n, b in model.forward.named_buffers()}
    losses = trained(model, steps=20 if name == "bert" else 8, rate=0.01)
    assert min(losses[-3:]) < losses[0]
    assert frozen
    assert all(torch.equal(p, frozen[n]) for n, p in model.named_parameters() if n in frozen)
    assert all(torch.equal(b, buffers[n]) for n, b in model.forward.named_buffers() if n in buffers)
    said = logits(model)
    save(model, tmp_path / "out", base_name="b", extra={})
    assert not [file for file in (tmp_path / "out").iterdir() if file.suffix in (".bin", ".pt", ".pkl")]
    with torch.random.fork_rng():
        torch.manual_seed(77)  # nothing is drawn anew
        again = load_trained(tmp_path / "out", folders[name], device="cpu", precision="float32")
    again.packed = False
    torch.testing.assert_close(logits(again), said, rtol=1e-6, atol=1e-6)
    for key, buffer in again.forward.named_buffers():
        assert key not in buffers or torch.equal(buffer, buffers[key]), "projections are the same to the bit"
    if tuner in NO_MERGE or (tuner == "beft" and name != "bert"):
        with pytest.raises(UserError, match=r"peft cannot fold this adapter into the weights .*; use --to peft"):
            merged(model)
        return
    plain = merged(model)
    whole = Model(plain, plain, model.tokenizer, model.architecture, model.head, "cpu", "float32")
    torch.testing.assert_close(logits(whole), said, rtol=1e-4, atol=3e-4 * float(said.abs().max()))
    torch.testing.assert_close(logits(model), said, rtol=0, atol=0)  # the model itself stays as it was


@pytest.mark.parametrize("tuner", ["ia3", "vera", "lokr", "oft", "fourierft", "miss"])
def test_plain_peft_reads_what_was_saved(folders: dict[str, Path], tmp_path: Path, tuner: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = started(folders["llama"], tuner)
    trained(model)
    save(model, tmp_path / "out", base_name="b", extra={})
    ids = torch.tensor([[5, 6, 7]])
    with quiet(), torch.no_grad():
        plain = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(folders["llama"]), tmp_path / "out"
        ).eval()
        torch.testing.assert_close(plain(input_ids=ids).logits, model.forward(input_ids=ids).logits)


def test_what_a_tuner_draws_comes_from_the_seed(folders: dict[str, Path]) -> None:
    for tuner in ("vera", "lokr", "randlora", "shira", "vblora"):
        one, same = (dict(started(folders["llama"], tuner).forward.state_dict()) for _ in range(2))
        assert one.keys() == same.keys()
        assert all(torch.equal(value, same[name]) for name, value in one.items()), tuner


def test_ia3_is_a_scaling_of_keys_values_and_what_goes_into_the_second_matrix(folders: dict[str, Path]) -> None:
    model = started(folders["llama"], "ia3")
    scaled = {name.partition(".ia3_l")[0].rpartition(".")[2] for name in model.trainable()}
    assert scaled == {"k_proj", "v_proj", "down_proj"}
    with torch.no_grad():
        for parameter in model.trainable().values():
            parameter.mul_(
                1 + 0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
            )
        said = logits(model)
        by_hand = opened(folders["llama"])
        by_hand.packed = False
        for name, scale in model.trainable().items():
            module = by_hand.bare.get_submodule(name.partition(".ia3_l")[0].removeprefix("base_model.model."))
            own = scale.detach().flatten()
            if "down_proj" in name:
                module.register_forward_pre_hook(lambda module, args, own=own: (args[0] * own,))
            else:
                module.register_forward_hook(lambda module, args, out, own=own: out * own)
        torch.testing.assert_close(logits(by_hand), said, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(said, logits(opened(folders["llama"])), atol=1e-3)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("gpt2", {"c_attn", "mlp.c_proj"}),
        ("bert", {"key", "value", "output.dense"}),
        ("t5", {"k", "v", "wo"}),
    ],
)
def test_ia3_finds_its_modules_in_any_architecture(folders: dict[str, Path], name: str, wanted: set[str]) -> None:
    model = started(folders[name], "ia3")
    found = {n.partition(".ia3_l")[0] for n in model.trainable() if "ia3_l" in n}
    assert all(any(each.endswith(f".{end}") for end in wanted) for each in found)
    assert all(any(each.endswith(f".{end}") for each in found) for end in wanted)
    assert not any("attention.output" in each for each in found)


def test_sizes_that_must_divide_those_of_the_base_are_found(folders: dict[str, Path]) -> None:
    for tuner, key, wanted in (("c3a", "block_size", 16), ("road", "group_size", 16), ("vblora", "vector_length", 16)):
        model = started(folders["llama"], tuner)
        assert getattr(model.forward.active_peft_config, key) == wanted
    assert divisor([(768, 3072)], 256) == 256
    assert divisor([(640, 2048), (256, 640)], 256) == 128
    with pytest.raises(UserError, match=r"peft cannot adapt this base: .*divisible by `vector_length` 7"):
        started(folders["llama"], "vblora", vector_length=7)


def test_a_tuner_that_finds_nothing_to_adapt_is_told(folders: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="osf finds nothing to train in a GPT2LMHeadModel; choose another tuner"):
        started(folders["gpt2"], "osf")
    with pytest.raises(UserError, match=r"the base has no module 'q_porj'"):
        started(folders["llama"], "ia3", target_modules=["q_porj"], feedforward_modules=[])
    model = opened(folders["llama"])
    find("techniques", "freeze")(layers=2).start(model, {})  # type: ignore[attr-defined]
    with pytest.raises(
        UserError, match="freeze holds every linear module that the tuner would adapt; freeze less of it"
    ):
        Peft(tuner="loha").start(model, {})


@pytest.mark.parametrize("tuner", ["ia3", "vera", "ln_tuning", "oft"])
@pytest.mark.parametrize("first", [True, False])
def test_no_tuner_moves_a_frozen_block(folders: dict[str, Path], tuner: str, first: bool) -> None:
    model = opened(folders["llama"])
    chain = [find("techniques", "freeze")(layers=1), Peft(tuner=tuner)]
    for technique in chain if first else chain[::-1]:
        technique.start(model, {})  # type: ignore[attr-defined]
    assert any(".layers.1." in name for name in model.trainable())
    assert not any(".layers.0." in name for name in model.trainable())


def test_further_modules_are_trained_whole(folders: dict[str, Path]) -> None:
    model = started(folders["llama"], "ia3", modules_to_save=["embed_tokens"])
    assert "base_model.model.model.embed_tokens.modules_to_save.default.weight" in model.trainable()


RECIPE = """\
version: 1
name: r
task: {kind: generate, table: t.jsonl}
base: {kind: folder, path: b}
train: {techniques: [{kind: peft, tuner: TUNER, settings: SETTINGS}]}
"""


@pytest.mark.parametrize(
    ("tuner", "settings", "why"),
    [
        ("ia4", "{}", "no tuner called 'ia4'; did you mean 'ia3'\\?"),
        ("loha", "{rang: 4}", "settings.rang: no setting called 'rang'; did you mean 'r'\\?|settings.rang: no setting"),
        (
            "loha",
            "{module_dropuot: 0.1}",
            "settings.module_dropuot: no setting called 'module_dropuot'; did you mean 'module_dropout'\\?",
        ),
        ("loha", "{r: many}", 'settings.r: Input should be a valid integer \\(found "many"\\)'),
        (
            "loha",
            "{task_type: CAUSAL_LM}",
            "settings.task_type: follows from the rest of the recipe and the base; leave it out",
        ),
        ("boft", "{boft_block_size: 4, boft_block_num: 4}", "settings: You can only specify either boft_block_size"),
    ],
)
def test_settings_are_those_of_the_tuner(tmp_path: Path, tuner: str, settings: str, why: str) -> None:
    with pytest.raises(UserError, match=rf"train.techniques\[0\].*: ({why})"):
        loads(RECIPE.replace("TUNER", tuner).replace("SETTINGS", settings), folder=tmp_path)


def test_every_problem_of_the_settings_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UserError) as told:
        loads(RECIPE.replace("TUNER", "loha").replace("SETTINGS", "{r: many, alhpa: 2}"), folder=tmp_path)
    assert "settings.r:" in str(told.value)
    assert "settings.alhpa: no setting called 'alhpa'; did you mean 'alpha'?" in str(told.value)


def test_the_learning_rate_is_that_of_the_tuners_paper() -> None:
    assert learning_rate_for([Peft(tuner="ia3")]) == 3e-3
    assert learning_rate_for([Peft(tuner="loha")]) == learning_rate_for([find("techniques", "lora")()]) == 2e-4
