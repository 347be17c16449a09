#!/usr/bin/env python3
"""Makes the tiny random models of this folder and the logits that transformers computes for them in FP32.

Needs torch, transformers and safetensors; run once, the results are committed. Parameters are drawn away from their initial values
(norms at 1, biases at 0 and near-zero logits hide mistakes), head_dim is not hidden_size / heads, and the text is longer than every window.
The models of FORMS have every block form and switch of the decoder graph between them; their parameters are FP16 values, stored as such.
With names as arguments only those are made.
"""
import json
import pathlib
import shutil
import sys

import torch
import transformers
from safetensors.torch import save_file

HERE = pathlib.Path(__file__).parent
BASE = dict(vocab_size=96, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
            head_dim=16, max_position_embeddings=256, bos_token_id=1, eos_token_id=2, pad_token_id=0, rope_theta=500.0,
            tie_word_embeddings=False)
MODELS = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, dict(attention_bias=True, mlp_bias=True)),
    "llama3_rope": (transformers.LlamaConfig, transformers.LlamaForCausalLM,
                    dict(tie_word_embeddings=True,
                         rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                           original_max_position_embeddings=64))),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM, dict(sliding_window=8)),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM,
              dict(use_sliding_window=True, sliding_window=8, max_window_layers=1)),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, dict(tie_word_embeddings=True)),
}

SEEDS = {"llama": 100, "llama3_rope": 101, "mistral": 103, "qwen2": 104, "qwen3": 105}
for name, (config_class, model_class, overrides) in MODELS.items():
    if sys.argv[1:] and name not in sys.argv[1:]:
        continue
    torch.manual_seed(SEEDS[name])
    args = {**BASE, **overrides}
    theta = args.pop("rope_theta")
    try:  # transformers 5 takes one dictionary
        rope = {"rope_type": "default", **(args.pop("rope_scaling", None) or {}), "rope_theta": theta}
        config = config_class(**args, rope_parameters=rope)
        assert config.rope_parameters["rope_theta"] == theta
    except (TypeError, AttributeError, AssertionError):
        config = config_class(**{**BASE, **overrides})
    config._attn_implementation = "eager"
    model = model_class(config).float().eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            if p.dim() > 1:
                p.normal_(0, 0.25)
            else:
                p.normal_(1.0 if "norm" in key else 0.0, 0.3)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    shutil.copy(HERE / "tokenizer.json", folder)
    ids = torch.randint(3, BASE["vocab_size"], (1, 40))
    with torch.no_grad():
        logits = model(ids).logits[0]
    save_file({"ids": ids[0].int(), "logits": logits.contiguous()}, HERE / f"{name}.golden.safetensors")
    print(name, transformers.__version__, "largest logit", float(logits.abs().max()), json.load(open(folder / "config.json")).get("rope_parameters"))

SMALL = {k: v for k, v in BASE.items() if k not in ("rope_theta", "head_dim")}
MHA = {k: v for k, v in SMALL.items() if k != "num_key_value_heads"}
TOKENS = dict(vocab_size=96, bos_token_id=1, eos_token_id=2, pad_token_id=0)
GPT = dict(TOKENS, n_embd=32, n_head=2, n_layer=2, n_positions=64, n_inner=64)


def rope(kind, **keys):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=500.0, **keys))


FORMS = {  # class: base, overrides
    "dynamic_rope": ("Llama", SMALL, dict(head_dim=16, max_position_embeddings=16, **rope("dynamic", factor=4.0))),
    "mixtral": ("Mixtral", SMALL, dict(head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=8, intermediate_size=32)),
    "qwen2_moe": ("Qwen2Moe", SMALL, dict(head_dim=16, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32,
                                          shared_expert_intermediate_size=64, mlp_only_layers=[1], norm_topk_prob=False)),
    "dbrx": ("Dbrx", TOKENS, dict(d_model=32, n_heads=4, n_layers=2, max_seq_len=256,
                                  attn_config=dict(kv_n_heads=2, clip_qkv=0.5, rope_theta=5e5),
                                  ffn_config=dict(ffn_hidden_size=32, moe_num_experts=4, moe_top_k=2),
                                  rope_parameters=dict(rope_type="default", rope_theta=5e5))),
    "gemma2": ("Gemma2", SMALL, dict(head_dim=16, query_pre_attn_scalar=24, sliding_window=8, attn_logit_softcapping=2.0,
                                     final_logit_softcapping=3.0)),
    "gemma3": ("Gemma3", SMALL, dict(head_dim=16, query_pre_attn_scalar=24, sliding_window=8, layer_types=["sliding_attention", "full_attention"],
                                     rope_parameters={"full_attention": dict(rope_type="linear", factor=8.0, rope_theta=1e6),
                                                      "sliding_attention": dict(rope_type="default", rope_theta=1e4)})),
    "cohere": ("Cohere", SMALL, dict(head_dim=16, use_qk_norm=True, logit_scale=0.25)),
    "cohere2": ("Cohere2", SMALL, dict(head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention"], logit_scale=0.25)),
    "phi3": ("Phi3", SMALL, dict(num_attention_heads=2, num_key_value_heads=1, sliding_window=8, partial_rotary_factor=0.5,
                                 original_max_position_embeddings=64,
                                 **rope("longrope", short_factor=[1.0, 1.5, 2.0, 2.5], long_factor=[1.0, 3.0, 5.0, 7.0],
                                        original_max_position_embeddings=64))),
    "gpt2": ("GPT2", GPT, dict(scale_attn_by_inverse_layer_idx=True)),
    "gpt_bigcode": ("GPTBigCode", GPT, {}),
    "granite": ("Granite", SMALL, dict(head_dim=16, embedding_multiplier=6.0, logits_scaling=4.0, residual_multiplier=0.3, attention_multiplier=0.05)),
    "glm4": ("Glm4", SMALL, dict(head_dim=16, attention_bias=True)),
    "phi": ("Phi", MHA, dict(qk_layernorm=True)),
    "stablelm": ("StableLm", SMALL, dict(num_key_value_heads=4, use_parallel_residual=True, qk_layernorm=True, partial_rotary_factor=0.5)),
    "gpt_neox": ("GPTNeoX", MHA, {}),
    "falcon": ("Falcon", MHA, dict(new_decoder_architecture=True, num_kv_heads=2, ffn_hidden_size=64)),
    "opt": ("OPT", MHA, dict(ffn_dim=64, max_position_embeddings=64, word_embed_proj_dim=32, hidden_size=64, num_hidden_layers=1, do_layer_norm_before=False)),
    "bloom": ("Bloom", TOKENS, dict(hidden_size=32, n_head=4, n_layer=2)),
    "olmo": ("Olmo", SMALL, dict(head_dim=16, clip_qkv=0.5)),
    "olmo2": ("Olmo2", SMALL, dict(head_dim=16)),
    "exaone4": ("Exaone4", SMALL, dict(head_dim=16, sliding_window=8, layer_types=["sliding_attention", "full_attention"])),
    "smollm3": ("SmolLM3", SMALL, dict(head_dim=16, no_rope_layers=[1, 0])),
    "nemotron": ("Nemotron", SMALL, dict(head_dim=16)),
    "hunyuan": ("HunYuanDenseV1", SMALL, dict(head_dim=16, rope_parameters=dict(rope_type="dynamic", alpha=1000.0, factor=1.0, rope_theta=1e4))),
    "index": ("Llama", SMALL, dict(head_dim=16, num_hidden_layers=1)),
}
PLUS_ONE = ("gemma2", "gemma3", "nemotron")  # files hold w, the norm multiplies by 1 + w
# The normaliser of the one's embedding and the other's head of unit length are rounded to the stored type.
STORED_F32 = ("gemma2", "gemma3", "index")

for name, (kind, base, overrides) in FORMS.items():
    if sys.argv[1:] and name not in sys.argv[1:]:
        continue
    torch.manual_seed(int.from_bytes(name.encode(), "little") % 2**31)
    config_class = getattr(transformers, "Gemma3TextConfig" if kind == "Gemma3" else kind + "Config")
    config = config_class(**{**base, **overrides})
    config._attn_implementation = "eager"
    model = getattr(transformers, kind + ("LMHeadModel" if kind == "GPT2" else "ForCausalLM"))(config).float().eval()
    with torch.no_grad():
        for key, p in model.named_parameters():
            is_norm = p.dim() == 1 or "q_norm" in key or "k_norm" in key
            if is_norm and key.endswith("bias"):
                p.normal_(0, 0.3)
            elif is_norm:
                p.normal_(0 if name in PLUS_ONE else 1, 0.3)
            else:
                p.normal_(0, 0.25)
            p.copy_(p.half().float())
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    held = model.lm_head.weight.clone() if name == "index" else None
    ids = torch.randint(3, 96, (1, 24))
    with torch.no_grad():
        if name == "index":  # the head's rows have length 1 only when it computes
            model.lm_head.weight.copy_(torch.nn.functional.normalize(held))
        logits = model(ids).logits[0]
        if name == "index":
            model.lm_head.weight.copy_(held)
    (model if name in STORED_F32 else model.half()).save_pretrained(folder)
    if name == "index":
        written = json.load(open(folder / "config.json"))
        (folder / "config.json").write_text(json.dumps({**written, "architectures": ["IndexForCausalLM"], "norm_head": True}, indent=2))
    (folder / "generation_config.json").unlink(missing_ok=True)
    shutil.copy(HERE / "tokenizer.json", folder)
    save_file({"ids": ids[0].int(), "logits": logits.contiguous()}, HERE / f"{name}.golden.safetensors")
    print(name, "largest logit", float(logits.abs().max()))
