"""The forms of evaluators that people already have, one family per file."""
