"""Measurements of this project beside other libraries; never part of the package."""
