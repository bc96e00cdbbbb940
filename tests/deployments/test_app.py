import subprocess
import sys


def test_deploying_needs_neither_torch_nor_transformers() -> None:
    """They take seconds to import, and five processes start at a time."""
    code = "import deployments.app, sys; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
