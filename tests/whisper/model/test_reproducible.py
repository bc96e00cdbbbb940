"""Results do not depend on what else is in the batch, with any instruction set of this CPU.

The instructions are chosen when a process first multiplies: each case is a process of its own.
"""

import os
import subprocess
import sys

import pytest

CASES = {
    "float32 by all that it has": {},
    "float32 without AVX-512": {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "bfloat16 by all that it has": {},
    "bfloat16 without AMX": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"},
    "bfloat16 without instructions for it": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    "bfloat16 without AVX-512": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_log_probabilities_are_bit_for_bit_independent_of_the_batch(case: str) -> None:
    dtype, variables = case.split()[0], CASES[case]
    run = subprocess.run(
        [sys.executable, "-m", "tests.whisper.model.batch_invariance", dtype],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert run.stdout.split() == 2 * [dtype, "equal"]
