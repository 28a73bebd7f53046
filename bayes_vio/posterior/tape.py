"""A computation recorded once as its bare operations, and replayed on memory laid out beforehand.

Where an operation takes microseconds, what surrounds it takes as long: modules and hooks, autograd
and vmap, a thousand views, memory asked for and given back. A tape keeps none of it. Operations
are recorded below autograd, every operand as a place in a storage, so that views cost nothing;
what depends on no input is computed once; results are written in place; storages whose last
reader is done are used again while they are in the cache.

That is right only where neither shapes nor the choice of operations depend on values: operations
that tell the host a value, have shapes by values, or draw numbers are refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from bayes_vio.curvature.inputs import map_tensors, tensors

_REFUSED = (
    torch.Tag.data_dependent_output,
    torch.Tag.dynamic_output_shape,
    torch.Tag.nondeterministic_seeded,
)
# Where torch keeps those of its functions that torch.nn.functional calls.
_NN = getattr(torch._C, "_nn")  # noqa: B009
# A free storage is used again for one of at least this share of its size.
_LEAST_FILL = 0.5
# Of one operation, and of all: what another order of a sum changes in float32 stays below.
_ROUNDING, _ROUNDING_OF_ALL = 1e-5, 1e-4
# By how much the input is changed on which a new tape is held against its function.
_CHANGE = 1 / 64


class StaticInput:
    """An input whose tensors keep their place: every new one is copied into them."""

    def __init__(self, example: Any):
        self.value = map_tensors(example, lambda t: t.clone())

    def fill(self, x: Any) -> None:
        """Copy an input into place, without waiting where it comes from pinned memory.

        Raises ValueError where a shape or dtype is not the example's.
        """
        own, new = list(tensors(self.value)), list(tensors(x))
        described = [[(tuple(t.shape), t.dtype) for t in ts] for ts in (own, new)]
        if described[0] != described[1]:
            raise ValueError(
                f"a captured prediction takes inputs of {described[0]}, not of {described[1]}: "
                "capture another one for these"
            )
        for place, t in zip(own, new, strict=True):
            place.copy_(t, non_blocking=True)


class Tape:
    """A function of one input (see ``curvature.inputs``), recorded; not for several threads.

    Replaying gives the function's values for inputs of the example's shapes: the operations are
    the same, though where memory lies may decide in which order a library adds.
    """

    def __init__(self, function: Callable[[Any], Any], example: Any):
        """Record the function, and try the tape on another input.

        Raises ValueError for a function that cannot be recorded, that changes what is not its
        own, or whose values the tape does not give.
        """
        self._input = StaticInput(map_tensors(example, lambda t: t.detach()))
        with _Recording() as recording:
            outputs = function(self._input.value)
        inputs = {_storage(t) for t in tensors(self._input.value)}
        steps = _to_replay(recording.steps, inputs, {_storage(t) for t in tensors(outputs)})
        layout = _Layout(steps, {_storage(t) for t in tensors(outputs)})
        with torch.no_grad():
            self._program = [_bound(step, layout.place) for step in steps]
        self._output = map_tensors(outputs, layout.place)
        self._check(function)

    def __len__(self) -> int:
        return len(self._program)

    def __call__(self, x: Any) -> Any:
        """Return the function's value, in memory of the caller's own."""
        with torch.inference_mode():
            self._input.fill(x)
            for operation, args, kwargs in self._program:
                operation(*args, **kwargs)
        return map_tensors(self._output, lambda t: t.clone())

    def _check(self, function: Callable[[Any], Any]) -> None:
        other = map_tensors(
            self._input.value, lambda t: t * (1 + _CHANGE) if t.is_floating_point() else t.clone()
        )
        found, expected = list(tensors(self(other))), list(tensors(function(other)))
        if not _same(found, expected, _ROUNDING_OF_ALL):
            raise ValueError("this computation goes another way on other inputs: call it as it is")


@dataclass(frozen=True)
class _Step:
    """An operation, its arguments, and the tensors that it returned."""

    operation: OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: tuple[Tensor, ...]

    @property
    def name(self) -> str:
        return self.operation._schema.name.removeprefix("aten::")

    @property
    def mutates(self) -> bool:
        """Whether it writes into an argument."""
        return self.operation._schema.is_mutable

    @property
    def reads(self) -> set[int]:
        """Return the storages whose values it needs: of a tensor to be like, only the shape."""
        if self.name.endswith("_like") or self.name.startswith("new_"):
            return set()
        return {_storage(t) for t in _leaves((self.args, self.kwargs))}

    @property
    def writes(self) -> set[int]:
        """Return the storages that it writes."""
        return {_storage(t) for t in (self.written if self.mutates else self.outputs)}

    @property
    def written(self) -> list[Tensor]:
        """Return the arguments that it writes into."""
        schema = self.operation._schema.arguments
        given = dict(zip([a.name for a in schema], self.args, strict=False)) | self.kwargs
        return _leaves([given[a.name] for a in schema if a.is_write and a.name in given])


class _Recording(TorchDispatchMode):
    """Keep every operation that computes; a view only gives another name to a storage."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the first operation imports torch's compiler, half a second

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[_Step] = []
        # Storages are told apart by their addresses: none may be given back meanwhile.
        self._alive: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        _check_recordable(func, args)
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        self._alive.append((args, kwargs, result))
        step = _Step(func, args, kwargs, tuple(_leaves(result)))
        known = {_storage(t) for t in _leaves((args, kwargs))}
        if step.mutates or not step.writes <= known:
            self.steps.append(step)
        return result


def _check_recordable(operation: OpOverload, args: Sequence[Any]) -> None:
    tags = [tag.name for tag in _REFUSED if tag in operation.tags]
    # An index makes a shape only where it is a mask.
    if operation is torch.ops.aten.index.Tensor:
        tags = tags if any(t.dtype == torch.bool for t in _leaves(args[1])) else []
    if tags:
        raise ValueError(
            f"{operation.name()} cannot be recorded on a tape ({tags[0]}): what it gives must "
            "follow from the input, in a shape known before"
        )


def _storage(t: Tensor) -> int:
    return t.untyped_storage().data_ptr()


def _leaves(tree: Any) -> list[Tensor]:
    found: list[Tensor] = []
    _mapped(tree, lambda t: found.append(t) or t)
    return found


def _mapped(tree: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Apply a function to every tensor of an operation's arguments."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, tuple | list):
        return type(tree)([_mapped(value, function) for value in tree])
    if isinstance(tree, dict):
        return {name: _mapped(value, function) for name, value in tree.items()}
    return tree


def _to_replay(steps: Sequence[_Step], inputs: set[int], outputs: set[int]) -> list[_Step]:
    """Return the steps that inputs vary and on which outputs depend.

    What is written into later on is made anew every time, whether it varies or not.
    """
    made = {storage for step in steps if not step.mutates for storage in step.writes}
    written = {storage for step in steps if step.mutates for storage in step.writes}
    for step in steps:
        if step.mutates and step.writes - made - inputs:
            raise ValueError(
                f"{step.operation.name()} writes into a tensor that was there before: a function "
                "that changes parameters or buffers cannot be recorded on a tape"
            )
    varying, replayed = inputs | written, []
    for step in steps:
        if (step.reads | step.writes) & varying:
            varying |= step.writes
            replayed.append(step)
    needed, found = set(outputs), []
    for step in reversed(replayed):
        if step.writes & needed:
            needed |= step.reads
            found.append(step)
    return found[::-1]


class _Layout:
    """Where every tensor of a recording lies in the replay.

    Inputs and constants stay where they are. What steps make shares storages, each given on when
    its last reader is done.
    """

    def __init__(self, steps: Sequence[_Step], outputs: set[int]):
        self._places: dict[int, torch.UntypedStorage] = {}
        last_use = {s: k for k, step in enumerate(steps) for s in step.reads | step.writes}
        free: list[torch.UntypedStorage] = []
        for k, step in enumerate(steps):
            for t in () if step.mutates else step.outputs:
                if _storage(t) not in self._places:
                    self._places[_storage(t)] = _take(t.untyped_storage().nbytes(), free)
            done = {s for s in step.reads | step.writes if last_use[s] == k} - outputs
            free += [self._places[s] for s in done & self._places.keys()]

    def place(self, t: Tensor) -> Tensor:
        """Return the tensor of the replay that stands for a recorded one."""
        storage = self._places.get(_storage(t))
        if storage is None:
            return t.detach()
        place = torch.empty(0, dtype=t.dtype, device=t.device)
        return place.set_(storage, t.storage_offset(), t.shape, t.stride())  # pyright: ignore


def _take(n_bytes: int, free: list[torch.UntypedStorage]) -> torch.UntypedStorage:
    """Take the smallest free storage that fits, or make one."""
    fitting = [s for s in free if _LEAST_FILL * s.nbytes() <= n_bytes <= s.nbytes()]
    if not fitting:
        return torch.UntypedStorage(n_bytes)
    best = min(fitting, key=lambda s: s.nbytes())
    free.remove(best)
    return best


_Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]


def _bound(step: _Step, place: Callable[[Tensor], Tensor]) -> _Call:
    """Return the call that does a step where it belongs: the fastest that gives the same.

    Steps are bound in turn, so that each is tried on what lies in place by then.
    """
    args, kwargs = _mapped((step.args, step.kwargs), place)
    if step.mutates:
        return _changing(step, args, kwargs), args, kwargs
    expected = _leaves(step.operation(*args, **kwargs))
    outputs = [place(t) for t in step.outputs]
    for operation, extra in _writing(step, outputs):
        try:
            operation(*args, **kwargs, **extra)
        except (TypeError, RuntimeError, ValueError):
            continue  # another signature
        if _same(outputs, expected):
            return operation, args, kwargs | extra
    copying = _Copying(step.operation, outputs)
    copying(*args, **kwargs)
    return copying, args, kwargs


def _same(
    found: Sequence[Tensor], expected: Sequence[Tensor], rounding: float = _ROUNDING
) -> bool:
    """Return whether tensors are equal, but for rounding beside the largest of their numbers."""
    return all(
        _distance(a, b) <= rounding * _largest(b) for a, b in zip(found, expected, strict=True)
    )


def _distance(a: Tensor, b: Tensor) -> float:
    return _largest(a.nan_to_num().double() - b.nan_to_num().double())


def _largest(t: Tensor) -> float:
    return float(t.nan_to_num().double().abs().max()) if t.numel() else 0.0


def _changing(step: _Step, args: Any, kwargs: Any) -> Callable[..., Any]:
    """Return the tensor's own method for an operation in place where that does the same."""
    method = getattr(Tensor, step.name, None)
    target, before = args[0], args[0].clone()
    step.operation(*args, **kwargs)
    if method is None or step.written[0] is not step.args[0]:
        return step.operation
    expected = target.clone()
    target.copy_(before)
    try:
        method(*args, **kwargs)
    except (TypeError, RuntimeError, ValueError):
        method = step.operation  # another signature
    if not _same([target], [expected]):
        target.copy_(expected)
        return step.operation
    return method


def _writing(
    step: _Step, outputs: Sequence[Tensor]
) -> Iterator[tuple[Callable[..., Any], dict[str, Any]]]:
    """Yield functions that write in place what an operation returns, the fastest first."""
    if step.name == "_to_copy" and outputs[0].device == step.args[0].device:
        yield _convert, {"out": outputs[0]}
    function = getattr(torch, step.name, None) or getattr(_NN, step.name, None)
    if function is not None and len(outputs) == 1:
        yield function, {"out": outputs[0]}
    packet = step.operation.overloadpacket
    for overload in (getattr(packet, name) for name in packet.overloads()):
        names = [a.name for a in overload._schema.arguments if a.is_out]
        if len(names) == len(outputs):
            yield overload, dict(zip(names, outputs, strict=True))


def _convert(t: Tensor, *, out: Tensor, **_: Any) -> None:
    out.copy_(t)


class _Copying:
    """An operation without a form that writes in place: its results are copied there."""

    def __init__(self, operation: OpOverload, outputs: Sequence[Tensor]):
        self._operation, self._outputs = operation, outputs

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        results = _leaves(self._operation(*args, **kwargs))
        for place, t in zip(self._outputs, results, strict=True):
            place.copy_(t)
