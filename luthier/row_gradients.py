"""The norm of each row's own gradient, from one forward and one backward pass over a whole batch.

A module that holds weights is watched: with what it read and the gradient of what it gave, the gradient of its weights
follows for each row apart (Goodfellow 2015, arXiv 1510.01799; Lee and Kifer 2021). Nothing of it is kept but its norm, module by
module, so that a batch of B rows never needs B gradients of the whole model. What no rule here fits (a weight that is used in
several ways, a module that does not keep rows apart) is computed row by row instead, which is exact for every model.

B rows, T tokens, I and O features, P parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional

Parameters = dict[str, nn.Parameter]
HOLDERS = (nn.ParameterDict, nn.ParameterList)  # of parameters that the module around them computes with
MOST = 2**27  # numbers of one weight's gradients for all rows at once (512 MB); above it rows are computed one by one
LIKE = 1e-3  # relative difference of norms up to which the two ways are the same


class CannotSplit(Exception):
    """No rule here gives the gradients of rows apart; its message says of what."""


class MixesRows(Exception):
    """What is computed for one row depends on others in the batch."""


@dataclass
class Use:
    """A module that computed with its weights, once."""

    module: nn.Module
    weights: Parameters  # those of them that train, by the name that they have in it
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: torch.Tensor


class Watched:
    """A model whose modules that hold `parameters` are watched while `on`."""

    def __init__(self, model: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.uses: list[Use] = []
        self.on = False
        self.rows: int | None = None
        self.read: set[int] = set()  # memory of what a forward pass was given
        self._hooks = [model.register_forward_pre_hook(self._count, with_kwargs=True)]
        wanted = {id(parameter) for parameter in parameters}
        for module in model.modules():
            weights = {name: p for name, p in held(module) if id(p) in wanted}
            if weights:
                hook = self._hook(weights)
                self._hooks.append(module.register_forward_hook(hook, with_kwargs=True))
                if isinstance(module, nn.Embedding):
                    self._hooks.append(module.register_forward_pre_hook(self._for_each_row))

    def _count(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = kwargs.get("input_ids")
        self.rows = len(ids) if ids is not None else None
        self.read = {memory(each) for each in (*args, *kwargs.values()) if isinstance(each, torch.Tensor)}

    def _for_each_row(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Positions (1, T) that all rows share are looked up for each, or their gradients would be one."""
        (ids, *rest) = args
        if self.on and self.rows and ids.ndim == 2 and len(ids) == 1 < self.rows:
            return (ids.expand(self.rows, -1), *rest)
        return None

    def _hook(self, weights: Parameters) -> Callable[..., None]:
        def remember(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            if self.on and torch.is_grad_enabled():
                self.uses.append(Use(module, weights, args, kwargs, output))

        return remember

    def forget(self) -> None:
        """Let go of a forward pass."""
        self.uses.clear()

    def remove(self) -> None:
        """Watch no more."""
        self.forget()
        for hook in self._hooks:
            hook.remove()

    def norms(self, losses_B: torch.Tensor) -> torch.Tensor:
        """The norm (B,) of the gradient of each row's loss, of the last forward pass; its graph is kept. CannotSplit."""
        n, uses = len(losses_B), list(self.uses)  # blocks that are computed again in the backward pass are used again
        for use in uses:
            if not isinstance(use.output, torch.Tensor) or len(use.output) != n:
                raise CannotSplit(f"what {type(use.module).__name__} gives has no row for each example")
        outputs = [use.output for use in uses]
        found = torch.autograd.grad(losses_B.sum(), outputs, retain_graph=True, allow_unused=True)
        of_weight: dict[int, list[tuple[Use, str, torch.Tensor]]] = {}
        for use, gradient in zip(uses, found, strict=True):
            for name, weight in use.weights.items():
                if gradient is not None:
                    of_weight.setdefault(id(weight), []).append((use, name, gradient))
        was, self.on = self.on, False  # modules are called again below
        try:
            with torch.no_grad():
                squares_B = sum(
                    (squared_norms(each, n) for each in of_weight.values()),
                    torch.zeros(n, dtype=torch.float64, device=losses_B.device),
                )
        finally:
            self.on = was
        return squares_B.sqrt()

    def exact_norms(self, losses_B: torch.Tensor) -> torch.Tensor:
        """The same by a backward pass for each row. MixesRows where a row's loss depends on what other rows gave."""
        # a table of positions is read by all rows alike, and may have as many lines as there are rows
        apart = [use for use in self.uses if type(use.module) is not nn.Embedding or memory(use.args[0]) in self.read]
        outputs = [use.output for use in apart if len(use.output) == len(losses_B)]
        norms = []
        for row in range(len(losses_B)):
            wanted = [*self.parameters, *outputs]
            found = torch.autograd.grad(losses_B[row], wanted, retain_graph=True, allow_unused=True)
            others = [g for g in found[len(self.parameters) :] if g is not None]
            if any(bool(part.any()) for g in others for part in (g[:row], g[row + 1 :])):
                raise MixesRows
            norms.append(norm(found[: len(self.parameters)]))
        return torch.stack(norms)

    def agrees(self, losses_B: torch.Tensor) -> str:
        """Why rows are to be computed one by one; nothing where both ways give the same norms for this batch. MixesRows."""
        exact_B = self.exact_norms(losses_B)
        try:
            apart = (self.norms(losses_B) - exact_B).abs().max()
        except CannotSplit as why:
            return str(why)
        return "" if float(apart) <= LIKE * float(exact_B.max()) else "the quick way gives other norms"


def memory(tensor: torch.Tensor) -> int:
    """Where a tensor's numbers lie, whatever its shape."""
    return int(tensor.untyped_storage().data_ptr())


def held(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The parameters that a module computes with itself, by name: its own, and those in its dicts and lists of them."""
    if isinstance(module, HOLDERS):
        return
    yield from module.named_parameters(recurse=False, remove_duplicate=False)
    for name, child in module.named_children():
        if isinstance(child, HOLDERS):
            yield from ((f"{name}.{inner}", parameter) for inner, parameter in child.named_parameters())


def norm(gradients: Sequence[torch.Tensor | None]) -> torch.Tensor:
    """The norm of all gradients together, summed in double precision."""
    found = [gradient for gradient in gradients if gradient is not None]
    squares = [gradient.double().square().sum() for gradient in found]
    return torch.stack(squares).sum().sqrt() if squares else torch.zeros((), dtype=torch.float64)


def squared_norms(uses: Sequence[tuple[Use, str, torch.Tensor]], n: int) -> torch.Tensor:
    """The squared norm (B,) of each row's gradient of one weight, from all its uses (use, name in it, gradient of output)."""
    tables = [use.module for use, _, _ in uses if type(use.module) is nn.Embedding]
    if len(tables) == len(uses):
        return of_table([(use, gradient) for use, _, gradient in uses], n)
    (use, name, gradient), *further = uses
    if not further and type(use.module) is nn.Linear and name == "weight":
        read, n_tokens = use.args[0], gradient[0].numel() // gradient.shape[-1]
        if read.shape[:-1] == gradient.shape[:-1] and n_tokens**2 < use.weights[name].numel():
            return of_linear(read.reshape(n, -1, read.shape[-1]), gradient.reshape(n, -1, gradient.shape[-1]))
    rows_BP = sum(of_rows(use, name, gradient, n) for use, name, gradient in uses)
    return squares(rows_BP)


def squares(rows_BP: torch.Tensor | int) -> torch.Tensor:
    """Squared norms (B,)."""
    assert isinstance(rows_BP, torch.Tensor)
    return rows_BP.reshape(len(rows_BP), -1).square().sum(dim=1, dtype=torch.float64)


def of_table(uses: Sequence[tuple[Use, torch.Tensor]], n: int) -> torch.Tensor:
    """Of an embedding table: a row's gradient is zero but for the tokens that stand in it."""
    first = uses[0][0].module
    assert isinstance(first, nn.Embedding)
    if first.max_norm is not None or first.scale_grad_by_freq:
        raise CannotSplit("an embedding table changes by what is read of it")
    ids_BT = torch.cat([use.args[0].reshape(n, -1) for use, _ in uses], dim=1)
    gradients_BTO = torch.cat([gradient.reshape(n, -1, gradient.shape[-1]) for _, gradient in uses], dim=1)
    if n * ids_BT.shape[1] ** 2 > MOST:
        raise CannotSplit("a text is too long")
    if first.padding_idx is not None:
        gradients_BTO = gradients_BTO * (ids_BT != first.padding_idx)[..., None]
    same_BTT = ids_BT[:, :, None] == ids_BT[:, None, :]
    return (same_BTT * products(gradients_BTO)).sum(dim=(1, 2)).clamp(min=0)


def products(x_BTO: torch.Tensor) -> torch.Tensor:
    """Inner products (B, T, T) of the tokens of each row, in double precision: what is summed of them may cancel."""
    exact = x_BTO.double()
    return exact @ exact.transpose(1, 2)


def of_linear(read_BTI: torch.Tensor, given_BTO: torch.Tensor) -> torch.Tensor:
    """Squared norms (B,) of a linear module's gradients sum_t given_t read_t^T without making them: the tokens' inner
    products are fewer numbers where texts are short (Li et al. 2022, arXiv 2110.05679, section 4)."""
    return (products(read_BTI) * products(given_BTO)).sum(dim=(1, 2)).clamp(min=0)


def of_rows(use: Use, name: str, gradient: torch.Tensor, n: int) -> torch.Tensor:
    """Each row's gradient (B, ...) of a weight from one use of it."""
    weight, module = use.weights[name], use.module
    if n * weight.numel() > MOST:
        raise CannotSplit(f"{type(module).__name__} is too large")
    if type(module) is nn.Linear:
        read = use.args[0]
        if read.shape[:-1] != gradient.shape[:-1]:
            raise CannotSplit("a linear module is computed at some positions alone")
        given_BTO = gradient.reshape(n, -1, gradient.shape[-1])
        if name == "bias":
            return given_BTO.sum(dim=1)
        return given_BTO.transpose(1, 2) @ read.reshape(n, -1, read.shape[-1])
    if type(module) is nn.Embedding:  # beside another use of the same weight, such as a tied output head
        hot_BTV = functional.one_hot(use.args[0].reshape(n, -1), len(weight)).to(gradient.dtype)
        if module.padding_idx is not None:
            hot_BTV[..., module.padding_idx] = 0
        if hot_BTV.numel() > MOST:
            raise CannotSplit("an embedding table is too large")
        return hot_BTV.transpose(1, 2) @ gradient.reshape(n, -1, gradient.shape[-1])
    return by_differentiating(use, name, gradient, n)


def by_differentiating(use: Use, name: str, gradient: torch.Tensor, n: int) -> torch.Tensor:
    """The same for any module that keeps rows apart, by computing it again for each row; CannotSplit where it does not."""
    flat, names = [*use.args, *use.kwargs.values()], list(use.kwargs)
    by_row = [isinstance(each, torch.Tensor) and each.ndim > 0 and len(each) == n for each in flat]
    if not any(by_row):
        raise CannotSplit(f"{type(use.module).__name__} reads nothing by rows")
    values = [each.detach() for each, own in zip(flat, by_row, strict=True) if own]

    def of_one(given: torch.Tensor, *own: torch.Tensor) -> torch.Tensor:
        rest = iter(own)
        inputs = [next(rest)[None] if row else each for each, row in zip(flat, by_row, strict=True)]
        args, kwargs = inputs[: len(use.args)], dict(zip(names, inputs[len(use.args) :], strict=True))

        def compute(weight: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = functional_call(use.module, {name: weight}, tuple(args), kwargs)
            return found[0]

        _, back = vjp(compute, use.weights[name].detach())
        (found,) = back(given)
        assert isinstance(found, torch.Tensor)
        return found

    try:
        with torch.enable_grad():
            found: torch.Tensor = vmap(of_one)(gradient, *values)
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as why:
        raise CannotSplit(f"{type(use.module).__name__} does not compute rows apart") from why
    return found
