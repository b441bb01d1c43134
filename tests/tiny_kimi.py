"""A model of Kimi K2.5's architecture with random weights, written in a fraction of a second.

Multi-head latent attention, mixture of experts with a shared expert, YaRN, Kimi's control
tokens and a chat template in Kimi's form (Moonshot's model card). A byte is a token. What it
says is noise: it shows that the path works, not what the model knows.
"""

from pathlib import Path

import gguf
import numpy as np

CONTROL = (
    *("[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>"),
    *("<|im_middle|>", "<|start_header_id|>", "<|end_header_id|>", "[EOT]"),
    *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
    *("<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|media_begin|>"),
    *("<|media_content|>", "<|media_end|>", "<|media_pad|>", "<think>", "</think>"),
    *("[UNK]", "[PAD]"),
)
TEMPLATE = (
    "{%- for message in messages -%}"
    "<|im_{{ message.role }}|>{{ message.role }}<|im_middle|>{{ message.content }}<|im_end|>"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "<|im_assistant|>assistant<|im_middle|><think></think>"
    "{%- endif -%}"
)
"""A turn: role token, role word, middle, body, end; instant mode's empty think block."""

WIDTH, LAYERS, HEADS, RANK, ROPE, NOPE = 64, 3, 4, 32, 16, 16
EXPERTS, DENSE_WIDTH, EXPERT_WIDTH = 8, 128, 32


def write(path: Path, window: int = 262144, layers: int = LAYERS) -> None:
    """Write the model file (0.9 MB; more layers, more work a token)."""
    out = gguf.GGUFWriter(path, "deepseek2")
    tokens = [*_byte_characters(), *CONTROL]
    _facts(out, window, layers)
    _vocabulary(out, tokens)
    for name, tensor in _tensors(len(tokens), layers).items():
        out.add_tensor(name, tensor)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def _byte_characters() -> list[str]:
    """GPT-2's printable character for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = (chr(256 + index) for index in range(256 - len(plain)))
    return [chr(byte) if byte in plain else next(others) for byte in range(256)]


def _facts(out: gguf.GGUFWriter, window: int, layers: int) -> None:
    out.add_name("tiny-random-kimi")
    out.add_context_length(window)
    out.add_embedding_length(WIDTH)
    out.add_block_count(layers)
    out.add_feed_forward_length(DENSE_WIDTH)
    out.add_head_count(HEADS)
    out.add_head_count_kv(1)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_freq_base(50000.0)
    out.add_rope_dimension_count(ROPE)
    out.add_q_lora_rank(RANK)
    out.add_kv_lora_rank(RANK)
    out.add_key_length(RANK + ROPE)
    out.add_value_length(RANK)
    out.add_key_length_mla(NOPE + ROPE)
    out.add_value_length_mla(NOPE)
    out.add_leading_dense_block_count(1)
    out.add_expert_count(EXPERTS)
    out.add_expert_used_count(2)
    out.add_expert_shared_count(1)
    out.add_expert_feed_forward_length(EXPERT_WIDTH)
    out.add_expert_weights_scale(2.827)
    out.add_expert_weights_norm(value=True)
    out.add_expert_gating_func(gguf.ExpertGatingFuncType.SIGMOID)
    out.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    out.add_rope_scaling_factor(64.0)
    out.add_rope_scaling_orig_ctx_len(4096)
    out.add_rope_scaling_yarn_log_mul(0.1)


def _vocabulary(out: gguf.GGUFWriter, tokens: list[str]) -> None:
    kinds = [gguf.TokenType.NORMAL] * 256 + [gguf.TokenType.CONTROL] * len(CONTROL)
    out.add_vocab_size(len(tokens))
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("kimi-k2")
    out.add_token_list(tokens)
    out.add_token_types(kinds)
    out.add_token_merges([])
    out.add_bos_token_id(tokens.index("[BOS]"))
    out.add_eos_token_id(tokens.index("<|im_end|>"))
    out.add_pad_token_id(tokens.index("[PAD]"))
    out.add_unk_token_id(tokens.index("[UNK]"))
    out.add_add_bos_token(value=False)
    out.add_chat_template(TEMPLATE)


def _tensors(vocabulary: int, layers: int) -> dict[str, np.ndarray]:
    dice = np.random.default_rng(0)

    def noise(*shape: int, scale: float = 0.08) -> np.ndarray:
        return (dice.standard_normal(shape) * scale).astype(np.float32)

    def ones(*shape: int) -> np.ndarray:
        return np.ones(shape, np.float32)

    found = {
        "token_embd.weight": noise(vocabulary, WIDTH, scale=1.0),
        "output.weight": noise(vocabulary, WIDTH, scale=0.3),
        "output_norm.weight": ones(WIDTH),
    }
    for layer in range(layers):
        block = {
            "attn_norm.weight": ones(WIDTH),
            "attn_q_a.weight": noise(RANK, WIDTH),
            "attn_q_a_norm.weight": ones(RANK),
            "attn_q_b.weight": noise(HEADS * (NOPE + ROPE), RANK),
            "attn_kv_a_mqa.weight": noise(RANK + ROPE, WIDTH),
            "attn_kv_a_norm.weight": ones(RANK),
            "attn_k_b.weight": noise(HEADS, RANK, NOPE),
            "attn_v_b.weight": noise(HEADS, NOPE, RANK),
            "attn_output.weight": noise(WIDTH, HEADS * NOPE),
            "ffn_norm.weight": ones(WIDTH),
        }
        wide = {"ffn_gate": (DENSE_WIDTH, WIDTH), "ffn_up": (DENSE_WIDTH, WIDTH)}
        wide["ffn_down"] = (WIDTH, DENSE_WIDTH)
        if layer:
            block["ffn_gate_inp.weight"] = noise(EXPERTS, WIDTH)
            block["exp_probs_b.bias"] = np.zeros(EXPERTS, np.float32)
            narrow = {
                name: tuple(EXPERT_WIDTH if size == DENSE_WIDTH else size for size in shape)
                for name, shape in wide.items()
            }
            wide = {f"{name}_shexp": shape for name, shape in narrow.items()}
            wide |= {f"{name}_exps": (EXPERTS, *shape) for name, shape in narrow.items()}
        block |= {f"{name}.weight": noise(*shape) for name, shape in wide.items()}
        found |= {f"blk.{layer}.{name}": tensor for name, tensor in block.items()}
    return found
