"""Strict JAX settings for every test: eight CPU devices, no silent promotion."""

import atexit
import gc
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator

import jax
import pytest

from elm_jax.limits import limited

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # The tests and the programs that they start compile the same small models over and
    # over. They share what was compiled in this run, and nothing of other runs.
    compiled = tempfile.mkdtemp(prefix="elm_jax_compiled_")
    atexit.register(shutil.rmtree, compiled, ignore_errors=True)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = compiled
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    jax.config.update("jax_compilation_cache_dir", compiled)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)

# Compiling takes most of the time, and these programs run once: not to optimise them
# halves it. Tests whose claims depend on what optimising does have a mark.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
IS_QUICK = os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1"
jax.config.update("jax_disable_most_optimizations", IS_QUICK)

# A program says of each operation which lines it came from; no test reads them.
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")
jax.config.update("jax_traceback_in_locations_limit", 0)

# To wait for a disk is for when the power fails, which no test brings about.
os.fsync = lambda handle: os.fstat(handle) and None  # still of an open file

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

# Programs beside the tests: they may need packages that are not installed, or the
# folder they lie in on the path.
collect_ignore_glob = [
    "*/make_*.py",
    "benchmarks/accelerator_cases.py",
    "benchmarks/hugging_face_*.py",
]

SHARED = pathlib.Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def data_dir() -> pathlib.Path:
    """The folder of real datasets, from ELM_DATA_DIR or beside the project."""
    path = pathlib.Path(os.environ.get("ELM_DATA_DIR", SHARED / "data"))
    if not path.is_dir():
        pytest.skip(f"real data: no folder {path}; set ELM_DATA_DIR")
    return path


@pytest.fixture
def short_limits() -> Iterator[limited.Limits]:
    """Limits under which work without end is ended soon."""
    before = limited.current()
    short = limited.Limits(cpu_secs=0.3)
    limited.use(short)
    yield short
    limited.use(before)


@pytest.fixture(scope="session")
def facts_dir() -> pathlib.Path:
    """The folder of facts about the original code, beside the project."""
    path = SHARED / "facts"
    if not path.is_dir():
        pytest.skip(f"facts: no folder {path}")
    return path


@pytest.fixture(scope="session")
def official_templates(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of PromptSource 0.2.3's templates, from the package index."""
    from elm_jax import errors
    from elm_jax.data import promptsource

    try:
        return str(promptsource.fetch_templates(tmp_path_factory.mktemp("templates")))
    except errors.DataError as error:
        pytest.skip(f"official templates: the package index is out of reach: {error}")


def pytest_collection_finish() -> None:
    """Leaves what was imported out of the search for garbage, and searches less."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(
        50_000, 20, 50
    )  # traces of a model are many objects, and no garbage


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compiles the programs of a test, and of its processes, as it is marked."""
    is_quick = IS_QUICK and item.get_closest_marker("optimized") is None
    if is_quick != jax.config.read("jax_disable_most_optimizations"):
        jax.clear_caches()  # what was compiled in the other way is not taken for this
    jax.config.update("jax_disable_most_optimizations", is_quick)
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = f"{int(is_quick)}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the figures of the fuzzer by class."""
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            for name, text in getattr(report, "user_properties", ()):
                if name == "fuzz":
                    terminalreporter.write_line(text)
