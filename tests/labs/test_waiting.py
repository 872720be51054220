"""The bar below a cell that measures."""

import pytest

from shardlab import labs
from shardlab.labs import waiting


@pytest.fixture
def shown(monkeypatch):
    """What the page shows, one after the other, in one place."""
    found = []

    class Handle:
        def display(self, data, raw):
            assert not found and raw
            found.append(data)

        def update(self, data, raw):
            assert found and raw
            found.append(data)

    monkeypatch.setattr(waiting, "DisplayHandle", Handle)
    return found


def test_each_item_comes_once_and_the_bar_says_how_many_are_done(shown):
    for index, item in enumerate(labs.progress((8, 64, 512), "sizes < all")):
        assert item == (8, 64, 512)[index]
        assert len(shown) == index + 1
        assert f'<progress value="{index}" max="3">' in shown[-1]["text/html"]
    assert [each["text/plain"] for each in shown] == [f"{done} of 3 sizes < all measured" for done in range(4)]
    assert shown[-1]["text/html"] == "3 of 3 sizes &lt; all measured", "words alone are kept"


def test_where_it_stops_it_says_where(shown):
    with pytest.raises(RuntimeError):
        for _ in labs.progress(range(9), "sizes"):
            if len(shown) == 4:
                raise RuntimeError
    assert shown[-1]["text/plain"] == "3 of 9 sizes measured"
