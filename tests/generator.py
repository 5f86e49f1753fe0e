"""Random programs, each as one description from which two programs are made.

``build`` says it in rangekit, ``meaning`` as plain Python loops over float64; they share nothing but the description.
Ranges are drawn from a small pool and used again and again, bound inside their own scope, so capture is everywhere.
"""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np

import rangekit as rk

Expr = tuple[Any, ...]
SIZES = (1, 2, 3, 5)
AFFINE = rk.Monoid((1.0, 0.0), lambda a, b: (a[0] * b[0], a[1] * b[0] + b[1]))  # an order that shows


class Program:
    """A description drawn from a seed: arrays, ranges, one or two results."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        data = np.random.default_rng(seed)
        pick = self.random
        size = [pick.choice(SIZES) for _ in range(2)]
        self.sizes = [size[0], size[1], size[0], size[1], pick.choice((*SIZES, 0))]  # ranges 0, 2 and 1, 3 are alike
        self.names = ["i", "j", "i", "k", "m"]
        shapes = [(size[0], size[1]), (size[1], size[0]), (size[0], size[0]), (size[0],), (size[1], size[0], size[1])]
        self.arrays = [np.round(data.uniform(-2, 2, s), 2).astype(np.float32) for s in shapes]
        self.ids = data.integers(0, size[0], size[1])
        self.results = [self.closed(self.scalar(4, [])) for _ in range(pick.choice((1, 1, 2)))]

    # ---- drawing ---------------------------------------------------------------------------------------------------

    def alike(self, size: int) -> list[int]:
        return [r for r, n in enumerate(self.sizes) if n == size]

    def index(self, size: int) -> Expr:
        """An index that is inside an axis of that size."""
        pick, same = self.random, self.alike(size)
        if not same:
            return ("mod", pick.randrange(4), pick.randrange(3), size)
        r = pick.choice(same)
        kind = pick.choice(("r", "r", "r", "rev", "mod", "half", "const", "other"))
        if kind == "mod":
            return ("mod", r, pick.randrange(size + 2), size)
        if kind == "const" and size:
            return ("const", pick.randrange(size))
        if kind == "other" and size:
            return ("mod", pick.randrange(4), pick.randrange(3), size)
        return (kind if kind in ("rev", "half") else "r", r)

    def load(self) -> Expr:
        pick = self.random
        a = pick.randrange(len(self.arrays))
        shape = self.arrays[a].shape
        kind = pick.random()
        if kind < 0.15:
            return ("gather", pick.choice((1, 3)))
        if kind < 0.35 and self.arrays[a].ndim == 2:
            chain, moved = self.movement(shape)
            return ("moved", a, chain, tuple(self.index(n) for n in moved)) if 0 not in moved else self.load()
        if kind < 0.5:
            axis = pick.randrange(len(shape))
            r = pick.choice(self.alike(shape[axis]))
            rest = tuple(("shift", r, pick.choice((-2, -1, 1, 2)), n) if x == axis else self.index(n)
                         for x, n in enumerate(shape))  # fmt: skip
            return ("gated", a, rest, float(pick.choice((0, 7))), pick.choice(("load", "exp")))
        return ("load", a, tuple(self.index(n) for n in shape))

    def movement(self, shape: tuple[int, ...]) -> tuple[tuple[Any, ...], tuple[int, ...]]:
        """A chain of movements of a 2-D array that ends in axes some range runs over, or any sizes above 0."""
        pick, chain, dummy = self.random, [], np.zeros(shape)
        for _ in range(pick.randrange(1, 4)):
            step: tuple[Any, ...] = pick.choice(
                (("T",), ("flip", 0), ("flip", 1), ("pad", 1, 0), ("flat",), ("cut", 2))
            )
            if step[0] == "flat":
                n = dummy.size
                step = ("reshape", pick.choice([(a, n // a) for a in range(1, n + 1) if n % a == 0] or [dummy.shape]))
            dummy = moved(dummy, step)
            chain.append(step)
        return tuple(chain), dummy.shape

    def scalar(self, depth: int, bound: list[int]) -> Expr:
        pick = self.random
        kind = pick.random()
        if depth == 0 or kind < 0.12:
            return pick.choice(
                (self.load(), self.load(), ("range", pick.randrange(4)), ("number", pick.choice((0.5, -1.0))))
            )
        if kind < 0.34:
            op = pick.choice(("add", "sub", "mul", "max", "min"))
            return ("binary", op, self.scalar(depth - 1, bound), self.scalar(depth - 1, bound))
        if kind < 0.42:
            op = pick.choice(("tanh", "abs", "neg", "floordiv", "mod"))
            exact = op in ("floordiv", "mod")  # of elements only: how a sum rounds must not decide an integer
            return ("unary", op, self.load() if exact else self.scalar(depth - 1, bound))
        if kind < 0.52:
            a, b = pick.randrange(4), pick.randrange(4)
            return (
                "where",
                a,
                b,
                pick.choice((-1, 0, 1)),
                self.scalar(depth - 1, bound),
                self.scalar(depth - 1, bound),
            )
        if kind < 0.74:
            r = pick.randrange(5)
            limit = (
                None
                if pick.random() < 0.5
                else (pick.choice(("le", "lt", "ge", "gt", "eq")), pick.randrange(4), pick.choice((-1, 0, 1)))
            )
            op = pick.choice(("add", "add", "max", "min", "affine"))
            return ("reduce", op, r, self.scalar(depth - 1, [*bound, r]), limit)
        if kind < 0.80:
            return ("argmax", pick.choice((0, 1, 2, 3)), self.load())
        if kind < 0.88:  # sum(A[r] * e, r)[index]: a shaped reduction, read at an index that may be r itself
            a = pick.choice([n for n, x in enumerate(self.arrays) if x.ndim == 2])
            r = pick.choice(self.alike(self.arrays[a].shape[0]))
            return (
                "rows",
                a,
                r,
                self.scalar(depth - 2, bound) if depth > 1 else ("number", 1.0),
                self.index(self.arrays[a].shape[1]),
            )
        body = self.scalar(depth - 1, bound)
        over = tuple(pick.sample(range(4), pick.randrange(1, 3)))
        return (
            "buffer",
            over,
            body,
            pick.choice((None, None, "local")),
            tuple(self.index(self.sizes[r]) for r in over),
        )

    def closed(self, body: Expr) -> tuple[tuple[int, ...], Expr]:
        over = tuple(self.random.sample(range(4), 4)[: self.random.randrange(1, 4)])
        over = (*over, *sorted(free(body) - set(over)))
        return over, body


def free(e: Expr) -> set[int]:
    """The ranges open in a description."""
    kind = e[0]
    if kind in ("number", "const"):
        return set()
    if kind in ("range", "r", "rev", "half", "mod", "shift"):
        return {e[1]}
    if kind == "gather":
        return {e[1]}
    if kind in ("load", "moved", "gated"):
        return set().union(*(free(i) for i in e[3 if kind == "moved" else 2]))
    if kind == "binary":
        return free(e[2]) | free(e[3])
    if kind == "unary":
        return free(e[2])
    if kind == "where":
        return {e[1], e[2]} | free(e[4]) | free(e[5])
    if kind == "reduce":
        inside = free(e[3]) | ({e[2], e[4][1]} if e[4] else set())
        return inside - {e[2]}
    if kind == "argmax":
        return free(e[2]) - {e[1]}
    if kind == "rows":
        return (free(e[3]) - {e[2]}) | free(e[4])
    return (free(e[2]) - set(e[1])).union(*(free(i) for i in e[4]))


def moved(x: Any, step: tuple[Any, ...]) -> Any:
    """One movement, of a NumPy array or a Tensor."""
    name = step[0]
    if name == "T":
        return x.T
    if name == "flip":
        return x[::-1] if step[1] == 0 else x[:, ::-1]
    if name == "pad":
        pads = ((1, 0), (0, 2))
        return rk.pad(x, pads) if isinstance(x, rk.Tensor) else np.pad(x, pads)
    return x.reshape(step[1]) if name == "reshape" else x[:, :: step[1]]


# ---- in rangekit ---------------------------------------------------------------------------------------------------


class Builder:
    """The description as Tensors; ``arrays`` are the kernel's arguments."""

    def __init__(self, program: Program, arrays: list[Any], ids: Any) -> None:
        self.p, self.arrays, self.ids = program, arrays, ids
        self.ranges = [rk.Range(n, name) for n, name in zip(program.sizes, program.names, strict=True)]

    def results(self) -> tuple[Any, ...]:
        return tuple(rk.bufferize(1.0 * self.expr(e), *(self.ranges[r] for r in over)) for over, e in self.p.results)

    def at(self, i: Expr) -> Any:
        kind = i[0]
        if kind == "const":
            return i[1]
        r = self.ranges[i[1]]
        if kind == "rev":
            return self.p.sizes[i[1]] - 1 - r
        if kind == "half":
            return r // 2
        if kind == "mod":
            return (r + i[2]) % i[3]
        return r + i[2] if kind == "shift" else r

    def expr(self, e: Expr) -> Any:
        kind = e[0]
        if kind == "number":
            return e[1]
        if kind == "range":
            return self.ranges[e[1]]
        if kind == "load":
            return self.arrays[e[1]][tuple(map(self.at, e[2]))]
        if kind == "gather":
            return self.arrays[3][self.ids[self.ranges[e[1]]]]
        if kind == "moved":
            x = self.arrays[e[1]]
            for step in e[2]:
                x = moved(x, step)
            return x[tuple(map(self.at, e[3]))]
        if kind == "gated":
            s = next(i for i in e[2] if i[0] == "shift")
            place = self.at(s)
            value = self.arrays[e[1]][tuple(map(self.at, e[2]))]
            return rk.where((place >= 0) & (place < s[3]), rk.exp(value) if e[4] == "exp" else value, e[3])
        if kind == "binary":
            a, b = self.expr(e[2]), self.expr(e[3])
            fn = {"add": rk.add, "sub": rk.subtract, "mul": rk.multiply, "max": rk.maximum, "min": rk.minimum}[e[1]]
            return fn(1.0 * rk.full((), float(a)) if not isinstance(a, rk.Tensor) else 1.0 * a, b)
        if kind == "unary":
            x = self.expr(e[2])
            x = 1.0 * x if isinstance(x, rk.Tensor) else rk.full((), float(x))
            if e[1] == "floordiv":  # of exact integers: rounding must not decide
                return (rk.clip(rk.round(x), -9, 9).astype(rk.int32) // -3).astype(rk.float32)
            if e[1] == "mod":
                return (rk.clip(rk.round(x), -9, 9).astype(rk.int32) % 4).astype(rk.float32)
            return {"tanh": rk.tanh, "abs": rk.abs, "neg": rk.negative}[e[1]](x)
        if kind == "where":
            return rk.where(self.ranges[e[1]] <= self.ranges[e[2]] + e[3], 1.0 * self.number(e[4]), self.number(e[5]))
        if kind == "reduce":
            r = self.ranges[e[2]]
            condition = None
            if e[4]:
                other = self.ranges[e[4][1]] + e[4][2]
                condition = {"le": r <= other, "lt": r < other, "ge": r >= other, "gt": r > other, "eq": r == other}[
                    e[4][0]
                ]
            value = 1.0 * self.number(e[3])
            if e[1] == "affine":
                _, out = rk.reduce((0.5, value), r, op=AFFINE, where=condition)
            else:
                out = rk.reduce(value, r, op=e[1], where=condition)
            return rk.clip(out, -50.0, 50.0)
        if kind == "argmax":
            return rk.argmax(self.expr(e[2]), self.ranges[e[1]])
        if kind == "rows":
            r = self.ranges[e[2]]
            return rk.sum(self.arrays[e[1]][r] * self.number(e[3]), r)[self.at(e[4])]
        buffer = rk.bufferize(1.0 * self.number(e[2]), *(self.ranges[r] for r in e[1]), memory=e[3])
        return buffer[tuple(map(self.at, e[4]))]

    def number(self, e: Expr) -> Any:
        out = self.expr(e)
        return out if isinstance(out, rk.Tensor) else rk.full((), float(out))


# ---- in loops ------------------------------------------------------------------------------------------------------


class Loops:
    """The description as Python loops over float64."""

    def __init__(self, program: Program) -> None:
        self.p = program
        self.arrays = [a.astype(np.float64) for a in program.arrays]

    def results(self) -> list[np.ndarray[Any, Any]]:
        out = []
        for over, e in self.p.results:
            value = np.zeros([self.p.sizes[r] for r in over])
            for at in np.ndindex(*value.shape):
                value[at] = self.expr(e, dict(zip(over, at, strict=True)))
            out.append(value)
        return out

    def at(self, i: Expr, env: dict[int, int]) -> int:
        kind = i[0]
        if kind == "const":
            return int(i[1])
        v = env[i[1]]
        if kind == "rev":
            return self.p.sizes[i[1]] - 1 - v
        if kind == "half":
            return v // 2
        if kind == "mod":
            return int((v + i[2]) % i[3])
        return int(v + i[2]) if kind == "shift" else v

    def expr(self, e: Expr, env: dict[int, int]) -> float:
        kind = e[0]
        if kind == "number":
            return float(e[1])
        if kind == "range":
            return float(env[e[1]])
        if kind == "load":
            return float(self.arrays[e[1]][tuple(self.at(i, env) for i in e[2])])
        if kind == "gather":
            return float(self.arrays[3][self.p.ids[env[e[1]]]])
        if kind == "moved":
            x = self.arrays[e[1]]
            for step in e[2]:
                x = moved(x, step)
            return float(x[tuple(self.at(i, env) for i in e[3])])
        if kind == "gated":
            s = next(i for i in e[2] if i[0] == "shift")
            if not 0 <= self.at(s, env) < s[3]:
                return float(e[3])
            value = float(self.arrays[e[1]][tuple(self.at(i, env) for i in e[2])])
            return math.exp(value) if e[4] == "exp" else value
        if kind == "binary":
            a, b = self.expr(e[2], env), self.expr(e[3], env)
            return {"add": a + b, "sub": a - b, "mul": a * b, "max": max(a, b), "min": min(a, b)}[e[1]]
        if kind == "unary":
            x = self.expr(e[2], env)
            if e[1] in ("floordiv", "mod"):
                whole = int(min(max(np.rint(x), -9), 9))
                return float(whole // -3 if e[1] == "floordiv" else whole % 4)
            return {"tanh": math.tanh(x), "abs": abs(x), "neg": -x}[e[1]]
        if kind == "where":
            return self.expr(e[4] if env[e[1]] <= env[e[2]] + e[3] else e[5], env)
        if kind == "reduce":
            return self.reduce(e, env)
        if kind == "argmax":
            return float(np.argmax([self.expr(e[2], {**env, e[1]: v}) for v in range(self.p.sizes[e[1]])]))
        if kind == "rows":
            column = self.at(e[4], env)
            rows = range(self.p.sizes[e[2]])
            return sum(self.arrays[e[1]][v, column] * self.expr(e[3], {**env, e[2]: v}) for v in rows)
        return self.expr(e[2], {**env, **{r: self.at(i, env) for r, i in zip(e[1], e[4], strict=True)}})

    def reduce(self, e: Expr, env: dict[int, int]) -> float:
        out = {"add": 0.0, "max": -math.inf, "min": math.inf, "affine": 0.0}[e[1]]
        for v in range(self.p.sizes[e[2]]):
            inner = {**env, e[2]: v}
            if e[4]:
                other = inner[e[4][1]] + e[4][2]
                if not {"le": v <= other, "lt": v < other, "ge": v >= other, "gt": v > other, "eq": v == other}[
                    e[4][0]
                ]:
                    continue
            x = self.expr(e[3], inner)
            out = {"add": out + x, "max": max(out, x), "min": min(out, x), "affine": out / 2 + x}[e[1]]
        return min(max(out, -50.0), 50.0)
