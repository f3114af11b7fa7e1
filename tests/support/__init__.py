"""What tests share; each module says when to use it."""
