"""Benchmarks: stages against what the machine can do, growth of costs, and plain counterparts.

Shapes (`shapes`) and the machine's rates (`limits`) come first, then how a call is measured
(`measure`), what is measured (`stages`, `scaling`), the plain counterparts (`plain`,
`plain_edits`) and head-to-heads with them (`side`, `peers`); `everything` runs all of it, and
`compare` is the guard. Each but the guard runs as `python -m benchmarks.NAME`.
"""
