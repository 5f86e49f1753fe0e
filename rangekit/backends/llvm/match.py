"""The native entry's look at a call: whether arguments and ``out=`` are exactly what a record describes.

In the shorthands of ``entry``. Only headers are read. What is written must share no byte with any other array.
"""

MATCH = """
; Whether an object is exactly an array as the value %v describes it: its type, dtype, flags, sizes, strides.
define internal i1 @fits(ptr %o, ptr %v) {{
entry:
  %type = field ptr %o 8
  %array = word ptr @table AARRAY
  %exact = icmp eq ptr %type, %array
  br i1 %exact, label %header, label %no
header:
  %nd32 = field i32 %o {NDIM}
  %nd = sext i32 %nd32 to i64
  %nd.want = word i64 %v VNDIM
  %nd.ok = icmp eq i64 %nd, %nd.want
  %flags32 = field i32 %o {FLAGS}
  %flags = zext i32 %flags32 to i64
  %flags.want = word i64 %v VFLAGS
  %flags.have = and i64 %flags, %flags.want
  %flags.ok = icmp eq i64 %flags.have, %flags.want
  %descr = field ptr %o {DESCR}
  %num32 = field i32 %descr {TYPE_NUM}
  %num = sext i32 %num32 to i64
  %num.want = word i64 %v VTYPE
  %num.ok = icmp eq i64 %num, %num.want
  %order = field i8 %descr {BYTE_ORDER}
  %order.ok = icmp ne i8 %order, 62
  %ok1 = and i1 %nd.ok, %flags.ok
  %ok2 = and i1 %num.ok, %order.ok
  %ok3 = and i1 %ok1, %ok2
  br i1 %ok3, label %sizes, label %no
sizes:
  %dims = field ptr %o {DIMS}
  %dims.want = word ptr %v VDIMS
  %dims.ok = call i1 @equal(ptr %dims, ptr %dims.want, i64 %nd)
  br i1 %dims.ok, label %steps, label %no
steps:
  %strides.want = word ptr %v VSTRIDES
  %plain = icmp eq ptr %strides.want, null
  br i1 %plain, label %yes, label %strided
strided:
  %strides = field ptr %o {STRIDES}
  %strides.ok = call i1 @equal(ptr %strides, ptr %strides.want, i64 %nd)
  ret i1 %strides.ok
yes:
  ret i1 true
no:
  ret i1 false
}}

define internal i1 @equal(ptr %a, ptr %b, i64 %n) alwaysinline {{
entry:
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i1, %look ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %look, label %yes
look:
  %x = item i64 %a %i
  %y = item i64 %b %i
  %i1 = add i64 %i, 1
  %same = icmp eq i64 %x, %y
  br i1 %same, label %next, label %no
yes:
  ret i1 true
no:
  ret i1 false
}}

; Whether the bytes of the value %v at %data are shared with another argument or with a fixed array of the record.
define internal i1 @shared(ptr %record, ptr %pointers, i64 %self, i64 %data, ptr %v) {{
entry:
  %low = word i64 %v VLOW
  %high = word i64 %v VHIGH
  %lo = add i64 %data, %low
  %hi = add i64 %data, %high
  %n = word i64 %record NARGS
  %values = word ptr %record ARGS
  %nfixed = word i64 %record NFIXED
  %fixed = word ptr %record FIXED
  br label %next
next:
  %i = phi i64 [ 0, %entry ], [ %i1, %step ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %look, label %constants
look:
  %offset = mul i64 %i, {value}
  %w = getelementptr i64, ptr %values, i64 %offset
  %kind = word i64 %w VKIND
  %is.array = icmp eq i64 %kind, 0
  %other = icmp ne i64 %i, %self
  %relevant = and i1 %is.array, %other
  br i1 %relevant, label %compare, label %step
compare:
  %at = item i64 %pointers %i
  %w.low = word i64 %w VLOW
  %w.high = word i64 %w VHIGH
  %w.lo = add i64 %at, %w.low
  %w.hi = add i64 %at, %w.high
  %below = icmp ult i64 %lo, %w.hi
  %above = icmp ult i64 %w.lo, %hi
  %both = and i1 %below, %above
  br i1 %both, label %yes, label %step
step:
  %i1 = add i64 %i, 1
  br label %next
constants:
  %k = phi i64 [ 0, %next ], [ %k2, %constant ]
  %k.more = icmp slt i64 %k, %nfixed
  br i1 %k.more, label %constant, label %no
constant:
  %k1 = add i64 %k, 1
  %k2 = add i64 %k, 2
  %f.lo = item i64 %fixed %k
  %f.hi = item i64 %fixed %k1
  %f.below = icmp ult i64 %lo, %f.hi
  %f.above = icmp ult i64 %f.lo, %hi
  %f.both = and i1 %f.below, %f.above
  br i1 %f.both, label %yes, label %constants
yes:
  ret i1 true
no:
  ret i1 false
}}

; Whether a call fits a record. Fills in each argument's pointer, and the numbers that some of them point to.
define internal i1 @matches(ptr %record, ptr %args, i64 %n, ptr %out, ptr %pointers, ptr %numbers) {{
entry:
  %overflow = alloca i32
  %n.want = word i64 %record NARGS
  %n.ok = icmp eq i64 %n, %n.want
  br i1 %n.ok, label %begin, label %no
begin:
  %values = word ptr %record ARGS
  %number.type = word ptr @table AINT
  %float.type = word ptr @table AFLOAT
  br label %next
next:
  %i = phi i64 [ 0, %begin ], [ %i1, %fine ]
  %writes = phi i64 [ 0, %begin ], [ %writes1, %fine ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %look, label %wrote
look:
  %offset = mul i64 %i, {value}
  %v = getelementptr i64, ptr %values, i64 %offset
  %o = item ptr %args %i
  %pointer = getelementptr i64, ptr %pointers, i64 %i
  %number = getelementptr i64, ptr %numbers, i64 %i
  %type = field ptr %o 8
  %kind = word i64 %v VKIND
  %written = word i64 %v VWRITTEN
  switch i64 %kind, label %no [ i64 0, label %array i64 1, label %int i64 2, label %float i64 3, label %same ]
array:
  %fits = call i1 @fits(ptr %o, ptr %v)
  br i1 %fits, label %data, label %no
data:
  %d = field ptr %o {DATA}
  store ptr %d, ptr %pointer
  br label %fine
int:
  %is.int = icmp eq ptr %type, %number.type
  br i1 %is.int, label %integer, label %no
integer:
  %as.long = word ptr @table ALONG
  %whole = call i64 %as.long(ptr %o, ptr %overflow)
  %over = load i32, ptr %overflow
  %within = icmp eq i32 %over, 0
  store i64 %whole, ptr %number
  store ptr %number, ptr %pointer
  br i1 %within, label %fine, label %no
float:
  %is.float = icmp eq ptr %type, %float.type
  br i1 %is.float, label %real, label %no
real:
  %as.double = word ptr @table ADOUBLE
  %x = call double %as.double(ptr %o)
  store double %x, ptr %number
  store ptr %number, ptr %pointer
  br label %fine
same:
  %constant = word ptr %v VTYPE
  %is.same = icmp eq ptr %o, %constant
  br i1 %is.same, label %fine, label %no
fine:
  %i1 = add i64 %i, 1
  %writes1 = add i64 %writes, %written
  br label %next
wrote:
  %none = icmp eq i64 %writes, 0
  br i1 %none, label %result, label %check
check:
  %j = phi i64 [ 0, %wrote ], [ %j1, %apart ]
  %j.more = icmp slt i64 %j, %n
  br i1 %j.more, label %candidate, label %result
candidate:
  %j.offset = mul i64 %j, {value}
  %j.v = getelementptr i64, ptr %values, i64 %j.offset
  %j.written = word i64 %j.v VWRITTEN
  %is.written = icmp ne i64 %j.written, 0
  br i1 %is.written, label %alone, label %apart
alone:
  %j.data = item i64 %pointers %j
  %j.shared = call i1 @shared(ptr %record, ptr %pointers, i64 %j, i64 %j.data, ptr %j.v)
  br i1 %j.shared, label %no, label %apart
apart:
  %j1 = add i64 %j, 1
  br label %check
result:
  %no.out = icmp eq ptr %out, null
  br i1 %no.out, label %yes, label %given
given:
  %outable = word i64 %record OUTABLE
  %may = icmp ne i64 %outable, 0
  br i1 %may, label %target, label %no
target:
  %out.v = word ptr %record MADE
  %out.fits = call i1 @fits(ptr %out, ptr %out.v)
  br i1 %out.fits, label %free, label %no
free:
  %out.data = field i64 %out {DATA}
  %out.shared = call i1 @shared(ptr %record, ptr %pointers, i64 -1, i64 %out.data, ptr %out.v)
  br i1 %out.shared, label %no, label %yes
yes:
  ret i1 true
no:
  ret i1 false
}}
"""
