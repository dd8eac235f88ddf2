"""Every figure that fusecache claims, each printed by ``python -m benchmarks.NAME [--json]``.

Convention: a module has ``main() -> None``; it takes ``--json``; what it prints is for people, and with ``--json`` the
last line is one JSON object. Speeds are ratios side by side in one run: interleaved, repeated, medians with spread, the
machine's memory-copy speed beside them.
"""
