"""How each library comes to the Laplace posterior of the same network, stage by stage."""

from __future__ import annotations

import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, ClassVar

import networks
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

NOISE_VARIANCE = 0.01
RANK = 100


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


class Peer(ABC):
    """A library's way to the posterior; a stage that it does not offer stays None.

    ``finish_is_fit``: whether ``finish`` reads the data anew, and is the whole fit by itself.
    """

    finish_is_fit: ClassVar[bool] = False
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
    finish_is_fit = True
    eigen_s = 0.0

    def factors(self) -> None:
        from bayes_vio.curvature.estimate import estimate_diagonals, estimate_factors

        self._check_memory()
        data = self._pass()
        if self.structure == "diagonal":
            estimate_diagonals(data)
        else:
            estimate_factors(data)

    def _check_memory(self) -> None:
        """Raise InsufficientMemoryError where the fit would exceed this process' limit."""
        from bayes_vio.posterior.fit import Request, check_fit

        limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
        request = Request(
            structure=self.structure, layers=self._layers(), rank=RANK, noise_cov=NOISE_VARIANCE
        )
        known = None if limit == resource.RLIM_INFINITY else float(limit)
        check_fit(self.model, self.loader, request, self.device, memory_limit=known)

    def _pass(self) -> Any:
        from bayes_vio.curvature.coverage import cover
        from bayes_vio.curvature.passes import Pass
        from bayes_vio.curvature.recorder import Recorder, frozen_copy
        from bayes_vio.models.likelihood import Fisher, make_likelihood

        frozen = frozen_copy(self.model, self.device)
        first = next(iter(self.loader))[0].to(self.device)
        coverage = cover(frozen, first, self._layers())
        likelihood = make_likelihood("gaussian", NOISE_VARIANCE, networks.OUTPUTS, self.device)
        recorder = Recorder(frozen, coverage.layers, coverage.copied)
        return Pass(recorder, self.loader, likelihood, Fisher.TYPE2, 0, self.device)

    def finish(self) -> None:
        from bayes_vio.curvature import estimate
        from bayes_vio.posterior import fit_posterior

        # The fit's own diagonalisations are timed.
        estimate.eigenbasis = partial(self._timed, estimate.eigenbasis)
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

    def _timed(self, eigenbasis: Callable[..., Any], *arguments: Any) -> Any:
        found: list[Any] = []
        self.eigen_s += seconds(lambda: found.append(eigenbasis(*arguments)), self.device)
        return found[0]

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


def _leaves(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [t for part in parts for t in _leaves(part)]
