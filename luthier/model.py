"""The only file that knows weights: load, save, forward at supervised positions, generate, classify, embed."""

from __future__ import annotations

import contextlib
import copy
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.errors import UserError
from luthier.store import hardware

if TYPE_CHECKING:
    import torch
    from torch import nn

Architecture = Literal["encoder", "decoder", "encoder-decoder"]
Purpose = Literal["text", "label"]
CARD = "model.json"
CHUNK = 128  # rows of logits held at a time
NO_SHARE = 1e-10  # of the probability: in all, the tokens below it have less than float32 can tell from none
PLAIN_HEADS = {"llama", "gemma", "gemma3_text", "qwen2", "qwen3", "mistral", "gpt2", "phi3", "smollm3", "olmo2"}
PACKABLE = PLAIN_HEADS - {"phi3", "smollm3", "olmo2"}  # each is tested: reset positions keep examples apart
LAYER = re.compile(r"\.(?:layers?|h|blocks?|block)\.(\d+)\.")


@dataclass
class Loaded:
    """A model with its tokenizer, ready to use."""

    model: nn.Module
    tokenizer: Any
    architecture: Architecture
    purpose: Purpose
    labels: list[str]
    device: str
    precision: str  # "float32" or "bfloat16" of the forward pass


def architecture_of(folder: Path) -> Architecture:
    """What a Hugging Face folder holds; raises UserError when it is no language model that Luthier can train."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    if not (folder / "config.json").is_file():
        raise UserError("has no config.json", where=str(folder), hint="give a Hugging Face model folder")
    try:
        written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as problem:
        raise UserError(
            f"config.json is not JSON ({problem})", where=str(folder), hint="fetch the model again"
        ) from None
    if "auto_map" in written:
        raise UserError(
            "needs code of its own to load (auto_map), which is never run from here", where=str(folder),
            hint="choose a model of an architecture that transformers knows",
        )  # fmt: skip
    if not list(folder.glob("*.safetensors")):
        pickles = [f.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for f in folder.glob(pattern)]
        found = f" (only {pickles[0]}, a pickle, which can run code when read)" if pickles else ""
        raise UserError(f"has no safetensors weights{found}", where=str(folder), hint="save it again with safetensors")
    kind = written.get("model_type", "")
    names = written.get("architectures") or [""]
    if kind in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES and written.get("is_encoder_decoder", True):
        return "encoder-decoder"
    causal = names[0].endswith(("ForCausalLM", "LMHeadModel")) and not names[0].startswith("Bert")
    if kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not causal:
        return "encoder"
    if kind in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "decoder"
    if kind:
        with contextlib.suppress(ValueError):
            AutoConfig.for_model(kind)
            raise UserError(
                f"holds a model of type '{kind}', which is neither a text encoder, decoder nor encoder-decoder",
                where=str(folder), hint="choose a language model",
            )  # fmt: skip
    raise UserError(
        f"model type '{kind}' is not known to transformers", where=str(folder), hint="see `luthier list bases`"
    )


def load(
    folder: Path, *, purpose: Purpose, labels: Sequence[str] = (), base: Path | None = None, device: str = "auto",
    precision: str = "auto", seed: int = 0,
) -> Loaded:  # fmt: skip
    """A model folder, or an adapter folder over `base`; a new classification head is drawn from `seed`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

    is_adapter = (folder / "adapter_config.json").exists()
    weights = base if is_adapter else folder
    if weights is None:
        raise UserError("is an adapter and needs its base model", where=str(folder))
    architecture = architecture_of(weights)
    if purpose == "text" and architecture == "encoder":
        raise UserError(
            "is an encoder, which cannot write text", where=str(weights),
            hint="use a decoder such as gemma-3-270m for this task, or an encoder for classify",
        )  # fmt: skip
    tokenizer = load_tokenizer(folder if (folder / "tokenizer_config.json").exists() else weights)
    options: dict[str, Any] = {"dtype": torch.float32, "local_files_only": True, "use_safetensors": True}
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(seed)
        if purpose == "label":
            numbered = dict(enumerate(labels))
            model = AutoModelForSequenceClassification.from_pretrained(
                weights,
                num_labels=len(labels),
                id2label=numbered,
                label2id={v: k for k, v in numbered.items()},
                **options,
            )
            model.config.pad_token_id = tokenizer.pad_token_id
        elif architecture == "decoder":
            model = AutoModelForCausalLM.from_pretrained(weights, **options)
        else:
            model = AutoModelForSeq2SeqLM.from_pretrained(weights, **options)
        if is_adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(folder))
    place = device_for(device)
    model = model.to(place).eval()
    return Loaded(model, tokenizer, architecture, purpose, list(labels), place, precision_for(precision, place))


def load_trained(folder: Path, base: Path, *, device: str = "auto", precision: str = "auto") -> Loaded:
    """What the stage train wrote: a whole model, or an adapter over `base`; labels come from its model.json."""
    card = read_card(folder)
    return load(
        folder, purpose=card["purpose"], labels=card["labels"], base=base, device=device, precision=precision
    )  # fmt: skip


def read_card(folder: Path) -> dict[str, Any]:
    """model.json of a model folder that Luthier wrote."""
    card: dict[str, Any] = json.loads((folder / CARD).read_text(encoding="utf-8"))
    return card


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer, with a padding token (the end token where the model has none)."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as problem:
        raise UserError(
            f"has no usable tokenizer ({str(problem).splitlines()[0]})",
            where=str(folder),
            hint="add its tokenizer files",
        ) from None
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def save(loaded: Loaded, folder: Path, *, base_name: str, extra: dict[str, Any]) -> None:
    """A Hugging Face folder, or an adapter as peft writes it, with tokenizer and model.json; no machine path in it."""
    folder.mkdir(parents=True, exist_ok=True)
    with quiet():
        loaded.model.save_pretrained(str(folder))
        loaded.tokenizer.save_pretrained(str(folder))
    adapter = folder / "adapter_config.json"
    if adapter.exists():
        config = json.loads(adapter.read_text())
        config["base_model_name_or_path"] = base_name
        adapter.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
        (folder / "README.md").unlink(missing_ok=True)  # peft's template; the model card is written from evidence
    card = {
        "architecture": loaded.architecture,
        "purpose": loaded.purpose,
        "labels": loaded.labels,
        "base": base_name,
        **extra,
    }
    (folder / CARD).write_text(json.dumps(card, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def merged(loaded: Loaded) -> nn.Module:
    """A plain transformers model with the adapter folded into the weights; the given model is left as it was."""
    if not is_adapted(loaded.model):
        return loaded.model
    return copy.deepcopy(loaded.model).merge_and_unload()


def is_adapted(model: nn.Module) -> bool:
    """Whether peft wraps the model."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def device_for(device: str) -> str:
    """`auto` resolved to cuda, mps or cpu; raises UserError where the machine has no such device."""
    import torch

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, found in there.items() if found)
    if not there[device]:
        raise UserError(
            f"this machine has no {device} that torch {torch.__version__} can use", where="device",
            hint="write `device: auto`, or install a torch made for it",
        )  # fmt: skip
    return device


def precision_for(precision: str, device: str) -> str:
    """`auto` resolved: bfloat16 where it is computed natively (on others it is up to 50 times slower), else float32."""
    import torch

    if precision != "auto":
        return precision
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    native = hardware()["processor"].endswith(("amx_bf16", "avx512_bf16"))
    return "bfloat16" if device == "cpu" and native else "float32"


def autocast(loaded: Loaded) -> contextlib.AbstractContextManager[Any]:
    """The context of a forward pass in the chosen precision."""
    import torch

    if loaded.precision == "float32":
        return contextlib.nullcontext()
    context: contextlib.AbstractContextManager[Any] = torch.autocast(loaded.device, torch.bfloat16)
    return context


def layer_of(name: str) -> int | None:
    """Number of the transformer block that a parameter name belongs to, or None."""
    found = LAYER.search(f".{name}")
    return int(found.group(1)) if found else None


def n_layers(model: nn.Module) -> int:
    """Number of transformer blocks."""
    return 1 + max((layer for name, _ in model.named_parameters() if (layer := layer_of(name)) is not None), default=-1)


def purpose_of(model: nn.Module) -> str:
    """peft's task type for a model."""
    name = type(model).__name__
    if name.endswith("ForSequenceClassification"):
        return "SEQ_CLS"
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


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
            yield
    finally:
        logging.set_verbosity(level)


def token_losses(loaded: Loaded, positions_S: torch.Tensor, wanted_S: torch.Tensor, **inputs: Any) -> torch.Tensor:
    """Cross-entropy (S,) in nats of the tokens `wanted_S` at flat `positions_S` of (B*T,), head computed there alone.

    The head costs vocabulary x hidden for each position, more than a third of a small model's work, and prompts carry
    no loss. Where the head is a frozen plain matrix, losses and their gradient are computed chunk by chunk and the
    logits are never kept; elsewhere the logits (1, S, V) are. Both go through the model's own forward, so that
    whatever wraps it runs.
    """
    import torch

    head = loaded.model.get_output_embeddings()
    if (
        type(head) is torch.nn.Linear
        and not head.weight.requires_grad
        and loaded.model.config.model_type in PLAIN_HEADS
    ):
        with head_replaced(head, lambda hidden_BTD: hidden_BTD.reshape(-1, hidden_BTD.shape[-1])[positions_S]):
            hidden_SD = loaded.model(**inputs, use_cache=False).logits
        return chunked_cross_entropy(hidden_SD, head.weight, wanted_S)

    def at_positions(hidden_BTD: torch.Tensor) -> torch.Tensor:
        return forward(hidden_BTD.reshape(-1, hidden_BTD.shape[-1])[positions_S][None])

    forward = head.forward
    with head_replaced(head, at_positions):
        logits_SV = loaded.model(**inputs, use_cache=False).logits[0]
    return torch.nn.functional.cross_entropy(logits_SV.float(), wanted_S, reduction="none")


def packs(loaded: Loaded) -> bool:
    """Whether examples can be computed end to end in one row, kept apart by positions that begin again."""
    return loaded.architecture == "decoder" and loaded.purpose == "text" and loaded.model.config.model_type in PACKABLE


@contextlib.contextmanager
def head_replaced(head: nn.Module, forward: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Let the output head compute something else for one forward pass."""
    head.forward = forward
    try:
        yield
    finally:
        del head.forward  # the class's own forward shows again


@contextlib.contextmanager
def tall_head(loaded: Loaded) -> Iterator[None]:
    """Compute the output head as `weight @ hidden.T`, which is up to 40 % faster on CPUs for a few rows."""
    import torch

    head = loaded.model.get_output_embeddings()
    if (
        type(head) is not torch.nn.Linear
        or head.bias is not None
        or loaded.device != "cpu"
        or loaded.precision != "float32"
    ):
        yield
        return
    weight_VD = head.weight
    with head_replaced(head, lambda hidden: (weight_VD @ hidden.flatten(0, -2).T).T.unflatten(0, hidden.shape[:-1])):
        yield


def chunked_cross_entropy(hidden_SD: torch.Tensor, weight_VD: torch.Tensor, wanted_S: torch.Tensor) -> torch.Tensor:
    """Cross-entropy (S,) of `hidden @ weight.T` against `wanted`, 128 rows of logits at a time.

    Each chunk's gradient with respect to the hidden states, (softmax - one hot) @ weight, is computed while its logits
    are at hand, so memory is 128 x V whatever S is. The weights get no gradient: they must be frozen. Once a model is
    sure of itself, most tokens have no share in any row; when three in four have less than NO_SHARE, their part of the
    gradient is left out (arXiv:2411.09009 leaves out shares below 2^-12). The loss is always over all tokens.
    """
    import torch

    class ChunkedCrossEntropy(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, hidden: torch.Tensor) -> torch.Tensor:
            losses = torch.empty(len(hidden), device=hidden.device)
            wants_gradient = ctx.needs_input_grad[0]
            gradients = torch.empty_like(hidden) if wants_gradient else None
            kind = hidden.dtype
            matrix = weight_VD.to(kind)
            for start in range(0, len(hidden), CHUNK):
                rows = slice(start, min(start + CHUNK, len(hidden)))
                # (V, rows): a tall result is a third faster than a wide one on CPUs
                exact_VS = (matrix @ hidden[rows].T).float()  # in float32 no copy: all below is done in place
                target = wanted_S[None, rows]
                wanted_logits = exact_VS.gather(0, target)
                highest = exact_VS.amax(dim=0, keepdim=True)
                shares_VS = exact_VS.sub_(highest).exp_()
                total = shares_VS.sum(dim=0, keepdim=True)
                losses[rows] = (total.log() + highest - wanted_logits)[0]
                if gradients is not None:
                    counts_V = shares_VS.div_(total).amax(dim=1) > NO_SHARE
                    counts_V[target[0]] = True
                    shares_VS.scatter_add_(0, target, torch.full_like(total, -1.0))
                    counted = counts_V.nonzero()[:, 0]
                    if 4 * len(counted) < len(matrix):
                        gradients[rows] = (matrix[counted].T @ shares_VS[counted].to(kind)).T
                    else:
                        gradients[rows] = (matrix.T @ shares_VS.to(kind)).T
            if gradients is not None:
                ctx.save_for_backward(gradients)
            return losses

        @staticmethod
        def backward(ctx: Any, *upstream: torch.Tensor) -> torch.Tensor:
            (gradients,) = ctx.saved_tensors
            return gradients * upstream[0][:, None].to(gradients.dtype)

    with torch.autocast(hidden_SD.device.type, enabled=False):
        return ChunkedCrossEntropy.apply(hidden_SD)


@dataclass
class Written:
    """What the model wrote for one prompt."""

    tokens: list[int]  # without the stop token
    logprobs: list[float]  # of each token and of the stop token, nats
    finished: bool  # whether a stop token came before the limit


def generate(
    loaded: Loaded, prompts: Sequence[list[int]], *, max_new_tokens: int, stop: set[int], batch: int = 32,
    prefix: Sequence[int] = (), tell: Callable[[int], None] = lambda done: None,
) -> list[Written]:  # fmt: skip
    """Greedy answers. Prompts are sorted by length and answered in batches with a key-value cache.

    `prefix` stands before every prompt and is computed once. `tell` hears how many are done. Rows that have stopped
    leave the batch, so a long answer does not keep the short ones busy.
    """
    import torch

    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    written: list[Written] = [Written([], [], False) for _ in prompts]
    done = 0
    with torch.inference_mode(), autocast(loaded), tall_head(loaded):
        longest = len(prefix) + max(map(len, prompts), default=0) + max_new_tokens
        shared = _prefix_cache(loaded, prefix) if prefix and _may_share(loaded, longest) else None
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            texts = [prompts[row] if shared is not None else [*prefix, *prompts[row]] for row in rows]
            state = (
                _seq2seq_state(loaded, texts)
                if loaded.architecture == "encoder-decoder"
                else _decoder_state(loaded, texts, shared)
            )
            _extend(loaded, state, [written[row] for row in rows], max_new_tokens, stop)
            done += len(rows)
            tell(done)
    return written


@dataclass
class _Generating:
    """The state of one batch: what the next forward needs."""

    logits: torch.Tensor  # (B, V) of the position to be written
    cache: Any
    mask: torch.Tensor  # (B, T) attention mask over everything so far
    position: torch.Tensor | None  # (B,) next position of each row
    encoded: Any = None  # encoder output and its mask, for encoder-decoders


def _may_share(loaded: Loaded, longest: int) -> bool:
    """A prefix is shared by decoders; not where texts outgrow a sliding window, since padding after it takes up room."""
    window = loaded.model.config.to_dict().get("sliding_window")
    return loaded.architecture == "decoder" and (window is None or longest <= window)


def _prefix_cache(loaded: Loaded, prefix: Sequence[int]) -> Any:
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=loaded.model.config)
    ids = torch.tensor([list(prefix)], device=loaded.device)
    loaded.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
    return cache


def _decoder_state(loaded: Loaded, texts: list[list[int]], shared: Any) -> _Generating:
    import torch
    from transformers import DynamicCache

    cache = copy.deepcopy(shared) if shared is not None else DynamicCache(config=loaded.model.config)
    length = cache.get_seq_length() if shared is not None else 0
    if shared is not None:
        cache.batch_repeat_interleave(len(texts))
    width = max(len(text) for text in texts)
    pad = loaded.tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (width - len(text)) + text for text in texts], device=loaded.device)
    own = torch.tensor([[0] * (width - len(text)) + [1] * len(text) for text in texts], device=loaded.device)
    mask = torch.cat([torch.ones(len(texts), length, dtype=own.dtype, device=loaded.device), own], dim=1)
    positions = (length + own.cumsum(1) - 1).clamp(min=0)
    outputs = loaded.model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    return _Generating(outputs.logits[:, -1].float(), cache, mask, positions[:, -1] + 1)


def _seq2seq_state(loaded: Loaded, texts: list[list[int]]) -> _Generating:
    import torch
    from transformers import DynamicCache, EncoderDecoderCache

    width = max(len(text) for text in texts)
    pad = loaded.tokenizer.pad_token_id
    ids = torch.tensor([text + [pad] * (width - len(text)) for text in texts], device=loaded.device)
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=loaded.device)
    plain = loaded.model.get_base_model() if is_adapted(loaded.model) else loaded.model
    encoded = plain.get_encoder()(input_ids=ids, attention_mask=mask)
    config = loaded.model.config
    cache = EncoderDecoderCache(DynamicCache(config=config), DynamicCache(config=config))
    start = torch.full((len(texts), 1), config.decoder_start_token_id, device=loaded.device)
    outputs = loaded.model(
        encoder_outputs=encoded, attention_mask=mask, decoder_input_ids=start, past_key_values=cache, use_cache=True
    )
    return _Generating(outputs.logits[:, -1].float(), cache, mask, None, encoded)


def _extend(loaded: Loaded, state: _Generating, rows: list[Written], limit: int, stop: set[int]) -> None:
    import torch

    alive = list(range(len(rows)))
    for step in range(limit + 1):
        highest, tokens = state.logits.max(dim=-1)
        logprobs = highest - state.logits.logsumexp(dim=-1)
        keep = []
        for place, (row, token, logprob) in enumerate(zip(alive, tokens.tolist(), logprobs.tolist(), strict=True)):
            if token in stop:
                rows[row].finished = True
                rows[row].logprobs.append(logprob)
            elif step < limit:
                rows[row].tokens.append(token)
                rows[row].logprobs.append(logprob)
                keep.append(place)
        if not keep or step == limit:
            return
        if len(keep) < len(alive):
            kept = torch.tensor(keep, device=loaded.device)
            alive = [alive[place] for place in keep]
            tokens = tokens[kept]
            state.cache.batch_select_indices(kept)
            state.mask = state.mask[kept]
            if state.position is not None:
                state.position = state.position[kept]
            else:
                state.encoded.last_hidden_state = state.encoded.last_hidden_state[kept]
        if state.position is None:
            outputs = loaded.model(
                encoder_outputs=state.encoded, attention_mask=state.mask, decoder_input_ids=tokens[:, None],
                past_key_values=state.cache, use_cache=True,
            )  # fmt: skip
        else:
            state.mask = torch.cat([state.mask, state.mask.new_ones(len(keep), 1)], dim=1)
            outputs = loaded.model(
                input_ids=tokens[:, None], attention_mask=state.mask, position_ids=state.position[:, None],
                past_key_values=state.cache, use_cache=True,
            )  # fmt: skip
            state.position = state.position + 1
        state.logits = outputs.logits[:, -1].float()


def classify(
    loaded: Loaded, texts: Sequence[list[int]], *, batch: int = 64, tell: Callable[[int], None] = lambda done: None
) -> torch.Tensor:
    """Class probabilities (N, C), in the order of `texts`."""
    import torch

    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    probabilities = torch.zeros(len(texts), len(loaded.labels))
    with torch.inference_mode(), autocast(loaded):
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            ids, mask = padded([texts[row] for row in rows], loaded)
            logits = loaded.model(input_ids=ids, attention_mask=mask).logits.float()
            probabilities[rows] = logits.softmax(-1).cpu()
            tell(start + len(rows))
    return probabilities


def embed(loaded: Loaded, texts: Sequence[list[int]], *, batch: int = 64) -> torch.Tensor:
    """Mean of the last hidden states, of unit length, (N, D): how sentence encoders are commonly read."""
    import torch

    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    body = loaded.model.base_model
    found: torch.Tensor | None = None
    with torch.inference_mode(), autocast(loaded):
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            ids, mask = padded([texts[row] for row in rows], loaded)
            hidden_BTD = body(input_ids=ids, attention_mask=mask).last_hidden_state.float()
            mean_BD = (hidden_BTD * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            if found is None:
                found = torch.zeros(len(texts), mean_BD.shape[1])
            found[rows] = torch.nn.functional.normalize(mean_BD, dim=-1).cpu()
    return found if found is not None else torch.zeros(0, 1)


def padded(texts: Sequence[list[int]], loaded: Loaded) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and mask (B, T), padded on the right."""
    import torch

    width, pad = max(len(text) for text in texts), loaded.tokenizer.pad_token_id
    ids = torch.tensor([text + [pad] * (width - len(text)) for text in texts], device=loaded.device)
    mask = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts], device=loaded.device)
    return ids, mask
