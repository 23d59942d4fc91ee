"""Jinja for strangers' templates: what they may say, and how much they may cost.

Jinja's own sandbox keeps templates from Python's insides, but not from endless work:
`{{ 'a' * 10 ** 10 }}` is legal there. Here a template may use what PromptSource's own
templates use (`NODES`, `FILTERS`, `METHODS`), and each render has a budget of work,
counted and not timed, so that a template passes or fails alike on every machine. Every
value that an expression makes, and every turn of a loop, is paid from it; what could
grow in one step (`*`, `**`, `%`, `join`, `replace`) is paid before it is made.
"""

import types
from collections.abc import ItemsView, KeysView, Mapping, ValuesView
from typing import Any

import jinja2
from jinja2 import exceptions, nodes, sandbox, visitor
from jinja2.runtime import LoopContext

from elm_jax.data import nulls, sandbox_filters
from elm_jax.data.sandbox_filters import BUDGET, Budget, BudgetError

_MAX_TEXT_CHARS = 50_000  # PromptSource's longest template has 2,849
_MAX_NODES = 5_000  # PromptSource's largest has 407
_MAX_DEPTH = 100
_MAX_INT_BITS = 10_000
_TURN_UNITS = 10  # of each node in a loop's body, each turn

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
    """A sandbox that lets through what PromptSource's templates say, at a price."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

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
          jinja2.TemplateSyntaxError: It is not Jinja, is too large, or says something
            that templates may not.
        """
        if len(text) > _MAX_TEXT_CHARS:
            raise _refused(f"{len(text)} characters, more than {_MAX_TEXT_CHARS}")
        try:
            tree = self.parse(text)
            mutates = _check(tree)
            code = self.compile(_Pricing(mutates).visit(tree))
        except jinja2.TemplateAssertionError as error:
            raise jinja2.TemplateSyntaxError(
                f"{error}; templates may use {', '.join(sorted(self.filters))}",
                error.lineno,
            ) from error
        except (RecursionError, MemoryError, OverflowError, SyntaxError) as error:
            raise _refused(f"nested too deep: {error}") from error
        except ValueError as error:
            raise _refused(str(error)) from error
        return jinja2.Template.from_code(self, code, self.globals), mutates

    def is_safe_callable(self, obj: Any) -> bool:
        """Returns whether a template may call `obj`."""
        if obj in sandbox_filters.FUNCTIONS.values():
            return True
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, LoopContext):
            return obj.__name__ == "cycle"
        if not isinstance(obj, types.BuiltinMethodType):
            return False
        return any(
            isinstance(owner, kind) and obj.__name__ in names
            for kind, names in METHODS.items()
        )

    def call(
        self,
        context: Any,  # pyright: ignore[reportIncompatibleMethodOverride]
        obj: Any,
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        """Calls what is safe to call, and pays for it."""
        if isinstance(obj, jinja2.Undefined) or not self.is_safe_callable(obj):
            name = getattr(obj, "__name__", obj)
            raise exceptions.SecurityError(f"{name!r} may not be called")
        for name in ("_loop_vars", "_block_vars"):  # for functions that see the context
            kwargs.pop(name, None)
        budget: Budget = context[BUDGET]
        budget.step()
        budget.charge((args, kwargs))
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            budget.charge(owner)
            if obj.__name__ == "join":
                return budget.charge(sandbox_filters.joined(budget, owner, *args))
            if obj.__name__ == "replace":
                return budget.charge(sandbox_filters.replaced(budget, owner, *args))
        result = obj(*args, **kwargs)
        if getattr(obj, "__name__", "") in MUTATORS:
            budget.charge(owner)
        if isinstance(result, (ItemsView, KeysView, ValuesView)):
            result = list(result)
        return budget.charge(result)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Pays for a sum, product, power or remainder, and returns it."""
        budget: Budget = context[BUDGET]
        for one, other in ((left, right), (right, left)):
            if operator == "*" and isinstance(one, (str, bytes, list, tuple)):
                budget.spend(
                    sandbox_filters.size(one, budget.left) * max(int(other), 0)
                )
        if operator == "%" and isinstance(left, (str, bytes)):
            sandbox_filters.check_format(left)
        if isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() + right.bit_length()
            if operator == "**":
                bits = left.bit_length() * max(right, 0)
            if operator in ("*", "**") and bits > _MAX_INT_BITS:
                raise BudgetError(f"a number of about {bits} bits")
        return budget.charge(self.binop_table[operator](left, right))


def _refused(what: str) -> jinja2.TemplateSyntaxError:
    return jinja2.TemplateSyntaxError(what, 1)


def _check(tree: nodes.Node) -> bool:
    """Raises for a node that templates may not hold; returns whether it mutates."""
    count, mutates, waiting = 0, False, [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        count += 1
        if type(node) not in NODES or getattr(node, "recursive", False):
            kind = type(node).__name__
            raise jinja2.TemplateSyntaxError(f"{kind} is not allowed", node.lineno)
        if count > _MAX_NODES or depth > _MAX_DEPTH:
            raise jinja2.TemplateSyntaxError("it is too large or deep", node.lineno)
        mutates = mutates or (isinstance(node, nodes.Getattr) and node.attr in MUTATORS)
        waiting += [(child, depth + 1) for child in node.iter_child_nodes()]
    return mutates


class _Pricing(visitor.NodeTransformer):
    """Puts the payment into a template's syntax tree.

    Args:
      mutates: Whether the template changes lists in place; then what it prints is paid
        too, because it may have grown since it was made.
    """

    def __init__(self, mutates: bool) -> None:
        self._mutates = mutates

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802
        """Text costs nothing; see `mutates` for the rest."""
        self.generic_visit(node)
        if self._mutates:
            node.nodes = [
                part
                if isinstance(part, nodes.TemplateData)
                else self._filter("paid value", part)
                for part in node.nodes
            ]
        return node

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802
        """A turn costs what the loop's body holds, inner loops once."""
        count, waiting = 0, list(node.body)
        while waiting:
            waiting += waiting.pop().iter_child_nodes()
            count += 1
        self.generic_visit(node)
        weight = nodes.Const(_TURN_UNITS * count)
        node.iter = self._filter("paid loop", node.iter, weight)
        return node

    def visit_List(self, node: Any) -> nodes.Node:  # noqa: N802
        """A list, tuple, dictionary or part of one is paid when it is made."""
        self.generic_visit(node)
        if getattr(node, "ctx", "load") != "load":
            return node
        return self._filter("paid value", node)

    visit_Tuple = visit_Dict = visit_List  # noqa: N815 - names that Jinja looks up

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        """A slice is paid; a computed index may not count from the end."""
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return self._filter("paid value", node)
        if not isinstance(node.arg, nodes.Const) and not _is_negative(node.arg):
            node.arg = self._filter("checked index", node.arg)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        """`a ~ b` is paid as a text."""
        self.generic_visit(node)
        parts = nodes.List(node.nodes, lineno=node.lineno)
        return self._filter("paid text", parts)

    def visit_Operand(self, node: nodes.Operand) -> nodes.Node:  # noqa: N802
        """What is compared is paid: comparing reads all of it."""
        self.generic_visit(node)
        if not isinstance(node.expr, nodes.Const):
            node.expr = self._filter("paid value", node.expr)
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:  # noqa: N802
        """As for comparisons; `is defined` must see the name itself."""
        self.generic_visit(node)
        node.args = [self._filter("paid value", arg) for arg in node.args]
        return node

    def _filter(self, name: str, value: Any, *args: nodes.Expr) -> nodes.Filter:
        line = value.lineno
        return nodes.Filter(value, name, list(args), [], None, None, lineno=line)


def _is_negative(node: nodes.Node) -> bool:
    return isinstance(node, nodes.Neg) and isinstance(node.node, nodes.Const)
