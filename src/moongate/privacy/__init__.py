"""What is kept and what never is, and where content may go: said to everybody, and held to."""
