"""What checks of data say."""

from typing import Iterable

from sparseformer_mm.engine.problems import Problem


def assert_said(problems: Iterable[Problem], fatal: bool, *parts: str) -> None:
    """One of the problems has all these parts, and is an error or a warning."""
    problems = list(problems)
    found = [p for p in problems if all(part in p.message for part in parts)]
    assert found, problems
    assert found[0].fatal == fatal, found[0]
