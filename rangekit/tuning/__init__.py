"""Measured search for schedules: what proposes lowers, what measures is another process, what is found is kept."""
