"""What a router weighed is kept with scores, and shown beside a report."""

import dataclasses
import re

import numpy as np
import pytest

from elm_jax import errors
from elm_jax.checkpoints import manifest
from elm_jax.data import token_store
from elm_jax.evaluation import result_store
from elm_jax.routing import token_routers
from elm_jax.runs import loaded, routed_tokens, routing_traces, scorer
from elm_jax.runs import placement as placements
from elm_jax.runs import report as reports
from tests.runs import routed, scored, toy

TOLD = routed_tokens.RoutedTokens(router=token_routers.Arrow(top_k=1), num_traced=3)


pytestmark = pytest.mark.usefixtures("toy_tasks")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A library of two prompt experts whose mixture was scored with traces."""
    folder = tmp_path_factory.mktemp("traced")
    with scored.registered():
        toy.make_library(folder, routed.save_expert)
        toy.score(folder, experts=(), strategies=("base", TOLD)).run()
    return folder


def traced_rows(folder):
    store = result_store.ResultStore(folder / "results.jsonl")
    rows = [r for r in store.rows() if (r.metric, r.expert) == ("accuracy", TOLD.label)]
    return [(row, store.per_example(row)) for row in rows]


@pytest.mark.parametrize(
    ("weights", "name"),
    [
        ([[0.9, 0.1], [0.3, 0.7]], "a"),  # means of 0.6 and 0.4
        ([[0.9, 0.1], [0.0, 1.0]], "b"),
        ([[0.5, 0.5], [0.5, 0.5]], ""),
        ([[0.5, 0.5], [0.501, 0.499]], "a"),
        ([[0.5, 0.5], [0.5001, 0.4999]], ""),  # by less than what is kept
    ],
)
def test_the_heaviest_expert_has_the_greatest_mean_weight_alone(weights, name):
    place_weights = np.array(weights)
    trace = routing_traces.Trace(1, ("a", "b"), ("x", "y"), place_weights, (), ())
    assert trace.heaviest == name


@pytest.mark.slow
def test_a_trace_has_the_mean_weights_of_real_tokens_alone(folder):
    """A short row beside a long one, against each alone."""
    base = loaded.Base.load(folder / "base")
    retrieval = toy.ask(folder)
    data = retrieval.data.opened(retrieval.place)
    params, spec = routed.chosen(folder, TOLD.router).load(base)
    small, large = (
        scorer.Scorer(base, data, batch_size=size, where=placements.Placement())
        for size in (8, 16)
    )
    params, names = small.place(params), ("plain", "twice")

    def trace(*examples, of=None):
        array = (of or small).trace(params, spec, examples, names)
        return routing_traces.read(array)

    (row, arrays), *_ = traced_rows(folder)
    dataset = data.open(row.task, row.split)
    long, middle = dataset[0], dataset[1]
    short = middle._replace(
        inputs=middle.inputs[-4:], choices=tuple(c[-2:] for c in middle.choices)
    )
    traced = trace(long, short)
    means = [trace(row_traced).weights for row_traced in (long, short)]
    for place, of_place, *of_rows in zip(
        traced.places, traced.weights, *means, strict=True
    ):
        numbers = [
            len(row_traced.inputs)
            if place.startswith("encoder")
            else sum(map(len, row_traced.choices))
            for row_traced in (long, short)
        ]
        assert numbers[0] > numbers[1]
        expected = np.average(of_rows, axis=0, weights=numbers)
        np.testing.assert_allclose(of_place, expected, atol=2e-3)
    # Of two batches, the second filled up, and of one.
    several = trace(*(long, short, middle) * 4)
    assert several.num_rows == 12
    whole = trace(*(long, short, middle) * 4, of=large)
    np.testing.assert_allclose(several.weights, whole.weights, atol=2e-3)
    np.testing.assert_allclose(traced.weights.sum(axis=-1), 1, atol=2e-3)
    assert [*map(len, traced.pieces)] == [len(long.inputs), 4]
    read_trace = routing_traces.read(arrays[routing_traces.ARRAY])
    assert (read_trace.num_rows, read_trace.experts) == (3, names)
    assert read_trace.places == tuple(
        f"{stack}/{part}_adapter 0"
        for stack, part in (
            ("encoder", "attention"),
            ("encoder", "mlp"),
            ("decoder", "self_attention"),
            ("decoder", "mlp"),
        )
    )


def example(num_inputs, *choices):
    token_arrays = [np.full(number, 5, np.int32) for number in (num_inputs, *choices)]
    return token_store.Example(
        example_id=0,
        inputs=token_arrays[0],
        targets=token_arrays[1],
        choices=tuple(token_arrays[1:]),
        answer_choices=None,
        label=0,
        inputs_text="",
        targets_text="",
        choices_text=(),
        inputs_cut=False,
    )


def test_weights_are_means_over_tokens_and_not_over_rows():
    """Of 1 and 3 tokens of inputs, and of 2 and 6 of choices."""
    rows = [example(1, 1, 1), example(3, 4, 2)]
    sums = np.array([[[1.0, 0.0], [0.5, 0.5]], [[0.0, 3.0], [3.0, 0.0]]])
    weights = {"encoder/layers/mlp_adapter": sums, "decoder/layers/mlp_adapter": sums}
    array = routing_traces.array_of(weights, rows, None, ("a", "b"))
    traced = routing_traces.read(array)
    of_inputs = np.array([[0.25, 0.75], [0.875, 0.125]])
    np.testing.assert_allclose(
        traced.weights, np.concatenate([of_inputs, of_inputs / 2]), atol=6e-4
    )


def test_places_are_the_encoders_first_each_as_a_layer_has_them():
    places = [
        "encoder/layers/attention/query_adapter",
        "encoder/layers/mlp/wi_0_adapter",
        "encoder/layers/mlp/wo_adapter",
        "decoder/layers/self_attention/query_adapter",
        "decoder/layers/self_attention/value_adapter",
        "decoder/layers/encoder_decoder_attention/key_adapter",
        "decoder/layers/mlp/wi_0_adapter",
    ]
    weights = {place: np.ones((1, 2, 1)) for place in sorted(places)}
    array = routing_traces.array_of(weights, [example(1, 1)], None, ("a",))
    expected = [place.replace("/layers", "") for place in places]
    expected = tuple(f"{place} {layer}" for place in expected for layer in (0, 1))
    assert routing_traces.read(array).places == expected


def test_rows_make_few_shapes_of_batches():
    rows = [example(5, 2, 1, 3), example(33, 9, 1)]
    ((inputs, choices),) = routing_traces.batches_of(rows, most_rows=64, shares=4)
    assert (inputs.shape, choices.shape) == ((4, 48), (4, 4, 12))
    several = routing_traces.batches_of(rows[:1] * 5, most_rows=2, shares=1)
    assert [padded.shape for padded, _ in several] == [(2, 32)] * 3
    assert {choices.shape for _, choices in several} == {(2, 4, 8)}


@pytest.mark.slow
def test_a_plan_counts_the_experts_that_are_mixed(folder):
    def planned_hours(strategy):
        run = toy.score(folder, experts=(), strategies=(strategy,), device_flops=1.0)
        hours = re.search(r"([\d,.]+) hours", run.plan()["cost, about"])[1]
        return float(hours.replace(",", ""))

    info = manifest.read_manifest(folder / "experts" / "plain")
    share = TOLD.added_share(scored.SHAPE, [info, info])
    assert share > 0.01
    expected = planned_hours("retrieved") * (1 + share)
    np.testing.assert_allclose(planned_hours(TOLD), expected, rtol=1e-3)


def test_traces_are_small_and_no_setting_of_a_strategy():
    assert TOLD.settings == dataclasses.replace(TOLD, num_traced=0).settings
    assert TOLD.label == dataclasses.replace(TOLD, num_traced=0).label


@pytest.mark.slow
def test_a_report_shows_where_tokens_went(folder):
    pages = folder / "report" / "routing"
    for tasks in (toy.TASKS, toy.TASKS[:1]):
        reports.Report(
            model_dir=str(folder), title="Toy", unseen_tasks=tasks, cache_dir=""
        ).run()
        if len(tasks) > 1:
            (pages / "mine.html").write_text("<title>mine</title>")
            check_pages(folder)
    # Of the other task there is no page any longer.
    names = {path.name for path in pages.iterdir()}
    assert names == {f"{toy.TASKS[0]}.html", "mine.html"}


def check_pages(folder):
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
