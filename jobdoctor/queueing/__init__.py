"""Queueing from recorded traces: who kept the workers busy while jobs waited, arrivals, capacity and growth."""
