"""Configs of runs: one strict model, the rules it keeps, and how several become one."""
