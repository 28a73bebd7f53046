"""Rounded posteriors: equal bits after loading, small changes of predictions, clear refusals."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bayes_vio.artifact import MotionArtifact, default_artifact_path
from bayes_vio.data.samples import GRID_HEIGHT, GRID_WIDTH, IMU_BINS, MotionInput
from bayes_vio.posterior import Posterior, PosteriorError, fit_posterior
from bayes_vio.posterior.number_format import (
    SIGNED_FLOAT8,
    NumberFormat,
    decode,
    encode,
    rounded,
)
from bayes_vio.posterior.storage import FORMAT, VERSION
from bayes_vio.sealed import pack, unpack
from tests.cases import CASES, Case, attention, mlp, normal

FORMATS = ["bfloat16", "float8"]
EPSILON = {"bfloat16": 2.0**-8, "float8": 2.0**-4}


def fit(case: Case, structure: str = "inf", **settings) -> Posterior:
    return fit_posterior(
        case.model,
        case.loader(),
        case.likelihood,
        structure,
        noise_cov=case.noise_cov,
        rank=6,
        **settings,
    )


def uneven(seed: int, d_out: int, d_in: int, octaves: float, dtype: torch.dtype) -> Tensor:
    """Return a diagonal whose rows and columns differ by many octaves; some entries are zero."""
    g = torch.Generator().manual_seed(seed)

    def scales(*shape: int) -> Tensor:
        return (octaves * (2 * torch.rand(shape, generator=g) - 1)).double().exp2()

    values = scales(d_out, 1) * scales(1, d_in) * torch.rand(d_out, d_in, generator=g).double()
    return torch.where(torch.rand(d_out, d_in, generator=g) < 0.1, 0.0, values).to(dtype)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    octaves=st.floats(0, 12),
    number_format=st.sampled_from(FORMATS),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_what_is_rounded_is_written_exactly(seed, shape, octaves, number_format, dtype):
    chosen = NumberFormat(number_format)
    stored = {"layer/diagonal": uneven(seed, *shape, octaves, dtype)}
    values = rounded(stored, chosen)
    again = decode(encode(values, chosen), chosen, dtype)
    assert again.keys() == values.keys()
    found, truth = again["layer/diagonal"], stored["layer/diagonal"]
    assert found.dtype == dtype
    assert torch.equal(found, values["layer/diagonal"])
    assert bool((found >= 0).all())
    # Normal numbers have their format's precision; far below row's and column's largest, less.
    bound = 2 * EPSILON[number_format] * truth
    if chosen is NumberFormat.FLOAT8:
        bound = bound + 2.0**-32 * truth.amax(0, keepdim=True)
    assert bool(((found - truth).abs() <= bound).all())


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("structure", ["inf", "diagonal"])
@pytest.mark.parametrize("name", list(CASES))
def test_a_rounded_posterior_loads_to_equal_bits(structure, name, number_format, tmp_path):
    case = CASES[name]()
    posterior = fit(case, structure).with_prior_precision(2.5).with_number_format(number_format)
    posterior.save(tmp_path / "p")
    loaded = Posterior.load(tmp_path / "p", case.model)
    assert loaded.number_format is NumberFormat(number_format)
    assert loaded.report == posterior.report
    assert loaded.nbytes == posterior.nbytes
    for key, tensor in posterior.curvature.tensors().items():
        assert loaded.curvature.tensors()[key].dtype == tensor.dtype
        assert torch.equal(loaded.curvature.tensors()[key], tensor)
    ours, theirs = posterior.predict(case.x), loaded.predict(case.x)
    for field in vars(ours):
        assert torch.equal(getattr(ours, field), getattr(theirs, field))
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "p").read_bytes()


@pytest.mark.parametrize("number_format", FORMATS)
@pytest.mark.parametrize("name", list(CASES))
def test_precisions_stay_positive_and_close(name, number_format):
    case = CASES[name]()
    posterior = fit(case)
    found = posterior.with_number_format(number_format)
    for layer in posterior.layers:
        truth = posterior.precision_dense(layer)
        assert torch.linalg.eigvalsh(found.precision_dense(layer)).min() > 0
        error = (found.precision_dense(layer) - truth).norm() / truth.norm()
        assert error < 2 * EPSILON[number_format]


def motion_input(n: int) -> MotionInput:
    return MotionInput(
        gray=normal(n, GRID_HEIGHT, GRID_WIDTH).sigmoid().float(),
        flow=0.05 * normal(n, 2, GRID_HEIGHT, GRID_WIDTH).float(),
        view_valid=torch.ones(n, GRID_HEIGHT, GRID_WIDTH),
        imu=normal(n, IMU_BINS, 6).float(),
        imu_valid=torch.ones(n, IMU_BINS),
        dt=torch.full((n,), 0.1),
        camera_valid=torch.ones(n),
    )


@pytest.mark.parametrize(("number_format", "share"), [("bfloat16", 0.52), ("float8", 0.5)])
def test_the_packaged_artifact_predicts_the_same(number_format, share, tmp_path):
    artifact = MotionArtifact.load(default_artifact_path())
    small = MotionArtifact(
        **vars(artifact) | {"posterior": artifact.posterior.with_number_format(number_format)}
    )
    x = motion_input(8)
    truth, found = (a.predict(x).epistemic_cov for a in (artifact, small))
    change = (found - truth).flatten(1).norm(dim=1) / truth.flatten(1).norm(dim=1)
    assert float(change.max()) < 0.01
    std = (m.diagonal(dim1=1, dim2=2).sqrt() for m in (found, truth))
    assert float((next(std) / next(std) - 1).abs().max()) < 0.02
    for name, each in (("large", artifact), ("small", small)):
        each.save(tmp_path / name)
    sizes = [(tmp_path / n / "posterior.safetensors").stat().st_size for n in ("small", "large")]
    assert sizes[0] < share * sizes[1]
    loaded = MotionArtifact.load(tmp_path / "small")
    assert loaded.posterior.number_format is NumberFormat(number_format)
    assert torch.equal(loaded.predict(x).epistemic_cov, found)


@pytest.mark.parametrize("structure", ["kfac", "efb", "full", "subnetwork", "ella"])
def test_structures_that_rounding_could_break_are_refused(structure):
    posterior = fit(attention(), structure, n_points=20, n_eigen=4, subset_size=20)
    with pytest.raises(ValueError, match="may be no covariance"):
        posterior.with_number_format("bfloat16")
    assert posterior.with_number_format("native").nbytes == posterior.nbytes


def test_saving_can_round(tmp_path):
    case = mlp()
    posterior = fit(case)
    posterior.save(tmp_path / "p", number_format="bfloat16")
    assert posterior.number_format is NumberFormat.NATIVE
    loaded = Posterior.load(tmp_path / "p", case.model)
    assert loaded.number_format is NumberFormat.BFLOAT16
    assert loaded.nbytes == posterior.nbytes / 4


def test_numbers_too_large_are_refused():
    posterior = fit(mlp())
    huge = posterior.curvature.map(lambda t: t * 1e300)
    with pytest.raises(ValueError, match="too large for bfloat16"):
        replace(posterior, curvature=huge).with_number_format("bfloat16")


def test_an_update_is_no_longer_rounded():
    case = mlp()
    posterior = fit(case).with_number_format("bfloat16")
    updated = posterior.update(case.loader())
    assert updated.number_format is NumberFormat.NATIVE
    assert updated.nbytes == fit(case).nbytes


def test_what_is_not_rounded_is_not_written_so():
    with pytest.raises(ValueError, match="not exact in bfloat16"):
        encode({"a/diagonal": torch.tensor([[1 + 2.0**-12]])}, NumberFormat.BFLOAT16)


def rewritten(path: Path, change) -> None:
    """Write a posterior's file again with its tensors changed and sealed anew."""
    content = path.read_bytes()
    description, tensors = unpack(content, FORMAT, VERSION)
    description = {
        k: v for k, v in description.items() if k not in ("seal_sha256", "tensors_sha256")
    }
    change(description, tensors)
    path.write_bytes(pack(tensors, description))


def to_other_dtype(description, tensors) -> None:
    tensors["0/U_g"] = tensors["0/U_g"].float()


def to_unknown_format(description, tensors) -> None:
    description["report"]["number_format"] = "float4"


def without_scales(description, tensors) -> None:
    del tensors["0/diagonal.row_scales"]


def with_odd_scales(description, tensors) -> None:
    tensors["0/diagonal.row_scales"] = tensors["0/diagonal.row_scales"] * 1.5


def with_negative_scales(description, tensors) -> None:
    tensors["0/diagonal.column_scales"] = -tensors["0/diagonal.column_scales"]


def with_scales_of_another_shape(description, tensors) -> None:
    tensors["0/diagonal.row_scales"] = tensors["0/diagonal.row_scales"].T.contiguous()


def signed(diagonal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a diagonal as files had it before: e4m3, and scales of rows and of columns."""

    def scale(values: Tensor, axis: int) -> Tensor:
        largest = values.amax(axis, keepdim=True)
        return torch.where(largest > 0, (largest / 448).log2().ceil().exp2(), 1.0)

    columns = scale(diagonal, 0)
    rows = scale(diagonal / columns, 1)
    return (diagonal / columns / rows).to(SIGNED_FLOAT8), rows.bfloat16(), columns.bfloat16()


def to_signed(description, tensors) -> None:
    found = decode(
        {n: t for n, t in tensors.items() if not n.startswith("likelihood")},
        NumberFormat.FLOAT8,
        torch.float64,
    )
    for name in [n for n in found if n.endswith("/diagonal")]:
        fields = signed(found[name])
        tensors |= zip((name, f"{name}.row_scales", f"{name}.column_scales"), fields, strict=True)


def with_nan(description, tensors) -> None:
    to_signed(description, tensors)
    bits = tensors["0/diagonal"].view(torch.uint8).clone()
    bits[0, 0] = 0x7F
    tensors["0/diagonal"] = bits.view(SIGNED_FLOAT8)


def of_another_structure(description, tensors) -> None:
    description["report"]["structure"] = "efb"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (to_other_dtype, "its format says"),
        (to_unknown_format, "float4"),
        (without_scales, "scales"),
        (with_odd_scales, "no positive power of two"),
        (with_negative_scales, "no positive power of two"),
        (with_scales_of_another_shape, "not of its shape"),
        (with_nan, "not finite"),
        (of_another_structure, "may be no covariance"),
    ],
)
def test_files_that_are_not_of_their_format_are_refused(change, message, tmp_path):
    case, path = mlp(), tmp_path / "p"
    fit(case).save(path, number_format="float8")
    Posterior.load(path, case.model)
    rewritten(path, change)
    with pytest.raises(PosteriorError, match=message):
        Posterior.load(path, case.model)


@pytest.mark.parametrize("name", list(CASES))
def test_files_with_signed_diagonals_load_and_are_saved_anew(name, tmp_path):
    case, path = CASES[name](), tmp_path / "p"
    fit(case).save(path, number_format="float8")
    rewritten(path, to_signed)
    old = Posterior.load(path, case.model)
    _, tensors = unpack(path.read_bytes(), FORMAT, VERSION)
    for layer in old.layers:
        own, rows, columns = (
            tensors[f"{layer}/diagonal{part}"] for part in ("", ".row_scales", ".column_scales")
        )
        truth = own.double() * rows.double() * columns.double()
        assert torch.equal(old.curvature.tensors()[f"{layer}/diagonal"].double(), truth)
    old.save(tmp_path / "again")
    again = Posterior.load(tmp_path / "again", case.model)
    for key, tensor in old.curvature.tensors().items():
        assert torch.equal(again.curvature.tensors()[key], tensor)
