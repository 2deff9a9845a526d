"""Embedded data: scattered and moving digits, for all four tasks."""
