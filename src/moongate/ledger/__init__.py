"""What a request cost: money is set aside before the work and settled, or given back, after it."""
