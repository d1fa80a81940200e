"""Files of torch.save and the same tensors as safetensors: run once with PyTorch; the results are kept in pytorch/."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file

FOLDER = Path(__file__).parent / "pytorch"


def main() -> None:
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
        state[f"{dtype}".removeprefix("torch.")] = torch.randn(3, 5).to(dtype)
    for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool):
        state[f"{dtype}".removeprefix("torch.")] = torch.arange(4).to(dtype)
    state["transposed"] = base.T
    state["columns"] = base[:, 2:5]
    state["rows"] = base[1:3]
    state["steps"] = base[::2, 1::3]
    state["tied"] = base
    state["tied again"] = base
    state["parameter"] = torch.nn.Parameter(torch.randn(2, 2))
    state["scalar"] = torch.tensor(1.5)
    state["empty"] = torch.empty(0, 4)
    state["umlaut ü.weight"] = torch.randn(4)
    state._metadata = OrderedDict({"": {"version": 1}})  # type: ignore[attr-defined]
    save_file(
        {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}, FOLDER / "same.safetensors"
    )
    torch.save(state, FOLDER / "zip.bin")
    torch.save(state, FOLDER / "zip-protocol-4.bin", pickle_protocol=4)
    torch.save(dict(state), FOLDER / "zip-plain.bin")
    torch.save(state, FOLDER / "sequence.bin", _use_new_zipfile_serialization=False)
    torch.save(state, FOLDER / "sequence-protocol-4.bin", _use_new_zipfile_serialization=False, pickle_protocol=4)
    typed = {"float8": torch.randn(4).to(torch.float8_e4m3fn), "uint16": torch.arange(4).to(torch.uint16)}
    torch.save({**typed, "weight": torch.ones(2)}, FOLDER / "untyped.bin")
    torch.save(torch.nn.Linear(2, 2), FOLDER / "module.bin")
    torch.save({"state_dict": {"weight": torch.ones(2)}, "step": 3}, FOLDER / "training.bin")
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(FOLDER / "script.bin"))


if __name__ == "__main__":
    main()
