"""Simulated chat models for the tests of users, in `models`."""
