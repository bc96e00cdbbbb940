"""Import pyannote.audio without its telemetry and warnings."""

import os
import warnings


def import_pyannote(offline: bool) -> None:
    """Import the library; call this before anything else imports it. `offline`: it must not look for a hub."""
    os.environ["PYANNOTE_METRICS_ENABLED"] = "0"  # read at every use
    if offline:
        os.environ["HF_HUB_OFFLINE"] = "1"  # read at the import
    with warnings.catch_warnings():
        # torchcodec warns that it finds no FFmpeg, which is not needed: pyannote gets decoded audio.
        warnings.filterwarnings("ignore", module=r"pyannote\.audio\.core\.io")
        import pyannote.audio  # noqa: F401
