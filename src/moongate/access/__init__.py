"""Who may say it: keys and, around a request, its lease."""
