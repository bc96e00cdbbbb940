"""The fault test finds and kills the processes that it started, and no others."""

import subprocess
import sys
from pathlib import Path

HARNESS = """
import subprocess, sys, time
from pathlib import Path
from chaos.service import Service, adopt_orphans

adopt_orphans()
service = Service(Path(sys.argv[1]), {})
launcher = subprocess.Popen([sys.executable, "-c", sys.argv[2]])
launcher.wait()
while not (found := service.killable_processes()):
    time.sleep(0.05)
(again,) = service.killable_processes()
assert again == found[0], "the time of the first sighting changed"
print(again.kind.name, service.kill(), service.kill(), service.killable_processes())
"""


def test_adopted_orphans_are_killed(tmp_path: Path) -> None:
    other_process = subprocess.Popen(["ray::ServeReplica:whisper:Whisper", "1000"], executable="/bin/sleep")
    launcher = (
        "import subprocess\n"
        "subprocess.Popen(['sleep', '1000'], start_new_session=True)\n"
        "subprocess.Popen(['ray::ServeReplica:whisper:Whisper', '1000'], executable='/bin/sleep')\n"
    )
    try:
        command = [sys.executable, "-c", HARNESS, str(tmp_path), launcher]
        text = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
        assert text.stdout.split() == ["Whisper", "2", "0", "[]"]
        assert other_process.poll() is None
    finally:
        other_process.kill()
        other_process.wait()
