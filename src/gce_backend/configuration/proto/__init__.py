"""The configuration's message definitions, and what `make proto` compiles from them.

Nothing written by hand but `config.proto` lives here. The compiled modules are checked in, so that
running the daemon needs no compiler; a test compiles anew and compares.
"""
