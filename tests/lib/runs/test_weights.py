import pickle
from pathlib import Path

import pytest
import torch

from lib.runs.weights import load_weights, save_weights

WEIGHTS = {"layer.weight": torch.arange(6.0).reshape(2, 3), "layer.bias": torch.tensor([1, 2])}


def test_weights_and_what_stands_beside_them_come_back(tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    save_weights(path, WEIGHTS, classes=["a", "größe"], tables={"gold/examples": 3})
    weights, known = load_weights(path)
    assert {name: tensor.tolist() for name, tensor in weights.items()} == {
        name: tensor.tolist() for name, tensor in WEIGHTS.items()
    }
    assert weights["layer.bias"].dtype == torch.int64
    assert known == {"classes": ["a", "größe"], "tables": {"gold/examples": 3}}
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_transposed_tensor_is_stored_as_it_is_read(tmp_path: Path) -> None:
    save_weights(tmp_path / "net.safetensors", {"w": WEIGHTS["layer.weight"].T})
    assert load_weights(tmp_path / "net.safetensors")[0]["w"].tolist() == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("content", [b"", b"half", pickle.dumps({"w": 1}), None])
def test_another_file_or_half_of_one_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "net.safetensors"
    save_weights(path, WEIGHTS)
    path.write_bytes(path.read_bytes()[:-5] if content is None else content)
    with pytest.raises(ValueError, match=r"net\.safetensors holds no weights"):
        load_weights(path)


def test_a_missing_file_is_missing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="net"):
        load_weights(tmp_path / "net.safetensors")
