"""Every model type of transformers: compressed, it computes the same as the dense model, or is refused."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import AutoModel, PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

import aerogel as ag
from aerogel.errors import AerogelError, AerogelWarning
from aerogel.models import load_model
from aerogel.runtime.layers import sparse_layers
from tiny import outputs, tiny_config, tiny_inputs, tiny_model

ENCODERS = """
AlbertForMaskedLM BertForMaskedLM BertForPreTraining BertForQuestionAnswering CamembertForMaskedLM CanineModel
ConvBertForMaskedLM Data2VecTextForMaskedLM DebertaForMaskedLM DebertaV2ForMaskedLM DistilBertForMaskedLM
DPRQuestionEncoder ElectraForMaskedLM ErnieForMaskedLM EsmForMaskedLM EuroBertForMaskedLM FNetForMaskedLM
FunnelForMaskedLM IBertForMaskedLM LayoutLMForMaskedLM LongformerForMaskedLM LukeForMaskedLM MegatronBertForMaskedLM
MobileBertForMaskedLM ModernBertForMaskedLM MPNetForMaskedLM MraForMaskedLM NomicBertForMaskedLM
NystromformerForMaskedLM PerceiverForMaskedLM RemBertForMaskedLM RobertaForMaskedLM RobertaPreLayerNormForMaskedLM
RoFormerForMaskedLM SplinterModel SqueezeBertForMaskedLM TapasForMaskedLM XLMRobertaForMaskedLM XLMRobertaXLForMaskedLM
YosoForMaskedLM
"""
DECODERS = """
ApertusForCausalLM ArceeForCausalLM BambaForCausalLM BartForCausalLM BertGenerationDecoder BertLMHeadModel
BigBirdForCausalLM BioGptForCausalLM BitNetForCausalLM BloomForCausalLM CodeGenForCausalLM CohereForCausalLM
Cohere2ForCausalLM CTRLLMHeadModel DeepseekV2ForCausalLM DeepseekV3ForCausalLM Ernie4_5ForCausalLM FalconForCausalLM
FalconH1ForCausalLM FalconMambaForCausalLM FlaubertWithLMHeadModel GemmaForCausalLM Gemma2ForCausalLM
Gemma3ForCausalLM GlmForCausalLM GPT2DoubleHeadsModel GPT2LMHeadModel GPTBigCodeForCausalLM GPTJForCausalLM
GPTNeoForCausalLM GPTNeoXForCausalLM GptOssForCausalLM GraniteForCausalLM HeliumForCausalLM JambaForCausalLM
Lfm2ForCausalLM LlamaForCausalLM MambaForCausalLM Mamba2ForCausalLM MBartForCausalLM MistralForCausalLM
MixtralForCausalLM MptForCausalLM OlmoForCausalLM Olmo2ForCausalLM OpenAIGPTLMHeadModel OPTForCausalLM
PersimmonForCausalLM PhiForCausalLM Phi3ForCausalLM Qwen2ForCausalLM Qwen2MoeForCausalLM Qwen3ForCausalLM
RecurrentGemmaForCausalLM ReformerModelWithLMHead RobertaForCausalLM RwkvForCausalLM SmolLM3ForCausalLM
StableLmForCausalLM Starcoder2ForCausalLM XGLMForCausalLM XLMWithLMHeadModel XLNetLMHeadModel Zamba2ForCausalLM
"""
ENCODER_DECODERS = """
BartForConditionalGeneration BigBirdPegasusForConditionalGeneration BlenderbotForConditionalGeneration
EncoderDecoderModel FSMTForConditionalGeneration LEDForConditionalGeneration LongT5ForConditionalGeneration
M2M100ForConditionalGeneration MarianMTModel MBartForConditionalGeneration MT5ForConditionalGeneration
MvpForConditionalGeneration NllbMoeForConditionalGeneration PegasusForConditionalGeneration
PLBartForConditionalGeneration ProphetNetForConditionalGeneration SwitchTransformersForConditionalGeneration
T5ForConditionalGeneration UMT5ForConditionalGeneration VisionEncoderDecoderModel WhisperForConditionalGeneration
"""
OTHERS = """
BeitModel BlipModel BridgeTowerModel CLIPModel ConditionalDetrModel Data2VecAudioModel DeformableDetrModel DeiTModel
DetrModel Dinov2Model DPTModel GitForCausalLM HubertModel OwlViTModel SegformerModel SiglipModel SwinModel Swinv2Model
UniSpeechModel ViltModel ViTModel ViTMAEModel Wav2Vec2Model WavLMModel YolosModel
"""
CLASSES = [*ENCODERS.split(), *DECODERS.split(), *ENCODER_DECODERS.split(), *OTHERS.split()]

DECODER = dict(is_decoder=True)
CROSS = dict(is_decoder=True, add_cross_attention=True)
MAMBA = dict(mamba_n_groups=1, mamba_d_state=8, mamba_chunk_size=8, mamba_n_heads=8)
LATENT = dict(
    kv_lora_rank=16, q_lora_rank=16, qk_rope_head_dim=8, qk_nope_head_dim=8, v_head_dim=8, num_key_value_heads=4
)
SPEECH = dict(
    conv_dim=(16, 16),
    conv_kernel=(10, 3),
    conv_stride=(5, 2),
    num_feat_extract_layers=2,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
)
SWIN = dict(embed_dim=16, depths=[1, 1], num_heads=[2, 2], window_size=4, patch_size=4)
BRIDGE = dict(
    hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=32, patch_size=8
)
HYBRID = ["mamba", "mamba", "hybrid", "mamba", "hybrid", "mamba"]


def detr(levels: list[str]) -> dict[str, Any]:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], out_features=levels
    )
    return dict(backbone_config=backbone, use_timm_backbone=False, backbone=None, num_queries=5)


def of_two(encoder: str, decoder: str) -> dict[str, Any]:
    """An encoder with a decoder of another family."""
    kinds = getattr(transformers, encoder), getattr(transformers, decoder)
    return dict(encoder=tiny_config(kinds[0]).to_dict(), decoder=tiny_config(kinds[1], **CROSS).to_dict())


# settings of single classes besides the common sizes
CHANGES: dict[str, dict[str, Any]] = {
    "BambaForCausalLM": dict(**MAMBA, mamba_d_head=8, attn_layer_indices=[1]),
    "BartForCausalLM": dict(is_decoder=True, is_encoder_decoder=False),
    "BertGenerationDecoder": DECODER,
    "BertLMHeadModel": DECODER,
    "BigBirdForCausalLM": DECODER,
    "BridgeTowerModel": dict(
        hidden_size=64, text_config=BRIDGE, vision_config=BRIDGE | dict(image_size=32, patch_size=8)
    ),
    "CodeGenForCausalLM": dict(rotary_dim=4),
    "ConditionalDetrModel": detr(["stage4"]),
    "Data2VecAudioModel": SPEECH,
    "DeepseekV2ForCausalLM": dict(**LATENT, first_k_dense_replace=2, head_dim=8),
    "DeepseekV3ForCausalLM": dict(**LATENT, first_k_dense_replace=2, head_dim=8),
    "DeformableDetrModel": dict(**detr(["stage2", "stage3", "stage4"]), num_feature_levels=3),
    "DetrModel": detr(["stage4"]),
    "EncoderDecoderModel": of_two("BertConfig", "GPT2Config"),
    "EsmForMaskedLM": dict(vocab_size=200, mask_token_id=3, pad_token_id=1),
    "FSMTForConditionalGeneration": dict(src_vocab_size=200, tgt_vocab_size=200),
    "FalconH1ForCausalLM": dict(**MAMBA, mamba_d_head=8, mamba_d_ssm=64),
    "FunnelForMaskedLM": dict(block_sizes=[1, 1], d_head=8),
    "GPTJForCausalLM": dict(rotary_dim=4),
    "GPTNeoForCausalLM": dict(attention_types=[[["global", "local"], 1]]),
    "HubertModel": SPEECH,
    "JambaForCausalLM": dict(num_experts=1, attn_layer_period=2, attn_layer_offset=1, mamba_d_state=8, mamba_dt_rank=4),
    "LEDForConditionalGeneration": dict(attention_window=8),
    "Lfm2ForCausalLM": dict(layer_types=["conv", "full_attention"], block_auto_adjust_ff_dim=False),
    "LongformerForMaskedLM": dict(attention_window=8),
    "LukeForMaskedLM": dict(entity_vocab_size=20, entity_emb_size=16),
    "MBartForCausalLM": dict(is_decoder=True, is_encoder_decoder=False),
    "Mamba2ForCausalLM": dict(num_heads=8, head_dim=8, state_size=8, n_groups=1, chunk_size=8),
    "MobileBertForMaskedLM": dict(embedding_size=16, intra_bottleneck_size=16, true_hidden_size=16),
    "PerceiverForMaskedLM": dict(num_latents=4, d_latents=16, num_blocks=1, num_self_attends_per_block=2),
    "RecurrentGemmaForCausalLM": dict(block_types=["recurrent", "attention"], attention_window_size=16),
    "ReformerModelWithLMHead": dict(
        is_decoder=True,
        attn_layers=["local", "local"],
        axial_pos_shape=[8, 8],
        axial_pos_embds_dim=[16, 16],
        local_attn_chunk_length=4,
        feed_forward_size=64,
    ),
    "RobertaForCausalLM": DECODER,
    "SegformerModel": dict(depths=[1] * 4, hidden_sizes=[16, 16, 32, 32], num_attention_heads=[2] * 4),
    "SwinModel": SWIN,
    "Swinv2Model": SWIN,
    "UniSpeechModel": SPEECH,
    "VisionEncoderDecoderModel": of_two("ViTConfig", "RobertaConfig"),
    "Wav2Vec2Model": SPEECH,
    "WavLMModel": SPEECH,
    "WhisperForConditionalGeneration": dict(
        max_source_positions=16,
        max_target_positions=64,
        num_mel_bins=8,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    ),
    "XLMWithLMHeadModel": dict(causal=True),
    "YolosModel": dict(image_size=[32, 32], num_detection_tokens=5),
    "Zamba2ForCausalLM": dict(
        layers_block_type=HYBRID,
        num_hidden_layers=6,
        num_key_value_heads=4,
        num_mem_blocks=1,
        mamba_d_state=8,
        n_mamba_heads=4,
        attention_hidden_size=64,
        mamba_ngroups=1,
        chunk_size=8,
    ),
}
# the step at which a class is refused; all others pass every step
REFUSED = {
    "BartForCausalLM": "load_body",  # a BartModel also has an encoder
    "FunnelForMaskedLM": "prune",  # weights of three dimensions
    "GptOssForCausalLM": "prune",  # experts in one tensor
    "IBertForMaskedLM": "prune",  # its own linear layers
    "MBartForCausalLM": "load_body",
    "MixtralForCausalLM": "prune",
    "NomicBertForMaskedLM": "save",  # its checkpoints concatenate weights
    "PerceiverForMaskedLM": "load_body",  # the head is inside the body
    "Qwen2MoeForCausalLM": "prune",
    "RecurrentGemmaForCausalLM": "prune",  # weights of three dimensions
    "SqueezeBertForMaskedLM": "prune",  # convolutions in place of linear layers
    "XLNetLMHeadModel": "prune",  # weights of three dimensions
}
# models that read weights of linear layers instead of calling them, which makes these layers dense with a warning
READ = {
    "BridgeTowerModel": "attn.out_proj",
    "FalconMambaForCausalLM": "mixer.dt_proj",
    "JambaForCausalLM": "mamba.dt_proj",
    "MambaForCausalLM": "mixer.dt_proj",
    "RwkvForCausalLM": "attention.output|feed_forward.value",
    "WavLMModel": "attention",
}
GENERATION: dict[str, dict[str, Any]] = {
    "greedy": {},
    "uncached": dict(use_cache=False),
    "beams": dict(num_beams=2),
    "static cache": dict(cache_implementation="static"),
    "prompt lookup": dict(prompt_lookup_num_tokens=3),
}


@dataclass
class Sweep:
    """The steps from dense weights to packed generation, in order."""

    dense: PreTrainedModel
    folder: Path
    inputs: dict[str, Tensor] = field(init=False)
    packed: PreTrainedModel = field(init=False)
    expected: list[Tensor] = field(init=False)

    def prune(self) -> None:
        ag.prune(self.dense, sparsity=0.7)
        self.inputs = tiny_inputs(self.dense)
        self.expected = outputs(self.dense, self.inputs)

    def compress(self) -> None:
        self.packed = ag.compress(copy.deepcopy(self.dense))
        assert sparse_layers(self.packed)

    def forward(self) -> None:
        assert_close(self.computed(self.packed), self.expected)
        again = zip(self.computed(self.packed), self.computed(self.packed), strict=True)
        assert all(torch.equal(first, second) for first, second in again)

    def generate(self) -> None:
        for name, call in GENERATION.items() if self.dense.can_generate() else ():
            try:
                expected = self.generated(self.dense, **call)
            except Exception:  # not supported by transformers for this class
                assert name != "greedy"
                continue
            assert torch.equal(self.generated(self.packed, **call), expected), name

    def save(self) -> None:
        self.packed.save_pretrained(self.folder / "packed")
        self.dense.save_pretrained(self.folder / "dense")

    def load(self) -> None:
        for loaded in type(self.dense).from_pretrained(self.folder / "packed"), load_model(str(self.folder / "packed")):
            assert [name for name, _ in sparse_layers(loaded)] == [name for name, _ in sparse_layers(self.packed)]
            assert_close(self.computed(loaded.eval()), self.expected)

    def load_body(self) -> None:
        if self.dense.config.model_type not in MODEL_MAPPING_NAMES:
            return
        body = AutoModel.from_pretrained(self.folder / "dense").eval()
        packed = AutoModel.from_pretrained(self.folder / "packed").eval()
        assert sparse_layers(packed)
        assert_close(self.computed(packed)[:1], self.computed(body)[:1])  # the other outputs may come from a new pooler

    def computed(self, model: PreTrainedModel) -> list[Tensor]:
        return outputs(model, self.inputs)

    def generated(self, model: PreTrainedModel, **call: Any) -> Tensor:
        inputs = {name: tensor.clone() for name, tensor in self.inputs.items() if name != "decoder_input_ids"}
        if "prompt_lookup_num_tokens" in call:
            inputs = {name: tensor[:1] for name, tensor in inputs.items()}
        elif "attention_mask" in inputs:
            inputs["attention_mask"][0, :3] = 0
        tokens: Tensor = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False, **call)
        return tokens


def assert_close(outputs: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(outputs, expected, strict=True):
        finite = torch.isfinite(theirs)
        assert torch.equal(torch.isfinite(ours), finite)
        assert (ours - theirs)[finite].norm() <= 1e-4 * theirs[finite].norm()


def test_all_classes_of_the_table_exist() -> None:
    assert len(set(CLASSES)) == len(CLASSES)
    assert {*CHANGES, *REFUSED, *READ} <= {*CLASSES}
    types = {getattr(transformers, name).config_class.model_type for name in CLASSES if hasattr(transformers, name)}
    assert len(types) >= 100


@pytest.mark.parametrize("name", CLASSES)
def test_packed_is_dense_or_refused(name: str, tmp_path: Path) -> None:
    kind = getattr(transformers, name, None)
    if kind is None:
        pytest.skip(f"transformers {transformers.__version__} has no {name}")
    config: PretrainedConfig = tiny_config(kind.config_class, **CHANGES.get(name, {}))
    sweep = Sweep(tiny_model(kind, config), tmp_path)
    refused = None
    with pytest.warns(AerogelWarning, match=READ[name]) if name in READ else nullcontext():
        for step in ("prune", "compress", "forward", "generate", "save", "load", "load_body"):
            try:
                getattr(sweep, step)()
            except AerogelError:
                refused = step
                break
    assert refused == REFUSED.get(name)
