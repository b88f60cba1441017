"""The module that Numba looks for before it runs a user's cached function of an older fastbp; `_link` says what to do then."""
