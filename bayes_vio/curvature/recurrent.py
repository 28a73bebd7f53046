"""LSTM, GRU and RNN unrolled over time: their gate matrices as parts, shared by all steps.

Sources: Hochreiter and Schmidhuber (1997); Cho et al. (2014), in the form of torch.nn.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bayes_vio.curvature.parts import Divided, LinearPart

# (hidden [batch, hidden],) or, for an LSTM, (hidden, cell).
State = tuple[Tensor, ...]


class _Gates(Divided):
    """Parts ``ih`` and ``hh``, gates of the input and of the hidden state; ``hr`` projects it."""

    _n_states = 1

    def _add_gates(self: Any, suffix: str) -> None:
        for gate in ("ih", "hh"):
            bias = (f"bias_{gate}{suffix}", None) if self.bias else None
            self.add_module(
                gate + suffix, LinearPart(self, (f"weight_{gate}{suffix}", None), bias)
            )
        if getattr(self, "proj_size", 0):
            self.add_module(f"hr{suffix}", LinearPart(self, (f"weight_hr{suffix}", None), None))

    def _step(self: Any, inner: Tensor, suffix: str, state: State) -> State:
        """Return the next state, from the input's gates [batch, gates] and the last state."""
        raise NotImplementedError


class _LSTM(_Gates):
    _n_states = 2

    def _step(self: Any, inner: Tensor, suffix: str, state: State) -> State:
        hidden, cell = state
        gates = inner + getattr(self, f"hh{suffix}")(hidden)
        admit, forget, change, show = gates.chunk(4, -1)
        cell = forget.sigmoid() * cell + admit.sigmoid() * change.tanh()
        hidden = show.sigmoid() * cell.tanh()
        if getattr(self, "proj_size", 0):
            hidden = getattr(self, f"hr{suffix}")(hidden)
        return hidden, cell


class _GRU(_Gates):
    def _step(self: Any, inner: Tensor, suffix: str, state: State) -> State:
        (hidden,) = state
        reset, update, change = inner.chunk(3, -1)
        from_reset, from_update, from_change = getattr(self, f"hh{suffix}")(hidden).chunk(3, -1)
        keep = (update + from_update).sigmoid()
        new = (change + (reset + from_reset).sigmoid() * from_change).tanh()
        return ((1 - keep) * new + keep * hidden,)


class _RNN(_Gates):
    def _step(self: Any, inner: Tensor, suffix: str, state: State) -> State:
        total = inner + getattr(self, f"hh{suffix}")(state[0])
        return (total.relu() if self.nonlinearity == "relu" else total.tanh(),)


class _Sequence(_Gates):
    """A network over time, of several layers and one or two directions."""

    def add_parts(self: Any) -> None:
        """Register the gates of every layer and direction."""
        for layer in range(self.num_layers):
            for suffix in self._suffixes(layer):
                self._add_gates(suffix)

    def forward(self: Any, input: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Return what the torch module does; packed sequences and lone data go to it."""
        if not isinstance(input, Tensor) or input.dim() != 3:
            return super().forward(input, hx)  # pyright: ignore[reportAttributeAccessIssue]
        axis = 0 if self.batch_first else 1
        x, last = input.transpose(0, axis), []
        states = self._states(x, hx)
        for layer in range(self.num_layers):
            directions = []
            for suffix in self._suffixes(layer):
                hidden, state = self._run(x, suffix, states[len(last)])
                directions.append(hidden)
                last.append(state)
            x = torch.cat(directions, 2)
        final = tuple(torch.stack(values) for values in zip(*last, strict=True))
        return x.transpose(0, axis), final if self._n_states > 1 else final[0]

    def _run(self: Any, x: Tensor, suffix: str, state: State) -> tuple[Tensor, State]:
        """Return the hidden states [batch, time, hidden] of one direction, and the last state."""
        steps = getattr(self, f"ih{suffix}")(x).unbind(1)
        hidden, backwards = [], suffix.endswith("_reverse")
        for inner in reversed(steps) if backwards else steps:
            state = self._step(inner, suffix, state)
            hidden.append(state[0])
        return torch.stack(hidden[::-1] if backwards else hidden, 1), state

    def _suffixes(self: Any, layer: int) -> list[str]:
        names = [f"_l{layer}", f"_l{layer}_reverse"]
        return names if self.bidirectional else names[:1]

    def _states(self: Any, x: Tensor, hx: Any) -> list[State]:
        """Return the first state of every layer and direction."""
        n = self.num_layers * (1 + self.bidirectional)
        if hx is None:
            sizes = (self.proj_size or self.hidden_size, self.hidden_size)
            hx = tuple(x.new_zeros(n, len(x), size) for size in sizes[: self._n_states])
        elif isinstance(hx, Tensor):
            hx = (hx,)
        return list(zip(*(h.unbind(0) for h in hx), strict=True))


class _Cell(_Gates):
    """One step of a recurrent network, called by the model itself."""

    def add_parts(self: Any) -> None:
        """Register the gates."""
        self._add_gates("")

    def forward(self: Any, input: Tensor, hx: Any = None) -> Any:
        """Return what the torch cell does; a lone datum goes to it."""
        if input.dim() != 2:
            return super().forward(input, hx)  # pyright: ignore[reportAttributeAccessIssue]
        if hx is None:
            hx = tuple(
                input.new_zeros(len(input), self.hidden_size) for _ in range(self._n_states)
            )
        state = self._step(self.ih(input), "", (hx,) if isinstance(hx, Tensor) else hx)
        return state if self._n_states > 1 else state[0]


class DividedLSTM(_Sequence, _LSTM, nn.LSTM):
    """nn.LSTM unrolled."""


class DividedGRU(_Sequence, _GRU, nn.GRU):
    """nn.GRU unrolled."""


class DividedRNN(_Sequence, _RNN, nn.RNN):
    """nn.RNN unrolled."""


class DividedLSTMCell(_Cell, _LSTM, nn.LSTMCell):
    """nn.LSTMCell by its gates."""


class DividedGRUCell(_Cell, _GRU, nn.GRUCell):
    """nn.GRUCell by its gates."""


class DividedRNNCell(_Cell, _RNN, nn.RNNCell):
    """nn.RNNCell by its gates."""
