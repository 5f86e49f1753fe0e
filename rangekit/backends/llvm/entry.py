"""The text of the native entry: a CPython vectorcall function in LLVM IR, one for all kernels.

``call`` describes what it reads, ``match`` is the part that looks at arguments. Three shorthands make it readable, each
a ``getelementptr`` and a ``load``: ``word TYPE %p NAME`` is the named 8-byte word at ``%p``, ``field TYPE %p BYTES`` is
what lies that far into an object, ``item TYPE %p %i`` is element ``%i`` of a table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from rangekit.backends import native
from rangekit.backends.llvm.match import MATCH

_TEXT = """
@table = global [{symbols} x i64] zeroinitializer, align 64

define ptr @rk_table() {{
  ret ptr @table
}}

; A new array for a value: a new reference, or null with an exception set.
define internal ptr @made(ptr %v) alwaysinline {{
entry:
  %make = word ptr %v VMAKE
  %plain = icmp eq ptr %make, null
  br i1 %plain, label %small, label %ask
small:
  %nd = word i64 %v VNDIM
  %nd32 = trunc i64 %nd to i32
  %dims = word ptr %v VDIMS
  %descr = word ptr %v VDESCR
  %keep = word ptr @table AINC
  call void %keep(ptr %descr)
  %empty = word ptr @table AEMPTY
  %a = call ptr %empty(i32 %nd32, ptr %dims, ptr %descr, i32 0)
  ret ptr %a
ask:
  %new = word ptr @table ANEW
  %b = call ptr %new(ptr %make)
  ret ptr %b
}}

define internal void @drop(ptr %objects, i64 %n) {{
entry:
  %decref = word ptr @table ADEC
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i1, %one ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %one, label %done
one:
  %o = item ptr %objects %i
  call void %decref(ptr %o)
  %i1 = add i64 %i, 1
  br label %next
done:
  ret void
}}

; Raises what a launch's fault means.
define internal void @raise(ptr %record, i64 %launch, ptr %fault) {{
entry:
  %boxes = alloca [5 x ptr]
  %box = word ptr @table ABOX
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i1, %kept ]
  %last = sub i64 %i, 1
  %first = icmp eq i64 %i, 0
  br i1 %first, label %number, label %word
number:
  br label %boxing
word:
  %w = item i64 %fault %last
  br label %boxing
boxing:
  %value = phi i64 [ %launch, %number ], [ %w, %word ]
  %o = call ptr %box(i64 %value)
  %failed = icmp eq ptr %o, null
  br i1 %failed, label %clean, label %kept
kept:
  %place = getelementptr ptr, ptr %boxes, i64 %i
  store ptr %o, ptr %place
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, 5
  br i1 %more, label %next, label %call
call:
  %raiser = word ptr %record RAISER
  %vectorcall = word ptr @table AVECTOR
  %answer = call ptr %vectorcall(ptr %raiser, ptr %boxes, i64 5, ptr null)
  br label %clean
clean:
  %count = phi i64 [ %i, %boxing ], [ 5, %call ]
  call void @drop(ptr %boxes, i64 %count)
  ret void
}}

define internal ptr @run(ptr %record, ptr %args, i64 %n, ptr %out, ptr %pointers) {{
entry:
  %objects = alloca [{most} x ptr]
  %block = alloca [{most} x i64], align 64
  %fault = alloca [4 x i64], align 32
  %incref = word ptr @table AINC
  %nmade = word i64 %record NMADE
  %values = word ptr %record MADE
  br label %make
make:
  %m = phi i64 [ 0, %entry ], [ %m1, %keep ]
  %m.more = icmp slt i64 %m, %nmade
  br i1 %m.more, label %choose, label %launches
choose:
  %m.first = icmp eq i64 %m, 0
  %m.given = icmp ne ptr %out, null
  %m.use = and i1 %m.first, %m.given
  br i1 %m.use, label %use, label %fresh
use:
  call void %incref(ptr %out)
  br label %keep
fresh:
  %m.offset = mul i64 %m, {value}
  %m.v = getelementptr i64, ptr %values, i64 %m.offset
  %a = call ptr @made(ptr %m.v)
  %m.failed = icmp eq ptr %a, null
  br i1 %m.failed, label %fail, label %keep
keep:
  %object = phi ptr [ %out, %use ], [ %a, %fresh ]
  %object.at = getelementptr ptr, ptr %objects, i64 %m
  store ptr %object, ptr %object.at
  %data = field ptr %object {DATA}
  %place = add i64 %n, %m
  %pointer.at = getelementptr ptr, ptr %pointers, i64 %place
  store ptr %data, ptr %pointer.at
  %m1 = add i64 %m, 1
  br label %make
launches:
  %nstarts = word i64 %record NSTARTS
  %starts = word ptr %record STARTS
  %long = word i64 %record LONG
  %release = icmp ne i64 %long, 0
  store <4 x i64> zeroinitializer, ptr %fault, align 32
  br label %launch
launch:
  %l = phi i64 [ 0, %launches ], [ %l1, %went ]
  %start = phi ptr [ %starts, %launches ], [ %start1, %went ]
  %l.more = icmp slt i64 %l, %nstarts
  br i1 %l.more, label %gather, label %finish
gather:
  %code = load ptr, ptr %start
  %count.at = getelementptr i64, ptr %start, i64 1
  %count = load i64, ptr %count.at
  %words = getelementptr i64, ptr %start, i64 2
  br label %each
each:
  %p = phi i64 [ 0, %gather ], [ %p1, %put ]
  %p.more = icmp slt i64 %p, %count
  br i1 %p.more, label %which, label %go
which:
  %w = item i64 %words %p
  %w.place = icmp ult i64 %w, {most}
  br i1 %w.place, label %place.of, label %put
place.of:
  %known = item i64 %pointers %w
  br label %put
put:
  %address = phi i64 [ %w, %which ], [ %known, %place.of ]
  %address.at = getelementptr i64, ptr %block, i64 %p
  store i64 %address, ptr %address.at
  %p1 = add i64 %p, 1
  br label %each
go:
  br i1 %release, label %others, label %mine
mine:
  call void %code(ptr %block, ptr %fault)
  br label %back
others:
  %save = word ptr @table ASAVE
  %thread = call ptr %save()
  call void %code(ptr %block, ptr %fault)
  %restore = word ptr @table ARESTORE
  call void %restore(ptr %thread)
  br label %back
back:
  %start1 = getelementptr i64, ptr %words, i64 %count
  %fault.word = load i64, ptr %fault
  %bad = icmp ne i64 %fault.word, 0
  br i1 %bad, label %faulted, label %went
went:
  %l1 = add i64 %l, 1
  br label %launch
faulted:
  call void @drop(ptr %objects, i64 %nmade)
  call void @raise(ptr %record, i64 %l, ptr %fault)
  ret ptr null
fail:
  call void @drop(ptr %objects, i64 %m)
  ret ptr null

finish:
  %hits = word i64 %record HITS
  %hits1 = add i64 %hits, 1
  %hits.at = getelementptr i64, ptr %record, i64 {HITS}
  store i64 %hits1, ptr %hits.at
  %results = word ptr %record RESULTS
  %nresults = word i64 %record NRESULTS
  %bare.word = word i64 %record BARE
  %bare = icmp ne i64 %bare.word, 0
  br i1 %bare, label %collect, label %tuple
tuple:
  %new = word ptr @table ATUPLE
  %t = call ptr %new(i64 %nresults)
  %t.failed = icmp eq ptr %t, null
  br i1 %t.failed, label %no.tuple, label %collect
no.tuple:
  call void @drop(ptr %objects, i64 %nmade)
  ret ptr null
collect:
  %answer = phi ptr [ null, %finish ], [ %t, %tuple ]
  %set = word ptr @table ASET
  br label %collecting
collecting:
  %r = phi i64 [ 0, %collect ], [ %r1, %added ]
  %one = phi ptr [ %answer, %collect ], [ %only, %added ]
  %r.more = icmp slt i64 %r, %nresults
  br i1 %r.more, label %result, label %done
result:
  %r.place = item i64 %results %r
  %r.made = sub i64 %r.place, %n
  %r.is.made = icmp sge i64 %r.made, 0
  br i1 %r.is.made, label %r.from.made, label %r.from.args
r.from.made:
  %o1 = item ptr %objects %r.made
  br label %got
r.from.args:
  %o2 = item ptr %args %r.place
  br label %got
got:
  %o = phi ptr [ %o1, %r.from.made ], [ %o2, %r.from.args ]
  call void %incref(ptr %o)
  br i1 %bare, label %added, label %into
into:
  %ignored = call i32 %set(ptr %answer, i64 %r, ptr %o)
  br label %added
added:
  %only = phi ptr [ %o, %got ], [ %answer, %into ]
  %r1 = add i64 %r, 1
  br label %collecting
done:
  call void @drop(ptr %objects, i64 %nmade)
  ret ptr %one
}}

; The call as Python makes it: the attribute __call__, looked up and called with the same arguments.
define internal ptr @python(ptr %self, ptr %args, i64 %n, ptr %names) {{
entry:
  %method = word ptr @table AMETHOD
  %call = word ptr @table ACALL
  %no.names = icmp eq ptr %names, null
  br i1 %no.names, label %ready, label %count
count:
  %extra = field i64 %names 16
  br label %ready
ready:
  %more = phi i64 [ 0, %entry ], [ %extra, %count ]
  %all = add i64 %n, %more
  %room = add i64 %all, 1
  %given = add i64 %n, 1
  %copy = alloca ptr, i64 %room
  store ptr %self, ptr %copy
  br label %next
next:
  %i = phi i64 [ 0, %ready ], [ %i1, %one ]
  %left = icmp slt i64 %i, %all
  %i1 = add i64 %i, 1
  br i1 %left, label %one, label %done
one:
  %o = item ptr %args %i
  %at = getelementptr ptr, ptr %copy, i64 %i1
  store ptr %o, ptr %at
  br label %next
done:
  %answer = call ptr %method(ptr %call, ptr %copy, i64 %given, ptr %names)
  ret ptr %answer
}}

define ptr @rk_call(ptr %self, ptr %args, i64 %nargsf, ptr %names) {{
entry:
  %pointers = alloca [{most} x ptr]
  %numbers = alloca [{most} x i64]
  %n = and i64 %nargsf, 9223372036854775807
  %busy.at = word ptr @table ABUSY
  %busy = load i64, ptr %busy.at
  %tracing = icmp ne i64 %busy, 0
  br i1 %tracing, label %slow, label %keywords
keywords:
  %none = icmp eq ptr %names, null
  br i1 %none, label %begin, label %named
named:
  %count = field i64 %names 16
  %name = field ptr %names 24
  %out.name = word ptr @table AOUT
  %single = icmp eq i64 %count, 1
  %is.out = icmp eq ptr %name, %out.name
  %known = and i1 %single, %is.out
  br i1 %known, label %take, label %slow
take:
  %given = item ptr %args %n
  br label %begin
begin:
  %out = phi ptr [ null, %keywords ], [ %given, %take ]
  %head = field ptr %self {CONTEXT}
  br label %look
look:
  %record = phi ptr [ %head, %begin ], [ %following, %other ]
  %end = icmp eq ptr %record, null
  br i1 %end, label %slow, label %try
try:
  %fits = call i1 @matches(ptr %record, ptr %args, i64 %n, ptr %out, ptr %pointers, ptr %numbers)
  br i1 %fits, label %run, label %other
other:
  %following = word ptr %record NEXT
  br label %look
run:
  %answer = call ptr @run(ptr %record, ptr %args, i64 %n, ptr %out, ptr %pointers)
  ret ptr %answer
slow:
  %answer.slow = call ptr @python(ptr %self, ptr %args, i64 %n, ptr %names)
  ret ptr %answer.slow
}}
"""

_SHORTHAND = re.compile(r"^  (%\S+) = (word|field|item) (\S+) (\S+) (\S+)$", re.MULTILINE)


def text(names: Mapping[str, int], symbols: int, value: int, most: int) -> str:
    """The module. ``names`` are the places of words, ``value`` the words of a value's description."""

    def spelled(match: re.Match[str]) -> str:
        made, form, kind, base, where = match.groups()
        if form == "field":
            step, place = "i8", where
        elif form == "word":
            step, place = "i64", str(names[where])
        else:
            step, place = kind, where
        return f"  {made}.slot = getelementptr {step}, ptr {base}, i64 {place}\n  {made} = load {kind}, ptr {made}.slot"

    layout = {name: getattr(native, name) for name in
              ("DATA", "NDIM", "DIMS", "STRIDES", "DESCR", "FLAGS", "BYTE_ORDER", "TYPE_NUM", "CONTEXT")}  # fmt: skip
    filled = (_TEXT + MATCH).format(**layout, HITS=names["HITS"], symbols=symbols, value=value, most=most)
    return _SHORTHAND.sub(spelled, filled)
