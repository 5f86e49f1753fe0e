"""The one text form of a graph: a line a node, sources before users, read back to the very same nodes.

    %0 = const.index 8
    %1 = range.index %0 i#12
    %2 = param.float32 x#0(8,)
    %3 = index.float32 %2, %1

A size that is known only at the call is a line too, and stands in a shape as its number: ``x#0(%0, 64)``.

A line is a number, the op and dtype, the sources, then the arg. The arg of a REDUCE is a name, or a formula over
lines before it: ``%9 = reduce.float32 %2, %1 last(%5; %8) associative``. Ranges and buffers are told apart by their
number after ``#``; nothing in the text is an address. The canonical form renumbers them in order of appearance and
drops names, so that programs that are equal up to those are equal texts.
"""

from __future__ import annotations

import re
from ast import literal_eval
from dataclasses import replace
from typing import Any

from rangekit.ir import uop
from rangekit.ir.dim import Dim
from rangekit.ir.dtype import dtype_named
from rangekit.ir.ops import Op
from rangekit.ir.reducers import Formula
from rangekit.ir.uop import BufferId, DimId, ParamId, RangeId, Storage, UOp, toposort

_LINE = re.compile(r"%(\d+) = (\w+)\.(\w+)(?: (%\d+(?:, %\d+)*))?(?: (.+))?")
_WORD = re.compile(r"[A-Za-z_]\w*")
_ARRAY = re.compile(r"""(\w*|'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")#(\d+)(\(.*?\))(?: (.+))?""")
_NODES = r"(%\d+(?:, %\d+)*)"
_FORMULA = re.compile(rf"(\w*|'(?:[^'\\]|\\.)*')\({_NODES}; {_NODES}\)((?: \w+)*)")
_WORDS = frozenset({Op.REDUCE, Op.KERNEL, Op.ASSIGN, Op.STORE, Op.PRINT})  # their arg is a string


def dump(root: UOp, canonical: bool = False) -> str:
    """The graph below a node as text, its own line last."""
    numbers: dict[UOp, int] = {}
    renumbered: dict[tuple[Op, Any], int] = {}
    lines = []
    for node in _order(root):
        numbers[node] = len(numbers)
        src = ", ".join(f"%{numbers[s]}" for s in node.src)
        arg = _spelled(node, _anonymous(node, renumbered) if canonical else node.arg, numbers)
        lines.append(" ".join(p for p in (f"%{numbers[node]} = {node.op.value}.{node.dtype}", src, arg) if p))
    return "\n".join(lines) + "\n"


def _order(root: UOp) -> list[UOp]:
    """The nodes below the root, and before each reduction those of its formula."""
    order: dict[UOp, None] = {}
    for node in toposort(root):
        how = node.arg[2] if node.op in (Op.FOLD, Op.SCAN) else node.arg
        if isinstance(how, Formula):
            order.update(dict.fromkeys(toposort(*how.neutral, *how.combined)))
        order.update(dict.fromkeys(toposort(*(d.node for d in _dims(node.arg)))))
        order[node] = None
    return list(order)


def _dims(arg: Any) -> list[Dim]:
    """The sizes in the arg of a node that are known only at the call."""
    if isinstance(arg, Dim):
        return [arg]
    parts = arg if isinstance(arg, tuple) else (arg.shape,) if isinstance(arg, (ParamId, BufferId)) else ()
    return [d for part in parts for d in _dims(part)]


def parse(text: str) -> UOp:
    """The node whose text this is; ``ValueError`` naming the line that cannot be read."""
    nodes: dict[str, UOp] = {}
    node = None
    for line in text.splitlines():
        found = _LINE.fullmatch(line.strip())
        if found is None:
            raise ValueError(f"not a line of a graph: {line}")
        number, op, dtype, src, arg = found.groups()
        try:
            kind = Op(op)
            sources = tuple(nodes[s] for s in src.replace("%", "").split(", ")) if src else ()
            node = UOp(kind, dtype_named(dtype), sources, _read(kind, arg, nodes))
        except (KeyError, SyntaxError, ValueError) as err:
            raise ValueError(f"not a line of a graph: {line}") from err
        nodes[number] = node
    if node is None:
        raise ValueError("the text of a graph has a line for each of its nodes")
    uop.reserve_uids(max((_number(n) for n in nodes.values()), default=0))
    return node


def _number(node: UOp) -> int:
    """The number that tells a node from others of its kind; 0 if it has none."""
    if node.op in (Op.RANGE, Op.BUFFER):
        return int(node.arg.uid)
    return int(node.arg[0]) if node.op in (Op.FOLD, Op.SCAN, Op.STATE) else 0


def _anonymous(node: UOp, renumbered: dict[tuple[Op, Any], int]) -> Any:
    """The arg of a node without names, its number the next in order of appearance."""
    arg = node.arg
    if isinstance(arg, (RangeId, BufferId)):
        uid = renumbered.setdefault((node.op, arg.uid), len(renumbered))
        return RangeId(uid) if isinstance(arg, RangeId) else BufferId(uid, "", arg.shape, arg.memory)
    if isinstance(arg, ParamId):
        return ParamId(arg.slot, "", arg.shape, arg.strides)
    if isinstance(arg, Storage):
        return Storage(arg.memory)
    if isinstance(arg, DimId):  # a program is the same whatever its sizes are called, not whichever they are
        place = renumbered.setdefault((node.op, node), len(renumbered))
        return DimId(f"d{place}", arg.least, arg.most, arg.multiple_of)
    if node.op is Op.VAR:
        return (*arg[:-1], "")
    if node.op in (Op.FOLD, Op.SCAN, Op.STATE):
        uid = renumbered.setdefault((Op.FOLD, arg[0]), len(renumbered))
        if node.op is Op.STATE:
            return (uid, *arg[1:3], "")
        return (uid, arg[1], replace(arg[2], name="") if isinstance(arg[2], Formula) else arg[2])
    if isinstance(arg, Formula):
        return replace(arg, name="")
    return "" if node.op is Op.KERNEL else arg


def _spelled(node: UOp, arg: Any, numbers: dict[UOp, int]) -> str:
    if isinstance(arg, tuple) and node.op in (Op.FOLD, Op.SCAN):
        uid, count, how = arg
        return f"{uid} {count} {_spelled(node, how, numbers) if isinstance(how, Formula) else how}"
    if isinstance(arg, Formula):
        neutral, combined = (", ".join(f"%{numbers[n]}" for n in part) for part in (arg.neutral, arg.combined))
        flags = " commutative" * arg.commutative + " associative" * arg.associative
        return f"{_word(arg.name)}({neutral}; {combined}){flags}"
    if isinstance(arg, RangeId):
        return f"{_word(arg.name)}#{arg.uid}"
    if isinstance(arg, ParamId):
        strides = f" {arg.strides}" if arg.strides is not None else ""
        return f"{_word(arg.name)}#{arg.slot}{_literal(arg.shape, numbers)}{strides}"
    if isinstance(arg, BufferId):
        return f"{_word(arg.name)}#{arg.uid}{_literal(arg.shape, numbers)} {arg.memory}"
    if isinstance(arg, DimId):
        return f"{_word(arg.name)} {arg.least}..{arg.most} {arg.multiple_of}"
    if isinstance(arg, Storage):
        return f"{arg.memory or 'any'} {_word(arg.name)}".strip()
    if node.op in _WORDS and arg is not None:
        return _word(arg)
    return "" if arg is None else _literal(arg, numbers)


def _literal(arg: Any, numbers: dict[UOp, int]) -> str:
    """A tuple or number as Python writes it, a Dim as the number of its line."""
    if isinstance(arg, Dim):
        return f"%{numbers[arg.node]}"
    if isinstance(arg, tuple):
        parts = [_literal(part, numbers) for part in arg]
        return f"({parts[0]},)" if len(parts) == 1 else f"({', '.join(parts)})"
    return repr(arg)


def _value(text: str, nodes: dict[str, UOp]) -> Any:
    """What ``_literal`` wrote."""
    if "%" not in text or text[0] in "'\"":
        return literal_eval(text)

    def sizes(v: Any) -> Any:
        if isinstance(v, tuple):
            return tuple(map(sizes, v))
        return Dim._of(nodes[v[1:]]) if isinstance(v, str) and v.startswith("%") else v

    return sizes(literal_eval(re.sub(r"%\d+", r"'\g<0>'", text)))


def _read(op: Op, text: str | None, nodes: dict[str, UOp]) -> Any:
    """The arg that an op's text means."""
    if op is Op.BUFFERIZE:
        memory, _, name = (text or "any").partition(" ")
        return Storage(None if memory == "any" else memory, _unword(name))
    if text is None:
        return None
    if op is Op.RANGE:
        name, _, uid = text.rpartition("#")
        return RangeId(int(uid), _unword(name))
    if op in (Op.PARAM, Op.BUFFER):
        found = _ARRAY.fullmatch(text)
        if found is None:
            raise KeyError(text)
        name, number, shape, rest = found.groups()
        if op is Op.PARAM:
            strides = literal_eval(rest) if rest else None
            return ParamId(int(number), _unword(name) or "", _value(shape, nodes), strides)
        return BufferId(int(number), _unword(name) or "", _value(shape, nodes), rest)
    if op is Op.DIM:
        name, span, unit = text.rsplit(" ", 2)
        least, _, most = span.partition("..")
        return DimId(_unword(name) or "", int(least), int(most), int(unit))
    if op in (Op.FOLD, Op.SCAN):
        uid, count, how = text.split(" ", 2)
        return int(uid), int(count), None if how == "None" else _read(Op.REDUCE, how, nodes)
    formula = _FORMULA.fullmatch(text) if op is Op.REDUCE else None
    if formula is not None:
        name, neutral, combined, flags = formula.groups()
        first, later = (tuple(nodes[n] for n in part.replace("%", "").split(", ")) for part in (neutral, combined))
        words = flags.split()
        return Formula(_unword(name) or "", first, later, "commutative" in words, "associative" in words)
    if op in _WORDS:
        return _unword(text)
    if op is Op.CONST and text in ("nan", "inf", "-inf"):
        return float(text)
    return _value(text, nodes)


def _word(name: str | None) -> str:
    """A name as it is if it is one word, quoted otherwise; nothing for None."""
    if name is None:
        return ""
    return name if _WORD.fullmatch(name) else repr(name)


def _unword(text: str) -> str | None:
    if not text:
        return None
    return str(literal_eval(text)) if text[0] in "'\"" else text
