"""The paper's ten text formats: what an instance looks like to an embedder."""

from collections.abc import Sequence

from elm_jax import errors

FORMATS = (
    "instance",
    "label",
    "choice",
    "label_instance",
    "choice_instance",
    "instance_new",
    "label_new",
    "choice_new",
    "label_instance_new",
    "choice_instance_new",
)


def format_text(
    name: str,
    *,
    inputs: str,
    choices: Sequence[str] = (),
    answer_choices: str | None = None,
    end_of_sequence: str = "</s>",
) -> str:
    """Returns the text that stands for one instance in the index or in a query.

    >>> format_text("choice_instance", inputs="Fun?", answer_choices="Yes ||| No")
    'Answer Choices: Yes ||| No, Instance: Fun?'
    >>> format_text("label_instance_new", inputs="Fun?", choices=["Yes", "No"])
    'Yes, No</s>Fun?'

    Args:
      name: One of `FORMATS`. `label` names the instance's own answer strings,
        `choice` the template's answer-choice expression as written, before it is
        rendered. `_new` formats are bare, joined by the end-of-sequence marker;
        the others are worded.
      inputs: The rendered input of the instance.
      choices: Its answer strings; none for a generative task, which reads as an
        empty text.
      answer_choices: The template's expression; None reads as `None`, as the
        paper's released index has it.
      end_of_sequence: The marker between the parts of the bare formats.

    Raises:
      ConfigError: `name` is not a format.

    Reference: arXiv:2302.03202, section on the expert library; its released code.
    """
    check_format(name)
    bare = name.endswith("_new")
    kinds = name.removesuffix("_new").split("_")
    answers = ", ".join(choices) if kinds[0] == "label" else str(answer_choices)
    texts = {
        "instance": inputs if bare else f"Instance: {inputs}",
        "label": answers if bare else f"Answer Choices: {answers}",
        "choice": answers if bare else f"Answer Choices: {answers}",
    }
    return (end_of_sequence if bare else ", ").join(texts[kind] for kind in kinds)


def check_format(name: str) -> None:
    """Raises ConfigError unless `name` is a text format."""
    if name not in FORMATS:
        raise errors.ConfigError(
            found=f"text format {name!r}",
            expected=f"one of {', '.join(FORMATS)}",
            do=errors.did_you_mean(name, FORMATS),
        )
