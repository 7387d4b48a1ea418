"""What works on a GPU, and how fast: ``python -m benchmarks.gpu_check --out runs/gpu_check``.

Every claim that one card can settle is a *part* with a time limit, run in a process of its own; ``parts.py`` lists them in
the order of their worth. Rows are appended to ``results.jsonl`` as they are measured and ``table.md`` is written after each
part, so that whatever ends the run leaves what it had. A part that fails gives the last lines of its error, and the next one
runs; one whose packages are not installed is skipped by name.

    python -m benchmarks.gpu_check --list                                   # the parts, and what each settles
    python -m benchmarks.gpu_check --parts quickstart precision --out DIR   # some of them
    python -m benchmarks.gpu_check --budget 480 --out DIR                   # all, as far as eight minutes go
    python -m benchmarks.gpu_check --table --out DIR                        # the table of what is there
    python -m benchmarks.gpu_check --device cpu --size tiny                 # a rehearsal: every part with a CPU form
    bash benchmarks/gpu_check.sh WHEELS OUT                                 # on a machine without network

``DIR`` gets three files: ``results.jsonl``, ``table.md`` and ``log.txt``.
"""
