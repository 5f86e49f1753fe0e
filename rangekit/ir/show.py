"""How the IR reads to people: expressions and loop nests as text, and as the same tokens in HTML.

Text and HTML come from one stream of (kind, text) tokens, so they never disagree. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from html import escape
from itertools import islice

from rangekit.ir import dtype as dt
from rangekit.ir.nest import Guard, Let, Loop, Nest, Print, Scratch, Stmt, Stop, Store
from rangekit.ir.ops import Op
from rangekit.ir.uop import UOp

Token = tuple[str, str]  # kind: "key" "range" "array" "name" "num" "fn" "note" or "" for punctuation
MAX_DEPTH = 40  # deeper expressions are elided
MAX_TOKENS = 400  # longer ones are cut

_INFIX = {
    Op.MUL: ("*", 7), Op.DIV: ("/", 7), Op.IDIV: ("//", 7), Op.MOD: ("%", 7), Op.ADD: ("+", 6), Op.SUB: ("-", 6),
    Op.SHL: ("<<", 5), Op.SHR: (">>", 5), Op.AND: ("&", 4), Op.XOR: ("^", 3), Op.OR: ("|", 2),
    Op.LT: ("<", 1), Op.LE: ("<=", 1), Op.EQ: ("==", 1), Op.NE: ("!=", 1),
}  # fmt: skip
_REDUCE = {"add": "sum", "mul": "prod", "or": "any", "and": "all"}
_UPDATE = {"add": "+=", "mul": "*=", "and": "&=", "or": "|="}
_CALLS = {Op.MAX: "max", Op.MIN: "min"}


def expression(n: UOp) -> str:
    """One line of Python-like text; of a graph whose text would be far longer than itself, the beginning."""
    tokens = _expr(n, 0, 0)
    shown = "".join(text for _, text in islice(tokens, MAX_TOKENS))
    return shown if next(tokens, None) is None else f"{shown}..."


def _expr(n: UOp, above: int, depth: int) -> Iterator[Token]:
    op = n.op
    if depth > MAX_DEPTH:
        yield "", "..."
    elif op is Op.CONST:
        text = "inf" if n.arg == float("inf") else "-inf" if n.arg == float("-inf") else repr(n.arg)
        yield "num", f"({text})" if text.startswith("-") and above > 6 else text
    elif op is Op.DIM:
        yield "name", n.arg.name
        if n.arg.multiple_of > 1:
            yield "", f" // {n.arg.multiple_of}"
    elif op is Op.RANGE:
        yield "range", n.arg.name or ":"
    elif op is Op.VAR:
        yield ("range" if n.dtype is dt.index and n.arg[0] == "range" else "name"), n.arg[-1]
    elif op in (Op.PARAM, Op.BUFFER):
        yield "array", n.arg.name
    elif op is Op.INDEX:
        yield from _indexed(n.src[0], n.src[1:], depth)
    elif op in _INFIX:
        yield from _infix(n, above, depth)
    elif op in (Op.NEG, Op.NOT):
        yield "", "-" if op is Op.NEG else "~"
        yield from _expr(n.src[0], 8, depth + 1)
    elif op is Op.GUARD or (op is Op.IN_RANGE and isinstance(n.arg, str)):
        yield from _expr(n.src[0], above, depth + 1)
    elif op is Op.INVALID:
        yield "key", "invalid"
    elif (
        op is Op.CAST and (n.dtype is dt.index or (n.src[0].dtype is dt.index and n.dtype is dt.int64))
    ) or op is Op.GET:
        yield from _expr(n.src[0], above, depth + 1)
    elif op is Op.BUFFERIZE:
        yield "array", n.arg.name or "buffer"
    else:
        yield from _call(n, depth)


def _infix(n: UOp, above: int, depth: int) -> Iterator[Token]:
    symbol, level = _INFIX[n.op]
    a, b = n.src
    if n.op is Op.MUL and a.op is Op.DIM and b.op is Op.CONST and b.arg % a.arg.multiple_of == 0:
        b = b.replace(arg=b.arg // a.arg.multiple_of)
        a = a.replace(arg=replace(a.arg, multiple_of=1))  # the size of that name
        if b.arg == 1:
            yield from _expr(a, above, depth)
            return
    if n.op is Op.ADD and b.op is Op.CONST and b.dtype.kind in "xi" and b.arg < 0:
        symbol, b = "-", b.replace(arg=-b.arg)
    elif n.op is Op.ADD and b.op is Op.MUL and b.src[1].op is Op.CONST and b.dtype.kind == "x" and b.src[1].arg < 0:
        factor = b.src[1].replace(arg=-b.src[1].arg)
        symbol, b = "-", b.src[0] if factor.arg == 1 else b.replace(src=(b.src[0], factor))
    if above >= level:
        yield "", "("
    yield from _expr(a, level - 1, depth + 1)
    yield "", f" {symbol} "
    yield from _expr(b, level, depth + 1)
    if above >= level:
        yield "", ")"


def _call(n: UOp, depth: int) -> Iterator[Token]:
    if n.op is Op.STATE:
        yield "", n.arg[3]
        return
    if n.op is Op.REDUCE:
        name = _REDUCE.get(n.arg, n.arg) if isinstance(n.arg, str) else n.arg.name
    elif n.op in (Op.CAST, Op.BITCAST):
        name = str(n.dtype) if n.op is Op.CAST else f"bitcast_{n.dtype}"
    else:
        name = _CALLS.get(n.op, n.op.value)
    yield "fn", name
    yield "", "("
    for position, s in enumerate(n.src):
        if position:
            yield "", ", "
        yield from _expr(s, 0, depth + 1)
    yield "", ")"


def _indexed(buffer: UOp, index: tuple[UOp, ...], depth: int = 0) -> Iterator[Token]:
    gates = []
    parts = []
    for i in index:
        while i.op is Op.GUARD or (i.op is Op.WHERE and i.src[2].op is Op.INVALID):
            if i.op is Op.WHERE and i.src[0] not in gates:
                gates.append(i.src[0])
            i = i.src[1] if i.op is Op.WHERE else i.src[0]
        parts.append(i)
    yield from _expr(buffer, 0, depth + 1)
    if parts:
        yield "", "["
        for position, i in enumerate(parts):
            if position:
                yield "", ", "
            yield from _expr(i, 0, depth + 1)
        for gate in gates:
            yield "key", " if "
            yield from _expr(gate, 0, depth + 1)
        yield "", "]"


# ---- nests -----------------------------------------------------------------------------------------------------------


def _statement(s: Stmt, indent: int) -> Iterator[list[Token]]:
    pad: Token = ("", "    " * indent)
    if isinstance(s, Loop):
        word: Token = ("key", "for " if s.kind == "loop" else f"{s.kind} ")
        bounds = [*_expr(s.lo, 8, 0), ("", ".."), *_expr(s.hi, 8, 0)]
        yield [pad, word, *_expr(s.var, 0, 0), ("key", " in "), *bounds, ("", ":")]
        body = [s for s in s.body if not isinstance(s, Scratch) or s.buffer.shape]
        for inner in body:
            yield from _statement(inner, indent + 1)
        if not body:
            yield [("", "    " * (indent + 1)), ("key", "pass")]
    elif isinstance(s, Stop):
        yield [pad, ("key", "stop if "), *_expr(s.when, 0, 0)]
    elif isinstance(s, Let):
        yield [pad, *_expr(s.var, 0, 0), ("", " = "), *_expr(s.value, 0, 0)]
    elif isinstance(s, Store):
        symbol = _UPDATE.get(s.update) if isinstance(s.update, str) else None
        line = [pad, *_indexed(s.buffer, s.index)]
        if symbol and s.operand is not None:
            yield [*line, ("", f" {symbol} "), *_expr(s.operand, 0, 0)]
        else:
            yield [*line, ("", " = "), *_expr(s.value, 0, 0)]
    elif isinstance(s, Scratch) and s.buffer.shape:
        sizes = ", ".join(map(str, s.buffer.shape))
        yield [pad, ("key", s.buffer.arg.memory), ("", " "), ("array", s.buffer.arg.name), ("", f"[{sizes}] "),
               ("note", str(s.buffer.dtype))]  # fmt: skip
    elif isinstance(s, Guard):
        yield [pad, ("key", "guard "), *_expr(s.ok, 0, 0)]
    elif isinstance(s, Print):
        yield [pad, ("fn", "print"), ("", "("), *_expr(s.value, 0, 0), ("", ")")]


def nest_lines(nest: Nest) -> list[list[Token]]:
    """The loop nest of one kernel, one list of tokens a line."""
    return [line for s in nest.body for line in _statement(s, 0)]


def nest_text(nest: Nest) -> str:
    """The loop nest as text."""
    return "".join("".join(text for _, text in line) + "\n" for line in nest_lines(nest))


_COLOURS = {
    "key": "#8250df", "range": "#0550ae", "array": "#116329", "num": "#953800", "fn": "#8250df", "note": "#6e7781",
    "name": "#24292f",
}  # fmt: skip


def nest_html(nest: Nest) -> str:
    """The same lines in a ``<pre>``, coloured by inline styles: no script, no style sheet, the same text each time."""
    lines = []
    for line in nest_lines(nest):
        spans = (f'<span style="color:{_COLOURS[k]}">{escape(t)}</span>' if k else escape(t) for k, t in line)
        lines.append("".join(spans))
    return '<pre style="line-height:1.35">' + "\n".join(lines) + "</pre>"
