"""Configs of runs: one strict model, the rules it keeps, and how several become one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orcheo_agentensor.lazy import lazily

if TYPE_CHECKING:
    from orcheo_agentensor.config.model import (
        RunConfig,
        config_schema,
        register_callback,
        registered_callbacks,
        runtime_configurable,
    )
    from orcheo_agentensor.config.overrides import overridden_model
    from orcheo_agentensor.config.resolve import merge_configs, settle

__all__ = [
    "RunConfig",
    "config_schema",
    "merge_configs",
    "overridden_model",
    "register_callback",
    "registered_callbacks",
    "runtime_configurable",
    "settle",
]

__getattr__ = lazily(
    __name__,
    {
        "model": (
            "RunConfig",
            "config_schema",
            "register_callback",
            "registered_callbacks",
            "runtime_configurable",
        ),
        "overrides": ("overridden_model",),
        "resolve": ("merge_configs", "settle"),
    },
)
