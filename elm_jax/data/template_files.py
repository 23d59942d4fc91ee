"""PromptSource's files: one YAML per dataset, read without trust into templates.

A few bytes of YAML can cause endless work, and deep nesting crashes its readers. So a
file that the project does not know by its hash is read in a process with limits.
"""

import collections
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import yaml

from elm_jax import errors
from elm_jax.data import known_files, templates
from elm_jax.limits import limited

TEMPLATES_FILE = "templates.yaml"
MAX_FILE_BYTES = 4 << 20
# Of a number in a file; YAML has them to the base 60, which take quadratic time.
_MAX_DIGITS = 100

_YAML_ERRORS = (
    *(yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError),
    RecursionError,
)


@dataclasses.dataclass(frozen=True)
class TemplateRef:
    """Names a template, to be read when it is needed.

    Attributes:
      dataset: PromptSource's dataset folder, such as `cos_e`.
      name: The template's name in that folder's `templates.yaml`.
      subset: PromptSource's subset folder, such as `v1.11`, or None.
      folder: Where the dataset's folder lies; None means the folder of unpacked
        PromptSource templates that the user names.
      jinja_sha256: What the template's `jinja_sha256` must be; "" for anything.
      choices: Answer choices to rank instead of the template's own fixed ones, where
        those lack a target; the template's text still sees its own.
    """

    dataset: str
    name: str
    subset: str | None = None
    folder: str | None = None
    jinja_sha256: str = ""
    choices: str = ""

    def load(self, templates_dir: str) -> templates.Template:
        """Returns the template.

        Raises:
          TemplateError: The folder, the dataset or the template is not there, or the
            template has another text than it should.
        """
        folder = self.folder if self.folder is not None else templates_dir
        collection = load_templates(folder, self.dataset, self.subset)
        if self.name not in collection:
            raise errors.TemplateError(
                found=f"no template {self.name!r} for {self.dataset}",
                expected=f"a name in {self.dataset}/{TEMPLATES_FILE}",
                do=errors.did_you_mean(self.name, collection),
            )
        template = collection[self.name]
        if self.jinja_sha256 and template.jinja_sha256 != self.jinja_sha256:
            raise errors.TemplateError(
                found=f"template {self.name!r} for {self.dataset} with a text of "
                f"sha256 {template.jinja_sha256}",
                expected=f"sha256 {self.jinja_sha256}, as in PromptSource 0.2.3",
                do="Fetch the templates again; give a changed one another name",
            )
        if not self.choices:
            return template
        shown = (template.answer_choices or "").split(templates.SEPARATOR)
        own_choices = [choice.strip() for choice in shown]
        jinja = f"{{% set answer_choices = {own_choices!r} %}}{template.jinja}"
        return dataclasses.replace(template, jinja=jinja, answer_choices=self.choices)


def load_templates(
    folder: str, dataset: str, subset: str | None = None
) -> Mapping[str, templates.Template]:
    """Returns the templates of a dataset by name.

    Args:
      folder: Folder in PromptSource's layout: `dataset[/subset]/templates.yaml`.
      dataset: Dataset folder below it.
      subset: Subset folder below that, or None.

    Raises:
      TemplateError: The folder or file is missing, or the file is malformed.
    """
    root = pathlib.Path(folder)
    if not folder or not root.is_dir():
        raise errors.TemplateError(
            found=f"no template folder {folder!r}",
            expected="a folder of unpacked PromptSource templates",
            do="Run `elm_tasks --gin_file=gin/original/templates.gin "
            "--gin.MODEL_DIR=DIR`, or name a folder (TEMPLATES_DIR)",
        )
    path = root / dataset / (subset or "") / TEMPLATES_FILE
    if not path.is_file():
        datasets = (p.parent.relative_to(root) for p in root.rglob(TEMPLATES_FILE))
        raise errors.TemplateError(
            found=f"no file {path}",
            expected="one templates.yaml per dataset and subset",
            do=errors.did_you_mean(
                f"{dataset}/{subset or ''}".strip("/"), map(str, datasets)
            ),
        )
    return _read_templates(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=512)
def _read_templates(
    path: pathlib.Path, modified_ns: int
) -> Mapping[str, templates.Template]:
    del modified_ns  # Part of the cache's key: a changed file is read anew.
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _bad_file(path, f"it is larger than {MAX_FILE_BYTES:,} bytes")
        content = path.read_bytes()
    except OSError as error:
        raise _bad_file(path, str(error)) from error
    is_known = known_files.is_known(content)
    if is_known:
        entries, problem = _entries(content)
    else:
        try:
            worker = limited.worker()
            ((entries, problem),) = worker.map(f"{__name__}:reader", None, [content])
        except limited.LimitError as error:
            raise _bad_file(path, error.reason) from error
    if problem:
        raise _bad_file(path, problem)
    parsed = [_template(entry, is_known) for entry in entries]
    return {template.name: template for template in parsed}


def _bad_file(path: pathlib.Path, why: str) -> errors.TemplateError:
    return errors.TemplateError(
        found=f"{path} is not a PromptSource file: {why}",
        expected="a mapping with `templates`, each a `!Template`",
        do="Fetch the templates again, or correct the file",
    )


def reader(shared: None) -> Callable[[bytes], tuple[Sequence[Any], str]]:
    """Returns, in the process with limits, what reads a file's content."""
    del shared
    return _entries


def _entries(content: bytes) -> tuple[Sequence[Mapping[str, Any]], str]:
    """Returns the fields of each template, and "" or what is wrong with the file."""
    try:
        loaded = yaml.load(content.decode("utf-8"), Loader=_Loader)  # noqa: S506
        entries = [_fields(entry) for entry in loaded["templates"].values()]
        _check_once(fields["name"] for fields in entries)
    except _YAML_ERRORS as error:
        return (), str(error) or type(error).__name__
    return entries, ""


def _check_once(names: Iterable[Any]) -> None:
    """Raises ValueError if two templates have one name; the last one would win."""
    twice = [name for name, n in collections.Counter(names).items() if n > 1]
    if twice:
        raise ValueError(f"several entries named {', '.join(map(repr, twice))}")


def _fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a template's fields as JSON has them, or raises TypeError."""
    metadata = entry["metadata"]
    for name in ("name", "id", "jinja", "answer_choices"):
        optional = name == "answer_choices" and entry[name] is None
        if not isinstance(entry[name], str) and not optional:
            raise TypeError(f"{name} is not a text")
    metrics = metadata["metrics"] or []
    if not isinstance(metrics, list) or not all(isinstance(m, str) for m in metrics):
        # A text instead of a list would become one metric for each of its letters.
        raise TypeError(f"metrics {metrics!r:.80} are not a list of texts")
    return {
        "name": entry["name"],
        "id": entry["id"],
        "jinja": entry["jinja"],
        "answer_choices": entry["answer_choices"],
        "metrics": metrics,
        "original_task": bool(metadata["original_task"]),
        "choices_in_prompt": bool(metadata["choices_in_prompt"]),
    }


def _template(entry: Mapping[str, Any], is_known: bool) -> templates.Template:
    metrics = tuple(entry["metrics"])
    return templates.Template(**{**entry, "metrics": metrics}, is_known=is_known)


# libyaml's parser where PyYAML has it: ten times as fast.
_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_SafeLoader):
    """YAML's safe loader plus PromptSource's two tags, read as mappings."""


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Any, Any]:
    _check_once(key.value for key, _ in node.value)
    if any(key.tag == "tag:yaml.org,2002:merge" for key, _ in node.value):
        # Merges of merges multiply: 700 bytes of them take hours.
        raise ValueError("a merge key (<<)")
    return loader.construct_mapping(node, deep=True)


def _number(loader: Any, node: yaml.ScalarNode) -> Any:
    if len(node.value) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(node.value):,} characters")
    tag = node.tag.rpartition(":")[2]
    return getattr(loader, f"construct_yaml_{tag}")(node)


for _tag in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_tag}", _number)
for _tag in ("!Template", "!TemplateMetadata", _SafeLoader.DEFAULT_MAPPING_TAG):
    _Loader.add_constructor(_tag, _mapping)
