"""Which modules an adapter_config.json of PEFT means, and with which rank and scale.

Its patterns are Python's, so a few characters of one may take for ever. They are
matched in a process with limits, and what comes back names modules in full.

Reference:
  huggingface/peft 0.21: check_target_module_exists, get_pattern_key.
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from elm_jax import errors
from elm_jax.limits import limited


def without_patterns(
    settings: Mapping[str, Any], modules: Iterable[str], *, of: str
) -> dict[str, Any]:
    """Returns settings that mean the same for some modules and hold no pattern.

    Args:
      settings: The content of adapter_config.json.
      modules: Names of all projections.
      of: What they are of, for the message.

    Raises:
      CheckpointError: A pattern is none, or matching takes too much.
    """
    names = list(modules)
    try:
        worker = limited.worker()
        answers = worker.map(f"{__name__}:reader", dict(settings), [names])
    except limited.LimitError as error:
        raise _unreadable(of, f"patterns that take too much: {error.reason}") from error
    except limited.WorkError as error:
        raise _unreadable(of, f"settings that cannot be read: {error}") from error
    targets, inside, ranks, alphas = answers[0]
    plain = {
        **settings,
        "target_modules": targets,
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "feedforward_modules": inside,
    }
    if "r" in settings:
        by_name = [re.escape(name) for name in names]
        plain["rank_pattern"] = dict(zip(by_name, ranks, strict=True))
        plain["alpha_pattern"] = dict(zip(by_name, alphas, strict=True))
    return plain


def reader(settings: Mapping[str, Any]) -> Callable[[Sequence[str]], Any]:
    """Returns, in the process with limits, what asks the patterns about modules."""

    def read(names: Sequence[str]) -> Any:
        targets = [name for name in names if is_target(settings, name)]
        inside = [name for name in names if is_feed_forward(settings, name)]
        if "r" not in settings:
            return targets, inside, [], []
        ranks = [rank(settings, name) for name in names]
        return targets, inside, ranks, [_alpha(settings, name) for name in names]

    return read


def _unreadable(of: str, problem: str) -> errors.CheckpointError:
    return errors.CheckpointError(
        found=f"{of} with {problem}",
        expected="what PEFT's save_pretrained wrote",
        do="Copy the file again, or name its modules one by one",
    )


def is_target(settings: Mapping[str, Any], module: str) -> bool:
    """Returns whether a module has an adapter, by PEFT's rules."""
    targets, excluded = settings["target_modules"], settings.get("exclude_modules")
    if excluded and _is_named(excluded, module):
        return False
    if targets == "all-linear":
        return True
    return _is_named(targets, module) and (
        isinstance(targets, str) or _is_layer(settings, module)
    )


def _is_named(names: str | Sequence[str], module: str) -> bool:
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module == name or module.endswith(f".{name}") for name in names)


def _is_layer(settings: Mapping[str, Any], module: str) -> bool:
    numbers = settings.get("layers_to_transform")
    if numbers is None or numbers == []:
        return True
    patterns = settings.get("layers_pattern") or [r"[^.]*"]
    patterns = [patterns] if isinstance(patterns, str) else patterns
    for pattern in patterns:
        if match := re.match(rf"(?:^|.*?\.){pattern}\.(\d+)\.", module):
            numbers = [numbers] if isinstance(numbers, int) else numbers
            return int(match[1]) in numbers
    return False


def is_feed_forward(settings: Mapping[str, Any], module: str) -> bool:
    """Returns whether (IA)3's factors are on a module's inputs, by PEFT's rules."""
    names = settings.get("feedforward_modules") or []
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(module.endswith(name) for name in names)


def rank(settings: Mapping[str, Any], module: str) -> int:
    """Returns LoRA's rank at a module."""
    return _by_pattern(settings.get("rank_pattern"), module, settings["r"])


def scale(settings: Mapping[str, Any], module: str) -> float:
    """Returns LoRA's factor at a module."""
    divisor = rank(settings, module)
    divisor = math.sqrt(divisor) if settings.get("use_rslora") else divisor
    return _alpha(settings, module) / divisor


def _alpha(settings: Mapping[str, Any], module: str) -> float:
    default = settings.get("lora_alpha", 8)
    return _by_pattern(settings.get("alpha_pattern"), module, default)


def _by_pattern(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default
