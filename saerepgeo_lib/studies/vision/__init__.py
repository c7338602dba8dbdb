"""Beyond language: digits as prompts, a vision transformer, its trainings, and the cases on it."""
