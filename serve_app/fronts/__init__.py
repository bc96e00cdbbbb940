"""The HTTP APIs of the service, one folder each, which exports it as `FRONT`; `registry` lists them.

No front imports another: what several of them need is in `common`.
"""
