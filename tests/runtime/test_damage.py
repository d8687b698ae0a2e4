"""Damaged packed checkpoints: a named error or the same model, never a crash."""

import contextlib
import shutil
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

import aerogel as ag
from aerogel.errors import AerogelError
from aerogel.models import load_model
from aerogel.runtime.layers import sparse_layers
from builders import ARCHITECTURES

TOKENS = torch.arange(3, 33).view(2, 15)
PARTS = ["header", "packed", "anywhere", "end"]


@pytest.fixture(scope="module", params=[None, "int8"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damage") / "packed"
    model = ARCHITECTURES["bert"].build()
    ag.prune(model, sparsity=0.8)
    ag.compress(model, request.param).save_pretrained(folder)
    return folder


def damage(content: bytes, part: str, data: st.DataObject) -> bytes:
    """A few bytes changed in the header, in a packed tensor or anywhere, or the end cut off."""
    if part == "end":
        return content[: data.draw(st.integers(0, len(content) - 1))]
    (length,) = struct.unpack_from("<Q", content)
    first, last = 0, len(content) - 1
    if part == "header":
        last = 8 + length
    elif part == "packed":  # the dense tensors come before them
        first = len(content) - 11_800
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(first, last))] ^= data.draw(st.integers(1, 255))
    return bytes(damaged)


@pytest.mark.parametrize("part", PARTS)
@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_refused_or_loads_whole(
    part: str, saved: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged") / "packed"
    shutil.copytree(saved, folder)
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes(), part, data))
    with contextlib.suppress(AerogelError):
        found, expected = load_model(str(folder)), load_model(str(saved))
        packed = [f"{name}.weight" for name, _ in sparse_layers(expected)]
        for key in packed:  # nothing guards the dense tensors, here as in any checkpoint
            assert torch.equal(found.state_dict()[key], expected.state_dict()[key])
        with torch.inference_mode():
            found(TOKENS)
    shutil.rmtree(folder.parent)


@given(data=st.data())
@settings(max_examples=40)
def test_a_damaged_configuration_is_refused_or_loads(
    saved: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged") / "packed"
    shutil.copytree(saved, folder)
    path = folder / "config.json"
    content = bytearray(path.read_bytes())
    start = content.index(b'"quantization_config"')
    place = data.draw(st.integers(start, start + 80))
    content[place] ^= data.draw(st.integers(1, 127))
    path.write_bytes(content)
    with contextlib.suppress(AerogelError):
        found, expected = (load_model(str(place)).state_dict() for place in (folder, saved))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)
    shutil.rmtree(folder.parent)
