"""Scheduling, records, locks, workers and progress: what decides when a step runs, never what it computes."""
