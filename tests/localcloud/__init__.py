"""Tests of the embedded cloud; a package, so that its helpers can be imported by name."""
