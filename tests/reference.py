"""Dense truth, slow and obvious: explicit Jacobians of every parameter, explicit matrices.

A layer's weights are vec(W) row-major, the bias as W's last column; nothing here is shared with
the package but the names of parameters.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from bayes_vio.curvature.inputs import batch_size, map_tensors
from tests.cases import Case


def mean_of(model: nn.Module, x: Any, parameters: dict[str, Tensor]) -> Tensor:
    output = functional_call(model, parameters, (x,))
    return output[0] if isinstance(output, tuple) else output


def layer_columns(model: nn.Module, layer: str) -> tuple[str, str | None]:
    prefix = f"{layer}." if layer else ""
    names = dict(model.named_parameters())
    return prefix + "weight", prefix + "bias" if prefix + "bias" in names else None


def jacobian(model: nn.Module, x: Any, layer: str) -> Tensor:
    """Return dmean/dW [batch, outputs, d_out, d_in] by automatic differentiation."""
    names = [n for n in layer_columns(model, layer) if n]
    fixed = {n: p.detach() for n, p in model.named_parameters()}

    def mean(chosen: dict[str, Tensor], datum: Any) -> Tensor:
        return mean_of(model, datum, fixed | chosen)[0]

    rows = []
    for i in range(batch_size(x)):
        datum = map_tensors(x, lambda t, i=i: t[i : i + 1].clone())
        parts = jacrev(mean)({n: fixed[n] for n in names}, datum)
        weight, *bias = (parts[n] for n in names)
        if fixed[names[0]].dim() == 1:  # a norm layer: one row per feature
            rows.append(torch.stack([weight, *bias], -1))
        else:
            rows.append(torch.cat([weight.flatten(2), *(b[..., None] for b in bias)], -1))
    return torch.stack(rows)


def output_hessian(case: Case) -> Tensor:
    """Return the Hessian of the loss in the mean [data, outputs, outputs]."""
    with torch.no_grad():
        output = case.model(case.x)
    if case.likelihood == "categorical":
        p = output.softmax(-1)
        return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    if case.noise_cov is None:
        mean, cholesky = output
        return torch.linalg.inv(cholesky @ cholesky.mT)
    mean = output[0] if isinstance(output, tuple) else output
    cov = torch.as_tensor(case.noise_cov, dtype=torch.float64)
    cov = cov if cov.dim() == 2 else torch.diag(cov.expand(mean.shape[1]))
    return torch.linalg.inv(cov).expand(len(mean), -1, -1)


def gradients_by_column(case: Case, layer: str) -> Tensor:
    """Return dW_r [data, columns, d_out, d_in] through the columns of a root of the Hessian."""
    e, Q = torch.linalg.eigh(output_hessian(case))
    root = Q * e.clamp(min=0.0).sqrt()[:, None]
    return torch.einsum("bor,boij->brij", root, jacobian(case.model, case.x, layer))


def ggn(case: Case, layers: list[str]) -> Tensor:
    """Return the mean over data of J^T H J [p, p], the layers stacked."""
    J = torch.cat([jacobian(case.model, case.x, name).flatten(2) for name in layers], 2)
    return torch.einsum("bop,bok,bkq->pq", J, output_hessian(case), J) / len(J)


def inputs_and_gradients(case: Case, layer: str) -> tuple[Tensor, Tensor]:
    """Return a [data, positions, d_in] and g [data, columns, positions, d_out] of nn.Linear."""
    seen: dict[str, Tensor] = {}
    module = case.model.get_submodule(layer)

    def keep(_module: nn.Module, args: tuple, output: Tensor) -> None:
        seen["a"], seen["z"] = args[0], output

    handle = module.register_forward_hook(keep)
    output = case.model(case.x)
    handle.remove()
    mean = output[0] if isinstance(output, tuple) else output
    e, Q = torch.linalg.eigh(output_hessian(case))
    root = Q * e.clamp(min=0.0).sqrt()[:, None]
    columns = [
        torch.autograd.grad((mean * root[:, :, r]).sum(), seen["z"], retain_graph=True)[0]
        for r in range(root.shape[2])
    ]
    a = seen["a"].detach().reshape(len(mean), -1, seen["a"].shape[-1])
    if module.bias is not None:
        a = torch.cat([a, torch.ones(*a.shape[:2], 1, dtype=a.dtype)], -1)
    g = torch.stack(columns, 1)
    return a, g.reshape(*g.shape[:2], -1, g.shape[-1])


def kfac_factors(case: Case, layer: str, sharing: str) -> tuple[Tensor, Tensor]:
    """Return A and G of nn.Linear, datum by datum, position by position."""
    a, g = inputs_and_gradients(case, layer)
    n, n_positions = a.shape[:2]
    if sharing == "reduce":
        a, g = a.mean(1, keepdim=True), g.sum(2, keepdim=True)
        n_positions = 1
    A = sum(torch.outer(v, v) for datum in a for v in datum) / (n * n_positions)
    G = sum(torch.outer(v, v) for datum in g for column in datum for v in column) / n
    return A, G


def corrected_eigenvalues(case: Case, layer: str, Q_g: Tensor, Q_a: Tensor) -> Tensor:
    """Return E[sum_r (Q_g^T dW_r Q_a)^2] [columns of Q_g, columns of Q_a]."""
    dW = gradients_by_column(case, layer)
    return torch.stack([(Q_g.mT @ d @ Q_a).square().sum(0) for d in dW]).mean(0)


def exact_diagonal(case: Case, layer: str) -> Tensor:
    """Return E[sum_r dW_r^2] [d_out, d_in]."""
    return gradients_by_column(case, layer).square().sum(1).mean(0)
