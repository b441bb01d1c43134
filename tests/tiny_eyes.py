"""A vision projector of Kimi K2.5's kind (MoonViT, patches merged two by two) with random weights.

It goes with the model of ``tiny_kimi``. What the model makes of a picture is noise: it shows that
pictures take the whole way and are counted, not that anything is seen.
"""

from pathlib import Path

import gguf
import numpy as np

import tiny_kimi

PATCH, MERGE, WIDTH, FORWARD, HEADS, LAYERS, PLACES = 14, 2, 64, 128, 4, 2, 16
PATCHES_LEAST, PATCHES_MOST = 8, 1024


def write(path: Path) -> None:
    """Write the projector's file (0.8 MB)."""
    out = gguf.GGUFWriter(path, "clip")
    out.add_type("mmproj")
    out.add_name("tiny-random-kimi-eyes")
    out.add_bool("clip.has_vision_encoder", True)
    out.add_string("clip.projector_type", "kimik25")
    out.add_bool("clip.use_gelu", True)
    for key, value in _sizes().items():
        out.add_uint32(f"clip.vision.{key}", value)
    out.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    out.add_array("clip.vision.image_mean", [0.5] * 3)
    out.add_array("clip.vision.image_std", [0.5] * 3)
    for name, tensor in _tensors().items():
        out.add_tensor(name, tensor)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def _sizes() -> dict[str, int]:
    return {
        "image_size": PLACES * PATCH,
        "patch_size": PATCH,
        "embedding_length": WIDTH,
        "feed_forward_length": FORWARD,
        "block_count": LAYERS,
        "projection_dim": tiny_kimi.WIDTH,
        "attention.head_count": HEADS,
        "projector.scale_factor": MERGE,
        "image_min_pixels": PATCHES_LEAST * PATCH * PATCH,
        "image_max_pixels": PATCHES_MOST * PATCH * PATCH,
        "pos_emb_height": PLACES,
        "pos_emb_width": PLACES,
        "pos_emb_time": 4,
    }


def _tensors() -> dict[str, np.ndarray]:
    dice = np.random.default_rng(1)

    def noise(*shape: int) -> np.ndarray:
        return (dice.standard_normal(shape) * 0.08).astype(np.float32)

    merged = WIDTH * MERGE * MERGE
    weights = {
        "v.patch_embd": (WIDTH, 3, PATCH, PATCH),
        "mm.1": (merged, merged),
        "mm.2": (tiny_kimi.WIDTH, merged),
    }
    for layer in range(LAYERS):
        weights |= {
            f"v.blk.{layer}.attn_qkv": (3 * WIDTH, WIDTH),
            f"v.blk.{layer}.attn_out": (WIDTH, WIDTH),
            f"v.blk.{layer}.ffn_up": (FORWARD, WIDTH),
            f"v.blk.{layer}.ffn_down": (WIDTH, FORWARD),
        }
    norms = ["v.post_ln", "mm.input_norm"]
    norms += [f"v.blk.{layer}.{norm}" for layer in range(LAYERS) for norm in ("ln1", "ln2")]
    found = {"v.position_embd.weight": noise(PLACES, PLACES, WIDTH)}
    for name, shape in weights.items():
        found |= {f"{name}.weight": noise(*shape), f"{name}.bias": np.zeros(shape[0], np.float32)}
    for name in norms:
        ones = np.ones(WIDTH, np.float32)
        found |= {f"{name}.weight": ones, f"{name}.bias": np.zeros(WIDTH, np.float32)}
    return found
