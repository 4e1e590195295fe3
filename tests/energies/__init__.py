"""Tests of the energy families."""
