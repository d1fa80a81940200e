"""What several families need: activations by their names in configurations, task heads, lengths."""

from __future__ import annotations

from ..checkpoint import Config
from ..spec import Activation, Dense, Head

_ACTIVATIONS: dict[str, Activation] = {
    "relu": "relu",
    "relu2": "relu2",
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "silu": "silu",
    "swish": "silu",
    "tanh": "tanh",
    "sigmoid": "sigmoid",
    "linear": "identity",
}


def activation(config: Config, *keys: str, default: str) -> Activation:
    """The activation that the first of ``keys`` names."""
    name = config.word(*keys, default=default)
    if name not in _ACTIVATIONS:
        raise config.wrong(
            next((k for k in keys if config.get(k) is not None), keys[0]), f"one of {', '.join(_ACTIVATIONS)}"
        )
    return _ACTIVATIONS[name]


def labels(config: Config) -> int:
    """Number of labels of a classification head: ``num_labels``, or the length of ``id2label``, or 2."""
    names = config.get("id2label")
    if isinstance(names, dict) and names:
        return len(names)
    return config.size("num_labels", default=2)


def classifier(config: Config, pool: str, *before: Dense, bias: bool = True, outputs: int | None = None) -> Head:
    """A head of some dense layers and one output per label."""
    last = Dense(outputs=labels(config) if outputs is None else outputs, bias=bias)
    return Head(pool=pool, layers=(*before, last))  # type: ignore[arg-type]


def question_answering() -> Head:
    """Start and end scores of each token."""
    return Head(pool="none", layers=(Dense(outputs=2),))
