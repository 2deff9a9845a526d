import logging

import pytest


@pytest.fixture
def quiet():
    """Without the line mmengine logs for every setting of every parameter."""
    logging.disable(logging.INFO)
    yield
    logging.disable(logging.NOTSET)
