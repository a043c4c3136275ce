"""What a run takes over from the config of whoever invokes it: a host graph, a server, or code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import BaseCallbackHandler, BaseCallbackManager

from orcheo_agentensor.config.model import LiveCallbacks, RunConfig, inherited_from, is_runtime_key
from orcheo_agentensor.config.overrides import NODE_OVERRIDES
from orcheo_agentensor.config.resolve import merge_configs
from orcheo_agentensor.errors import BadInput, ConfigError, RunMismatch
from orcheo_agentensor.identity import inside_a_host
from orcheo_agentensor.json_values import content_hash
from orcheo_agentensor.prompts import with_prompts
from orcheo_agentensor.redaction import REDACTED, redact
from orcheo_agentensor.upstream import streams_for_host, var_child_runnable_config

if TYPE_CHECKING:
    from langchain_core.runnables import RunnableConfig

OF_JOBS = ("agentensor", NODE_OVERRIDES)
"""Keys of `configurable` that say how a workflow is run: those of the target are in its job."""

_OF_RUNS = frozenset({"thread_id", "run_id", "assistant_id", "graph_id", "task_id"})
"""Names of the caller's own run, as LangGraph and its server write them."""

_OF_REQUESTS = frozenset({*_OF_RUNS, "created_by", "owner", "run_attempt"})
"""Keys of metadata that a server writes about the caller's run."""

_OF_TRACES = ("agentensor_", "lc_", "ls_")
"""How the keys of metadata begin that each run writes anew."""


@dataclass(frozen=True, kw_only=True)
class Caller:
    """What reaches the target, judges, proposer and critic beneath what the job's config says.

    `configurable` is what of it is JSON: the answers of a target may depend on it, so it is part of
    the content keys of rollouts, and a run goes on with what it was started with. `live` is the
    rest of it. Neither `live` nor `callbacks` are ever stored.
    """

    tags: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    configurable: Mapping[str, Any] = field(default_factory=dict)
    live: Mapping[str, Any] = field(default_factory=dict)
    callbacks: tuple[BaseCallbackHandler, ...] = ()

    @property
    def stored(self) -> dict[str, Any]:
        """`configurable` as the run record keeps it, without secrets."""
        found: dict[str, Any] = redact(dict(self.configurable))
        return found

    @property
    def fingerprint(self) -> str | None:
        """The hash of what answers may depend on; None where there is nothing."""
        return content_hash(self.stored) if self.configurable else None

    def beneath(self, config: RunConfig) -> RunConfig:
        """`config` over what the caller says. Prompts of the caller are there as plain values."""
        below = RunConfig.model_construct(
            tags=self.tags, metadata=dict(self.metadata), configurable=dict(self.configurable)
        )
        return merge_configs(below, config)

    def completed(self, runnable: RunnableConfig) -> RunnableConfig:
        """`runnable` with what of the caller's `configurable` is not JSON."""
        if not self.live:
            return runnable
        return {**runnable, "configurable": {**self.live, **runnable.get("configurable", {})}}

    def of_run(self, stored: Mapping[str, Any] | None, run_id: str) -> Caller:
        """This caller, who submits a run again that was started with `stored`.

        Raises `RunMismatch` where it brings another `configurable`; none is that of the run.
        """
        stored = stored or {}
        if not self.configurable:
            return self.started_with(stored, run_id)
        new = self.stored
        other = sorted(key for key in {*stored, *new} if stored.get(key) != new.get(key))
        if other:
            raise RunMismatch(
                f"run {run_id!r} was started with another config of its caller "
                f"({', '.join(other)}), which its target could read; choose a new run id",
                field="run_id",
                value=run_id,
                rule="must be submitted with the same configurable",
            )
        return self

    def started_with(self, stored: Mapping[str, Any] | None, run_id: str) -> Caller:
        """This caller with the `configurable` that a run was started with.

        Raises `BadInput` where that held secrets, which are not stored, and is not given again.
        """
        stored = stored or {}
        if self.stored == stored:
            return self
        if REDACTED in str(stored):
            raise BadInput(
                f"run {run_id!r} was started with secrets in its caller's configurable, which are "
                f"not stored ({', '.join(stored)}); resume it with the same config",
                field="config.configurable",
                value=sorted(self.configurable),
                rule="must be what the run was started with",
            )
        return replace(self, configurable=dict(stored))


NOBODY = Caller()
"""The caller of a job that is only checked."""


def caller_of_run() -> Caller:
    """What the config of the node that we are in brings from outside.

    The thread, the checkpoints, `max_concurrency` and the recursion limit of the caller are its
    own, and so are callbacks that only stream its messages. Raises `ConfigError` for what belongs
    into the job, where no host graph is around that may mean itself.
    """
    around = var_child_runnable_config.get()
    if not around:
        return NOBODY
    known, live = inherited_from(around)
    for key in OF_JOBS if not inside_a_host() else ():
        if key in known.configurable:
            raise ConfigError(
                field=f"config.configurable.{key}",
                value=known.configurable[key],
                rule=f"belongs into the job: job.config.configurable.{key}",
            )
    configurable = {k: v for k, v in known.configurable.items() if k not in (*_OF_RUNS, *OF_JOBS)}
    return Caller(
        tags=tuple(tag for tag in known.tags if not tag.startswith(_OF_TRACES)),
        metadata={
            key: value
            for key, value in known.metadata.items()
            if not (key.startswith(_OF_TRACES) or key in _OF_REQUESTS)
        },
        configurable=with_prompts(configurable, known.prompts) if known.prompts else configurable,
        live={k: v for k, v in live.items() if k not in _OF_RUNS and not is_runtime_key(k)},
        callbacks=handlers(around.get("callbacks") or ()),
    )


_LISTENERS = ("langchain_core.callbacks.manager", "langsmith.run_helpers")
"""The modules without which nobody has asked to hear of LangChain's runs, other than by a variable
of the environment."""

_TRACING = ("TRACING", "TRACING_V2", "HANDLER")


def is_heard(given: Sequence[Any] = ()) -> bool:
    """Whether LangChain would tell anybody of a run: the handlers given, LangSmith, or whoever
    instruments LangChain."""
    names = (f"{owner}_{name}" for owner in ("LANGSMITH", "LANGCHAIN") for name in _TRACING)
    asked = any(os.environ.get(name, "").lower() not in ("", "0", "false") for name in names)
    if not (given or asked or any(name in sys.modules for name in _LISTENERS)):
        return False
    from langchain_core.callbacks import AsyncCallbackManager

    return bool(AsyncCallbackManager.configure([*given]).handlers)


def is_alone() -> bool:
    """Whether nothing is around us that a graph run of ours would be a part of: no run of a host,
    and nobody who hears of LangChain's runs."""
    return var_child_runnable_config.get() is None and not is_heard()


def handlers(*given: LiveCallbacks | Iterable[BaseCallbackHandler]) -> tuple[Any, ...]:
    """The callback handlers of lists and managers, each once, without those that stream for a host.

    They are taken off their manager: a rollout is a trace of its own, and a manager that concurrent
    rollouts share would give each the tags of the others.
    """
    found: dict[int, BaseCallbackHandler] = {}
    for one in given:
        held = one.inheritable_handlers if isinstance(one, BaseCallbackManager) else one
        found |= {id(handler): handler for handler in held if not streams_for_host(handler)}
    return tuple(found.values())
