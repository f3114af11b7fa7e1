"""Google's own descriptions of its APIs (discovery documents), and what does not fit them.

No code of the project is imported here, so that nothing is judged by itself.
"""
