"""Packed checkpoints through transformers: saved, loaded, refused where they are not whole; state, copies, casts."""

import base64
import copy
import io
import json
import os
import pickle
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

import aerogel as ag
from aerogel.errors import AerogelWarning, ModelError
from aerogel.models import load_model, prunable_weights
from aerogel.models.int8 import round_to_grid
from aerogel.runtime import kernel
from aerogel.runtime.codec import decode
from aerogel.runtime.layers import SparseLinear, sparse_layers
from aerogel.runtime.values import VALUE_TYPES
from builders import ARCHITECTURES

TOKENS = torch.arange(3, 33).view(2, 15)
TOKENS[:, -1] = 2  # BART's classifier looks for the end


def pruned(name: str, sparsity: float = 0.8) -> PreTrainedModel:
    model = ARCHITECTURES[name].build()
    ag.prune(model, sparsity=sparsity)
    return model


def answers(model: PreTrainedModel) -> Tensor:
    more = {"decoder_input_ids": TOKENS} if model.config.is_encoder_decoder else {}
    with torch.inference_mode():
        return model(TOKENS, **more)[0]


def alike(one: PreTrainedModel, other: PreTrainedModel) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A packed checkpoint of a small BERT."""
    ag.compress(pruned("bert")).save_pretrained(tmp_path / "packed")
    return tmp_path / "packed"


def edit(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


# there and back


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_is_saved_loads_packed_and_answers_alike(name: str, tmp_path: Path) -> None:
    dense = pruned(name)
    expected = answers(ag.compress(copy.deepcopy(dense)))
    ag.compress(copy.deepcopy(dense)).save_pretrained(tmp_path / "packed")
    assert json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"] == {
        "quant_method": "aerogel",
        "version": 3,
    }
    loaded = type(dense).from_pretrained(tmp_path / "packed")
    assert {path for path, _ in sparse_layers(loaded)} == ARCHITECTURES[name].weights
    assert torch.equal(answers(loaded), expected)
    loaded.save_pretrained(tmp_path / "again")
    first, second = ((tmp_path / folder / "model.safetensors").read_bytes() for folder in ("packed", "again"))
    assert first == second
    restored = ag.decompress(loaded)
    assert alike(restored, dense)
    restored.save_pretrained(tmp_path / "dense")
    assert "quantization_config" not in json.loads((tmp_path / "dense" / "config.json").read_text())
    assert alike(type(dense).from_pretrained(tmp_path / "dense"), dense)


@pytest.mark.parametrize("name", ["bert", "gpt2", "bart", "llama", "t5"])
def test_another_head_is_new_and_the_body_is_kept(name: str, tmp_path: Path) -> None:
    model = ag.compress(pruned(name))
    model.save_pretrained(tmp_path / "packed")
    classifier = AutoModelForSequenceClassification.from_pretrained(tmp_path / "packed", num_labels=3)
    assert len(sparse_layers(classifier)) == len(sparse_layers(model))
    body = AutoModel.from_pretrained(tmp_path / "packed")
    for path, layer in sparse_layers(body):
        whole = f"{model.base_model_prefix}.{path}" if model.base_model is not model else path
        assert torch.equal(layer.matrix, model.get_submodule(whole).matrix)
    body.save_pretrained(tmp_path / "body")
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path / "body", num_labels=3)
    assert len(sparse_layers(again)) == len(sparse_layers(model))


def test_a_trained_head_comes_back(tmp_path: Path) -> None:
    model, tokenizer = ag.load("tiny-bart", ag.load_task("movie-reviews").task.head)
    ag.prune(model, sparsity=0.9)
    expected = answers(ag.compress(model))
    model.save_pretrained(tmp_path / "packed")
    tokenizer.save_pretrained(tmp_path / "packed")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "packed")
    assert torch.equal(answers(loaded), expected)
    assert torch.equal(answers(ag.load(str(tmp_path / "packed"))[0]), expected)


def test_shards(tmp_path: Path) -> None:
    model = ag.compress(pruned("bert"))
    model.save_pretrained(tmp_path / "packed", max_shard_size="20kB")
    assert len(list((tmp_path / "packed").glob("*.safetensors"))) > 2
    assert alike(type(model).from_pretrained(tmp_path / "packed"), model)


def test_layers_that_gain_nothing_stay_dense(tmp_path: Path) -> None:
    model = ARCHITECTURES["bert"].build()
    ag.prune(model, sparsity=0.8, exclude=["*.query", "*.intermediate.dense"])
    with pytest.warns(AerogelWarning, match="query"):
        ag.compress(model)
    model.save_pretrained(tmp_path / "packed")
    loaded = type(model).from_pretrained(tmp_path / "packed")
    assert alike(loaded, model)
    assert len(sparse_layers(loaded)) == 8


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_dtype_asked_for_is_the_dense_checkpoints(stored: torch.dtype, dtype: torch.dtype, tmp_path: Path) -> None:
    dense = pruned("bert").to(stored)
    dense.save_pretrained(tmp_path / "dense")
    ag.compress(dense).save_pretrained(tmp_path / "packed")
    packed = load_file(tmp_path / "packed" / "model.safetensors")["bert.encoder.layer.0.output.dense.weight"]
    assert decode(packed, (32, 64)).dtype == stored
    expected = type(dense).from_pretrained(tmp_path / "dense", dtype=dtype)
    loaded = type(dense).from_pretrained(tmp_path / "packed", dtype=dtype)
    assert loaded.dtype == dtype
    assert alike(ag.decompress(loaded), expected)


def test_a_family_that_joins_layers_in_its_checkpoints_is_refused(tmp_path: Path) -> None:
    model = transformers.AutoModelForCausalLM.from_config(
        transformers.HrmTextConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            head_dim=8,
            vocab_size=100,
            pad_token_id=0,
        )
    )
    ag.prune(model, sparsity=0.8)
    with pytest.raises(ModelError, match=r"HrmText.*self_attn.*aerogel\.decompress"):
        ag.compress(model).save_pretrained(tmp_path / "packed")
    assert not list((tmp_path / "packed").iterdir())
    ag.decompress(model).save_pretrained(tmp_path / "dense")
    assert alike(type(model).from_pretrained(tmp_path / "dense"), model)


def test_double_precision_is_refused(saved: Path) -> None:
    with pytest.raises(ModelError, match=r"can't be loaded in torch\.float64"):
        AutoModel.from_pretrained(saved, dtype=torch.float64)


def test_values_in_bfloat16_are_asked_for_and_stay(tmp_path: Path) -> None:
    dense = pruned("bert")
    model = ag.compress(copy.deepcopy(dense), values="bfloat16")
    weight = model.bert.encoder.layer[0].output.dense
    assert (weight.values.dtype, weight.dtype) == (torch.bfloat16, torch.float32)
    model.save_pretrained(tmp_path / "packed")
    loaded = type(model).from_pretrained(tmp_path / "packed")
    assert loaded.bert.encoder.layer[0].output.dense.values.dtype == torch.bfloat16
    assert alike(loaded, model)
    assert torch.equal(answers(loaded), answers(model))
    rounded = ag.decompress(loaded).bert.encoder.layer[0].output.dense.weight
    assert torch.equal(rounded, dense.bert.encoder.layer[0].output.dense.weight.bfloat16().float())


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_int8_is_saved_and_loaded(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    dense = pruned(name)
    model = ag.compress(copy.deepcopy(dense), values="int8").to(dtype)
    model.save_pretrained(tmp_path / "packed")
    config = json.loads((tmp_path / "packed" / "config.json").read_text())["quantization_config"]
    assert (config["version"], config["values"]) == (3, "int8")
    loaded = type(model).from_pretrained(tmp_path / "packed", dtype="auto")
    assert (loaded.dtype, alike(loaded, model)) == (dtype, True)
    assert torch.equal(answers(loaded), answers(model))
    for _, layer in sparse_layers(loaded):
        layer.packed.check()
    ag.decompress(loaded)
    for found, expected in zip(prunable_weights(loaded), prunable_weights(dense), strict=True):
        assert torch.equal(found.matrix, round_to_grid(expected.matrix).to(dtype))


def test_integers_of_a_checkpoint_stay_whatever_its_values(saved: Path) -> None:
    model = transformers.BertForMaskedLM.from_pretrained(saved)
    layer = model.bert.encoder.layer[1].output.dense
    layer.round_values(VALUE_TYPES["int8"])
    model.save_pretrained(saved)
    for values in (None, "bfloat16", "int8"):
        configure(saved, lambda config, values=values: config["quantization_config"].update({"values": values}))
        loaded = transformers.BertForMaskedLM.from_pretrained(saved)
        types = {str(other.values.dtype).removeprefix("torch.") for _, other in sparse_layers(loaded)}
        assert types == {"int8", values or "float32"}
        assert torch.equal(loaded.bert.encoder.layer[1].output.dense.matrix, layer.matrix)


def test_version_2_is_read_and_written_as_the_present_one(saved: Path, tmp_path: Path) -> None:
    """It differs in that it has no integers: tests/runtime/test_codec.py has its golden bytes."""
    expected = transformers.BertForMaskedLM.from_pretrained(saved)
    configure(saved, lambda config: config["quantization_config"].update({"version": 2}))
    loaded = transformers.BertForMaskedLM.from_pretrained(saved)
    assert alike(loaded, expected)
    loaded.save_pretrained(tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["quantization_config"]["version"] == 3


def test_an_all_zero_layer_is_kept(tmp_path: Path) -> None:
    model = pruned("bert")
    for weight in prunable_weights(model)[:4]:
        torch.nn.init.zeros_(weight.parameter)
    ag.compress(model).save_pretrained(tmp_path / "packed")
    assert alike(type(model).from_pretrained(tmp_path / "packed"), model)


def test_without_kernels_the_same_files(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "native", lambda: None)
    loaded = transformers.BertForMaskedLM.from_pretrained(saved)
    loaded.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()


def test_an_empty_process_needs_only_the_import(saved: Path) -> None:
    script = (
        "import sys, aerogel\n"
        "assert 'torch' not in sys.modules\n"
        "from transformers import AutoModelForMaskedLM\n"
        "model = AutoModelForMaskedLM.from_pretrained(sys.argv[1])\n"
        "print(type(model.bert.encoder.layer[0].output.dense).__name__)\n"
    )
    after = script.replace("import sys, aerogel", "import sys").replace(
        "assert 'torch' not in sys.modules\n", "import transformers.modeling_utils, aerogel\n"
    )
    for code in (script, after):
        done = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True)
        assert done.stdout.strip() == "SparseLinear", done.stderr


# what is refused

KEY = "bert.encoder.layer.1.output.dense.weight"
NORM = "bert.encoder.layer.1.output.LayerNorm.weight"
EDITS: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "no weight": (lambda t: t.pop(KEY), f"the first is {KEY}"),
    "no bias": (lambda t: t.pop(KEY.replace("weight", "bias")), "lacks 1 tensor of the model"),
    "no embedding": (lambda t: t.pop("bert.embeddings.word_embeddings.weight"), "lacks 1 tensor "),
    "no head": (lambda t: t.pop("cls.predictions.bias"), "lacks 1 tensor "),
    "surplus": (lambda t: t.update({"bert.more": torch.zeros(3)}), "1 tensor .*bert.more"),
    "surplus layer": (lambda t: t.update({KEY.replace("1", "7"): t[KEY].clone()}), "layer.7"),
    "a packed norm": (
        lambda t: t.update({NORM: t[KEY].clone()}),
        r"LayerNorm is packed in the checkpoint, but in BertForMaskedLM .* not a linear",
    ),
    "a short stream": (lambda t: t.update({KEY: t[KEY][:-1].clone()}), "checksum"),
    "another shape": (
        lambda t: t.update({KEY: t[KEY.replace("output", "intermediate")].clone()}),
        "packed as 64 x 32, expected 32 x 64",
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_a_checkpoint_that_is_not_whole_is_refused(case: str, saved: Path) -> None:
    change, said = EDITS[case]
    edit(saved, change)
    with pytest.raises(ModelError, match=said):
        transformers.BertForMaskedLM.from_pretrained(saved)
    with pytest.raises(ModelError, match=said):
        load_model(str(saved))


@pytest.mark.parametrize("case", ["no weight", "no bias", "surplus", "surplus layer", "no embedding"])
def test_nor_is_one_for_another_head(case: str, saved: Path) -> None:
    edit(saved, EDITS[case][0])
    for factory in (AutoModelForSequenceClassification, AutoModel):
        with pytest.raises(ModelError):
            factory.from_pretrained(saved)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 1}, "version 1.*2 and 3"),
        ({"version": True}, "version True"),
        ({"values": "int4"}, "'int4'.*int8"),
        ({"values": ["int8"]}, "int8"),
        ({"shell": "rm"}, "can't have shell"),
        ({"head_values": "int8"}, "head_values"),
    ],
)
def test_an_unknown_configuration_is_refused(change: dict[str, Any], said: str, saved: Path) -> None:
    path = saved / "config.json"
    config = json.loads(path.read_text())
    config["quantization_config"] |= change
    path.write_text(json.dumps(config))
    with pytest.raises(ModelError, match=said):
        AutoModel.from_pretrained(saved)


# transformers before 5.23 refuses them after the blocks were compared
@pytest.mark.filterwarnings("ignore:fused blocks:aerogel.errors.AerogelWarning")
def test_bytes_of_another_type_are_refused(saved: Path) -> None:
    edit(saved, lambda t: t.update({KEY: t[KEY].to(torch.int32)}))
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):  # transformers' own
        transformers.BertForMaskedLM.from_pretrained(saved)
    with pytest.raises(ModelError, match=f"{KEY} is .*, expected 32x64"):
        load_model(str(saved))


@pytest.mark.parametrize("hint", [True, False])
def test_without_aerogel_the_last_line_says_to_import_it(hint: bool, saved: Path) -> None:
    """Without the hint, as in older folders, the bytes have the weight's name and another shape: refused as well."""
    if not hint:
        configure(saved, lambda config: config.pop("transformers_weights"))
    script = "import sys, transformers\ntransformers.AutoModel.from_pretrained(sys.argv[1])\n"
    telling = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    done = subprocess.run([sys.executable, "-c", script, str(saved)], capture_output=True, text=True, env=telling)
    assert done.returncode == 1
    assert "Unknown quantization type, got aerogel" in done.stderr
    assert ("import aerogel" if hint else "ignore_mismatched_sizes") in done.stderr.strip().splitlines()[-1]


def configure(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


def test_a_folder_without_the_hint_loads(saved: Path, tmp_path: Path) -> None:
    expected = transformers.BertForMaskedLM.from_pretrained(saved)
    assert not hasattr(expected.config, "transformers_weights")
    configure(saved, lambda config: config.pop("transformers_weights"))
    loaded = transformers.BertForMaskedLM.from_pretrained(saved)
    assert alike(loaded, expected)
    assert alike(load_model(str(saved)), expected)
    for model in (loaded, copy.deepcopy(expected), pickle.loads(pickle.dumps(expected))):
        model.save_pretrained(tmp_path / "again")
        assert "import aerogel" in json.loads((tmp_path / "again" / "config.json").read_text())["transformers_weights"]
        ag.decompress(model).save_pretrained(tmp_path / "dense")
        assert "transformers_weights" not in json.loads((tmp_path / "dense" / "config.json").read_text())


def test_a_misspelt_method_is_named(saved: Path) -> None:
    path = saved / "config.json"
    path.write_text(path.read_text().replace('"aerogel"', '"aerogle"'))
    with pytest.raises(ModelError, match=r"unknown quant_method .*'aerogle': did you mean aerogel"):
        load_model(str(saved))
    with pytest.raises(ValueError, match="import aerogel"):
        AutoModel.from_pretrained(saved)


@pytest.mark.parametrize("device", ["cpu", "auto"])
def test_what_is_packed_loads_on_the_cpu(device: str, saved: Path) -> None:
    assert AutoModel.from_pretrained(saved, device_map=device).device.type == "cpu"


@pytest.mark.parametrize("device", ["cuda", 0, {"": "cpu", "encoder": "meta"}])
def test_and_nowhere_else(device: Any, saved: Path) -> None:
    with pytest.raises(ModelError, match="on the CPU, not on"):
        AutoModel.from_pretrained(saved, device_map=device)


def test_a_cut_file_is_refused(saved: Path) -> None:
    path = saved / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        AutoModel.from_pretrained(saved)


def test_a_dense_model_is_compressed_by_name_alone(tmp_path: Path) -> None:
    ARCHITECTURES["bert"].build().save_pretrained(tmp_path)
    from aerogel.runtime.quantizer import PackedConfig

    with pytest.raises(ModelError, match=re.escape("aerogel.compress(model)")):
        AutoModel.from_pretrained(tmp_path, quantization_config=PackedConfig())


# state, copies and casts of a model in memory


def test_state_goes_into_a_model_with_other_zeros() -> None:
    model, other = ag.compress(pruned("gpt2", 0.9)), ag.compress(pruned("gpt2", 0.6))
    assert not torch.equal(answers(model), answers(other))
    other.load_state_dict(model.state_dict())
    assert alike(model, other)
    assert torch.equal(answers(model), answers(other))
    for _, layer in sparse_layers(other):
        layer.packed.check()


@pytest.mark.parametrize(("of", "into"), [("int8", None), (None, "int8"), ("int8", "bfloat16")])
def test_state_of_other_values_is_converted_or_stays_integers(of: Any, into: Any) -> None:
    model, other = ag.compress(pruned("gpt2", 0.9), of), ag.compress(pruned("gpt2", 0.6), into)
    other.load_state_dict(model.state_dict())
    for (_, expected), (_, layer) in zip(sparse_layers(ag.compress(model, "int8")), sparse_layers(other), strict=True):
        layer.packed.check()
        assert layer.values.dtype == torch.int8
        assert torch.equal(layer.matrix, expected.matrix)
    assert torch.equal(answers(model), answers(other))


def test_state_of_another_form_is_said() -> None:
    dense = pruned("bert")
    model = ag.compress(copy.deepcopy(dense))
    with pytest.raises(ModelError, match=r"query.*float32 \(32, 32\)"):
        model.load_state_dict(dense.state_dict())
    state = model.state_dict()
    state[KEY] = state[KEY][:-1]
    with pytest.raises(ModelError, match=r"layer bert\.encoder\.layer\.1\.output\.dense: it is damaged"):
        model.load_state_dict(state)


@pytest.mark.parametrize("values", [None, "int8"])
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "torch.save"])
def test_copies(way: str, values: Any) -> None:
    model = ag.compress(pruned("bert"), values)
    if way == "deepcopy":
        other = copy.deepcopy(model)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        file = io.BytesIO()
        torch.save(model, file)
        other = torch.load(io.BytesIO(file.getvalue()), weights_only=False)
    assert alike(other, model)
    assert torch.equal(answers(other), answers(model))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    other.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert alike(other, model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_casts_are_the_dense_models(dtype: torch.dtype, tmp_path: Path) -> None:
    dense = pruned("bert")
    model = ag.compress(copy.deepcopy(dense)).to(dtype)
    model.save_pretrained(tmp_path / "packed")
    assert alike(ag.decompress(model), dense.to(dtype))
    loaded = type(dense).from_pretrained(tmp_path / "packed", dtype="auto")
    assert loaded.dtype == dtype
    assert alike(ag.decompress(loaded).float(), dense.float())


def test_what_a_sparse_layer_says_of_its_weight() -> None:
    for name, path in (("bert", "bert.encoder.layer.0.output.dense"), ("gpt2", "transformer.h.0.mlp.c_fc")):
        dense = pruned(name)
        expected = dense.get_submodule(path).weight
        layer = ag.compress(dense).get_submodule(path)
        assert isinstance(layer, SparseLinear)
        assert (layer.weight.shape, layer.weight.dtype) == (expected.shape, expected.dtype)
        with pytest.warns(AerogelWarning, match="reads the weight"):
            assert torch.equal(layer.weight.sum(), expected.sum())


def test_fine_tuning_asks_for_the_dense_model(saved: Path) -> None:
    from aerogel.training import finetune

    data = ag.load_task("movie-reviews")
    model, tokenizer = ag.load("tiny-bert", data.task.head)
    ag.prune(model, sparsity=0.9)
    with pytest.raises(ModelError, match=r"aerogel\.decompress"):
        finetune(ag.compress(model), tokenizer, data)
    with pytest.raises(ModelError, match=r"aerogel\.decompress"):
        ag.prune(model, sparsity=0.95)


# the hub


class _Hub(BaseHTTPRequestHandler):
    """Takes what the hub's client sends when it pushes a repository, and keeps the files of the commit."""

    files: dict[str, bytes]

    def do_GET(self) -> None:
        self._send({"id": "someone/sparse", "siblings": [], "sha": "0" * 40, "name": "someone", "auth": {}})

    def do_POST(self) -> None:
        body = self._body()
        url = f"http://{self.headers['Host']}"
        if self.path.endswith("/create"):
            self._send({"url": f"{url}/someone/sparse"})
        elif "/preupload/" in self.path:
            asked = json.loads(body)["files"]
            self._send({"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked]})
        elif "/validate-yaml" in self.path:  # the model card
            self._send({"errors": [], "warnings": []})
        else:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._send({"commitUrl": f"{url}/someone/sparse/commit/1", "commitOid": "1" * 40, "hookOutput": ""})

    def _body(self) -> bytes:
        if "Content-Length" in self.headers:
            return self.rfile.read(int(self.headers["Content-Length"]))
        body = b""
        while size := int(self.rfile.readline(), 16):  # in chunks
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _send(self, value: dict[str, Any]) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def hub() -> Iterator[tuple[str, dict[str, bytes]]]:
    """The address of a stand-in for the hub, and the files that were pushed to it."""
    files: dict[str, bytes] = {}
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Hub,), {"files": files}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    server.server_close()


def test_push_to_hub_sends_the_packed_checkpoint(
    hub: tuple[str, dict[str, bytes]], saved: Path, tmp_path: Path
) -> None:
    endpoint, files = hub
    script = (
        "import sys, aerogel\n"
        "from transformers import AutoModelForMaskedLM\n"
        "AutoModelForMaskedLM.from_pretrained(sys.argv[1]).push_to_hub('someone/sparse', token='hf_none')\n"
    )
    surroundings = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    surroundings |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home"), "NO_PROXY": "*"}
    done = subprocess.run(
        [sys.executable, "-c", script, str(saved)], capture_output=True, text=True, env=surroundings, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert files["model.safetensors"] == (saved / "model.safetensors").read_bytes()
    assert json.loads(files["config.json"])["quantization_config"]["quant_method"] == "aerogel"
