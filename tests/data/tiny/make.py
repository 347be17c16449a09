#!/usr/bin/env python3
"""Makes the tiny random models of this folder and the logits that transformers computes for them in FP32.

Needs torch, transformers and safetensors; run once, the results are committed. Parameters are drawn away from their initial values
(norms at 1, biases at 0 and near-zero logits hide mistakes), head_dim is not hidden_size / heads, and the text is longer than every window.
"""
import json
import pathlib
import shutil

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
    "linear_rope": (transformers.LlamaConfig, transformers.LlamaForCausalLM, dict(rope_scaling=dict(rope_type="linear", factor=4.0))),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM, dict(sliding_window=8)),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM,
              dict(use_sliding_window=True, sliding_window=8, max_window_layers=1)),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM, dict(tie_word_embeddings=True)),
}

for number, (name, (config_class, model_class, overrides)) in enumerate(MODELS.items()):
    torch.manual_seed(100 + number)
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
