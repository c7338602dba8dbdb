"""Separability as a training objective: the objective, the trainings, and what they change."""
