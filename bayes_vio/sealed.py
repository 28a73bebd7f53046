"""Sealed descriptions: JSON that carries a hash of itself, alone or inside a safetensors file.

The seal finds damage (a flipped bit, a lost block, an edit by hand). It is no signature: whoever
means to write another file can seal it, too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes
from torch import Tensor

_SEAL, _TENSORS = "seal_sha256", "tensors_sha256"
_METADATA_KEY = "description"
_HEADER_LENGTH_BYTES = 8
# Deeper than any description; Python's own bound on recursion would be met later.
_DEEPEST = 32


class FormatError(ValueError):
    """A file's content is not what was written; the message goes on after the file's name."""


def sealed(description: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description with its hash. Raises FormatError for what JSON has no word for."""
    return {**description, _SEAL: _seal_of(description)}


def check_seal(description: Mapping[str, Any]) -> None:
    """Raise FormatError unless the description is the one that was sealed."""
    content = {key: value for key, value in description.items() if key != _SEAL}
    if description.get(_SEAL) != _seal_of(content):
        raise FormatError("is damaged: its description was changed after it was written")


def parse(text: str | bytes) -> dict[str, Any]:
    """Return a JSON object; NaN, infinities and values nested too deeply are refused."""
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"is not valid JSON ({error})") from error
    if not isinstance(value, dict) or _depth(value) > _DEEPEST:
        raise FormatError("is not valid JSON of the kind that was written")
    return value


def check_version(description: Mapping[str, Any], kind: str, version: int) -> None:
    """Raise FormatError for another kind of file or another version of its format."""
    found = (description.get("format"), description.get("version"))
    if found != (kind, version):
        raise FormatError(
            f"has format {found[0]!r} version {found[1]!r}, this package reads {kind!r} "
            f"version {version}"
        )


def pack(tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> bytes:
    """Return a safetensors file of tensors and their sealed description."""
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    whole = sealed({**description, _TENSORS: tensors_hash(stored)})
    return tensors_to_bytes(stored, metadata={_METADATA_KEY: json.dumps(whole)})


def unpack(content: bytes, kind: str, version: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the description and the tensors of a file that ``pack`` made.

    Raises FormatError where it is truncated, of another kind or version, or changed by a bit.
    """
    try:
        tensors = tensors_from_bytes(content)
    # The parser raises what its dictionaries and its Rust side raise.
    except (SafetensorError, KeyError, ValueError, RuntimeError, OverflowError) as error:
        raise FormatError(f"is truncated or no safetensors file ({error})") from error
    description = _description(content, kind)
    check_version(description, kind, version)
    check_seal(description)
    if description.get(_TENSORS) != tensors_hash(tensors):
        raise FormatError("is damaged: its tensors were changed after it was written")
    return description, tensors


def tensors_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of named tensors: names, types, shapes, bits."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        bits = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
        digest.update(bits.numpy().data)
    return digest.hexdigest()


def _description(content: bytes, kind: str) -> dict[str, Any]:
    length = int.from_bytes(content[:_HEADER_LENGTH_BYTES], "little")
    header = parse(content[_HEADER_LENGTH_BYTES : _HEADER_LENGTH_BYTES + length])
    metadata = header.get("__metadata__")
    text = metadata.get(_METADATA_KEY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        name = kind.rpartition(".")[2]
        raise FormatError(f"holds no {name}, or one of an older version: write it again")
    return parse(text)


def _seal_of(content: Mapping[str, Any]) -> str:
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FormatError(f"holds what JSON cannot hold ({error})") from error
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}, which is no number")


def _depth(value: Any) -> int:
    """Return how deeply containers are nested, without recursion."""
    depth, level = 0, [value]
    while level:
        depth += 1
        children = [v.values() if isinstance(v, dict) else v for v in level]
        level = [c for group in children for c in group if isinstance(c, (dict, list))]
    return depth
