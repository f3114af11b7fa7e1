"""One module for each service that is called, raising only `base.errors`.

Whatever a service answers becomes a typed value or one of the project's errors here.
"""
