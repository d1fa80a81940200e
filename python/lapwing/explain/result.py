"""Results of explanations: frozen dataclasses of plain values, with a picture each."""

from __future__ import annotations

from dataclasses import dataclass

from . import picture


@dataclass(frozen=True, kw_only=True)
class Explanation:
    """The contribution of each input token to a prediction.

    Attributes:
        texts: the text, or both texts of a pair.
        method: "occlusion", "shapley" or "rollout".
        target: the label, the filled token, or the continuation or translation that is explained.
        tokens: the input tokens, special ones included.
        offsets: start and end of each token in its text, in characters; (0, 0) for special tokens.
        parts: the index in ``texts`` of each token's text; None for tokens that the tokenizer, a language or a prefix
            adds. These are never removed: their score is 0, except by rollout.
        scores: the contribution of each token: by occlusion and shapley a difference of natural log-probabilities
            (of raw logits for independent labels and single outputs), summed over ``target_tokens``; by rollout a
            share from 0 to 1.
        value: the log-probability or logit that is explained; None for rollout.
        baseline: the same with all tokens removed; None unless shapley. The scores sum to ``value - baseline``.
        errors: standard errors of sampled Shapley values; None if the scores are exact.
        target_tokens: the tokens of the continuation or translation; empty for labels.
        matrix: the contribution of each input token to each target token, [target tokens][tokens].
    """

    texts: tuple[str, ...]
    method: str
    target: str
    tokens: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    parts: tuple[int | None, ...]
    scores: tuple[float, ...]
    value: float | None = None
    baseline: float | None = None
    errors: tuple[float, ...] | None = None
    target_tokens: tuple[str, ...] = ()
    matrix: tuple[tuple[float, ...], ...] = ()

    def __str__(self) -> str:
        return picture.bars(self.title(), self.tokens, self.scores)

    def title(self) -> str:
        """One line: method, target and values."""
        found = f"{self.method}: {self.target!r}"
        if self.value is not None:
            found += f", {self.value:.4f}"
        if self.baseline is not None:
            found += f" (without any token {self.baseline:.4f})"
        return found

    def to_html(self, *, whole: bool = True) -> str:
        """A page, or without ``whole`` an element, with all text escaped and no external resources: the text shaded by
        contribution (blue for, red against), and a table of target tokens."""
        runs = picture.runs(self.texts, self.offsets, self.parts, self.scores, self.tokens)
        parts = [picture.paragraph(self.title()), *runs]
        if self.matrix:
            parts.append(picture.table(self.tokens, self.target_tokens, self.matrix))
        return picture.page("".join(parts), whole=whole)

    def _repr_html_(self) -> str:
        return self.to_html(whole=False)


@dataclass(frozen=True, kw_only=True)
class LensToken:
    """A token of the vocabulary with its natural log-probability."""

    id: int
    text: str
    logprob: float


@dataclass(frozen=True, kw_only=True)
class LogitLens:
    """The most probable tokens if the model ended after each layer.

    Attributes:
        tokens: the input tokens (of an encoder-decoder: those of the decoder).
        layers: for the embedding and then each layer, and for each input token, its top tokens, best first. Those
            of the last layer are the model's own.
    """

    tokens: tuple[str, ...]
    layers: tuple[tuple[tuple[LensToken, ...], ...], ...]

    def __str__(self) -> str:
        rows = [
            [picture.shown(token), *(picture.shown(layer[i][0].text) for layer in self.layers)]
            for i, token in enumerate(self.tokens)
        ]
        return picture.columns([["token", "0", *map(str, range(1, len(self.layers)))], *rows])

    def to_html(self, *, whole: bool = True) -> str:
        """A page, or without ``whole`` an element: a row per layer, the last on top, and a column per token,
        shaded by the probability of the best token; all text escaped, no external resources."""
        return picture.page(
            picture.lens(self.tokens, [[[(t.text, t.logprob) for t in top] for top in layer] for layer in self.layers]),
            whole=whole,
        )

    def _repr_html_(self) -> str:
        return self.to_html(whole=False)
