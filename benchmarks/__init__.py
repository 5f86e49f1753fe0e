"""How fast rangekit is beside NumPy, torch, JAX and numba, and beside what the machine can do at most.

``python -m benchmarks --help``. ``workload.py`` says what a workload is; ``products.py``, ``arrays.py``,
``networks.py`` and ``programs.py`` declare them; ``peers.py`` knows how each library is called; ``race.py`` lets
processes take turns; ``report.py`` writes what came out.
"""
