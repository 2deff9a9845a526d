import pytest


@pytest.fixture(params=['pyav', 'decord', 'opencv'])
def decoder(request):
    """One after the other of those that are installed."""
    pytest.importorskip(dict(pyav='av', opencv='cv2').get(request.param, 'decord'))
    return request.param
