"""Patterns and rule tables: a rule is a row of a name, a pattern, a result and a guard.

Pattern variables have operators, so a row reads as the law it states: ``rule("add-zero", x + 0, x)``. A variable
that occurs twice must match one node. The order of the operands of a commutative op does not matter: a table
compiles each pattern into every order once, filed by the op at its root.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from rangekit.ir.dtype import DType
from rangekit.ir.fold import fold
from rangekit.ir.ops import COMMUTATIVE, Op
from rangekit.ir.uop import UOp, alu, const


class NotReady:
    """The answer of a rule that must wait until other nodes have been rewritten."""

    def __repr__(self) -> str:
        return "NOT_READY"


NOT_READY = NotReady()
Answer = UOp | NotReady | None


class Pattern:
    """What a node may look like; also, as the result of a row, what to make of the bindings."""

    def _op(self, op: Op, other: Operand, swap: bool = False) -> Pattern:
        a, b = (lift(other), self) if swap else (self, lift(other))
        return Node(op, (a, b))

    def __add__(self, other: Operand) -> Pattern:
        return self._op(Op.ADD, other)

    def __radd__(self, other: Operand) -> Pattern:
        return self._op(Op.ADD, other, True)

    def __sub__(self, other: Operand) -> Pattern:
        return self._op(Op.SUB, other)

    def __rsub__(self, other: Operand) -> Pattern:
        return self._op(Op.SUB, other, True)

    def __mul__(self, other: Operand) -> Pattern:
        return self._op(Op.MUL, other)

    def __truediv__(self, other: Operand) -> Pattern:
        return self._op(Op.DIV, other)

    def __floordiv__(self, other: Operand) -> Pattern:
        return self._op(Op.IDIV, other)

    def __rfloordiv__(self, other: Operand) -> Pattern:
        return self._op(Op.IDIV, other, True)

    def __mod__(self, other: Operand) -> Pattern:
        return self._op(Op.MOD, other)

    def __rmod__(self, other: Operand) -> Pattern:
        return self._op(Op.MOD, other, True)

    def __and__(self, other: Operand) -> Pattern:
        return self._op(Op.AND, other)

    def __or__(self, other: Operand) -> Pattern:
        return self._op(Op.OR, other)

    def __xor__(self, other: Operand) -> Pattern:
        return self._op(Op.XOR, other)

    def __lshift__(self, other: Operand) -> Pattern:
        return self._op(Op.SHL, other)

    def __rshift__(self, other: Operand) -> Pattern:
        return self._op(Op.SHR, other)

    def __lt__(self, other: Operand) -> Pattern:
        return self._op(Op.LT, other)

    def __le__(self, other: Operand) -> Pattern:
        return self._op(Op.LE, other)

    def eq(self, other: Operand) -> Pattern:
        return self._op(Op.EQ, other)

    def ne(self, other: Operand) -> Pattern:
        return self._op(Op.NE, other)

    def __neg__(self) -> Pattern:
        return Node(Op.NEG, (self,))

    def __invert__(self) -> Pattern:
        return Node(Op.NOT, (self,))


Operand = Pattern | int | float


@dataclass(frozen=True, eq=False)
class Var(Pattern):
    """Any node (``constant``: any CONST) whose dtype is of one of ``kinds`` ("" is every kind)."""

    name: str
    kinds: str = ""
    constant: bool = False

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class Literal(Pattern):
    """The constant of that value; its dtype is its neighbour's."""

    value: int | float

    def __repr__(self) -> str:
        return repr(self.value)

    def is_at(self, node: UOp) -> bool:
        kinds = "b" if isinstance(self.value, bool) else "f" if isinstance(self.value, float) else "iux"
        return node.op is Op.CONST and node.dtype.kind in kinds and repr(node.arg) == repr(self.value)


@dataclass(frozen=True, eq=False)
class Node(Pattern):
    """A node of that op over sources that match."""

    op: Op
    src: tuple[Pattern, ...]

    def __repr__(self) -> str:
        return f"{self.op.value}({', '.join(map(repr, self.src))})"


Match = dict[Var, UOp]
Result = Pattern | Callable[[Match], Answer]


def lift(value: Operand) -> Pattern:
    """A pattern as it is, a number as the literal it is."""
    return value if isinstance(value, Pattern) else Literal(value)


def node(op: Op, *src: Operand) -> Pattern:
    """The pattern of an op that has no operator: ``node(Op.WHERE, c, x, y)``."""
    return Node(op, tuple(lift(s) for s in src))


@dataclass(frozen=True, eq=False)
class Rule:
    """One row. ``result`` None (from a function) and ``when`` False both mean that the row does not apply."""

    name: str
    pattern: Node
    result: Result
    when: Callable[[Match], bool] | None = None

    def apply(self, at: UOp, found: Match) -> Answer:
        """The result for a node that matched with these bindings."""
        if self.when is not None and not self.when(found):
            return None
        return build(self.result, found, at.dtype) if isinstance(self.result, Pattern) else self.result(found)


def rule(
    name: str, pattern: Pattern, result: Result | int | float, when: Callable[[Match], bool] | None = None
) -> Rule:
    """A row of a table; ``TypeError`` if its pattern is no op over something."""
    if not isinstance(pattern, Node):
        raise TypeError(f"rule {name}: a pattern is an op over variables")
    return Rule(name, pattern, Literal(result) if isinstance(result, (int, float)) else result, when)


_Filed = tuple[Rule, Node, tuple[Op | None, ...]]


class Table:
    """Rows in the order in which they are tried, filed by the op at the root of their pattern."""

    def __init__(self, rows: tuple[Rule, ...]) -> None:
        self.rows = rows
        self._at: dict[Op, list[_Filed]] = {}
        for row in rows:
            for order in _orders(row.pattern):
                assert isinstance(order, Node)
                self._at.setdefault(order.op, []).append((row, order, tuple(map(_wanted, order.src))))

    def __add__(self, other: Table) -> Table:
        return Table(self.rows + other.rows)

    def apply(self, at: UOp) -> tuple[str, UOp | NotReady] | None:
        """The name and the answer of the first row that applies to a node."""
        for row, order, wanted in self._at.get(at.op, ()):
            for s, op in zip(at.src, wanted, strict=True):
                if op is not None and s.op is not op:
                    break
            else:
                found: Match = {}
                if _match(order, at, found):
                    answer = row.apply(at, found)
                    if answer is not None and answer is not at:
                        return row.name, answer
        return None


def rules(*rows: Rule) -> Table:
    """A table of rows; the first that applies is taken."""
    return Table(rows)


def build(result: Pattern, found: Match, dtype: DType) -> UOp:
    """The node that a result pattern stands for; constants are folded, literals take their neighbour's dtype."""
    if isinstance(result, Var):
        return found[result]
    if isinstance(result, Literal):
        return const(result.value, dtype)
    assert isinstance(result, Node)
    made: dict[int, UOp] = {}
    for k, s in enumerate(result.src):
        if not isinstance(s, Literal):
            made[k] = build(s, found, dtype)
    beside = made[max(made)].dtype if made else dtype
    src = tuple(made[k] if k in made else build(s, found, beside) for k, s in enumerate(result.src))
    folded = fold(result.op, *src) if result.op is not Op.WHERE else None
    return alu(result.op, *src) if folded is None else folded


def _wanted(pattern: Pattern) -> Op | None:
    if isinstance(pattern, Node):
        return pattern.op
    return Op.CONST if isinstance(pattern, Literal) or (isinstance(pattern, Var) and pattern.constant) else None


def _match(pattern: Pattern, at: UOp, found: Match) -> bool:
    if isinstance(pattern, Var):
        if (pattern.constant and at.op is not Op.CONST) or (pattern.kinds and at.dtype.kind not in pattern.kinds):
            return False
        return found.setdefault(pattern, at) is at
    if isinstance(pattern, Literal):
        return pattern.is_at(at)
    assert isinstance(pattern, Node)
    return pattern.op is at.op and all(_match(p, s, found) for p, s in zip(pattern.src, at.src, strict=True))


def _orders(pattern: Pattern) -> Iterator[Pattern]:
    """The pattern with the operands of its commutative ops in every order."""
    if not isinstance(pattern, Node):
        yield pattern
        return
    inner = list(product(*(list(_orders(p)) for p in pattern.src)))
    yield from (Node(pattern.op, src) for src in inner)
    if pattern.op in COMMUTATIVE and pattern.src[0] is not pattern.src[1]:
        yield from (Node(pattern.op, src[::-1]) for src in inner)
