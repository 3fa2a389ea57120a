"""A `GPT` becomes a model of transformers, and the other way round (lessons 03, 04, 05 and 11).

Same weights, other names: transformers keeps GPT-2, Llama and Qwen3 in three classes, stores
GPT-2's linear maps transposed, and Llama's queries, keys and values apart. Each table below says
for one family what transformers calls our modules.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

from aigc_utils.gpt import GPT, LLAMA, GPTConfig

_Names = dict[str, tuple[str, ...]]

# Our module -> theirs; N is the layer. Where there are several, ours is those, row upon row.
_GPT2: _Names = {
    "embedding": ("transformer.wte",),
    "position": ("transformer.wpe",),
    "blocks.N.norm1": ("transformer.h.N.ln_1",),
    "blocks.N.attention.qkv": ("transformer.h.N.attn.c_attn",),
    "blocks.N.attention.out": ("transformer.h.N.attn.c_proj",),
    "blocks.N.norm2": ("transformer.h.N.ln_2",),
    "blocks.N.mlp.up": ("transformer.h.N.mlp.c_fc",),
    "blocks.N.mlp.down": ("transformer.h.N.mlp.c_proj",),
    "norm": ("transformer.ln_f",),
    "head": ("lm_head",),
}
_LLAMA: _Names = {
    "embedding": ("model.embed_tokens",),
    "blocks.N.norm1": ("model.layers.N.input_layernorm",),
    "blocks.N.attention.qkv": (
        "model.layers.N.self_attn.q_proj",
        "model.layers.N.self_attn.k_proj",
        "model.layers.N.self_attn.v_proj",
    ),
    "blocks.N.attention.out": ("model.layers.N.self_attn.o_proj",),
    "blocks.N.norm2": ("model.layers.N.post_attention_layernorm",),
    "blocks.N.mlp.up": ("model.layers.N.mlp.gate_proj", "model.layers.N.mlp.up_proj"),
    "blocks.N.mlp.down": ("model.layers.N.mlp.down_proj",),
    "norm": ("model.norm",),
    "head": ("lm_head",),
}
_QWEN3: _Names = {
    **_LLAMA,
    "blocks.N.attention.q_norm": ("model.layers.N.self_attn.q_norm",),
    "blocks.N.attention.k_norm": ("model.layers.N.self_attn.k_norm",),
}
_TABLES = {"gpt2": _GPT2, "llama": _LLAMA, "qwen3": _QWEN3}

# Fields of our configuration -> of theirs, where the values are the same.
_GPT2_FIELDS = {
    "vocab_size": "vocab_size",
    "context": "n_positions",
    "n_layers": "n_layer",
    "n_heads": "n_head",
    "d_model": "n_embd",
    "d_mlp": "n_inner",
    "tied": "tie_word_embeddings",
    "norm_eps": "layer_norm_epsilon",
}
_LLAMA_FIELDS = {
    "vocab_size": "vocab_size",
    "context": "max_position_embeddings",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "d_model": "hidden_size",
    "d_mlp": "intermediate_size",
    "tied": "tie_word_embeddings",
    "norm_eps": "rms_norm_eps",
}


def from_huggingface(model: PreTrainedModel) -> GPT:
    """Copy a GPT2LMHeadModel, LlamaForCausalLM or Qwen3ForCausalLM; logits stay equal.

    The copy is float32, on the CPU, without dropout and in evaluation mode. Raises ValueError for
    another class or for an option that `GPT` leaves out (scaled rotary positions, sliding
    windows …).
    """
    family, theirs = model.config.model_type, model.config
    if family not in _TABLES:
        raise ValueError(f"Only gpt2, llama and qwen3 can be converted, not {family!r}.")
    ours = GPT(_config_from_gpt2(theirs) if family == "gpt2" else _config_from_llama(theirs))
    source, weights = model.state_dict(), {}
    for name in ours.state_dict():
        joined = torch.cat([source[part] for part in _their_names(name, family)]).float()
        weights[name] = _turned(joined, name, family)
    ours.load_state_dict(weights)
    return ours.eval()


def to_huggingface(model: GPT) -> PreTrainedModel:
    """Build the transformers model with the weights of `model`: GPT-2, Llama or Qwen3.

    It comes in evaluation mode. Raises ValueError when no class of transformers computes what the
    configuration does.
    """
    c, family = model.config, _family(model.config)
    theirs: Any
    if family == "gpt2":
        theirs = transformers.GPT2LMHeadModel(_gpt2_config(c))
    elif family == "llama":
        theirs = transformers.LlamaForCausalLM(_llama_config(c, transformers.LlamaConfig))
    else:
        theirs = transformers.Qwen3ForCausalLM(_llama_config(c, transformers.Qwen3Config))
    shapes = theirs.state_dict()
    weights: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        parts = _their_names(name, family)
        pieces = _turned(weight, name, family).split([len(shapes[part]) for part in parts])
        weights.update(zip(parts, pieces, strict=True))
    missing, _ = theirs.load_state_dict(weights, strict=False)
    assert set(missing) <= {"lm_head.weight"}, missing  # tied: it is the embedding
    theirs.tie_weights()
    return theirs.eval()


def _their_names(name: str, family: str) -> list[str]:
    """Names of the transformers parameters whose rows, stacked, are the rows of our `name`."""
    module, _, kind = name.rpartition(".")
    layer = "".join(re.findall(r"^blocks\.(\d+)", module))  # "" outside the blocks
    parts = _TABLES[family][module.replace(f"blocks.{layer}.", "blocks.N.")]
    return [f"{part.replace('.N.', f'.{layer}.')}.{kind}" for part in parts]


def _turned(weight: Tensor, name: str, family: str) -> Tensor:
    """Transpose the linear maps of GPT-2's blocks: transformers has them as Conv1D, x W."""
    conv = family == "gpt2" and weight.ndim == 2 and name.startswith("blocks")
    return weight.T.contiguous() if conv else weight


def _family(config: GPTConfig) -> str:
    """Return the transformers class that computes exactly this configuration."""
    c = config
    if c.ngram_buckets:
        raise ValueError("transformers has no class with a table of n-grams: ngram_buckets=0.")
    if (c.norm, c.positions, c.bias, c.qk_norm) == ("layer", "learned", True, False):
        if c.mlp in ("gelu_tanh", "gelu") and c.kv_heads == c.n_heads:
            return "gpt2"
    elif (c.norm, c.positions, c.mlp, c.bias) == ("rms", "rotary", "swiglu", False):
        return "qwen3" if c.qk_norm else "llama"
    raise ValueError(
        "transformers has no class for this mixture: use the defaults (GPT-2) or **LLAMA, "
        f"not norm={c.norm!r}, positions={c.positions!r}, mlp={c.mlp!r}, bias={c.bias}, "
        f"qk_norm={c.qk_norm}, n_kv_heads={c.n_kv_heads}."
    )


def _refuse(options: dict[str, bool]) -> None:
    for option, present in options.items():
        if present:
            raise ValueError(f"This model uses {option}, which this GPT leaves out.")


def _config_from_gpt2(theirs: Any) -> GPTConfig:
    activations = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
    _refuse(
        {
            f"the activation {theirs.activation_function}": theirs.activation_function
            not in activations,
            "unscaled attention": not theirs.scale_attn_weights,
            "attention scaled by layer": theirs.scale_attn_by_inverse_layer_idx,
            "cross-attention": theirs.add_cross_attention,
        }
    )
    same = {ours: getattr(theirs, name) for ours, name in _GPT2_FIELDS.items()}
    return GPTConfig(mlp=activations[theirs.activation_function], **same)


def _config_from_llama(theirs: Any) -> GPTConfig:
    rope = theirs.rope_parameters
    heads = theirs.num_attention_heads
    _refuse(
        {
            f"the activation {theirs.hidden_act}": theirs.hidden_act not in ("silu", "swish"),
            f"{rope.get('rope_type')} rotary positions": rope.get("rope_type") != "default",
            "biases": theirs.attention_bias or getattr(theirs, "mlp_bias", False),
            "heads wider than d_model / n_heads": theirs.head_dim * heads != theirs.hidden_size,
            "a sliding window": bool(getattr(theirs, "sliding_window", None)),
        }
    )
    same = {ours: getattr(theirs, name) for ours, name in _LLAMA_FIELDS.items()}
    qk_norm = theirs.model_type == "qwen3"
    return GPTConfig(qk_norm=qk_norm, rope_theta=rope["rope_theta"], **same, **LLAMA)


def _gpt2_config(c: GPTConfig) -> Any:
    same = {theirs: getattr(c, ours) for ours, theirs in _GPT2_FIELDS.items()}
    return transformers.GPT2Config(
        activation_function="gelu_new" if c.mlp == "gelu_tanh" else "gelu",
        embd_pdrop=c.dropout,
        resid_pdrop=c.dropout,
        attn_pdrop=0.0,
        bos_token_id=None,
        eos_token_id=None,
        **same,
    )


def _llama_config(c: GPTConfig, kind: Any) -> Any:
    c = replace(c, n_kv_heads=c.kv_heads, d_mlp=c.mlp_width)  # None is not known there
    return kind(
        head_dim=c.head_dim,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        bos_token_id=None,
        eos_token_id=None,
        **{theirs: getattr(c, ours) for ours, theirs in _LLAMA_FIELDS.items()},
    )
