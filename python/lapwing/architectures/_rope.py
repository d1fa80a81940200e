"""Rotary frequencies: every scaling becomes a list of frequencies here, so that the core knows none.

Configurations of transformers 5 have ``rope_parameters``; those of 4 ``rope_theta`` and ``rope_scaling``.
"""

from __future__ import annotations

import math

from ..checkpoint import Config
from ..spec import DynamicRotary, LongRotary, Rotary


def parameters(config: Config, layer_type: str | None = None) -> Config:
    """The rope parameters of a configuration of either style, with ``rope_type`` and ``rope_theta``.

    ``layer_type`` picks those of one kind of layer where the configuration has them by kind.
    """
    section = config.section("rope_scaling") or config.section("rope_parameters")
    by_kind = layer_type is not None and isinstance(section.get(layer_type), dict)
    if by_kind:
        section = section.section(str(layer_type))
    values = {key: value for key, value in section.items() if value is not None}
    values.setdefault("rope_type", values.get("type", "default"))
    for key in ("rope_theta", "partial_rotary_factor"):
        values.setdefault(key, config.get(key))
    trained = "original_max_position_embeddings"
    if not by_kind and config.get(trained) is not None:
        values[trained] = config[trained]
    values.setdefault(trained, config.get("max_position_embeddings"))
    return section.with_values(**values)


def rotary(
    config: Config,
    head_dim: int,
    *,
    theta: float = 10000.0,
    dim: int | None = None,
    interleaved: bool = False,
    layer_type: str | None = None,
    rope: Config | None = None,
    round_up: bool = False,
) -> Rotary:
    """The rotation of a configuration.

    Args:
        config: the checkpoint's configuration.
        head_dim: dimensions of a head.
        theta: base where the configuration names none.
        dim: rotated dimensions; by default head_dim times ``partial_rotary_factor``.
        interleaved: whether neighbours are rotated together instead of halves.
        layer_type: kind of layer, where the configuration differs by kind.
        rope: parameters to use instead of the configuration's.
        round_up: whether an odd number of rotated dimensions is rounded up, though it still divides the exponents;
            else it is refused.
    """
    p = parameters(config, layer_type) if rope is None else rope
    base = p.number("rope_theta", default=theta)
    if base <= 0:
        raise p.wrong("rope_theta", "a number above zero")
    if dim is None:
        dim = int(head_dim * p.number("partial_rotary_factor", default=1.0))
    if not 1 <= dim <= head_dim:
        raise p.wrong("partial_rotary_factor", f"1 to {head_dim} rotated dimensions, not {dim}")
    if dim % 2 and not round_up:
        raise p.wrong("partial_rotary_factor", f"an even number of rotated dimensions, not {dim}")
    pairs = (dim + 1) // 2
    if 2 * pairs > head_dim:
        raise p.wrong("partial_rotary_factor", f"at most {head_dim} rotated dimensions, not {2 * pairs}")
    kind = p.word("rope_type")
    build = _KINDS.get(kind)
    if build is None:
        raise p.wrong("rope_type", f"one of {', '.join(_KINDS)}")
    try:
        frequencies = [base ** (-2 * j / dim) for j in range(pairs)]
        return build(p, config, frequencies, base, dim, interleaved)
    except ArithmeticError as error:
        raise p.wrong("rope_theta", "a base that gives finite frequencies") from error


def rotations(config: Config, head_dim: int, *, local: float) -> dict[str, Rotary]:
    """The rotations of layers that see everything and of those with a window, by ``layer_types``.

    A configuration of transformers 4 has one section, for the first kind; the second turns plainly with base ``local``.
    """
    section = config.section("rope_scaling") or config.section("rope_parameters")
    kinds = ("full_attention", "sliding_attention")
    if any(isinstance(section.get(kind), dict) for kind in kinds):
        full, sliding = (section.section(kind) for kind in kinds)
    else:
        full, sliding = section, Config({})
    plain = config.with_values(rope_scaling=None)
    return {
        kinds[0]: rotary(plain.with_values(rope_parameters=dict(full)), head_dim),
        kinds[1]: rotary(plain.with_values(rope_parameters=dict(sliding), rope_theta=local), head_dim),
    }


def longest(config: Config) -> int:
    """Tokens that the rotation reaches: ``max_position_embeddings``, or more where it is scaled beyond.

    Some configurations give the length after scaling, others that of the training; so the larger one counts. The base
    of "dynamic" grows with any length.
    """
    given = config.size("max_position_embeddings", default=2048, maximum=1 << 30)
    p = parameters(config)
    if p["rope_type"] == "dynamic":
        return 1 << 30
    if p["rope_type"] not in _KINDS or p["rope_type"] == "default":
        return given
    return min(max(given, int(_trained(p) * _ratio(p, config, _trained(p)))), 1 << 30)


def _default(p: Config, config: Config, frequencies: list[float], base: float, dim: int, interleaved: bool) -> Rotary:
    return Rotary(inv_freq=tuple(frequencies), interleaved=interleaved)


def _linear(p: Config, config: Config, frequencies: list[float], base: float, dim: int, interleaved: bool) -> Rotary:
    factor = _factor(p)
    return Rotary(inv_freq=tuple(f / factor for f in frequencies), interleaved=interleaved)


def _dynamic(p: Config, config: Config, frequencies: list[float], base: float, dim: int, interleaved: bool) -> Rotary:
    alpha = p.optional_number("alpha")
    if alpha is not None:
        # HunYuan's static variant: the base grows once and for all.
        if dim == 2 or alpha <= 0:
            raise p.wrong("alpha", "a number above zero, with heads of more than 2 dimensions")
        base *= alpha ** (dim / (dim - 2))
        return Rotary(inv_freq=tuple(base ** (-2 * j / dim) for j in range(dim // 2)), interleaved=interleaved)
    _even(p, dim)
    if dim == 2:
        raise p.wrong("rope_type", f"another kind where {dim} dimensions are rotated")
    original = config.size("max_position_embeddings", default=2048, maximum=1 << 30)
    dynamic = DynamicRotary(base=base, factor=_factor(p), original_length=original)
    return Rotary(inv_freq=tuple(frequencies), interleaved=interleaved, dynamic=dynamic)


def _llama3(p: Config, config: Config, frequencies: list[float], base: float, dim: int, interleaved: bool) -> Rotary:
    factor = _factor(p)
    low, high = p.number("low_freq_factor", default=1.0), p.number("high_freq_factor", default=4.0)
    original = _trained(p)
    if not 0 < low < high:
        raise p.wrong("high_freq_factor", f"more than low_freq_factor, {low}")

    def scale(f: float) -> float:
        wave = 2 * math.pi / f
        if wave < original / high:
            return f
        if wave > original / low:
            return f / factor
        smooth = (original / wave - low) / (high - low)
        return (1 - smooth) * f / factor + smooth * f

    return Rotary(inv_freq=tuple(map(scale, frequencies)), interleaved=interleaved)


def _yarn(p: Config, config: Config, frequencies: list[float], base: float, dim: int, interleaved: bool) -> Rotary:
    """Peng et al. 2023, https://arxiv.org/abs/2309.00071"""
    _even(p, dim)
    original = _trained(p)
    factor = _ratio(p, config, original)
    mscale, mscale_all = p.optional_number("mscale"), p.optional_number("mscale_all_dim")

    def magnitude(m: float) -> float:
        return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0

    scale = p.optional_number("attention_factor")
    if scale is None:
        scale = magnitude(mscale) / magnitude(mscale_all) if mscale and mscale_all else magnitude(1.0)
    fast, slow = p.number("beta_fast", default=32.0) or 32.0, p.number("beta_slow", default=1.0) or 1.0
    if min(fast, slow) <= 0 or base == 1:
        raise p.wrong("beta_fast", "with beta_slow a number above zero, and rope_theta not 1")

    def dimension(rotations: float) -> float:
        return dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(base))

    low, high = dimension(fast), dimension(slow)
    if p.flag("truncate", default=True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    if low == high:
        high += 0.001
    mixed = []
    for j, f in enumerate(frequencies):
        ramp = min(max((j - low) / (high - low), 0.0), 1.0)
        mixed.append(f / factor * ramp + f * (1 - ramp))
    return Rotary(inv_freq=tuple(mixed), scale=scale, interleaved=interleaved)


def _longrope(p: Config, config: Config, frequencies: list[float], base: float, dim: int, interleaved: bool) -> Rotary:
    """Ding et al. 2024, https://arxiv.org/abs/2402.13753"""
    original = _trained(p)
    factor = _ratio(p, config, original)
    scale = p.optional_number("attention_factor")
    if scale is None:
        scale = 1.0 if factor <= 1 or original == 1 else math.sqrt(1 + math.log(factor) / math.log(original))

    def divided(key: str) -> tuple[float, ...]:
        factors = p.get(key)
        if (
            not isinstance(factors, list)
            or len(factors) != len(frequencies)
            or not all(type(v) in (int, float) and v > 0 for v in factors)
        ):
            raise p.wrong(key, f"{len(frequencies)} numbers above zero")
        return tuple(f / v for f, v in zip(frequencies, factors, strict=True))

    long = LongRotary(after=original, inv_freq=divided("long_factor"), scale=scale)
    return Rotary(inv_freq=divided("short_factor"), scale=scale, interleaved=interleaved, long=long)


def _even(p: Config, dim: int) -> None:
    if dim % 2:
        raise p.wrong("rope_type", f"another kind where {dim} dimensions are rotated")


def _factor(p: Config) -> float:
    factor = p.number("factor")
    if factor <= 0:
        raise p.wrong("factor", "a number above zero")
    return factor


def _trained(p: Config) -> int:
    """The length that the model was trained with, before its rotation was scaled."""
    return p.size("original_max_position_embeddings", default=2048, maximum=1 << 30)


def _ratio(p: Config, config: Config, original: int) -> float:
    """``factor``, or how much longer the model's sequences are than those of its training."""
    if p.get("factor") is not None:
        return _factor(p)
    return config.size("max_position_embeddings", default=original, maximum=1 << 30) / original


_KINDS = {
    "default": _default,
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
}
