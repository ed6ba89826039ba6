"""Pagoda: a paged-attention serving engine for language models. See the README for a tour."""
