"""Weights of networks as safetensors: loading runs no code. Beside them plain values, such as sizes and the tables trained on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

KNOWN = "cartwheel"  # in the file's metadata


def save_weights(path: Path, weights: Mapping[str, torch.Tensor], **known: Any) -> None:
    """Write a network's `state_dict` and plain values to one file, atomically.

    Args:
        path: of the file.
        weights: tensors that share no memory.
        known: values that JSON can hold.
    """
    part = path.with_name(f"{path.name}.part")
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(tensors, part, metadata={KNOWN: json.dumps(known, ensure_ascii=False)})
    part.replace(path)


def load_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What `save_weights` wrote: the `state_dict`, and the values.

    Raises:
        OSError: there is no such file.
        ValueError: it is another kind of file, or not whole.
    """
    try:
        with safe_open(path, framework="pt") as file:
            known = json.loads((file.metadata() or {}).get(KNOWN, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, known  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path.name} holds no weights: {error}") from error
