"""Where it should go: model cards, the health of targets, and the plan. Pure over snapshots."""
