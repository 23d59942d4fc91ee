"""What a router weighed is kept with scores, and shown beside a report."""

import dataclasses

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.evaluation import result_store
from elm_jax.routing import token_routers
from elm_jax.runs import loaded, routed_tokens, routing_traces, scorer
from elm_jax.runs import placement as placements
from elm_jax.runs import report as reports
from tests.runs import routed, scored, toy

TOLD = routed_tokens.RoutedTokens(router=token_routers.Arrow(top_k=1), num_traced=3)


@pytest.fixture(autouse=True)
def toy_tasks():
    with scored.registered():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A library of two prompt experts whose mixture was scored with traces."""
    folder = tmp_path_factory.mktemp("traced")
    with scored.registered():
        scored.save_base(folder)
        for seed, name in enumerate(("plain", "twice"), start=1):
            routed.save_expert(folder, name, seed)
        toy.build(folder).run()
        toy.score(folder, experts=(), strategies=("base", TOLD)).run()
    return folder


def traced_rows(folder):
    store = result_store.ResultStore(folder / "results.jsonl")
    rows = [r for r in store.rows() if (r.metric, r.expert) == ("accuracy", TOLD.label)]
    return [(row, store.per_example(row)) for row in rows]


def test_a_trace_has_the_mean_weights_of_real_tokens_alone(folder):
    """A short row beside a long one, against each alone."""
    base = loaded.Base.load(folder / "base")
    asked = toy.ask(folder)
    data = asked.data.opened(asked.place)
    params, spec = routed.chosen(folder, TOLD.router).load(base)
    program = scorer.Scorer(base, data, batch_size=8, where=placements.Placement())
    params, names = program.place(params), ("plain", "twice")

    def trace(*examples):
        array = program.trace(params, spec, examples, names)
        return routing_traces.read(array)

    (row, arrays), *_ = traced_rows(folder)
    dataset = data.open(row.task, row.split)
    long, other = dataset[0], dataset[1]
    short = other._replace(
        inputs=other.inputs[-4:], choices=tuple(c[-2:] for c in other.choices)
    )
    found = trace(long, short)
    means = [trace(one).weights for one in (long, short)]
    np.testing.assert_allclose(found.weights, np.mean(means, axis=0), atol=2e-3)
    np.testing.assert_allclose(found.weights.sum(axis=-1), 1, atol=2e-3)
    assert [*map(len, found.pieces)] == [len(long.inputs), 4]
    kept = routing_traces.read(arrays[routing_traces.ARRAY])
    assert (kept.num_rows, kept.experts) == (3, names)
    assert set(kept.places) == {
        f"{stack}/{part}_adapter 0"
        for stack, part in (
            ("encoder", "attention"),
            ("encoder", "mlp"),
            ("decoder", "self_attention"),
            ("decoder", "mlp"),
        )
    }


def test_traces_are_small_and_no_setting_of_a_strategy():
    assert TOLD.settings == dataclasses.replace(TOLD, num_traced=0).settings
    assert TOLD.label == dataclasses.replace(TOLD, num_traced=0).label


def test_a_report_shows_where_tokens_went(folder):
    reports.Report(
        model_dir=str(folder), title="Toy", unseen_tasks=toy.TASKS, cache_dir=""
    ).run()
    for row, arrays in traced_rows(folder):
        assert arrays[routing_traces.ARRAY].nbytes < 4096
        page = (folder / "report" / "routing" / f"{row.task}.html").read_text("utf-8")
        assert TOLD.label in page
        assert "decoder/mlp_adapter 0" in page
    assert "routing/" in (folder / "report" / "index.html").read_text("utf-8")


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"[]",
        b'{"num_rows":1,"experts":["a"],"places":["p"],"weights":[[1,2]],'
        b'"pieces":[],"of_pieces":[]}',
    ],
)
def test_what_is_no_trace_is_refused(content):
    with pytest.raises(errors.DataError, match="trace of a router"):
        routing_traces.read(np.frombuffer(content, np.uint8))
