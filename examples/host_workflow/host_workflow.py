"""A workflow with evaluation and training as nodes: new tickets arrive, training follows if due.

    arrive -> evaluate -> (train ->) report

The state of this workflow has another shape than that of the two subgraphs; `map_input` and
`map_output` connect them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from langgraph.graph import END, START, StateGraph
from pydantic import BaseModel, ConfigDict, Field
from typing_extensions import TypedDict

from orcheo_agentensor import (
    Case,
    Dataset,
    MaxSteps,
    Settings,
    Store,
    create_evaluation_graph,
    create_training_graph,
    evaluation_node,
    training_node,
)
from orcheo_agentensor.demo.run import DATA, TARGET, WORKFLOW, set_up
from orcheo_agentensor.demo.workflow import QUEUES, seed_prompts
from orcheo_agentensor.prompts import prompts_to_json
from orcheo_agentensor.runs.job import parse_model
from orcheo_agentensor.runs.nodes import StrictGraph

PRODUCTION = "production"
KNOWN, NEW = slice(0, None, 3), slice(1, None, 35)
"""The bundled tickets that are known from the start, and those that arrive if none are given."""


class NewTicket(BaseModel):
    """A customer's message and the queue it belongs to."""

    model_config = ConfigDict(extra="forbid", title="New ticket")

    ticket: str = Field(min_length=1, title="Message", description="What the customer wrote.")
    queue: Literal[QUEUES] = Field(  # type: ignore[valid-type]
        title="Queue", description="The queue that the message belongs to."
    )


class HostInput(BaseModel):
    """New tickets and the threshold for training; all of it may be left out."""

    model_config = ConfigDict(extra="forbid", title="New tickets")

    tickets: list[NewTicket] = Field(
        default_factory=list,
        title="Tickets",
        description="Messages with the queue a person sent them to; bundled ones when left out.",
    )
    threshold: float = Field(
        default=0.7,
        ge=0,
        le=1,
        title="Threshold",
        description="Train where fewer than this share of the tickets go to the right queue.",
    )
    steps: int = Field(
        default=4, ge=1, title="Steps", description="Most optimizer steps of a training."
    )


class HostOutput(TypedDict, total=False):
    """The accuracy on the new tickets, and the outcome of a training."""

    accuracy: Annotated[
        float | None,
        Field(title="Accuracy", description="Share of the new tickets sent to the right queue."),
    ]
    decision: Annotated[
        str | None,
        Field(
            title="Decision",
            description="What became of a training, or 'not due'; see the reasons.",
        ),
    ]
    reasons: Annotated[list[str], Field(title="Reasons", description="Why it was decided so.")]
    production: Annotated[
        int | None,
        Field(title="Production", description="The version in production; empty: the seed prompts"),
    ]


class HostState(HostOutput, total=False):
    """The state: the input until it is stored, then ids and numbers."""

    tickets: Annotated[list[Any] | None, Field(title="Tickets", description="As they arrived.")]
    threshold: Annotated[float, Field(title="Threshold", description="Below it, train.")]
    steps: Annotated[int, Field(title="Steps", description="Most optimizer steps.")]
    arrived: Annotated[dict[str, str], Field(title="Arrived", description="The new tickets' id.")]
    known: Annotated[dict[str, str], Field(title="Known", description="All tickets' id.")]


def create_host_workflow(
    *, store: Store | None = None, settings: Settings | None = None
) -> StateGraph[HostState, None, HostInput, HostOutput]:
    """The uncompiled graph.

    It evaluates the version in production on the new tickets, trains below the threshold, and
    pauses by `interrupt()` before it promotes. `store` keeps versions and runs, by default in the
    database of `settings`. Reads the bundled tickets from their file.
    """
    settings = settings or Settings()
    opened = store or Store.from_url(settings.database_url)
    shared = set_up(settings)
    bundled = Dataset.load(DATA).cases
    common: dict[str, Any] = {
        "evaluators": shared.evaluators,
        "store": opened,
        "settings": settings,
    }

    async def arrive(state: HostState) -> dict[str, Any]:
        """Store the tickets, alone and with those known before; look up what is in production."""
        given = {key: state.get(key) for key in HostInput.model_fields}
        asked = parse_model(
            HostInput, {k: v for k, v in given.items() if v is not None}, where="input"
        )
        new = [_case(ticket) for ticket in asked.tickets] or [
            case.model_copy(update={"split": "train"}) for case in bundled[NEW]
        ]
        return {
            **dict.fromkeys((*HostOutput.__annotations__, "tickets")),
            "reasons": [],
            "threshold": asked.threshold,
            "steps": asked.steps,
            "arrived": await _stored(opened, "new_tickets", new),
            "known": await _stored(opened, "support_tickets", [*bundled[KNOWN], *new]),
            "production": await opened.aliases.resolve(WORKFLOW, PRODUCTION),
        }

    def evaluation_job(state: HostState) -> dict[str, Any]:
        return {**_job(state, shared.limits.model_dump()), "dataset": state["arrived"]}

    def training_job(state: HostState) -> dict[str, Any]:
        return {
            **_job(state, shared.limits.model_dump()),
            "dataset": state["known"],
            "budget": shared.budget,
            "stop": [MaxSteps(state["steps"]).model_dump()],
            "promote": "ask",
        }

    def is_due(state: HostState) -> Literal["train", "report"]:
        accuracy = state["accuracy"]
        return "train" if accuracy is not None and accuracy < state["threshold"] else "report"

    async def report(state: HostState) -> dict[str, Any]:
        """Report the version in production, and the reasons."""
        now = await opened.aliases.resolve(WORKFLOW, PRODUCTION)
        if state["decision"] is not None:
            return {"production": now}
        accuracy, threshold = state["accuracy"], state["threshold"]
        why = (
            "no ticket could be scored"
            if accuracy is None
            else f"accuracy {accuracy:.2f} is not below {threshold:.2f}"
        )
        return {"production": now, "decision": "not due", "reasons": [why]}

    host = StrictGraph(HostState, input_schema=HostInput, output_schema=HostOutput)
    host.add_node("arrive", arrive, input_schema=HostState)
    host.add_node(
        "evaluate",
        evaluation_node(
            create_evaluation_graph(TARGET, **common).compile(name="evaluation"),
            map_input=evaluation_job,
            map_output=lambda found: {
                "accuracy": found["summary"]["evaluators"]["queue_accuracy"]["mean"]
            },
        ),
    )
    host.add_node(
        "train",
        training_node(
            create_training_graph(
                TARGET,
                optimizer=shared.optimizer("textgrad", "LexicalProposer"),
                **common,
            ).compile(name="training"),
            map_input=training_job,
            map_output=lambda found: {
                "decision": found["decision"]["status"],
                "reasons": found["decision"]["reasons"],
            },
        ),
    )
    host.add_node("report", report)
    host.add_edge(START, "arrive")
    host.add_edge("arrive", "evaluate")
    host.add_conditional_edges("evaluate", is_due, ["train", "report"])
    host.add_edge("train", "report")
    host.add_edge("report", END)
    return host


def _job(state: HostState, limits: dict[str, Any]) -> dict[str, Any]:
    """The common part of both jobs: the version in production, or else the seed prompts."""
    version = state["production"]
    prompts: dict[str, Any] = (
        {"prompts": prompts_to_json(seed_prompts())}
        if version is None
        else {"config": {"configurable": {"agentensor": {"use": version}}}}
    )
    return {**prompts, "workflow_id": WORKFLOW, "limits": limits}


def _case(ticket: NewTicket) -> Case:
    """A training case; the validation and holdout cases stay as they are."""
    return Case(
        inputs={"ticket": ticket.ticket}, expected_output={"queue": ticket.queue}, split="train"
    )


async def _stored(store: Store, name: str, cases: Sequence[Case]) -> dict[str, str]:
    """Store the cases, each once, as a dataset; the state keeps its id and version."""
    dataset = Dataset(id=name, cases=tuple({case.id: case for case in cases}.values()))
    await store.datasets.save(
        dataset.id,
        dataset.version,
        metadata=dataset.metadata,
        counts={"cases": len(dataset), "splits": dataset.splits()},
        cases=[case.to_json() for case in dataset.cases],
    )
    return {"id": dataset.id, "version": dataset.version}
