"""The model: load, save, device, precision, and what wraps it while it trains."""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import platform
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.errors import UserError, first_line
from luthier.store import hardware

if TYPE_CHECKING:
    import torch
    from torch import nn

Architecture = Literal["encoder", "decoder", "encoder-decoder"]
# logits are head(hidden) and nothing more; or computed by the head at any positions; or only by a whole forward pass
HeadKind = Literal["plain", "selected", "whole"]
ABOUT = "model.json"
MERGED_APART = 1e-3  # of the largest logit, by which float32 weights that an adapter was folded into may differ
HEAD = "head.safetensors"  # a further task's, in its folder below `heads`
WRITERS = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
# Each of these is tested: positions that begin again keep examples apart.
PACKABLE = {"llama", "gemma", "gemma3_text", "qwen2", "qwen3", "mistral", "gpt2"}
ROW_ENCODERS = {"bert"}  # encoders with a pooler whose classifiers compute packed rows; each is tested
# peft imports it where it is installed, and it then tells of a kernel that it misses and nothing here computes with
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Head:
    """What stands on top of the body: the Hugging Face class and, for classification, the names of its outputs."""

    auto: str  # name of transformers' Auto class, such as AutoModelForCausalLM
    labels: tuple[str, ...] = ()
    problem: str = "single_label_classification"  # what the scores of labels are, as transformers calls it

    @property
    def writes(self) -> bool:
        """Whether the model writes text; else it gives one score for each label."""
        return self.auto in WRITERS


@dataclass
class Model:
    """A model with its tokenizer, ready to use or to train."""

    bare: nn.Module  # the Hugging Face module
    forward: nn.Module  # what is called: the same, or what peft wraps around it
    tokenizer: Any
    architecture: Architecture
    head: Head
    device: str
    precision: str  # "float32" or "bfloat16" of the forward pass
    packed: bool = False  # whether examples are computed end to end in one row; a technique may want rows instead
    drawn: tuple[str, ...] = ()  # parameters that the weights did not hold, drawn from the seed
    head_kind: HeadKind | None = None  # found when first asked for, like the next three
    head_shown: nn.Module | None = None  # the head of which that was found
    reads_padding: bool | None = None  # whether what a classifier says of a text depends on the padding behind it
    in_batches: bool | None = None  # whether transformers' `generate` answers in a batch as it does one by one
    control_tokens: Literal["text", "parse"] = "text"  # what a control token's name in the data is
    own_tokenizer: bool = False  # whether the tokenizer's steps are not those that its class would build
    ends: tuple[int, ...] = ()  # tokens that end what a trained model writes; none are known of an untuned one
    label_smoothing: float = 0.0  # share of what is wanted that losses spread over all tokens or labels, in training
    quantization: dict[str, Any] | None = None  # how the base is held in 4 bits, where it is
    front: tuple[int, ...] = ()  # virtual tokens before every text, numbered from the end of the vocabulary on
    prefix: int = 0  # places that trained keys and values take up before every text
    notes: list[str] = field(default_factory=list)  # what is worth telling of how it was loaded
    others: dict[str, Model] = field(default_factory=dict)  # task -> the same body under that task's head

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of a classification head's outputs, in order."""
        return self.head.labels

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every parameter under the name that the wrapped module gives it, and those of further heads as
        `heads.<task>.<name>`."""
        yield from self.forward.named_parameters()
        for task, other in self.others.items():
            for name, parameter in own_parameters(other):
                yield f"heads.{task}.{name}", parameter

    def modules(self) -> list[nn.Module]:
        """What is called for each task, this model's own first."""
        return [self.forward, *(self.view(task).forward for task in self.others)]

    def view(self, task: str) -> Model:
        """The model as a task sees it: the same body, with all that techniques did to it, under the task's own head."""
        other = self.others.get(task)
        if other is None:
            return self
        other.packed, other.precision, other.label_smoothing = self.packed, self.precision, self.label_smoothing
        other.front, other.prefix, other.quantization = self.front, self.prefix, self.quantization
        if other.head.writes:
            other.bare, other.forward = self.bare, self.forward
        return other

    def trainable(self) -> dict[str, nn.Parameter]:
        """What trains now: asked at each use, since techniques change it while training."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    @property
    def adapted(self) -> bool:
        """Whether something is wrapped around the Hugging Face module."""
        return self.forward is not self.bare

    def fronted(self, ids: Sequence[int]) -> Sequence[int]:
        """The tokens of a text behind the virtual tokens, where there are any."""
        return [*self.front, *ids] if self.front else ids


def writing_head(architecture: Architecture, folder: Path | str = "the base") -> Head:
    """The head of a model that writes; UserError for an encoder, which cannot."""
    if architecture == "encoder":
        raise UserError(
            "is an encoder, which cannot write text",
            where=str(folder),
            hint="use a decoder such as gemma-3-270m for this task, or an encoder for classify",
        )
    return Head("AutoModelForCausalLM" if architecture == "decoder" else "AutoModelForSeq2SeqLM")


def architecture_of(folder: Path) -> Architecture:
    """What a Hugging Face folder holds; raises UserError when it is no language model that Luthier can train."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    )

    from luthier import suitability

    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise UserError(
                "is an adapter, not a whole model",
                where=str(folder),
                hint="merge it into its base (`luthier export` does so for a run) and give that folder",
            )
        raise UserError("has no config.json", where=str(folder), hint="give a Hugging Face model folder")
    try:
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as problem:
        raise UserError(
            f"config.json is not JSON ({problem})", where=str(folder), hint="fetch the model again"
        ) from None
    if "auto_map" in written:
        raise UserError(
            "needs code of its own to load (auto_map), which is never run from here",
            where=str(folder),
            hint="choose a model of an architecture that transformers knows",
        )
    if not list(folder.glob("*.safetensors")):
        pickles = [f.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for f in folder.glob(pattern)]
        found = f" (only {pickles[0]}, a pickle, which can run code when read)" if pickles else ""
        raise UserError(f"has no safetensors weights{found}", where=str(folder), hint="save it again with safetensors")
    suitability.check_files(folder, written)
    kind = written.get("model_type", "")
    names = written.get("architectures") or [""]
    if kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and written.get("is_encoder_decoder", True):
        return "encoder-decoder"
    causal = names[0].endswith(("ForCausalLM", "LMHeadModel"))
    causal = causal and (bool(written.get("is_decoder")) or not names[0].startswith("Bert"))
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not causal:
        return "encoder"
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder"
    if kind in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES:  # FlauBERT, which transformers does not mask
        return "encoder"
    if kind:
        with contextlib.suppress(ValueError):
            AutoConfig.for_model(kind)
            raise UserError(
                f"holds a model of type '{kind}', which is neither a text encoder, decoder nor encoder-decoder",
                where=str(folder),
                hint="choose a language model",
            )
    raise UserError(
        f"model type '{kind}' is not known to transformers", where=str(folder), hint="see `luthier list bases`"
    )


def load(
    folder: Path,
    head: Head,
    *,
    base: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
    quantization: Mapping[str, Any] | None = None,
    dequantized: bool = False,
) -> Model:
    """A model folder, or an adapter folder over `base`, under `head`; a new classification head is drawn from `seed`.

    `quantization`: how the weights are held in 4 bits, as `quantized.quantize` takes it; `dequantized` holds these very
    weights in full precision.
    """
    import torch
    import transformers

    from luthier import quantized, suitability

    is_adapter = (folder / "adapter_config.json").exists()
    weights = base if is_adapter else folder
    if weights is None:
        raise UserError(
            "is an adapter and needs its base model",
            where=str(folder),
            hint="give a whole model; where it is one, move adapter_config.json away",
        )
    architecture = architecture_of(weights)
    if head.writes:
        writing_head(architecture, weights)
    tokenizer = load_tokenizer(folder if (folder / "tokenizer_config.json").exists() else weights)
    options: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True, "use_safetensors": True}
    options["ignore_mismatched_sizes"] = True  # they are named by check_weights
    if head.labels:
        numbered = dict(enumerate(head.labels))
        options |= {"num_labels": len(numbered), "id2label": numbered, "label2id": {v: k for k, v in numbered.items()}}
        options["problem_type"] = head.problem
    if not head.auto.startswith("AutoModel"):
        raise UserError(f"{ABOUT} names '{head.auto}', which is no model class", where=str(folder))
    suitability.check_kind(weights, head)
    suitability.check_vocabulary(tokenizer, weights)
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        try:
            bare, told = getattr(transformers, head.auto).from_pretrained(weights, output_loading_info=True, **options)
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError) as problem:
            raise UserError(
                f"transformers cannot load it ({first_line(problem)})",
                where=str(weights),
                hint="correct the file that this is about, or fetch the model again",
            ) from problem
        drawn, notes = suitability.check_weights(bare, told, head, weights)
        if not head.writes:
            for config in (bare.config, bare.config.get_text_config()):
                config.pad_token_id = tokenizer.pad_token_id
        place = device_for(device)
        chosen = precision_for(precision, place)
        if quantization:
            notes.append(quantized.quantize(bare.to(place), quantization, chosen))
            if dequantized:
                quantized.dequantize(bare)
        forward = bare
        if is_adapter:
            from peft import PeftModel

            forward = PeftModel.from_pretrained(bare, str(folder))
    forward = forward.to(place).eval()
    packed = packs(bare.config.model_type, architecture, head)
    if packed and architecture == "encoder":
        from luthier.packed_rows import teach

        teach(bare)
    model = Model(bare, forward, tokenizer, architecture, head, place, chosen, packed, drawn, notes=notes)
    model.quantization = dict(quantization) if quantization else None
    if is_adapter:
        from luthier.fronts import place_before

        place_before(model)
    suitability.settle_precision(model)
    return model


def add_task(model: Model, task: str, head: Head, base: Path, seed: int) -> None:
    """Give a model a further task: a head of its own, from `base` or drawn from the seed, on the body that is there.

    UserError where the two tasks need different classes of model.
    """
    if head.auto != model.head.auto:
        raise UserError(
            "some of the tasks write and others label, for which a base gets different heads",
            where="tasks",
            hint="train them apart, or let all of them write",
        )
    if head.writes:
        model.others[task] = replace(model, tokenizer=load_tokenizer(base), head=head, others={}, ends=(), notes=[])
        return
    other = load(base, head, device=model.device, precision=model.precision, seed=seed)
    setattr(other.bare, other.bare.base_model_prefix, model.bare.base_model)
    other.forward, other.packed = other.bare, model.packed
    model.others[task] = other


def own_parameters(other: Model) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters of a further task's head: all that are not the shared body's."""
    if other.head.writes:
        return
    body = f"{other.bare.base_model_prefix}."
    yield from ((name, each) for name, each in other.bare.named_parameters() if not name.startswith(body))


def load_trained(
    folder: Path, base: Path | None, *, device: str = "auto", precision: str = "auto", dequantized: bool = False
) -> Model:
    """What the stage train wrote: a whole model, or an adapter over `base`; its head is told by its model.json, and whether
    the base is held in 4 bits. `dequantized` holds these very weights in full precision."""
    told = about(folder)
    head = Head(told["auto"], tuple(told["labels"]), told["problem"])
    model = load(
        folder,
        head,
        base=base,
        device=device,
        precision=precision,
        quantization=told.get("quantization"),  # models of earlier versions have none
        dequantized=dequantized,
    )
    model.control_tokens, model.ends = told["control_tokens"], tuple(told["ends"])
    if head.writes:  # an adapter's folder has settings of its own, which are not the base's
        from transformers import GenerationConfig

        model.bare.generation_config = GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model


def about(folder: Path) -> dict[str, Any]:
    """model.json of a model folder that Luthier wrote: head, task form, steps, lengths, base."""
    told: dict[str, Any] = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return told


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer, with a padding token: its own, that of the model's settings, or the end token.

    UserError where there is none at all.
    """
    from transformers import AutoTokenizer

    from luthier import suitability

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as problem:
        raise UserError(
            f"has no usable tokenizer ({first_line(problem)})",
            where=str(folder),
            hint="add its tokenizer files",
        ) from None
    settings = suitability.config_of(folder).get_text_config() if (folder / "config.json").exists() else None
    n_embeddings = settings.vocab_size if settings is not None else len(tokenizer)  # an adapter's was settled before
    usable = lambda token: isinstance(token, int) and 0 <= token < n_embeddings  # noqa: E731
    if not usable(tokenizer.pad_token_id):  # there is none, or one was added that the model has no embedding for
        named = (tokenizer.eos_token_id, getattr(settings, "pad_token_id", None), tokenizer.unk_token_id)
        found = next((token for token in named if usable(token)), None)
        if found is None:
            raise UserError(
                "has a tokenizer that names no token to pad with",
                where=str(folder),
                hint="set pad_token (or eos_token) in tokenizer_config.json",
            )
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(found)
    tokenizer.clean_up_tokenization_spaces = False  # closing spaces would change answers
    return tokenizer


def save(model: Model, folder: Path, *, base_name: str, extra: dict[str, Any]) -> None:
    """A Hugging Face folder, or an adapter as peft writes it, with tokenizer and model.json; no machine path in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        if model.head.writes:
            model.bare.generation_config = greedy(model)
            model.bare.generation_config.save_pretrained(str(folder))  # which an adapter's folder would lack
        model.forward.save_pretrained(str(folder))
        save_tokenizer(model.tokenizer, folder, own=model.own_tokenizer)
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        config = json.loads(adapter.read_text())
        config["base_model_name_or_path"] = base_name
        adapter.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        (folder / "README.md").unlink(missing_ok=True)  # peft's template; the model card is written from evidence
    tell(model, folder, base_name=base_name, extra=extra)


def save_other(model: Model, task: str, folder: Path, *, base_name: str, extra: dict[str, Any]) -> None:
    """What a further task has of its own: `head.safetensors`, config, tokenizer, generation settings and model.json."""
    from safetensors.torch import save_file

    other = model.view(task)
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        if other.head.writes:
            greedy(other).save_pretrained(str(folder))
        save_tokenizer(other.tokenizer, folder, own=other.own_tokenizer)
    if not other.head.writes:
        config = copy.deepcopy(model.bare.config)  # of the body as techniques left it, which may have fewer blocks
        for name in ("id2label", "label2id", "problem_type"):
            setattr(config, name, getattr(other.bare.config, name))
        config.architectures = [type(other.bare).__name__]
        config.save_pretrained(str(folder))
    tensors = {name: parameter.detach().cpu().contiguous() for name, parameter in own_parameters(other)}
    save_file(tensors, folder / HEAD)
    tell(other, folder, base_name=base_name, extra=extra)


def tell(model: Model, folder: Path, *, base_name: str, extra: dict[str, Any]) -> None:
    """model.json: what a model must know to be asked."""
    told = {
        "architecture": model.architecture,
        "auto": model.head.auto,
        "labels": list(model.labels),
        "problem": model.head.problem,
        "control_tokens": model.control_tokens,
        "ends": list(model.ends),
        "said": said(model),
        "base": base_name,
        **({"quantization": model.quantization} if model.quantization else {}),
        **extra,
    }
    (folder / ABOUT).write_text(json.dumps(told, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def said(model: Model) -> list[float]:
    """Logits at up to 16 places behind a few ordinary tokens, in float32.

    In model.json they tell whoever opens the folder whether it still holds what was saved, over the right base.
    """
    from luthier import suitability

    training, _ = model.forward.training, model.forward.eval()
    logits_C = suitability.tried(replace(model, precision="float32"), 7).float().flatten(0, -2)[-1]
    model.forward.train(training)
    step = max(1, len(logits_C) // 16)
    return [float(logit) for logit in logits_C[::step][:16].tolist()]


def save_tokenizer(tokenizer: Any, folder: Path, *, own: bool) -> None:
    """Write a tokenizer; with steps of its `own`, as one that transformers takes from its file and builds no others for."""
    tokenizer.save_pretrained(str(folder))
    file = folder / "tokenizer_config.json"
    if own:
        settings = {**json.loads(file.read_text(encoding="utf-8")), "tokenizer_class": "PreTrainedTokenizerFast"}
        file.write_text(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def greedy(model: Model) -> Any:
    """Settings with which transformers' `generate` answers as the answers were scored: greedy, and nothing of the base's
    sampling, penalties, forced tokens, beams or least lengths."""
    from transformers import GenerationConfig

    tokenizer = model.tokenizer
    named = {"bos_token_id": tokenizer.bos_token_id, "pad_token_id": tokenizer.pad_token_id}
    if model.architecture == "encoder-decoder":
        named["decoder_start_token_id"] = decoder_start(model)
    return GenerationConfig(do_sample=False, num_beams=1, eos_token_id=list(model.ends) or None, **named)


def decoder_start(model: Model) -> int:
    """The token that an encoder-decoder's answers begin behind, as its own class takes it."""
    import torch

    settings, config = model.bare.generation_config, model.bare.config
    for named in (getattr(settings, "decoder_start_token_id", None), getattr(config, "decoder_start_token_id", None)):
        if isinstance(named, int):
            return named
    end = model.tokenizer.eos_token_id
    with contextlib.suppress(Exception):
        shifted = model.bare.prepare_decoder_input_ids_from_labels(labels=torch.tensor([[end, end]]))
        return int(shifted[0, 0])
    found = model.tokenizer.bos_token_id
    if found is None:
        raise UserError(
            "names no token for its decoder to begin with",
            where="base",
            hint="set decoder_start_token_id in its config.json",
        )
    return int(found)


def limit_answers(folder: Path, max_new_tokens: int) -> None:
    """Write the longest answer into the generation settings of a model folder; nothing where it does not write."""
    file = folder / "generation_config.json"
    if file.exists():
        settings = {**json.loads(file.read_text(encoding="utf-8")), "max_new_tokens": max_new_tokens}
        file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def merged(model: Model) -> nn.Module:
    """A plain transformers model with the adapter folded into the weights; the given model is left as it was.

    UserError where an adapter cannot be folded, or where the weights then compute otherwise, shown on a few tokens.
    """
    from luthier import suitability

    plain = folded(model)
    told, computed = (
        suitability.tried(replace(model, forward=each, others={})).float() for each in (model.forward, plain)
    )
    apart, size = float((told - computed).abs().max()), float(told.abs().max())
    if not apart <= MERGED_APART * max(1.0, size):
        raise unmerged(f"folded into the weights the adapter computes otherwise (logits are {apart:.2g} apart)")
    return plain


def folded(model: Model) -> nn.Module:
    """The same, whatever it computes; UserError where the adapter cannot be folded."""
    if not model.adapted:
        return model.bare
    refuse_merging(model.forward.active_peft_config.to_dict())
    whole = copy.deepcopy(model.forward).eval()
    untie(whole.get_base_model())
    head = whole.get_base_model().get_output_embeddings()
    try:
        with quiet():
            plain = whole.merge_and_unload()
    except (AttributeError, NotImplementedError, ValueError, TypeError, RuntimeError) as problem:
        raise unmerged(f"peft cannot fold this adapter into the weights ({first_line(problem)})") from problem
    if head is not None:  # peft takes a head for free that is tied to the decoder's table and not to the encoder's
        tied = shared(plain, plain.get_output_embeddings().weight)
        for config in (plain.config, plain.config.get_text_config()):
            config.tie_word_embeddings = tied
    return plain


def refuse_merging(adapter: Mapping[str, Any]) -> None:
    """UserError for an adapter, by its config, that stands before the text: there is no whole model that is the same."""
    if "num_virtual_tokens" in adapter:
        raise unmerged("what was trained stands before every text, and no weights of a whole model are the same")


def unmerged(why: str) -> UserError:
    """What is told of an adapter that has no merged form."""
    return UserError(why, where="--to hf", hint="use --to peft: the adapter's folder, which is read beside its base")


def shared(module: nn.Module, weight: nn.Parameter) -> bool:
    """Whether more than one module uses a parameter, such as an output head tied to the embeddings."""
    return sum(p is weight for each in module.modules() for p in each.parameters(recurse=False)) > 1


def untie(bare: nn.Module) -> None:
    """Give each module that shares an adapted weight, such as an output head and the embeddings, a weight of its own:
    they part when merged."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from torch.nn import Parameter

    for adapted in [each for each in bare.modules() if isinstance(each, BaseTunerLayer)]:
        weight = getattr(adapted.get_base_layer(), "weight", None)
        sharing = [each for each in bare.modules() if each._parameters.get("weight") is weight]
        if weight is None or len(sharing) < 2:
            continue
        for each in sharing:
            each.weight = Parameter(weight.detach().clone())
        for config in (bare.config, bare.config.get_text_config()):
            config.tie_word_embeddings = False


def may_have_gpu() -> bool:
    """Whether it is worth asking torch, whose import takes seconds."""
    return platform.system() != "Linux" or any(Path("/dev").glob("nvidia*")) or Path("/dev/kfd").exists()


def device_for(device: str) -> str:
    """`auto` resolved to cuda, mps or cpu; raises UserError where the machine has no such device."""
    if device == "cpu" or (device == "auto" and not may_have_gpu()):
        return "cpu"
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, found in there.items() if found)
    if not there[device]:
        raise UserError(
            f"this machine has no {device} that torch {torch.__version__} can use",
            where="device",
            hint="write `device: auto`, or install a torch made for it",
        )
    return device


def precision_for(precision: str, device: str) -> str:
    """`auto` resolved: bfloat16 where it is computed natively (on others it is up to 50 times slower), else float32."""
    if precision != "auto":
        return precision
    if device == "cuda":
        import torch

        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    native = hardware()["processor"].endswith(("amx_bf16", "avx512_bf16"))
    return "bfloat16" if device == "cpu" and native else "float32"


def autocast(model: Model) -> contextlib.AbstractContextManager[Any]:
    """The context of a forward pass in the chosen precision."""
    import torch

    if model.precision == "float32":
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[Any] = torch.autocast(model.device, torch.bfloat16)
    return context


def hold_casts(model: Model) -> None:
    """Hold the weights of linear modules in bfloat16, to which autocast rounds them again in each forward pass.

    What is computed is the same to the last bit. That is shown once, by a forward pass of two tokens before and after;
    a model that reads such a weight in another way, as DoRA does, stays as it was. For models that train no more.
    """
    import torch
    from torch.nn import Linear, Parameter
    from transformers.pytorch_utils import Conv1D

    from luthier import suitability

    if model.precision == "float32":
        return
    if model.head.labels:
        reads_padding(model)  # is shown in float32, and so before
    before = suitability.tried(model)
    linear = [module for module in model.forward.modules() if type(module) in (Linear, Conv1D)]
    own = [(each, name, weight) for each in linear for name, weight in each.named_parameters(recurse=False)]
    held = {weight: Parameter(weight.detach().to(torch.bfloat16), requires_grad=False) for _, _, weight in own}
    for module, name, weight in own:
        setattr(module, name, held[weight])
    if not torch.equal(suitability.tried(model), before):
        for module, name, weight in own:
            setattr(module, name, weight)


def blocks(module: nn.Module) -> dict[str, int]:
    """Name of each transformer block -> its number: the members of the outermost lists of modules.

    Encoder and decoder both begin at 0; ALBERT's blocks are its groups.
    """
    from torch.nn import ModuleList

    found: dict[str, int] = {}
    for name, each in module.named_modules():
        if isinstance(each, ModuleList) and block_of(name, found) is None:
            found |= {f"{name}.{number}": number for number in range(len(each))}
    return found


def block_of(name: str, known: Mapping[str, int]) -> int | None:
    """Number of the block (of `blocks`) that a module or parameter of this name is in, or None."""
    parts = name.split(".")
    return next((known[part] for n in range(len(parts), 0, -1) if (part := ".".join(parts[:n])) in known), None)


def numbered_parameters(module: nn.Module) -> dict[str, int | None]:
    """Name of each parameter -> number of the transformer block that it is in, or None."""
    known = blocks(module)
    return {name: block_of(name, known) for name, _ in module.named_parameters()}


def plain_name(name: str) -> str:
    """The name that a parameter has without what peft wraps around its module."""
    name = name.removeprefix("base_model.model.")
    return re.sub(r"\.(base_layer|modules_to_save\.\w+|original_module)(?=\.)", "", name)


def peft_task(model: Model) -> str:
    """peft's task type for a model: which modules beside the adapter it trains and saves."""
    if not model.head.writes:
        return "SEQ_CLS"
    return "SEQ_2_SEQ_LM" if model.architecture == "encoder-decoder" else "CAUSAL_LM"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' bars and notices (a new head is not a warning here) off the user's screen."""
    import warnings

    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            # peft 0.21 asks transformers 5.23 for a name that the latter renames in v6; nothing for the user to do
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            # patterns that peft makes itself for stacked experts and then does not find; tied heads part when merged
            warnings.filterwarnings("ignore", "The following (rank|alpha)_pattern keys", RuntimeWarning)
            warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True` and a tied layer", UserWarning)
            warnings.filterwarnings(
                "ignore", "Input and output embeddings are no longer tied", UserWarning
            )  # as is meant
            # of single tuners: no compiler for boft's kernels, which compute the same; norms, which ln_tuning is made for;
            # what export tells when it is asked to merge beft
            warnings.filterwarnings("ignore", "Failed to load the CUDA extension", UserWarning)
            warnings.filterwarnings("ignore", "Setting boft_n_butterfly_factor to 1", UserWarning)
            warnings.filterwarnings("ignore", "Unsupported layer type", UserWarning)
            warnings.filterwarnings("ignore", "Detected that the base layer has no bias term", UserWarning)
            yield
    finally:
        logging.set_verbosity(level)


def packs(model_type: str, architecture: Architecture, head: Head) -> bool:
    """Whether examples can be computed end to end in one row: decoders whose positions may begin again, some encoders."""
    if architecture == "encoder":
        return model_type in ROW_ENCODERS and head.auto == "AutoModelForSequenceClassification"
    return architecture == "decoder" and head.writes and model_type in PACKABLE


@contextlib.contextmanager
def head_replaced(head: nn.Module, forward: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Let the output head compute something else for one forward pass."""
    head.forward = forward
    try:
        yield
    finally:
        del head.forward  # the class's own forward shows again


def padded(texts: Sequence[Sequence[int]], model: Model) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (B, T), padded on the right."""
    import numpy as np
    import torch

    lengths_B = np.array([len(text) for text in texts])
    mask_BT = np.arange(lengths_B.max(initial=0)) < lengths_B[:, None]
    ids_BT = np.full(mask_BT.shape, model.tokenizer.pad_token_id, dtype=np.int64)
    ids_BT[mask_BT] = np.concatenate([np.asarray(text, dtype=np.int64) for text in texts])
    return torch.from_numpy(ids_BT).to(model.device), torch.from_numpy(mask_BT.astype(np.int64)).to(model.device)


def scored(model: Model, texts: Sequence[Sequence[int]]) -> torch.Tensor:
    """What a classification head says of texts, (B, C) in float32: all padded in one batch, where padding is not read."""
    import torch

    texts = [model.fronted(text) for text in texts]
    if not reads_padding(model):
        ids_BT, mask_BT = padded(texts, model)
        logits_BC: torch.Tensor = model.forward(input_ids=ids_BT, attention_mask=mask_BT).logits
        return logits_BC.float()
    order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
    parts = []
    for _, same in groupby(order, key=lambda row: len(texts[row])):
        ids_BT, mask_BT = padded([texts[row] for row in same], model)
        parts.append(model.forward(input_ids=ids_BT, attention_mask=mask_BT).logits.float())
    back = torch.tensor(order, device=model.device).argsort()
    return torch.cat(parts)[back]


def probing(model: Model, n: int, start: int = 5) -> list[int]:
    """Ordinary tokens with which something is shown of a model, in as few as its vocabulary holds."""
    size = int(model.bare.config.get_text_config().vocab_size)
    first = min(5, size - 1)  # the first few are commonly control tokens
    return [first + (start - 5 + k) % (size - first) for k in range(n)]


def reads_padding(model: Model) -> bool:
    """Whether a classifier reads the padding behind a text (by convolutions, say), shown once on a text alone and padded."""
    import torch

    if model.reads_padding is None:
        end = model.tokenizer.eos_token_id
        behind = [] if end is None else [end]
        short, long = [*probing(model, 3), *behind], [*probing(model, 9), *behind]
        training, _ = model.forward.training, model.forward.eval()
        with torch.no_grad(), torch.autocast(model.device, enabled=False):
            said = []
            for texts in ([short], [short, long]):
                ids_BT, mask_BT = padded(texts, model)
                said.append(model.forward(input_ids=ids_BT, attention_mask=mask_BT).logits[0].float())
        model.forward.train(training)
        apart = float((said[0] - said[1]).abs().max())
        model.reads_padding = apart > 1e-4 * float(said[0].abs().max())
    return model.reads_padding
