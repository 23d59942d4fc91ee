"""The part of Jinja that templates of strangers may use.

Jinja's own sandbox keeps templates away from Python's internals. Here they may only use
what PromptSource's own templates use (`NODES`, `FILTERS`, `METHODS`). This module does
not limit time and memory: `limited_rendering` runs templates in a process with limits.
"""

import types
from collections.abc import ItemsView, KeysView, Mapping, ValuesView
from typing import Any

import jinja2
from jinja2 import exceptions, nodes, sandbox, visitor
from jinja2.runtime import LoopContext

from elm_jax.data import nulls, sandbox_filters

_MAX_TEXT_CHARS = 50_000  # PromptSource's longest template has 2,849
_MAX_NODES = 5_000  # PromptSource's largest has 407
_MAX_DEPTH = 100

NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const),
    *(nodes.If, nodes.For, nodes.Assign, nodes.With, nodes.Scope, nodes.NSRef),
    *(nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Call, nodes.Keyword),
    *(nodes.Filter, nodes.Test, nodes.Compare, nodes.Operand, nodes.CondExpr),
    *(nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Concat),
    *(nodes.And, nodes.Or, nodes.Not, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div),
    *(nodes.FloorDiv, nodes.Mod, nodes.Pow, nodes.Neg, nodes.Pos),
)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


METHODS: Mapping[type, frozenset[str]] = types.MappingProxyType(
    {
        str: _names(
            "capitalize casefold count endswith find index isalnum isalpha isdecimal "
            "isdigit islower isnumeric isspace istitle isupper join lower lstrip "
            "partition removeprefix removesuffix replace rfind rindex rpartition "
            "rsplit rstrip split splitlines startswith strip swapcase title upper"
        ),
        list: _names("append copy count extend index pop"),
        tuple: _names("count index"),
        dict: _names("copy get items keys pop update values"),
    }
)
MUTATORS = frozenset(("append", "extend", "pop", "update"))


class Environment(sandbox.SandboxedEnvironment):
    """A sandbox that allows what PromptSource's templates use."""

    def __init__(self) -> None:
        super().__init__(
            undefined=sandbox_filters.Undefined, finalize=sandbox_filters.printed
        )
        self.globals = dict(sandbox_filters.FUNCTIONS)
        self.filters = dict(sandbox_filters.filters_by_name())
        self.tests = {**self.tests, "none": nulls.is_null}

    def compiled(self, text: str) -> tuple[jinja2.Template, bool]:
        """Returns a template ready to render, and whether it changes lists in place.

        Raises:
          jinja2.TemplateSyntaxError: It is not Jinja, is too large, or uses something
            that is not allowed.
        """
        if len(text) > _MAX_TEXT_CHARS:
            raise _refused(f"{len(text)} characters, more than {_MAX_TEXT_CHARS}")
        try:
            tree = self.parse(text)
            mutates = _check(tree)
            code = self.compile(_Rewriter().visit(tree))
        except jinja2.TemplateAssertionError as error:
            raise jinja2.TemplateSyntaxError(
                f"{error}; templates may use {', '.join(sorted(self.filters))}",
                error.lineno,
            ) from error
        except (RecursionError, OverflowError, SyntaxError) as error:
            raise _refused(f"nested too deep: {error}") from error
        except ValueError as error:
            raise _refused(str(error)) from error
        return jinja2.Template.from_code(self, code, self.globals), mutates

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Returns a value's attribute or item; methods cannot be printed."""
        return _unprinted(super().getattr(_open(obj), attribute))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Returns a value's item, or its attribute."""
        return _unprinted(super().getitem(_open(obj), argument))

    def is_safe_callable(self, obj: Any) -> bool:
        """Returns whether a template may call `obj`."""
        if obj in sandbox_filters.FUNCTIONS.values():
            return True
        if not isinstance(obj, sandbox_filters.Callable):
            return False
        owner = getattr(obj.fn, "__self__", None)
        if isinstance(owner, LoopContext):
            return obj.name == "cycle"
        if not isinstance(obj.fn, types.BuiltinMethodType):
            return False
        return any(
            isinstance(owner, kind) and obj.name in names
            for kind, names in METHODS.items()
        )

    def call(
        self,
        context: Any,  # pyright: ignore[reportIncompatibleMethodOverride]
        obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Calls a function, if that is safe."""
        del context
        if isinstance(obj, jinja2.Undefined) or not self.is_safe_callable(obj):
            name = getattr(obj, "name", type(obj).__name__)
            raise exceptions.SecurityError(f"{name!r} may not be called")
        for name in ("_loop_vars", "_block_vars"):  # for functions that see the context
            kwargs.pop(name, None)
        owner = getattr(obj.fn, "__self__", None)
        if isinstance(owner, str) and obj.name == "join":
            return owner.join(map(nulls.text_of, *args))
        result = obj.fn(*args, **kwargs)
        if isinstance(result, (ItemsView, KeysView, ValuesView)):
            return list(result)
        return result


def _open(obj: Any) -> Any:
    if isinstance(obj, sandbox_filters.Callable):
        raise exceptions.SecurityError(f"it looks into the function {obj.name!r}")
    return obj


def _unprinted(value: Any) -> Any:
    is_value = not callable(value) or isinstance(
        value, (jinja2.Undefined, sandbox_filters.Callable)
    )
    return value if is_value else sandbox_filters.Callable(value)


def _refused(message: str) -> jinja2.TemplateSyntaxError:
    return jinja2.TemplateSyntaxError(message, 1)


def _check(tree: nodes.Node) -> bool:
    """Raises an error for a forbidden node; returns whether it changes lists."""
    count, mutates, waiting = 0, False, [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if type(node) not in NODES or getattr(node, "recursive", False):
            kind = type(node).__name__
            raise jinja2.TemplateSyntaxError(f"{kind} is not allowed", node.lineno)
        if isinstance(node, nodes.Const) and node.value in _INFINITE:
            # Jinja writes it into the code that it makes as the name `inf`.
            raise jinja2.TemplateSyntaxError("an infinite number", node.lineno)
        if count > _MAX_NODES or depth > _MAX_DEPTH:
            raise jinja2.TemplateSyntaxError("it is too large or deep", node.lineno)
        mutates = mutates or (isinstance(node, nodes.Getattr) and node.attr in MUTATORS)
        waiting += [(child, depth + 1) for child in node.iter_child_nodes()]
    return mutates


_INFINITE = (float("inf"), float("-inf"))


class _Rewriter(visitor.NodeTransformer):
    """Adds filters where Jinja itself would accept nulls and labels below 0."""

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        """A computed index may not count from the end."""
        self.generic_visit(node)
        is_plain = isinstance(node.arg, (nodes.Slice, nodes.Const))
        if not is_plain and not _is_negative(node.arg):
            node.arg = _filter("checked index", node.arg)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """`a ~ b` has no null."""
        self.generic_visit(node)
        return _filter("joined texts", nodes.List(node.nodes, lineno=node.lineno))


def _filter(name: str, value: Any) -> nodes.Filter:
    return nodes.Filter(value, name, [], [], None, None, lineno=value.lineno)


def _is_negative(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Neg) and isinstance(node.node, nodes.Const)
