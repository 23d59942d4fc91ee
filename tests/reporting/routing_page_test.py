import numpy as np
import pytest

from elm_jax.reporting import routing_page
from tests.reporting.parsed import Page


@pytest.fixture(name="shown")
def a_page(hostile):
    routed = routing_page.Routed(
        label=hostile,
        score=55.5,
        num_rows=8,
        experts=("a", hostile),
        places=("encoder/mlp_adapter 0", "decoder/mlp_adapter 0"),
        weights=((0.5, 0.5), (1.0, 0.0)),
        inputs=(((hostile, (0.25, 0.75)), (" ", (1.0, 0.0))),),
    )
    return routing_page.Page("copa#1", "test", "accuracy", (routed,), "../index.html")


def test_hostile_texts_become_text_and_nothing_else(shown, hostile):
    text = routing_page.render(shown)
    parsed = Page(text)
    assert "script" not in parsed.tags
    assert [t.strip() for t in parsed.texts].count(hostile) == 3
    assert "http" not in text.replace("http-equiv", "")


def test_weights_are_shown_by_expert_and_place_and_tokens_by_their_expert(shown):
    text = routing_page.render(shown)
    assert '<td class="w50">0.50</td>' in text
    assert '<td class="w100">1.00</td>' in text
    assert 'class="e1 w80" title="' in text
    assert 'class="e0 w100"' in text
    assert "␣" in text


def test_entropy_is_that_of_the_mean_weights_of_each_place(shown):
    assert shown.routers[0].entropy == pytest.approx(0.5)  # 1 bit, and none
    np.testing.assert_allclose(
        routing_page.Routed("", 0, 1, ("a",), ("p",), ((1.0,),), ()).entropy, 0
    )
