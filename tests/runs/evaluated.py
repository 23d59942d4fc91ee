"""An evaluation with routers of a toy library of two experts."""

from elm_jax.evaluation import result_store, row_lines
from elm_jax.merging import averages
from elm_jax.runs import routers
from tests.runs import toy

STRATEGIES = (
    "base",
    routers.ByBehaviour(),
    routers.ByBehaviour(statistic="entropy"),
    routers.ByBehaviour(num_experts=2, weigh=True, method=averages.Weighted()),
    routers.ByBehaviour(statistic="margin", among=1),
    routers.ByWords(),
    routers.ByBehaviour(statistic="gain", abstains=True, least=1e6, name="shy"),
)


def evaluation(folder, **changes):
    settings = {"experts": (), "strategies": STRATEGIES} | changes
    return toy.score(folder, **settings)


def score_store(folder):
    return result_store.ResultStore(folder / "library" / "behaviour" / "scores.jsonl")


def rows_of(folder):
    rows = row_lines.read_rows(folder / "results.jsonl")
    return {(row.expert, row.task): row for row in rows if row.metric == "accuracy"}
