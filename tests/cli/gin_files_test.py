"""Every gin file outside gin/parts builds its run with a work folder alone."""

import fnmatch
import importlib
import importlib.util
import inspect
import pathlib
import re

import pytest
from gin import config_parser

from elm_jax.cli import gin_flags
from elm_jax.runs import (
    cache_tasks,
    compare,
    convert,
    convert_bottlenecks,
    convert_experts,
    evaluate,
    export,
    export_results,
    fetch,
    library,
    merge,
    merge_stages,
    observe,
    replay,
    report,
    retrieval_comparison,
    router_comparison,
    show_examples,
    tasks,
    train,
)

ROOT = pathlib.Path(__file__).parents[2]
BINARIES = {
    "elm_train": (train.Train,),
    "elm_library": (
        library.BuildLibrary,
        library.ListExperts,
        library.RetireExperts,
        library.Retrieve,
        retrieval_comparison.CompareRetrieval,
        router_comparison.CompareRouters,
        observe.Observe,
        fetch.FetchExperts,
    ),
    "elm_eval": (evaluate.Evaluate,),
    "elm_merge": (merge.Merge, merge_stages.Stages, compare.Compare),
    "elm_convert": (
        convert.ImportT5X,
        convert.ImportHuggingFace,
        export.ExportHuggingFace,
        export.ExportT5X,
        convert_experts.ImportElmExperts,
        convert_experts.ImportPeft,
        convert_experts.ExportPeft,
        convert_bottlenecks.ExportBottleneck,
        convert_bottlenecks.ImportAdapterHub,
        convert_bottlenecks.ExportAdapterHub,
        convert_experts.FoldExpert,
    ),
    "elm_report": (
        *(report.Report, show_examples.ShowExamples, replay.Replay),
        export_results.ExportResults,
    ),
    "elm_tasks": (
        *(tasks.ListTasks, tasks.FetchTemplates, tasks.TrainVocabulary),
        cache_tasks.CacheTasks,
    ),
}
FILES = [
    path.relative_to(ROOT).as_posix()
    for path in sorted(ROOT.glob("gin/**/*.gin"))
    if not {"parts", "t5x"} & set(path.parts)
]
# Run by T5X's programs, which are not installed here.
T5X_FILES = [path.relative_to(ROOT).as_posix() for path in ROOT.glob("gin/t5x/*.gin")]
T5X_PROGRAMS = {
    "train": "MODEL_DIR",
    "eval": "EVAL_OUTPUT_DIR",
    "infer": "INFER_OUTPUT_DIR",
}


def header(name):
    lines = (ROOT / name).read_text().splitlines()
    return "\n".join(line for line in lines if line.startswith("#"))


@pytest.mark.parametrize("name", FILES)
def test_a_gin_file_builds_with_a_work_folder_alone(name):
    binary = re.search(r"elm_\w+", header(name))[0]
    run, _, operative = gin_flags.build_run(
        BINARIES[binary], gin_files=[name], bindings=["MODEL_DIR = 'anywhere'"]
    )
    assert run.model_dir == "anywhere"
    assert operative


@pytest.mark.parametrize("name", FILES)
def test_the_header_of_a_gin_file_gives_its_own_command(name):
    text = header(name)
    assert f"--gin_file={name}" in text
    assert "--gin.MODEL_DIR=" in text
    assert len(text.splitlines()) >= 5


@pytest.mark.parametrize(
    "name", [f for f in FILES if "train.Train" in (ROOT / f).read_text()]
)
def test_the_tasks_of_a_training_are_registered(name):
    run, _, _ = gin_flags.build_run(
        (train.Train,), gin_files=[name], bindings=["MODEL_DIR = 'anywhere'"]
    )
    assert run.experts()


def test_experts_that_a_gin_file_names_are_trained_by_another():
    trained = set()
    for kind in ("prompt_experts", "dataset_experts"):
        run, _, _ = gin_flags.build_run(
            (train.Train,),
            gin_files=[f"gin/pocket/{kind}.gin"],
            bindings=["MODEL_DIR = 'anywhere'"],
        )
        trained |= {f"{kind}/{name}" for name in run.experts()}
    named = set()
    for path in ROOT.glob("gin/pocket/*.gin"):
        named |= set(re.findall(r"\w+_experts/\w[\w*]*", path.read_text()))
    assert any("*" in pattern for pattern in named)
    assert [p for p in named if not fnmatch.filter(trained, p)] == []


def test_a_training_may_compute_its_base_in_another_way():
    run, _, _ = gin_flags.build_run(
        (train.Train,),
        gin_files=["gin/t5/prompt_experts.gin", "gin/parts/execution.gin"],
        bindings=[
            "MODEL_DIR = 'anywhere'",
            "config.Execution.attention = 'dot_product'",
            "train.Train.dropout_rate = 0.0",
        ],
    )
    assert run.execution.attention == "dot_product"


def statements(name):
    class Words(config_parser.ParserDelegate):
        def configurable_reference(self, scoped_name, evaluate):
            return f"@{scoped_name}{'()' if evaluate else ''}"

        def macro(self, name):
            return f"%{name}"

    return list(config_parser.ConfigParser((ROOT / name).read_text(), Words()))


@pytest.mark.parametrize("name", T5X_FILES)
def test_what_t5x_gin_files_name_of_ours_is_there(name):
    ours = {}
    bindings = []
    for statement in statements(name):
        if isinstance(statement, config_parser.ImportStatement):
            package = statement.module.split(".")[0]
            if package not in ("__gin__", "t5x", "seqio"):
                ours[statement.bound_name()] = importlib.import_module(statement.module)
        elif isinstance(statement, config_parser.IncludeStatement):
            assert (
                statement.filename.startswith("t5x/")
                or (ROOT / statement.filename).is_file()
            )
        elif isinstance(statement, config_parser.BindingStatement):
            bindings.append(statement)
    for binding in bindings:
        if binding.selector == "MIXTURE_OR_TASK_MODULE":
            assert importlib.util.find_spec(binding.value)
        module, _, function = binding.selector.rpartition(".")
        if module in ours:
            fn = getattr(ours[module], function)
            assert binding.arg_name in inspect.signature(fn).parameters


@pytest.mark.parametrize("program", T5X_PROGRAMS)
def test_a_t5x_gin_file_gives_its_command_and_takes_our_tasks(program):
    name = f"gin/t5x/{program}.gin"
    text = header(name)
    assert f"python -m t5x.{program} " in text
    assert f"--gin_file={name}" in text
    assert f"--gin.{T5X_PROGRAMS[program]}=" in text
    includes = [
        statement.filename
        for statement in statements(name)
        if isinstance(statement, config_parser.IncludeStatement)
    ]
    assert includes[-1] == "gin/t5x/tasks.gin"  # after T5X's, whose None it replaces


@pytest.mark.parametrize("name", ["gin/original/report.gin", "gin/t5/report.gin"])
def test_reports_of_data_without_rows_to_choose_by_say_that_they_cross_fit(name):
    run, *_ = gin_flags.build_run(
        (report.Report,), gin_files=[name], bindings=["MODEL_DIR = 'anywhere'"]
    )
    assert run.split == run.selection_split
    assert "what it is worth cross-fitted" in header(name).replace("\n# ", " ")


@pytest.mark.parametrize("search", ["LoraHub", "AdaMerging", "GreedySoup"])
def test_a_copy_of_the_search_of_merges_takes_another_search_as_its_header_says(
    tmp_path, search
):
    text = (ROOT / "gin" / "pocket" / "merge_search.gin").read_text()
    text = re.sub(r"  (option|values) = .*\n", "", text.replace("Sweep", search))
    if search == "GreedySoup":
        text = text.replace("task_arithmetic.TaskArithmetic", "averages.Uniform")
        text = text.replace("import task_arithmetic", "import averages")
    copy = tmp_path / "copy.gin"
    copy.write_text(text)
    run, *_ = gin_flags.build_run(
        [merge.Merge], gin_files=[str(copy)], bindings=["MODEL_DIR = '/work'"]
    )
    assert type(run.search).__name__ == search
    assert run.search.rows.tasks == "pocket_composed"
