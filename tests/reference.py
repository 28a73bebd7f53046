"""Dense truth, slow and obvious: explicit Jacobians of every parameter, explicit matrices.

A layer's weights are vec(W) row-major, the bias as W's last column. Jacobians are of the model as
it is, and nothing is shared with the package but the names of parameters; only Kronecker factors
are taken from the copy that is divided into linear parts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayes_vio.curvature.inputs import batch_size, map_tensors
from bayes_vio.curvature.recorder import frozen_copy
from tests.cases import Case


def mean_of(model: nn.Module, x: Any, parameters: dict[str, Tensor]) -> Tensor:
    output = functional_call(model, parameters, (x,))
    return output[0] if isinstance(output, tuple) else output


def layer_rows(model: nn.Module, layer: str) -> list[tuple[str, slice]]:
    """Return the parameters of a layer, weight first, and which of their rows it has.

    Parts of a module: q, k, v of attention; ih, hh, hr of recurrent ones; the groups of a
    convolution.
    """
    names = dict(model.named_parameters())
    prefix = f"{layer}." if layer else ""
    if prefix + "weight" in names:
        padding = getattr(model.get_submodule(layer), "padding_idx", None)
        rows = slice(None) if padding is None else slice(padding + 1, None)
        return [(prefix + n, rows) for n in ("weight", "bias") if prefix + n in names]
    owner, part = layer.rpartition(".")[::2]
    prefix = f"{owner}." if owner else ""
    if part in ("q", "k", "v"):
        module = model.get_submodule(owner)
        size, i = module.embed_dim, "qkv".index(part)
        rows = slice(i * size, (i + 1) * size)
        weight = ("in_proj_weight", rows) if module.in_proj_weight is not None else None
        found = [weight or (f"{part}_proj_weight", slice(None)), ("in_proj_bias", rows)]
    elif part.startswith("group"):
        module = model.get_submodule(owner)
        size, i = module.out_channels // module.groups, int(part.removeprefix("group"))
        found = [(n, slice(i * size, (i + 1) * size)) for n in ("weight", "bias")]
    else:
        found = [(f"{n}_{part}", slice(None)) for n in ("weight", "bias")]
    return [(prefix + n, rows) for n, rows in found if prefix + n in names]


def jacobian(model: nn.Module, x: Any, layer: str) -> Tensor:
    """Return dmean/dW [batch, outputs, d_out, d_in] by automatic differentiation."""
    pieces = layer_rows(model, layer)
    parameters = {n: p.detach().requires_grad_() for n, p in model.named_parameters()}
    chosen = [parameters[n] for n, _ in pieces]
    data = []
    for i in range(batch_size(x)):
        datum = map_tensors(x, lambda t, i=i: t[i : i + 1].clone())
        mean = mean_of(model, datum, parameters)[0]
        data.append(torch.stack([_row(m, chosen, pieces) for m in mean]))
    return torch.stack(data)


def _row(mean: Tensor, chosen: list[Tensor], pieces: list[tuple[str, slice]]) -> Tensor:
    found = torch.autograd.grad(mean, chosen, retain_graph=True, materialize_grads=True)
    weight, *bias = (g[rows] for g, (_, rows) in zip(found, pieces, strict=True))
    rows = weight.flatten(1) if weight.dim() > 1 else weight[:, None]
    return torch.cat([rows, *(b[:, None] for b in bias)], 1)


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


def inputs_and_gradients(case: Case, layer: str, batch_axis: int = 0) -> tuple[Tensor, Tensor]:
    """Return a [data, positions, d_in] and g [data, columns, positions, d_out] of a linear layer
    or convolution (zero padding), over all its uses."""
    model = frozen_copy(case.model).requires_grad_()
    module, uses = model.get_submodule(layer), []

    def keep(module: nn.Module, args: tuple, output: Tensor) -> None:
        uses.append((_columns(module, args[0].movedim(batch_axis, 0)), output))

    module.register_forward_hook(keep)
    output = model(case.x)
    mean = output[0] if isinstance(output, tuple) else output
    e, Q = torch.linalg.eigh(output_hessian(case))
    root = Q * e.clamp(min=0.0).sqrt()[:, None]
    outputs = [z for _, z in uses]
    columns = []
    for r in range(root.shape[2]):
        target = (mean * root[:, :, r]).sum()
        found = torch.autograd.grad(target, outputs, retain_graph=True, materialize_grads=True)
        rows = [_positions(module, g.movedim(batch_axis, 0)) for g in found]
        columns.append(torch.cat(rows, 1))
    a = torch.cat([x for x, _ in uses], 1).detach()
    if module.bias is not None:
        a = torch.cat([a, torch.ones(*a.shape[:2], 1, dtype=a.dtype)], -1)
    return a, torch.stack(columns, 1)


def _columns(module: nn.Module, x: Tensor) -> Tensor:
    """Return what the weight multiplies [data, positions, d_in]."""
    if not hasattr(module, "kernel_size"):
        return x.reshape(len(x), -1, x.shape[-1])
    sizes = (module.kernel_size, module.dilation, module.padding, module.stride)
    if x.dim() == 3:
        x, sizes = x[:, :, None], tuple((i, *s) for i, s in zip((1, 1, 0, 1), sizes, strict=True))
    return nn.functional.unfold(x, *sizes).mT


def _positions(module: nn.Module, g: Tensor) -> Tensor:
    if hasattr(module, "kernel_size"):
        return g.flatten(2).mT
    return g.reshape(len(g), -1, g.shape[-1])


def kfac_factors(
    case: Case, layer: str, sharing: str, batch_axis: int = 0
) -> tuple[Tensor, Tensor]:
    """Return A and G of a linear layer or convolution, datum by datum, position by position."""
    a, g = inputs_and_gradients(case, layer, batch_axis)
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
