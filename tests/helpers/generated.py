"""Settings of tests with generated cases: the same ones in every run."""

from hypothesis import HealthCheck, Phase, settings


def cases(count: int) -> settings:
    """So many cases, whatever the machine, without files of their own.

    A case that fails is shown as it was made: to look for a simpler one takes minutes.
    """
    return settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
