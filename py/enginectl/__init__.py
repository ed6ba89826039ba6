"""enginectl: Pagoda's command line (`python -m enginectl`). One file per command; nothing is imported before it is
needed.
"""
