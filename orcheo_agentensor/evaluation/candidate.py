"""`Candidate`: a complete proposed prompt set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.tensor import TextTensor


@dataclass(frozen=True)
class Candidate:
    """A complete prompt set and its hash over names and texts, and places where they bind."""

    prompts: Mapping[str, TextTensor]
    hash: str

    @classmethod
    def of(cls, prompts: Mapping[str, TextTensor]) -> Candidate:
        """The candidate of these prompts."""
        return cls(
            prompts=dict(prompts),
            hash=content_hash(
                {
                    name: tensor.text if tensor.bind is None else [tensor.text, tensor.bind]
                    for name, tensor in prompts.items()
                }
            ),
        )
