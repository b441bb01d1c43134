"""How buyers pay in: hosted checkouts, the signed events that follow, and word of a low balance."""
