"""Mutated artifacts: the same predictions, or ArtifactError; nothing else, never a wrong number.

Mutations are drawn from a seed. Half of them are sealed anew afterwards, with every hash put
right, so that the checks behind the hashes are reached.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from bayes_vio.artifact import ArtifactError, MotionArtifact
from bayes_vio.posterior import GaussianPrediction
from bayes_vio.sealed import pack, sealed, tensors_hash
from tests.motion_cases import random_motion, tiny_artifact

JSON, MODEL, POSTERIOR = "artifact.json", "model.safetensors", "posterior.safetensors"
X, _ = random_motion(2, seed=5)
ODD = [0, -1, 1, 2, 10**9, 10**30, 0.5, -0.5, 1e-300, 1e300, "", "inf", None, True, [], {}, [1.0]]

Files = dict[str, bytes]
Rng = np.random.Generator


def flip_bit(files: Files, rng: Rng) -> None:
    name = rng.choice(list(files))
    data = bytearray(files[name])
    data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    files[name] = bytes(data)


def flip_header_bit(files: Files, rng: Rng) -> None:
    name = rng.choice([MODEL, POSTERIOR])
    data = bytearray(files[name])
    data[rng.integers(8 + int.from_bytes(data[:8], "little"))] ^= 1 << int(rng.integers(8))
    files[name] = bytes(data)


def truncate(files: Files, rng: Rng) -> None:
    name = rng.choice(list(files))
    files[name] = files[name][: rng.integers(len(files[name]))]


def overwrite_block(files: Files, rng: Rng) -> None:
    name = rng.choice(list(files))
    data = bytearray(files[name])
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 512))
    data[start : start + length] = rng.bytes(len(data[start : start + length]))
    files[name] = bytes(data)


def insert_bytes(files: Files, rng: Rng) -> None:
    name = rng.choice(list(files))
    at = int(rng.integers(len(files[name]) + 1))
    files[name] = files[name][:at] + rng.bytes(int(rng.integers(1, 16))) + files[name][at:]


def swap_files(files: Files, rng: Rng) -> None:
    first, second = rng.permutation(list(files))[:2]
    files[first], files[second] = files[second], files[first]


def remove_file(files: Files, rng: Rng) -> None:
    del files[rng.choice(list(files))]


def odd_value(value: Any, rng: Rng) -> Any:
    """Return a JSON value in which one leaf, key or element is another."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = str(rng.choice(list(value)))
        if rng.random() < 0.1:
            return {k: v for k, v in value.items() if k != key}
        return value | {key: odd_value(value[key], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        i = int(rng.integers(len(value)))
        return [*value[:i], odd_value(value[i], rng), *value[i + 1 :]]
    if isinstance(value, float) and rng.random() < 0.5:
        return value * float(rng.choice([-1, 0, 1e-30, 1e30]))
    return ODD[rng.integers(len(ODD))]


def odd_tensor(tensors: dict[str, torch.Tensor], rng: Rng) -> dict[str, torch.Tensor]:
    """Return tensors of which one has another value, sign, scale, shape or type, or is gone."""
    name = str(rng.choice(list(tensors)))
    tensor = tensors[name].clone()
    kind = int(rng.integers(7))
    if kind == 0 and tensor.numel():
        odd = [torch.nan, torch.inf, -torch.inf, 1e38, -1e38, 0.0, 1e-38]
        tensor.flatten()[int(rng.integers(tensor.numel()))] = odd[int(rng.integers(7))]
    elif kind == 1:
        tensor = tensor * float(rng.choice([-1, 0, 1e-38, 1e20, 1e38]))
    elif kind == 2:
        tensor = tensor.flatten()
    elif kind == 3:
        tensor = tensor[:-1] if tensor.dim() and len(tensor) else tensor.double()
    elif kind == 4:
        tensor = tensor.to([torch.float16, torch.float64, torch.int32][int(rng.integers(3))])
    elif kind == 5:
        return {n: t for n, t in tensors.items() if n != name}
    else:
        return {f"{n}x" if n == name else n: t for n, t in tensors.items()}
    return tensors | {name: tensor.contiguous()}


def seal_anew(files: Files, change: Callable[[dict], dict] = lambda d: d) -> None:
    """Put every hash right again, as a writer who meant the change would have."""
    description = change(json.loads(files[JSON]))
    if not isinstance(description, dict):
        files[JSON] = json.dumps(description).encode()
        return
    description.pop("seal_sha256", None)
    if isinstance(description.get("sha256"), dict):
        hashes = {n: hashlib.sha256(files[n]).hexdigest() for n in (MODEL, POSTERIOR)}
        description["sha256"] = hashes
    files[JSON] = json.dumps(sealed(description)).encode()


def parts_of(content: bytes) -> tuple[dict, dict[str, torch.Tensor]]:
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    description = json.loads(header["__metadata__"]["description"])
    description = {k: v for k, v in description.items() if k not in ("seal_sha256",)}
    return description, tensors_from_bytes(content)


def meant_description(files: Files, rng: Rng) -> None:
    seal_anew(files, lambda d: odd_value(d, rng))


def meant_weights(files: Files, rng: Rng) -> None:
    """Change the network, and let the posterior claim to be fitted to it."""
    weights = odd_tensor(tensors_from_bytes(files[MODEL]), rng)
    files[MODEL] = tensors_to_bytes(weights)
    description, tensors = parts_of(files[POSTERIOR])
    files[POSTERIOR] = pack(tensors, {**description, "model_hash": tensors_hash(weights)})
    seal_anew(files)


def meant_posterior(files: Files, rng: Rng) -> None:
    description, tensors = parts_of(files[POSTERIOR])
    if rng.random() < 0.5:
        tensors = odd_tensor(tensors, rng)
    else:
        description = odd_value(description, rng)
    if isinstance(description, dict):
        files[POSTERIOR] = pack(tensors, description)
    seal_anew(files)


BLIND = [flip_bit, flip_header_bit, truncate, overwrite_block, insert_bytes, swap_files]
BLIND += [remove_file]
MEANT = [meant_description, meant_weights, meant_posterior]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, GaussianPrediction]:
    folder = tmp_path_factory.mktemp("whole") / "artifact"
    artifact = tiny_artifact()
    artifact.save(folder)
    return {name: (folder / name).read_bytes() for name in (JSON, MODEL, POSTERIOR)}, (
        artifact.predict(X)
    )


def load(files: Files, folder: Path) -> MotionArtifact | None:
    """Return the artifact, or None where ArtifactError refuses it in one sentence."""
    for name in (JSON, MODEL, POSTERIOR):
        (folder / name).unlink(missing_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    try:
        return MotionArtifact.load(folder)
    except ArtifactError:
        return None


def fuzz(seeds: range, whole: tuple[Files, GaussianPrediction], folder: Path) -> dict[str, int]:
    outcome = {"loaded": 0, "refused": 0}
    for seed in seeds:
        rng = np.random.default_rng([2026, seed])
        mutation = (BLIND if seed % 2 else MEANT)[int(rng.integers(7 if seed % 2 else 3))]
        files = dict(whole[0])
        mutation(files, rng)
        artifact = load(files, folder)
        outcome["refused" if artifact is None else "loaded"] += 1
        if artifact is None:
            continue
        p, expected = artifact.predict(X), whole[1]
        if mutation in BLIND:
            for name, tensor in vars(p).items():
                assert torch.equal(tensor, getattr(expected, name)), (seed, mutation.__name__)
        check_gaussian(p, f"{seed} {mutation.__name__}")
    return outcome


def check_gaussian(p: GaussianPrediction, what: str) -> None:
    assert bool(torch.isfinite(p.mean).all()), what
    for cov in (p.epistemic_cov, p.noise_cov):
        assert bool(torch.isfinite(cov).all()), what
        std = cov.diagonal(dim1=-2, dim2=-1).sqrt()
        correlation = cov / std[..., None] / std[..., None, :]
        assert bool((torch.linalg.eigvalsh(correlation) > 0).all()), what


def test_mutations_are_refused_or_harmless(
    whole: tuple[Files, GaussianPrediction], tmp_path: Path
) -> None:
    outcome = fuzz(range(200), whole, tmp_path)
    assert outcome["refused"] > 100
    assert outcome["loaded"] > 5


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_many_mutations_are_refused_or_harmless(
    whole: tuple[Files, GaussianPrediction], tmp_path: Path, part: int
) -> None:
    outcome = fuzz(range(1000 * part, 1000 * (part + 1)), whole, tmp_path)
    print(part, outcome)
    assert sum(outcome.values()) == 1000


def test_every_bit_of_a_description_counts(
    whole: tuple[Files, GaussianPrediction], tmp_path: Path
) -> None:
    """Bits of the description one by one, those of its first 200 bytes and some beyond."""
    files, expected = whole
    n_bytes = len(files[JSON])
    rng = np.random.default_rng(0)
    for i in [*range(0, 200, 7), *rng.integers(n_bytes, size=40).tolist()]:
        data = bytearray(files[JSON])
        data[i] ^= 1 << int(rng.integers(8))
        artifact = load(files | {JSON: bytes(data)}, tmp_path)
        if artifact is not None:
            p = artifact.predict(X)
            assert all(torch.equal(t, getattr(expected, n)) for n, t in vars(p).items()), i
