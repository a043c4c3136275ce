"""A proposer for tasks in which a prompt has to name skills."""

from __future__ import annotations

from collections.abc import Mapping

from orcheo_agentensor.optimizers import ProposalRequest


class Tutor:
    """Adds the first skill found lacking."""

    async def propose(self, request: ProposalRequest) -> Mapping[str, str]:
        return {
            component.name: f"{component.text} {lacking[0]}"
            for component in request.components
            if (
                lacking := sorted(
                    record.expected_output["answer"]
                    for record in component.feedback
                    if record.score != 1.0
                )
            )
        }
