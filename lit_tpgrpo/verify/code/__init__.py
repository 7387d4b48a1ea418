"""Verification of programs by unit tests, in sandboxed processes. ``lit_tpgrpo.CodeVerifier`` is the verifier."""
