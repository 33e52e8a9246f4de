"""Environment set-up and validation; the system's own timers."""
