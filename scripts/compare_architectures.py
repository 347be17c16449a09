#!/usr/bin/env python3
"""Every architecture against transformers: tiny random models, FP32, parameters drawn away from their initial values.

    scripts/compare_architectures.py BUILD/tests/qp_logits [--only NAME ...] [--device cpu|reference] [--keep DIR]

Needs torch, transformers 5 and safetensors. For every row:
  logits   --compute exact of the plain folder against transformers, of the largest logit      (at most 1e-4)
  decode   prefill of a third, then token by token, against transformers' own cached decode     (at most 1e-4)
  exl2/gptq  the folder that `quantize --method rtn` makes against its own dequantised folder,
             in log-probabilities                                                              (at most 1e-4)
Prints the maxima; exits 1 on any miss. Classes that transformers lacks are made of one that has the same algebra, its
tensors renamed, cut or joined.
"""

import argparse
import json
import math
import pathlib
import shutil
import subprocess
import sys
import tempfile
import warnings

import torch
import transformers
from safetensors.torch import load_file, save_file

BASE = dict(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
GPT = dict(
    vocab_size=128,
    n_embd=64,
    n_head=4,
    n_layer=3,
    n_positions=64,
    n_inner=96,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
SMALL = dict(
    vocab_size=128,
    hidden_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    pad_token_id=0,
    bos_token_id=1,
    eos_token_id=2,
)
LIMIT = 1e-4


class Case:
    def __init__(
        self, name, kind, overrides=(), base=BASE, repack=None, prepare=None, lengths=(24,), plus_one=False, config=None
    ):
        """kind: class prefix in transformers. repack(tensors, config dict) -> (tensors, config dict) as the folder has
        them. prepare(model): changes the reference before it runs, returns what the files hold (or None)."""
        self.name, self.kind, self.base, self.overrides = name, kind, base, dict(overrides)
        self.repack, self.prepare, self.lengths, self.plus_one, self.config = repack, prepare, lengths, plus_one, config


def randomise(model, plus_one):
    with torch.no_grad():
        for name, p in model.named_parameters():
            is_norm = any(part in name for part in ("norm", "ln_", "layernorm")) and not name.endswith("Wqkv.weight")
            is_norm = is_norm and not any(
                part in name for part in ("attn.", "self_attn.", "ffn.", "norm_attn_norm.attn")
            )
            is_norm = is_norm or "q_norm" in name or "k_norm" in name or "layernorm" in name
            if name.endswith("bias"):
                p.normal_(0, 0.3)
            elif is_norm:
                p.normal_(0 if plus_one else 1, 0.3)
            else:
                p.normal_(0, 0.15)


# ---------------------------------------------------------------- what a folder holds, from a class that exists
def layer_of(name):
    """('model.layers.3.', 'self_attn.q_proj.weight') or (None, name)."""
    parts = name.split(".")
    return (".".join(parts[:3]) + ".", ".".join(parts[3:])) if name.startswith("model.layers.") else (None, name)


def layers(tensors):
    out, rest = {}, {}
    for name, t in tensors.items():
        prefix, inner = layer_of(name)
        (rest if prefix is None else out.setdefault(prefix, {}))[inner] = t
    return out, rest


def rebuilt(tensors, change_layer, names=(), prefix=lambda p: p):
    """change_layer(layer dict) edits in place; `names` renames what is not in a layer."""
    per_layer, rest = layers(tensors)
    out = {}
    for old, t in rest.items():
        for a, b in dict(names).items():
            if old.startswith(a):
                old = b + old[len(a) :]
                break
        out[old] = t.contiguous()
    for p, layer in per_layer.items():
        change_layer(layer)
        for inner, t in layer.items():
            out[prefix(p) + inner] = t.contiguous()
    return out


def rename(layer, pairs):
    for old, new in pairs.items():
        for suffix in (".weight", ".bias"):
            if old + suffix in layer:
                layer[new + suffix] = layer.pop(old + suffix)


def fuse(layer, names, to, pick=None):
    for suffix in (".weight", ".bias"):
        if names[0] + suffix in layer:
            parts = [layer.pop(n + suffix) for n in names]
            layer[to + suffix] = pick(parts) if pick else torch.cat(parts)


QKV = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]


def with_architecture(config, name, **changes):
    config = {**config, "architectures": [name]}
    for key, value in changes.items():
        if value is None and key in config:
            del config[key]
        elif value is not None:
            config[key] = value
    return config


def renamer(architecture, change_layer=lambda layer: None, names=(), prefix=lambda p: p, **changes):
    return lambda tensors, config: (
        rebuilt(tensors, change_layer, names, prefix),
        with_architecture(config, architecture, **changes),
    )


def internlm2(layer):
    def grouped(parts, heads=4, kv=2):
        q, k, v = (p.reshape(n, -1, *p.shape[1:]) for p, n in zip(parts, (heads, kv, kv)))
        group = heads // kv
        return torch.cat([t for j in range(kv) for t in [*q[j * group : (j + 1) * group], k[j], v[j]]])

    fuse(layer, QKV, "attention.wqkv", grouped)
    rename(
        layer,
        {
            "self_attn.o_proj": "attention.wo",
            "mlp.gate_proj": "feed_forward.w1",
            "mlp.up_proj": "feed_forward.w3",
            "mlp.down_proj": "feed_forward.w2",
            "input_layernorm": "attention_norm",
            "post_attention_layernorm": "ffn_norm",
        },
    )


def qwen(layer):
    fuse(layer, QKV, "attn.c_attn")
    rename(
        layer,
        {
            "self_attn.o_proj": "attn.c_proj",
            "mlp.gate_proj": "mlp.w2",
            "mlp.up_proj": "mlp.w1",
            "mlp.down_proj": "mlp.c_proj",
            "input_layernorm": "ln_1",
            "post_attention_layernorm": "ln_2",
        },
    )


def exaone(layer):
    rename(
        layer,
        {
            f"self_attn.{x}_proj": f"attn.attention.{y}_proj"
            for x, y in (("q", "q"), ("k", "k"), ("v", "v"), ("o", "out"))
        },
    )
    rename(
        layer,
        {
            "mlp.gate_proj": "mlp.c_fc_0",
            "mlp.up_proj": "mlp.c_fc_1",
            "mlp.down_proj": "mlp.c_proj",
            "input_layernorm": "ln_1",
            "post_attention_layernorm": "ln_2",
        },
    )


def chatglm(layer):
    fuse(layer, QKV, "self_attention.query_key_value")
    rename(
        layer,
        {
            "self_attn.o_proj": "self_attention.dense",
            "mlp.gate_up_proj": "mlp.dense_h_to_4h",
            "mlp.down_proj": "mlp.dense_4h_to_h",
        },
    )


def split_gate_up(layer):
    gate, up = layer.pop("mlp.gate_up_proj.weight").chunk(2)
    layer["mlp.gate_proj.weight"], layer["mlp.up_proj.weight"] = gate, up


def mixtral_gptqmodel(layer):
    for name in list(layer):
        if name.startswith("block_sparse_moe."):
            new = name.replace("block_sparse_moe.", "mlp.").replace(".w1.", ".gate_proj.").replace(".w3.", ".up_proj.")
            layer[new.replace(".w2.", ".down_proj.")] = layer.pop(name)


def wrapped(architecture, prefix, head=None, keep_model=True):
    """A multimodal folder: text tensors below `prefix`, the configuration below text_config."""

    def change(tensors, config):
        out = {}
        for name, t in tensors.items():
            inner = name if keep_model else name.removeprefix("model.")
            out[head if head and name == "lm_head.weight" else prefix + inner] = t
        out["vision_tower.layers.0.self_attn.q_proj.weight"] = torch.zeros(8, 8)
        text = {k: v for k, v in config.items() if k != "architectures"}
        return out, {"architectures": [architecture], "model_type": "wrapper", "text_config": text}

    return change


# ---------------------------------------------------------------- references that transformers does not have as they are
def replace_norms(model, make):
    for name, module in list(model.named_modules()):
        if type(module).__name__.endswith("RMSNorm"):
            parent = model.get_submodule(name.rpartition(".")[0]) if "." in name else model
            setattr(parent, name.rpartition(".")[2], make(module))


def orion(model):
    def make(old):
        new = torch.nn.LayerNorm(old.weight.shape[0], eps=old.variance_epsilon)
        with torch.no_grad():
            new.weight.normal_(1, 0.3)
            new.bias.normal_(0, 0.3)
        return new

    replace_norms(model, make)
    return dict(model.state_dict())


def index_head(model):
    held = {name: t.clone() for name, t in model.state_dict().items()}
    with torch.no_grad():
        model.lm_head.weight.copy_(torch.nn.functional.normalize(model.lm_head.weight))
    return held


def gemmoe(model):
    held = {name: t.clone() for name, t in source_tensors(model).items()}
    with torch.no_grad():
        for name in list(held):
            if "norm" in name:
                held[name] -= 1
        embedding = model.model.embed_tokens.weight
        model.lm_head.weight.copy_(embedding)
        embedding *= math.sqrt(embedding.shape[1])
    del held["lm_head.weight"]
    return held


def baichuan_alibi(model):
    """No rotation; the slopes of 6 heads added to the scores by a mask of their own."""
    heads = model.config.num_attention_heads
    slopes = [2 ** (-8 * h / 4) for h in range(1, 5)] + [2 ** (-4 * (2 * m - 1) / 4) for m in range(1, heads - 3)]
    model.model.rotary_emb.inv_freq.zero_()
    forward = model.forward

    def with_alibi(input_ids, **kwargs):
        past = kwargs.get("past_key_values")
        done = past.get_seq_length() if past is not None else 0
        total, rows = done + input_ids.shape[1], input_ids.shape[1]
        distance = torch.arange(total)[None, :] - torch.arange(done, total)[:, None]
        mask = torch.tensor(slopes)[:, None, None] * distance[None]
        mask = torch.where(distance[None] > 0, torch.tensor(torch.finfo(torch.float32).min), mask)
        assert mask.shape == (heads, rows, total)
        return forward(input_ids, attention_mask=mask[None], **kwargs)

    model.forward = with_alibi
    return dict(model.state_dict())


def source_tensors(model):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_file(pathlib.Path(folder) / "model.safetensors")


def rope(kind, theta=500.0, **keys):
    return dict(head_dim=32, rope_parameters=dict(rope_type=kind, rope_theta=theta, **keys))


LONG = dict(
    short_factor=[1.0 + 0.05 * i for i in range(16)], long_factor=[1.0 + 0.3 * i for i in range(16)], factor=4.0
)
MOE = dict(num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32)
WINDOW = dict(use_sliding_window=True, sliding_window=8, max_window_layers=2)
MHA = dict(num_key_value_heads=4)
NAMES_GPT = {"model.embed_tokens.": "transformer.wte.", "model.norm.": "transformer.ln_f."}


def to_h(prefix):
    return prefix.replace("model.layers", "transformer.h")


CASES = [
    Case("Llama", "Llama", dict(head_dim=32, attention_bias=True, mlp_bias=True)),
    Case("Llama linear", "Llama", rope("linear", factor=4.0)),
    Case(
        "Llama dynamic", "Llama", dict(max_position_embeddings=16, **rope("dynamic", factor=4.0)), lengths=(12, 16, 24)
    ),
    Case(
        "Llama llama3",
        "Llama",
        rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
    ),
    Case("Llama yarn", "Llama", rope("yarn", factor=4.0, original_max_position_embeddings=64)),
    Case(
        "Llama yarn mscale",
        "Llama",
        rope(
            "yarn",
            factor=4.0,
            original_max_position_embeddings=64,
            mscale=0.8,
            mscale_all_dim=0.5,
            truncate=False,
            beta_fast=16,
            beta_slow=2,
        ),
    ),
    Case("Llama longrope 64", "Llama", rope("longrope", original_max_position_embeddings=64, **LONG)),
    Case(
        "Llama longrope 16",
        "Llama",
        rope("longrope", original_max_position_embeddings=16, **LONG),
        lengths=(12, 16, 24),
    ),
    Case("Mistral", "Mistral", dict(head_dim=32, sliding_window=8), lengths=(7, 8, 9, 24)),
    Case("Mixtral", "Mixtral", dict(num_local_experts=4, num_experts_per_tok=2, sliding_window=8)),
    Case(
        "Mixtral GPTQModel names",
        "Mixtral",
        dict(num_local_experts=4, num_experts_per_tok=2),
        repack=renamer("MixtralForCausalLM", mixtral_gptqmodel),
    ),
    Case(
        "Yi",
        "Llama",
        repack=renamer(
            "YiForCausalLM", lambda l: rename(l, {"input_layernorm": "ln1", "post_attention_layernorm": "ln2"})
        ),
    ),
    Case("Orion", "Llama", prepare=orion, repack=renamer("OrionForCausalLM")),
    Case("Qwen2", "Qwen2", WINDOW),
    Case("Qwen3", "Qwen3", dict(head_dim=32, **WINDOW)),
    Case(
        "Qwen2Moe",
        "Qwen2Moe",
        dict(shared_expert_intermediate_size=64, mlp_only_layers=[1], norm_topk_prob=False, **MOE, **WINDOW),
    ),
    Case(
        "Qwen2Moe norm_topk",
        "Qwen2Moe",
        dict(shared_expert_intermediate_size=64, mlp_only_layers=[1], norm_topk_prob=True, **MOE),
    ),
    Case("Qwen3Moe", "Qwen3Moe", dict(head_dim=32, mlp_only_layers=[1], norm_topk_prob=False, **MOE, **WINDOW)),
    Case("Qwen3Moe norm_topk", "Qwen3Moe", dict(head_dim=32, decoder_sparse_step=2, norm_topk_prob=True, **MOE)),
    Case("Qwen2VL", "Qwen2", WINDOW, repack=renamer("Qwen2VLForConditionalGeneration")),
    Case(
        "Qwen2.5VL nested",
        "Qwen2",
        WINDOW,
        repack=wrapped(
            "Qwen2_5_VLForConditionalGeneration", "model.language_model.", head="lm_head.weight", keep_model=False
        ),
    ),
    Case(
        "Llava",
        "Mistral",
        dict(head_dim=32, sliding_window=None),
        repack=wrapped("LlavaForConditionalGeneration", "language_model."),
    ),
    Case(
        "Mistral3",
        "Mistral",
        dict(head_dim=32, sliding_window=None),
        repack=wrapped(
            "Mistral3ForConditionalGeneration", "model.language_model.", head="lm_head.weight", keep_model=False
        ),
    ),
    Case("Gemma", "Gemma", dict(head_dim=32), plus_one=True),
    Case(
        "Gemma2",
        "Gemma2",
        dict(
            head_dim=32,
            query_pre_attn_scalar=24,
            sliding_window=8,
            attn_logit_softcapping=2.0,
            final_logit_softcapping=3.0,
        ),
        plus_one=True,
    ),
    Case(
        "Gemma3",
        "Gemma3",
        dict(
            head_dim=32,
            query_pre_attn_scalar=24,
            sliding_window=8,
            num_hidden_layers=7,
            rope_parameters={
                "full_attention": dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                "sliding_attention": dict(rope_type="default", rope_theta=1e4),
            },
        ),
        plus_one=True,
        config="Gemma3TextConfig",
    ),
    Case(
        "Gemma3 wrapped",
        "Gemma3",
        dict(head_dim=32, query_pre_attn_scalar=24, sliding_window=8, num_hidden_layers=7),
        plus_one=True,
        config="Gemma3TextConfig",
        repack=wrapped("Gemma3ForConditionalGeneration", "language_model."),
    ),
    Case(
        "Gemmoe",
        "Mixtral",
        dict(num_local_experts=4, num_experts_per_tok=2, head_dim=32, hidden_act="gelu_pytorch_tanh"),
        prepare=gemmoe,
        repack=renamer("GemmoeForCausalLM"),
    ),
    Case("Starcoder2", "Starcoder2", dict(sliding_window=8, use_bias=True)),
    Case("Cohere", "Cohere", dict(use_qk_norm=True)),
    Case("Cohere2", "Cohere2", dict(num_hidden_layers=5, sliding_window=8)),
    Case(
        "DBRX",
        "Dbrx",
        dict(rope_parameters=dict(rope_type="default", rope_theta=5e5)),
        base=dict(
            vocab_size=128,
            d_model=64,
            n_heads=4,
            n_layers=3,
            max_seq_len=256,
            attn_config=dict(kv_n_heads=2, clip_qkv=0.5, rope_theta=5e5),
            ffn_config=dict(ffn_hidden_size=64, moe_num_experts=4, moe_top_k=2),
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        ),
    ),
    Case("Phi3", "Phi3", dict(sliding_window=8, partial_rotary_factor=0.5)),
    Case("Phi3 GPTQModel names", "Phi3", dict(sliding_window=None), repack=renamer("Phi3ForCausalLM", split_gate_up)),
    Case("GPTBigCode", "GPTBigCode", base=GPT),
    Case("GPTBigCode MHA", "GPTBigCode", dict(multi_query=False), base=GPT),
    Case("GPT2", "GPT2", base=GPT),
    Case(
        "GPT2 scaled, bare names",
        "GPT2",
        dict(scale_attn_by_inverse_layer_idx=True),
        base=GPT,
        repack=lambda tensors, config: ({n.removeprefix("transformer."): t for n, t in tensors.items()}, config),
    ),
    Case(
        "MiniCPM",
        "Granite",
        dict(embedding_multiplier=6.0, logits_scaling=4.0, residual_multiplier=1.4 / 2, attention_multiplier=0.25),
        repack=renamer("MiniCPMForCausalLM", scale_emb=6.0, scale_depth=1.4, dim_model_base=16),
    ),
    Case(
        "InternLM2",
        "Llama",
        repack=renamer(
            "InternLM2ForCausalLM", internlm2, {"model.embed_tokens.": "model.tok_embeddings.", "lm_head.": "output."}
        ),
    ),
    Case("Index", "Llama", prepare=index_head, repack=renamer("IndexForCausalLM", norm_head=True)),
    Case(
        "Granite",
        "Granite",
        dict(embedding_multiplier=6.0, logits_scaling=4.0, residual_multiplier=0.3, attention_multiplier=0.05),
    ),
    Case("GLM4", "Glm4", dict(head_dim=32, attention_bias=True)),
    Case("GLM", "Glm", dict(head_dim=32, attention_bias=True)),
    Case(
        "ChatGLM",
        "Glm",
        dict(head_dim=32, attention_bias=True),
        repack=renamer(
            "ChatGLMModel",
            chatglm,
            {
                "model.embed_tokens.": "transformer.embedding.word_embeddings.",
                "model.norm.": "transformer.encoder.final_layernorm.",
                "lm_head.": "transformer.output_layer.",
            },
            lambda p: p.replace("model.layers", "transformer.encoder.layers"),
            num_layers=4,
            num_hidden_layers=None,
            kv_channels=32,
            head_dim=None,
            multi_query_attention=True,
            multi_query_group_num=2,
            num_key_value_heads=None,
            ffn_hidden_size=96,
            intermediate_size=None,
            layernorm_epsilon=1.5625e-7,
            rms_norm_eps=None,
            padded_vocab_size=128,
            vocab_size=None,
            seq_length=256,
            max_position_embeddings=None,
            rope_parameters=None,
            rope_ratio=1.0,
        ),
    ),
    Case(
        "QWen",
        "Qwen2",
        dict(use_sliding_window=False, **MHA),
        repack=renamer(
            "QWenLMHeadModel",
            qwen,
            NAMES_GPT,
            to_h,
            intermediate_size=192,
            layer_norm_epsilon=1e-6,
            rms_norm_eps=None,
            seq_length=256,
            rotary_emb_base=10000.0,
            rope_parameters=None,
            kv_channels=16,
        ),
    ),
    Case(
        "Baichuan 7B", "Llama", MHA, repack=renamer("BaiChuanForCausalLM", lambda l: fuse(l, QKV, "self_attn.W_pack"))
    ),
    Case(
        "Baichuan 13B",
        "Llama",
        dict(hidden_size=96, num_attention_heads=6, num_key_value_heads=6),
        prepare=baichuan_alibi,
        repack=renamer("BaichuanForCausalLM", lambda l: fuse(l, QKV, "self_attn.W_pack")),
    ),
    Case("InternLM", "Llama", dict(attention_bias=True, **MHA), repack=renamer("InternLMForCausalLM")),
    Case("Phi", "Phi", dict(qk_layernorm=True)),
    Case("StableLM", "StableLm", dict(use_qkv_bias=True, qk_layernorm=True)),
    Case("StableLM parallel", "StableLm", dict(use_parallel_residual=True)),
    Case("GPTNeoX", "GPTNeoX", dict(intermediate_size=96, max_position_embeddings=256), base=SMALL),
    Case(
        "GPTNeoX sequential",
        "GPTNeoX",
        dict(intermediate_size=96, max_position_embeddings=256, use_parallel_residual=False),
        base=SMALL,
    ),
    Case("GPTJ", "GPTJ", dict(rotary_dim=8), base=GPT),
    Case("Falcon 7B", "Falcon", dict(hidden_size=128), base=SMALL),
    Case("Falcon 40B", "Falcon", dict(new_decoder_architecture=True, num_kv_heads=2), base=SMALL),
    Case(
        "Falcon 11B",
        "Falcon",
        dict(new_decoder_architecture=True, num_kv_heads=2, num_ln_in_parallel_attn=1),
        base=SMALL,
    ),
    Case("OPT", "OPT", dict(ffn_dim=96, max_position_embeddings=64, word_embed_proj_dim=64), base=SMALL),
    Case(
        "OPT post",
        "OPT",
        dict(ffn_dim=96, max_position_embeddings=64, word_embed_proj_dim=32, do_layer_norm_before=False),
        base=SMALL,
    ),
    Case(
        "Bloom",
        "Bloom",
        dict(hidden_size=96, n_head=6, n_layer=3),
        base=dict(vocab_size=128, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    ),
    Case(
        "MPT",
        "Mpt",
        dict(d_model=96, n_heads=6, n_layers=3, max_seq_len=256, attn_config=dict(clip_qkv=0.5)),
        base=dict(vocab_size=128, pad_token_id=0, bos_token_id=1, eos_token_id=2),
    ),
    Case("OLMo", "Olmo", dict(clip_qkv=0.5)),
    Case("OLMo2", "Olmo2"),
    Case(
        "OLMo3",
        "Olmo3",
        dict(
            num_hidden_layers=5,
            sliding_window=8,
            rope_parameters={
                "full_attention": dict(rope_type="linear", factor=4.0, rope_theta=5e5),
                "sliding_attention": dict(rope_type="default", rope_theta=5e5),
            },
        ),
    ),
    Case(
        "EXAONE 3",
        "Llama",
        rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64),
        repack=renamer(
            "ExaoneForCausalLM",
            exaone,
            NAMES_GPT,
            to_h,
            num_layers=4,
            num_hidden_layers=None,
            activation_function="silu",
            hidden_act=None,
            layer_norm_epsilon=1e-6,
            rms_norm_eps=None,
        ),
    ),
    Case("EXAONE 4", "Exaone4", dict(num_hidden_layers=5, sliding_window=8)),
    Case("EXAONE 4 no window", "Exaone4", dict(sliding_window=None, layer_types=["full_attention"] * 4)),
    Case("SmolLM3", "SmolLM3", dict(num_hidden_layers=5)),
    Case("Nemotron", "Nemotron", dict(head_dim=32), plus_one=True),
    Case(
        "HunYuan",
        "HunYuanDenseV1",
        dict(head_dim=32, rope_parameters=dict(rope_type="dynamic", alpha=1000.0, factor=1.0, rope_theta=1e4)),
    ),
    Case("SeedOss", "SeedOss", dict(head_dim=32)),
    Case("Ernie 4.5", "Ernie4_5", dict(head_dim=32, use_bias=True)),
]

MODEL_CLASS = {"GPT2": "GPT2LMHeadModel"}


def make(case, folder, seed):
    """Writes the folder; returns requests [(prefill, ids)] with the logits that transformers gives for them."""
    torch.manual_seed(seed)
    config_class = getattr(transformers, case.config or case.kind + "Config")
    model_class = getattr(transformers, MODEL_CLASS.get(case.kind, case.kind + "ForCausalLM"))
    config = config_class(**{**case.base, **case.overrides})
    config._attn_implementation = "eager"
    model = model_class(config).float().eval()
    randomise(model, case.plus_one)
    held = case.prepare(model) if case.prepare else None
    folder.mkdir(parents=True)
    if not case.repack:
        model.save_pretrained(folder)
    else:
        tensors = held or source_tensors(model)
        written = json.loads(config.to_json_string(use_diff=False))
        written["architectures"] = [model_class.__name__]
        tensors, written = case.repack({n: t.detach().clone() for n, t in tensors.items()}, written)
        save_file({n: t.contiguous().clone() for n, t in tensors.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(written, indent=1))
    requests, expected = [], []
    with torch.no_grad():
        for length in case.lengths:
            ids = torch.randint(3, 128, (1, length))
            requests.append((length, ids[0].tolist()))
            expected.append(model.forward(input_ids=ids, use_cache=False).logits[0])
            prefill = max(1, length // 3)
            out = model.forward(input_ids=ids[:, :prefill], use_cache=True)
            rows, cache = [out.logits[0]], out.past_key_values
            for at in range(prefill, length):
                out = model.forward(input_ids=ids[:, at : at + 1], past_key_values=cache, use_cache=True)
                rows.append(out.logits[0])
            requests.append((prefill, ids[0].tolist()))
            expected.append(torch.cat(rows))
    return requests, expected


class Program:
    def __init__(self, path, device):
        self.path, self.device = path, device

    def run(self, *arguments, text=""):
        done = subprocess.run([self.path, *map(str, arguments)], input=text, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr.strip() or f"exit status {done.returncode}")
        return done.stdout

    def logits(self, folder, backend, requests, compute="exact"):
        out = folder.parent / "logits.f32"
        text = "".join(f"{prefill} {' '.join(map(str, ids))}\n" for prefill, ids in requests)
        n_vocab = int(self.run("logits", folder, backend, self.device, compute, out, text=text).splitlines()[0])
        values = torch.frombuffer(bytearray(out.read_bytes()), dtype=torch.float32).reshape(-1, n_vocab)
        return list(values.split([len(ids) for _, ids in requests]))


def relative(got, expected):
    return max(((g - e).abs().max() / e.abs().max()).item() for g, e in zip(got, expected))


def compare(case, program, folder, seed):
    requests, expected = make(case, folder / "plain", seed)
    got = program.logits(folder / "plain", "exl2", requests)
    result = {"logits": relative(got[::2], expected[::2]), "decode": relative(got[1::2], expected[1::2])}
    result["own"] = relative(got[1::2], got[::2]) if len(case.lengths) == 1 else 0.0
    for backend in ("exl2", "gptq"):
        quantised, plain = folder / backend, folder / (backend + "-f16")
        bits = float(program.run("quantize", folder / "plain", quantised, backend, 4, 32))
        program.run("dequantize", quantised, plain, backend)
        a = torch.cat(program.logits(quantised, backend, requests)).double().log_softmax(-1)
        b = torch.cat(program.logits(plain, "exl2", requests)).double().log_softmax(-1)
        result[backend] = (a - b).abs().max().item()
        if bits < 4 or (a - torch.cat(got).double().log_softmax(-1)).abs().max() < 1e-3:
            raise RuntimeError(f"{backend}: nothing was quantised")
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program")
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep")
    arguments = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    torch.set_num_threads(1)
    program = Program(str(pathlib.Path(arguments.program).resolve()), arguments.device)
    root = pathlib.Path(arguments.keep or tempfile.mkdtemp())
    misses, columns, done = 0, ("logits", "decode", "own", "exl2", "gptq"), 0
    print(
        f"transformers {transformers.__version__}, torch {torch.__version__}, device {arguments.device}, seed {arguments.seed}"
    )
    print(f"{'row':28}" + "".join(f"{c:>10}" for c in columns))
    for number, case in enumerate(CASES):
        if arguments.only and case.name not in arguments.only:
            continue
        folder = root / case.name.replace(" ", "_")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            result = compare(case, program, folder, 1000 * arguments.seed + number)
        except Exception as error:  # one row must not hide the others
            print(f"{case.name:28}  FAILED: {type(error).__name__}: {error}", flush=True)
            misses += 1
            continue
        missed = any(not result[c] <= LIMIT for c in columns)
        misses += missed
        done += 1
        print(
            f"{case.name:28}" + "".join(f"{result[c]:>10.1e}" for c in columns) + ("  MISS" if missed else ""),
            flush=True,
        )
        if not arguments.keep:
            shutil.rmtree(folder)
    print(f"{done} rows compared, {misses} missed or failed")
    sys.exit(1 if misses or not done else 0)


if __name__ == "__main__":
    main()
