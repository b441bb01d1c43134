"""JSON Schema of clients: bounded before any work, refused by name, and checked against answers."""
