"""Two ranks that the tests of the layers share."""

import pytest


@pytest.fixture(scope="session")
def pool():
    pytest.importorskip("cloudpickle")  # where torch is the system's
    from shardlab.ranks import ranks

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SHARDLAB_DEVICES", "cpu")
        with ranks(2) as pool:
            yield pool
