"""Check what works on a GPU, and how fast: ``python -m benchmarks.gpu_check --out runs/gpu_check``.

Each claim that can be checked on one GPU is a *part* with a time limit, run in a separate process; ``parts.py`` lists them by
priority. Rows are appended to ``results.jsonl`` as they are measured and ``table.md`` is written after each part, so that the
results so far survive any end of the run. If a part fails, the last lines of its error are stored and the next one runs; a
part whose packages are not installed is skipped with a message.

    python -m benchmarks.gpu_check --list                                   # the parts, and what each checks
    python -m benchmarks.gpu_check --parts quickstart precision --out DIR   # some of them
    python -m benchmarks.gpu_check --budget 480 --out DIR                   # as many as run within eight minutes
    python -m benchmarks.gpu_check --table --out DIR                        # the table of the results so far
    python -m benchmarks.gpu_check --device cpu --size tiny                 # a rehearsal of all parts that run on a CPU
    bash benchmarks/gpu_check.sh WHEELS OUT                                 # on a machine without a network

``DIR`` gets three files: ``results.jsonl``, ``table.md`` and ``log.txt``.
"""
