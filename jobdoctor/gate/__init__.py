"""The gate: what a job's tests may ask of it, and what is said when it fails. ``jobdoctor.pytest_plugin`` loads it.

Counts, shapes and bytes are compared exactly; time and memory only where the machine's noise cannot decide.
"""
