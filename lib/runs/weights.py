"""Weights of models as safetensors: loading runs no code. Beside them plain values, such as sizes and the tables trained on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

if TYPE_CHECKING:
    import torch  # which not every engine has

Arrays = dict[str, NDArray[Any]]
KNOWN = "cartwheel"  # in the file's metadata


def save_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], **known: Any) -> None:
    """Write arrays by name and plain values to one file, atomically.

    Args:
        path: of the file.
        arrays: of any shape.
        known: values that JSON can hold.
    """
    part = path.with_name(f"{path.name}.part")
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    save_file(contiguous, part, metadata={KNOWN: json.dumps(known, ensure_ascii=False)})
    part.replace(path)


def load_arrays(path: Path) -> tuple[Arrays, dict[str, Any]]:
    """What `save_arrays` wrote: the arrays, and the values.

    Raises:
        OSError: there is no such file.
        ValueError: it is another kind of file, or not whole.
    """
    try:
        with safe_open(path, framework="np") as file:
            known = json.loads((file.metadata() or {}).get(KNOWN, "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, known  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path.name} holds no weights: {error}") from error


def save_weights(path: Path, weights: Mapping[str, "torch.Tensor"], **known: Any) -> None:
    """`save_arrays` of a network's `state_dict`."""
    save_arrays(path, {name: tensor.detach().cpu().numpy() for name, tensor in weights.items()}, **known)


def load_weights(path: Path) -> tuple[dict[str, "torch.Tensor"], dict[str, Any]]:
    """`load_arrays` as a `state_dict`."""
    import torch  # noqa: PLC0415

    arrays, known = load_arrays(path)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}, known
