"""One library at one network, in a process of its own: what ``peers.py`` starts and reads.

Every library fits the same Laplace posterior: Gaussian noise of variance 0.01, prior precision 1,
the exact Fisher (one backward pass per output), whole network. What a library cannot do is told by
its own error; then it may try again with the linear layers and 2-d convolutions alone.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from statistics import median
from typing import Any, ClassVar

import networks
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

NOISE_VARIANCE = 0.01
RANK = 100
LONGEST_ERROR = 600
# Of one measurement; what takes longer is measured three times.
SECONDS_EACH = 8.0
# In place of a library's name: predictions of these and of ours take turns in one process.
IN_TURNS = "in turns"
TAKING_TURNS = ("laplace-torch kron",)
# Name: (network, shape of one input or None for the motion model's, data, batch size).
CASES: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...] | None, int, int]] = {
    "motion_model": (networks.FlatMotion, None, 64, 16),
    "reference_cnn": (networks.reference_cnn, (3, 96, 128), 64, 16),
    "resnet18": (networks.resnet18, (3, 32, 32), 16, 8),
    "densenet121": (networks.densenet121, (3, 64, 64), 8, 4),
    "densenet161": (networks.densenet161, (3, 64, 64), 8, 4),
}


class Peer(ABC):
    """A library's way to the posterior; a stage that it does not offer stays None."""

    predict: Callable[[Tensor], Tensor] | None = None
    draw: Callable[[], Any] | None = None
    eigen: Callable[[], Any] | None = None

    def __init__(self, model: nn.Module, loader: DataLoader, device: torch.device):
        self.model, self.loader, self.device = model, loader, device

    @abstractmethod
    def factors(self) -> None:
        """Read the data once: Kronecker factors, or the diagonal."""

    def finish(self) -> None:  # noqa: B027
        """Do what is left before the first prediction."""

    @abstractmethod
    def stored(self) -> Iterable[Tensor]:
        """Return the tensors of the posterior, or of the curvature where that is all there is."""


class BayesVio(Peer):
    """Ours."""

    structure: ClassVar[str]

    def factors(self) -> None:
        from bayes_vio.curvature.estimate import estimate_diagonals, estimate_factors

        data = self._pass()
        if self.structure == "diagonal":
            estimate_diagonals(data)
        else:
            self._factors = estimate_factors(data)[0]
            self.eigen = self._eigen

    def _pass(self) -> Any:
        from bayes_vio.curvature.coverage import cover
        from bayes_vio.curvature.passes import Pass
        from bayes_vio.curvature.recorder import Recorder, frozen_copy
        from bayes_vio.models.likelihood import Fisher, make_likelihood

        frozen = frozen_copy(self.model, self.device)
        first = next(iter(self.loader))[0].to(self.device)
        coverage = cover(frozen, first, self._layers())
        likelihood = make_likelihood("gaussian", NOISE_VARIANCE, networks.OUTPUTS, self.device)
        self._recorder = Recorder(frozen, coverage.layers, coverage.copied)
        return Pass(self._recorder, self.loader, likelihood, Fisher.TYPE2, 0, self.device)

    def _eigen(self) -> None:
        from bayes_vio.curvature.eigenbasis import eigenbasis

        for name, factors in self._factors.items():
            eigenbasis(factors, self._recorder.layers[name].resolution)

    def finish(self) -> None:
        from bayes_vio.posterior import fit_posterior

        self._factors = {}
        self.posterior = fit_posterior(
            self.model,
            self.loader,
            structure=self.structure,
            rank=RANK,
            layers=self._layers(),
            noise_cov=NOISE_VARIANCE,
            device=self.device,
        )
        self.predict = lambda x: self.posterior.predict(x).epistemic_cov  # pyright: ignore
        self.draw = lambda: next(self.posterior.sample(1))

    def _layers(self) -> list[str] | None:
        trainable = {n for n, p in self.model.named_parameters() if p.requires_grad}
        if len(trainable) == len(list(self.model.parameters())):
            return None
        modules = dict(self.model.named_modules())
        owners = {name.rpartition(".")[0] for name in trainable}
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.LayerNorm, nn.BatchNorm2d)
        return [name for name in modules if name in owners and isinstance(modules[name], kinds)]

    def stored(self) -> Iterable[Tensor]:
        return self.posterior.curvature.tensors().values()


class Inf(BayesVio):
    """Sparse information form."""

    structure = "inf"


class Kfac(BayesVio):
    """Kronecker factors (Ritter et al., 2018)."""

    structure = "kfac"


class Diagonal(BayesVio):
    """The exact diagonal."""

    structure = "diagonal"


class LaplaceTorch(Peer):
    """laplace-torch with its default backend."""

    structure: ClassVar[str]

    def factors(self) -> None:
        from laplace import Laplace  # pyright: ignore[reportMissingImports]

        self.posterior = Laplace(
            self.model,
            "regression",
            subset_of_weights="all",
            hessian_structure=self.structure,
            sigma_noise=NOISE_VARIANCE**0.5,
            prior_precision=1.0,
        )
        self.posterior.fit(self.loader)  # decomposes the factors, too
        self.predict = lambda x: self.posterior(x)[1]
        self.draw = lambda: self.posterior.sample(1)

    def stored(self) -> Iterable[Tensor]:
        H = self.posterior.H
        if isinstance(H, Tensor):
            return [H]
        return [t for lists in (H.eigenvalues, H.eigenvectors) for ts in lists for t in ts]


class LaplaceKron(LaplaceTorch):
    """Kronecker factors."""

    structure = "kron"

    def factors(self) -> None:
        super().factors()
        self.eigen = lambda: self.posterior.H_facs.decompose()


class LaplaceDiagonal(LaplaceTorch):
    """The diagonal."""

    structure = "diag"


class Curvlinops(Peer):
    """curvlinops: factors and corrected eigenvalues, no predictive."""

    operator: ClassVar[str]

    def factors(self) -> None:
        import curvlinops  # pyright: ignore[reportMissingImports]

        data = [(x.to(self.device), y.to(self.device)) for x, y in self.loader]
        self.found = getattr(curvlinops, self.operator)(
            self.model,
            nn.MSELoss(reduction="sum"),
            [p for p in self.model.parameters() if p.requires_grad],
            data,
            fisher_type="type-2",
            separate_weight_and_bias=False,
            check_deterministic=False,
        )
        self.found.compute_kronecker_factors()

    def stored(self) -> Iterable[Tensor]:
        return [
            *self.found._input_covariances.values(),
            *self.found._gradient_covariances.values(),
        ]


class CurvlinopsKfac(Curvlinops):
    """Kronecker factors."""

    operator = "KFACLinearOperator"


class CurvlinopsEkfac(Curvlinops):
    """Eigenvalues corrected in the Kronecker eigenbasis."""

    operator = "EKFACLinearOperator"

    def factors(self) -> None:
        super().factors()
        self.eigen = self.found._compute_eigenvectors

    def finish(self) -> None:
        self.found.compute_eigenvalue_correction()

    def stored(self) -> Iterable[Tensor]:
        found, eigenvectors = self.found, []
        for name in ("_input_covariances_eigenvectors", "_gradient_covariances_eigenvectors"):
            eigenvectors += getattr(found, name).values()
        corrected = found._corrected_eigenvalues.values()
        return [*eigenvectors, *(t for c in corrected for t in _leaves(c))]


class Backpack(Peer):
    """BackPACK: curvature of the weights that it knows, no posterior."""

    extension: ClassVar[str]
    field: ClassVar[str]
    use_converter = False

    def factors(self) -> None:
        import backpack

        network = backpack.extend(self.model, use_converter=self.use_converter)
        loss = backpack.extend(nn.MSELoss(reduction="sum"))
        self.sums: dict[str, list[Tensor]] = {}
        for x, y in self.loader:
            network.zero_grad()
            x = x.to(self.device).requires_grad_()
            with backpack.backpack(getattr(backpack.extensions, self.extension)()):
                loss(network(x), y.to(self.device)).backward()
            for name, p in network.named_parameters():
                if p.requires_grad:
                    self._add(name, p)

    def _add(self, name: str, parameter: nn.Parameter) -> None:
        if not hasattr(parameter, self.field):
            raise NotImplementedError(f"{self.extension} silently leaves {name} out")
        new = [t.detach() for t in _leaves(getattr(parameter, self.field))]
        before = self.sums.get(name, [torch.zeros_like(t) for t in new])
        self.sums[name] = [a + b for a, b in zip(before, new, strict=True)]

    def stored(self) -> Iterable[Tensor]:
        return [t for parts in self.sums.values() for t in parts]


class BackpackKflr(Backpack):
    """Kronecker factors, exact in the outputs."""

    extension, field = "KFLR", "kflr"


class BackpackDiagonal(Backpack):
    """The diagonal of the GGN."""

    extension, field, use_converter = "DiagGGNExact", "diag_ggn_exact", True


PEERS: dict[str, type[Peer]] = {
    "bayes_vio inf": Inf,
    "bayes_vio kfac": Kfac,
    "bayes_vio diagonal": Diagonal,
    "laplace-torch kron": LaplaceKron,
    "laplace-torch diag": LaplaceDiagonal,
    "curvlinops kfac": CurvlinopsKfac,
    "curvlinops ekfac": CurvlinopsEkfac,
    "backpack kflr": BackpackKflr,
    "backpack diag_ggn": BackpackDiagonal,
}


def _forward(model: nn.Module, x: Tensor) -> Tensor:
    with torch.inference_mode():
        return model(x)


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [t for part in parts for t in _leaves(part)]


def make_case(case: str, device: torch.device) -> tuple[nn.Module, DataLoader]:
    """Return the network in eval mode and its data, the same for every library."""
    torch.manual_seed(0)
    make, shape, n_data, batch = CASES[case]
    model = make().eval().to(device)
    x = torch.randn(n_data, *shape) if shape else networks.flatten(networks.motion_input(n_data))
    y = torch.randn(n_data, networks.OUTPUTS)
    return model, DataLoader(TensorDataset(x, y), batch_size=batch)


def freeze_all_but_linear_and_conv2d(model: nn.Module) -> None:
    """Leave the layers that every library knows."""
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Conv2d):
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)


def measure(peer: Peer, x: Tensor) -> dict[str, Any]:
    """Return times and sizes of every stage that the library offers."""
    _forward(peer.model, x)
    before = peak_bytes(peer.device)
    rows: dict[str, Any] = {"factor_s": round(seconds(peer.factors, peer.device), 4)}
    rows["eigen_s"] = peer.eigen and round(seconds(peer.eigen, peer.device), 4)
    rows["finish_s"] = round(seconds(peer.finish, peer.device), 4)
    rows["stored_bytes"] = sum(t.numel() * t.element_size() for t in peer.stored())
    predict, draw = peer.predict, peer.draw
    functions: dict[str, Callable[[], Any]] = {"forward_ms": lambda: _forward(peer.model, x)}
    if predict is not None:
        functions["predictive_ms"] = lambda: predict(x)
    rows |= timed(functions, peer.device)
    if predict is not None:
        rows["outputs"] = list(predict(x).shape)
        rows["ratio"] = round(rows["predictive_ms"] / rows["forward_ms"], 2)
    if draw is not None:
        rows |= timed({"draw_ms": draw}, peer.device)
    rows["peak_bytes"] = peak_bytes(peer.device) - before
    trainable = [p for p in peer.model.parameters() if p.requires_grad]
    return rows | {"weights": sum(p.numel() for p in trainable)}


def in_turns(case: str, device: torch.device) -> dict[str, Any]:
    """Return times of one prediction with its covariance, ours and laplace-torch's in turns.

    On a machine with other work only calls that take turns can be compared.
    """
    model, loader = make_case(case, device)
    one = next(iter(loader))[0][:1].to(device)
    functions: dict[str, Callable[[], Any]] = {"forward_ms": lambda: _forward(model, one)}
    for name in (*TAKING_TURNS, "bayes_vio inf"):
        peer = PEERS[name](make_case(case, device)[0], loader, device)
        peer.factors()
        peer.finish()
        functions[name] = lambda predict=peer.predict: predict(one)  # pyright: ignore
    times = timed(functions, device)
    ours = times["bayes_vio inf"]
    ratios = {name: round(times[name] / ours, 2) for name in TAKING_TURNS}
    return {"times_ms": times, "inf_over_forward": round(ours / times["forward_ms"], 2)} | {
        "slower_than_inf": ratios
    }


def timed(functions: dict[str, Callable[[], Any]], device: torch.device) -> dict[str, float]:
    """Return medians in ms of calls in turns: three each, the first of which warms the caches."""
    each_s = sum(seconds(function, device) for function in functions.values())
    durations: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(max(1, min(20, int(SECONDS_EACH / each_s / 3)))):
        for name, function in functions.items():
            durations[name] += [seconds(function, device) for _ in range(3)][1:]
    return {name: round(1e3 * median(d), 3) for name, d in durations.items()}


def seconds(function: Callable[[], Any], device: torch.device) -> float:
    """Return how long one call takes: on a CPU this process' processor time.

    One thread: the processor's time is the call's own, whatever else the machine does.
    """
    if device.type == "cuda":
        start_s = time.perf_counter()
        function()
        torch.cuda.synchronize(device)
        return time.perf_counter() - start_s
    start_s = time.process_time()
    function()
    return time.process_time() - start_s


def peak_bytes(device: torch.device) -> int:
    """Return the most memory so far: of the GPU's allocator, or this process' resident set."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def error_text(error: Exception) -> str:
    """Return type, message and place of an error."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = f"{type(error).__name__}: {error} ({place.name})"
    return " ".join(text.split())[:LONGEST_ERROR]


def run(case: str, device: torch.device, name: str) -> dict[str, Any]:
    """Measure a library with all weights; where it fails, with what every library knows."""
    errors = {}
    for scope in ("all weights", "linear and conv2d"):
        model, loader = make_case(case, device)
        if scope != "all weights":
            freeze_all_but_linear_and_conv2d(model)
        one = next(iter(loader))[0][:1].to(device)
        try:
            return {"scope": scope, **measure(PEERS[name](model, loader, device), one)} | (
                {"errors": errors} if errors else {}
            )
        except Exception as error:  # whatever a library raises is its result
            errors[scope] = error_text(error)
    return {"scope": None, "errors": errors}


def main() -> None:
    case, name, device = sys.argv[1:4]
    torch.set_num_threads(1)
    measured = in_turns if name == IN_TURNS else partial(run, name=name)
    print(json.dumps(measured(case, device=torch.device(device))))


if __name__ == "__main__":
    main()
