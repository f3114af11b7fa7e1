"""What is stored and what was seen: frozen values and their keys. Pure."""
