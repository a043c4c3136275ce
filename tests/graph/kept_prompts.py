"""Prompts that a project keeps as constants, as most do."""

PLANNER = "Plan the trip to {place}."
WRITER = "Write it down."
SIGNED = f"{WRITER} Yours, Ada."
UNUSED = "Nobody reads this once it is imported."
CACHED = "Only once."
