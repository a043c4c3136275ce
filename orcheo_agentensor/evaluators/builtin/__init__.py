"""The built-in evaluators that compute their score, without asking anyone."""
