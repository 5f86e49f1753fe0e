"""The laws of integers, bools, selections and floats, one row each.

``x y i f s t u`` are any values of the kind a table is about, ``c d`` constants, ``p q`` conditions. Integer rows
hold for machine integers, which wrap, and for indices, which do not; index rows need unbounded integers. Floats
keep their IEEE meaning: ``x * 0 -> 0`` and ``x - x -> 0`` are no laws of theirs, and ``x + 0.0`` is not ``x`` for
``x = -0.0``.
"""

from __future__ import annotations

from collections.abc import Callable

from rangekit.ir.ops import Op
from rangekit.ir.pattern import Match, Var, node, rule, rules
from rangekit.ir.uop import UOp, toposort

x, y = (Var(n, "iux") for n in "xy")
i = Var("i", "x")
c, d = (Var(n, "iux", constant=True) for n in "cd")
p, q = (Var(n, "b") for n in "pq")
f = Var("f", "f")
s, t, u = (Var(n) for n in "stu")


def positive(var: Var) -> Callable[[Match], bool]:
    """Guard: the constant is greater than 0."""
    return lambda m: m[var].arg > 0


def negative(var: Var) -> Callable[[Match], bool]:
    """Guard: the constant is less than 0."""
    return lambda m: m[var].arg < 0


def _reads_nothing(n: UOp) -> bool:
    """Whether an expression can be computed anywhere: it reads no array."""
    return not any(s.op is Op.INDEX for s in toposort(n))


def _divides(m: Match) -> bool:
    return bool(m[d].arg > 0 and m[c].arg > 0 and m[c].arg % m[d].arg == 0)


# fmt: off
INTEGERS = rules(                                  # modulo 2**n and over the integers; // and % round down, by 0 are 0
    rule("add-zero",     x + 0,                    x),
    rule("sub-zero",     x - 0,                    x),
    rule("zero-sub",     0 - x,                    -x),
    rule("sub-self",     x - x,                    0),
    rule("neg-neg",      node(Op.NEG, -x),               x),
    rule("add-neg",      x + -y,                   x - y),
    rule("sub-neg",      x - -y,                   x + y),
    rule("add-add",      (x + c) + d,              x + (c + d)),                    # associativity
    rule("mul-one",      x * 1,                    x),
    rule("mul-zero",     x * 0,                    0),
    rule("mul-mul",      (x * c) * d,              x * (c * d)),
    rule("div-one",      x // 1,                   x),
    rule("div-zero",     x // 0,                   0),                              # total
    rule("zero-div",     0 // x,                   0),
    rule("mod-one",      x % 1,                    0),
    rule("mod-zero",     x % 0,                    0),                              # total
    rule("zero-mod",     0 % x,                    0),
    rule("mod-self",     x % x,                    0),
    rule("mod-mod",      (x % c) % d,              x % d,  when=_divides),          # d divides c
    rule("max-self",     node(Op.MAX, x, x),       x),
    rule("min-self",     node(Op.MIN, x, x),       x),
    rule("max-max",      node(Op.MAX, node(Op.MAX, x, c), d), node(Op.MAX, x, node(Op.MAX, c, d))),
    rule("min-min",      node(Op.MIN, node(Op.MIN, x, c), d), node(Op.MIN, x, node(Op.MIN, c, d))),
    rule("max-absorb",   node(Op.MAX, x, node(Op.MIN, x, y)), x),                   # a lattice
    rule("min-absorb",   node(Op.MIN, x, node(Op.MAX, x, y)), x),
    rule("and-self",     x & x,                    x),
    rule("or-self",      x | x,                    x),
    rule("xor-self",     x ^ x,                    0),
    rule("and-zero",     x & 0,                    0),
    rule("or-zero",      x | 0,                    x),
    rule("xor-zero",     x ^ 0,                    x),
    rule("not-not",      ~~x,                      x),
    rule("shl-zero",     x << 0,                   x),
    rule("shr-zero",     x >> 0,                   x),
    rule("lt-self",      x < x,                    False),
    rule("le-self",      x <= x,                   True),
    rule("eq-self",      x.eq(x),                  True),
    rule("ne-self",      x.ne(x),                  False),
    rule("eq-add",       (x + c).eq(d),            x.eq(d - c)),                    # + c is one to one
    rule("ne-add",       (x + c).ne(d),            x.ne(d - c)),
)

INDICES = rules(                                   # over the integers
    rule("div-negative", i // c,                   (i * -1) // (c * -1),  when=negative(c)),
    rule("mod-negative", i % c,                    ((i * -1) % (c * -1)) * -1,  when=negative(c)),
    rule("div-div",      (i // c) // d,            i // (c * d),  when=positive(d)),  # nested floors
    rule("max-add",      node(Op.MAX, i + c, i + d),  i + node(Op.MAX, c, d)),
    rule("min-add",      node(Op.MIN, i + c, i + d),  i + node(Op.MIN, c, d)),
)

BOOLS = rules(
    rule("and-true",     p & True,                 p),
    rule("and-false",    p & False,                False),
    rule("or-true",      p | True,                 True),
    rule("or-false",     p | False,                p),
    rule("xor-true",     p ^ True,                 ~p),
    rule("xor-false",    p ^ False,                p),
    rule("and-same",     p & p,                    p),
    rule("or-same",      p | p,                    p),
    rule("xor-same",     p ^ p,                    False),
    rule("not-twice",    ~~p,                      p),
    rule("and-not",      p & ~p,                   False),                          # contradiction
    rule("or-not",       p | ~p,                   True),                           # excluded middle
    rule("and-absorb",   p & (p | q),              p),
    rule("or-absorb",    p | (p & q),              p),
    rule("eq-true",      p.eq(True),               p),
    rule("eq-false",     p.eq(False),              ~p),
    rule("ne-true",      p.ne(True),               ~p),
    rule("ne-false",     p.ne(False),              p),
    rule("eq-same",      p.eq(p),                  True),
    rule("ne-same",      p.ne(p),                  False),
    rule("not-lt",       ~(x < y),                 y <= x),                         # no NaN among integers
    rule("not-le",       ~(x <= y),                y < x),
    rule("not-eq",       ~(s.eq(t)),               s.ne(t)),                        # floats too: both ask one question
    rule("not-ne",       ~(s.ne(t)),               s.eq(t)),
)

SELECTIONS = rules(                                # any dtype
    rule("where-true",   node(Op.WHERE, True, s, t),   s),
    rule("where-false",  node(Op.WHERE, False, s, t),  t),
    rule("where-same",   node(Op.WHERE, p, s, s),      s),
    rule("where-not",    node(Op.WHERE, ~p, s, t),     node(Op.WHERE, p, t, s),
         when=lambda m: m[t].op is not Op.INVALID),
    rule("where-closed", node(Op.WHERE, p, s, t),      node(Op.WHERE, ~p, t, s),
         when=lambda m: m[s].op is Op.INVALID and m[t].op is not Op.INVALID),
    rule("where-both",   node(Op.WHERE, p, node(Op.WHERE, q, s, t), t),  node(Op.WHERE, p & q, s, t),
         when=lambda m: _reads_nothing(m[q])),  # what q reads, it reads only where p holds
    rule("where-either", node(Op.WHERE, p, s, node(Op.WHERE, q, s, t)),  node(Op.WHERE, p | q, s, t),
         when=lambda m: _reads_nothing(m[q])),
    rule("where-then",   node(Op.WHERE, p, node(Op.WHERE, p, s, t), u),  node(Op.WHERE, p, s, u)),
    rule("where-else",   node(Op.WHERE, p, s, node(Op.WHERE, p, t, u)),  node(Op.WHERE, p, s, u)),
    rule("where-bool",   node(Op.WHERE, p, True, False),   p),
    rule("where-not-bool", node(Op.WHERE, p, False, True), ~p),
)

FLOATS = rules(                                    # IEEE 754
    rule("add-neg-zero", f + -0.0,                 f),
    rule("times-one",    f * 1.0,                  f),
    rule("over-one",     f / 1.0,                  f),
    rule("neg-neg-float", node(Op.NEG, -f),              f),
)
# fmt: on
