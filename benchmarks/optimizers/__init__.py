"""Prompt optimizers side by side: this project, gepa, and control arms."""
