"""One small part of each kind, to copy: each file says how to use it. CONTRIBUTING.md lists them with their interfaces."""
