"""Structured output: grammars that say which tokens may follow, compiled and run by llguidance beside the engine."""
